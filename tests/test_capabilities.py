"""What a processor lacks for a program, by its capability MSRs."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from backends.capabilities import X2APIC, Processor
from runner.program import GuestState, Level, Number, Plain, Program, Setup, Step, Vmm
from runner.vmx import Activity, Controls, Field, PinBasedControls

ALL = 0xFFFFFFFF << 32
POSTED = PinBasedControls.PROCESS_POSTED_INTERRUPTS
NAMES = ("PINBASED_CTLS", "PROCBASED_CTLS", "PROCBASED_CTLS2", "EXIT_CTLS", "ENTRY_CTLS")


def processor(pin_based: int) -> Processor:
    msrs = {f"IA32_VMX_{name}": ALL for name in NAMES} | {"IA32_VMX_PINBASED_CTLS": pin_based}
    return Processor(True, "", 0, X2APIC, 46, 0, MappingProxyType(msrs))


def test_controls_that_a_vmm_step_sets_are_needed_too() -> None:
    setting = Step(Vmm(controls=Controls().plus([POSTED])))
    asked = Program(Level.VMX, (Setup(),), (Step(Plain.VMCALL), setting, Step(Plain.NOP)))
    assert processor(ALL).lacks(asked) is None
    lack = processor(ALL & ~(int(POSTED) << 32)).lacks(asked)
    assert lack == "process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0"
    silent = Program(Level.VMX, (Setup(),), (Step(Plain.VMCALL), Step(Vmm(rvi=0)), Step(Plain.NOP)))
    assert processor(0).lacks(silent) is None


@pytest.mark.parametrize(
    "setup",
    [
        Setup(guest=GuestState(activity=Activity.WAIT_FOR_SIPI)),
        Setup(fields=((Field.GUEST_ACTIVITY_STATE, Number(3)),)),
    ],
)
def test_an_activity_state_is_needed_however_it_is_said(setup: Setup) -> None:
    lack = processor(ALL).lacks(Program(Level.VMX, (setup,), ()))
    assert lack == "VM entry to activity state wait-for-sipi: IA32_VMX_MISC[8] = 0"


def test_an_activity_state_that_does_not_exist_is_none_that_lacks() -> None:
    fields = ((Field.GUEST_ACTIVITY_STATE, Number(4)),)
    assert processor(ALL).lacks(Program(Level.VMX, (Setup(fields=fields),), ())) is None
