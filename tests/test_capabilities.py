"""What a processor lacks for a program, by its capability MSRs."""

from __future__ import annotations

from types import MappingProxyType

from backends.capabilities import X2APIC, Processor
from runner.program import Level, Plain, Program, Setup, Step, Vmm
from runner.vmx import Controls, PinBasedControls

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
