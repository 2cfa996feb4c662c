"""Fields of a VM exit, and exits that come between instructions."""

from __future__ import annotations

from typing import Any

import judged as j
import pytest

from runner.outcome import (
    Completed,
    Fault,
    Rip,
    StepResult,
    VmExit,
)
from runner.program import (
    Cpuid,
    Plain,
    Raise,
    Rdmsr,
)
from runner.scenario import (
    Exit,
    StepExpected,
)
from runner.vmx import Activity, Blocking


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (j.rdmsr_exit(), ""),
        (j.rdmsr_exit(instruction_length=3), "VM-exit instruction length: 2 / 3"),
        (j.rdmsr_exit(registers_kept=False), "RAX, RCX and RDX: as before the instruction / changed"),
        (j.rdmsr_exit(rip=Rip.NEXT), "saved RIP: same instruction / next instruction"),
        (j.rdmsr_exit(blocking=Blocking.STI), "interruptibility state: none / sti"),
        (j.rdmsr_exit(activity=Activity.HLT), "activity state: active / hlt"),
    ],
)
def test_fields_of_an_exit(outcome: VmExit, said: str) -> None:
    expected = StepExpected(Exit(31, blocking=Blocking(0), activity=Activity.ACTIVE))
    text = j.found(j.point(j.program(Rdmsr(0x802)), expected), j.seen(StepResult((outcome,))))
    assert said in text
    assert bool(said) is bool(text)


def test_fields_of_an_exit_that_are_not_judged_in_silence() -> None:
    point = j.point(j.program(Rdmsr(0x802)), StepExpected(Exit(31)))
    outcome = j.rdmsr_exit(blocking=Blocking.STI, activity=Activity.HLT)
    assert j.found(point, j.seen(StepResult((outcome,)))) == ""


@pytest.mark.parametrize(("rip", "found"), [(Rip.NEXT, False), (Rip.SAME, True), (None, True)])
def test_an_exception_comes_after_an_instruction_where_it_is_a_trap(rip: Rip | None, *, found: bool) -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(Exit(0, rip=rip)))
    seen = j.seen(StepResult((Completed(), VmExit(0, rip=Rip.NEXT))))
    assert bool(j.found(point, seen)) is found


@pytest.mark.parametrize("reason", [1, 7])
def test_an_exit_between_instructions(reason: int) -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(Exit(reason)))
    before, behind = VmExit(reason), VmExit(reason, rip=Rip.NEXT)
    for outcomes in ((before,), (before, Completed()), (Completed(), behind)):
        assert j.found(point, j.seen(StepResult(outcomes))) == ""
    for surplus in ((before,), (Fault(13),), (Completed(), Completed())):
        assert "after the VM exit" in j.found(point, j.seen(StepResult((before, *surplus))))
    assert "after the VM exit" in j.found(point, j.seen(StepResult((Completed(), behind, Completed()))))
    assert "saved RIP" in j.found(point, j.seen(StepResult((behind, Completed()))))
    assert "saved RIP" in j.found(point, j.seen(StepResult((Completed(), before))))
    assert j.found(point, j.seen(StepResult((Completed(),))))


def test_a_tpr_below_threshold_exit_of_vm_entry_comes_before_the_instruction() -> None:
    outcomes = (VmExit(43), Completed())
    silent = j.point(j.program(Plain.NOP), StepExpected(Exit(43)))
    named = j.point(j.program(Plain.NOP), StepExpected(Exit(43, rip=Rip.SAME)))
    assert "saved RIP: next" in j.found(silent, j.seen(StepResult(outcomes)))
    assert j.found(named, j.seen(StepResult(outcomes))) == ""


def test_an_exit_at_the_vm_entry_after_the_vmm() -> None:
    point = j.point(j.program(Plain.VMCALL, Raise(0x61)), StepExpected(), StepExpected(Exit(1)))
    vmcall = StepResult((VmExit(18),))
    assert j.found(point, j.seen(vmcall, StepResult((Completed(), VmExit(1, rip=Rip.NEXT))))) == ""
    assert j.found(point, j.seen(vmcall, StepResult((Completed(),))))
    silent = j.point(point.program, StepExpected(), StepExpected())
    assert j.found(silent, j.seen(vmcall, StepResult((Completed(), VmExit(1, rip=Rip.NEXT)))))


def test_the_information_of_an_acknowledged_interrupt_must_be_named() -> None:
    seen = j.seen(StepResult((VmExit(1, interruption_information=0x80000061),)))
    silent = j.point(j.program(Plain.NOP), StepExpected(Exit(1)))
    named = j.point(j.program(Plain.NOP), StepExpected(Exit(1, interruption_information=0x80000061)))
    other = j.point(j.program(Plain.NOP), StepExpected(Exit(1, interruption_information=0x80000062)))
    assert "interruption information: valid bit 0 / 80000061H" in j.found(silent, seen)
    assert "interruption information: 80000062H / 80000061H" in j.found(other, seen)
    assert j.found(named, seen) == ""


@pytest.mark.parametrize(("action", "reason"), [(Plain.VMCALL, 18), (Cpuid(0), 10)])
def test_vmcall_and_cpuid_complete_by_their_exit(action: Any, reason: int) -> None:
    point = j.point(j.program(action), StepExpected())
    assert j.found(point, j.seen(StepResult((VmExit(reason, instruction_length=3),)))) == ""
    assert j.found(point, j.seen(StepResult((VmExit(reason, 1),))))
    assert j.found(point, j.seen(StepResult((Completed(),))))
