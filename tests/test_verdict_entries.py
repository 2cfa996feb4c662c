"""VM entries that fail, the first and those after the VMM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j

from runner.outcome import (
    Completed,
    EntryFailure,
    StepResult,
    Stuck,
    VmExit,
    VmfailValid,
)
from runner.program import (
    Inject,
    Plain,
    Vmm,
)
from runner.scenario import (
    EntryFails,
    StepExpected,
)


def test_no_ppr_virtualization_where_vm_entry_fails() -> None:
    page = replace(j.PAGE, words=((0x80, 0x34), (0xA0, 0)))
    point = j.point(j.program(names=j.DELIVERY, page=page), entry=VmfailValid(7))
    failed = replace(j.seen(), entries=(VmfailValid(7),))
    assert j.found(point, failed) == ""
    assert "0A0H" in j.found(point, j.final(failed, page=((0xA0, 0x34),)))
    assert "first VM entry" in j.found(point, replace(failed, entries=(VmfailValid(8),)))


def vmm_fails(*outcomes: Any) -> str:
    steps = (StepExpected(), StepExpected(EntryFails(VmfailValid(7))))
    point = j.point(j.program(Plain.VMCALL, Vmm(tpr_threshold=0x10)), *steps)
    return j.found(point, j.seen(StepResult((VmExit(18),)), StepResult(outcomes)))


def test_an_entry_that_fails_after_the_vmm() -> None:
    assert vmm_fails(Completed(), VmfailValid(7)) == vmm_fails(VmfailValid(7)) == ""
    assert "VMfailValid(7, invalid-control-fields) / VM entry succeeds" in vmm_fails(Completed())
    assert "/ VMfailValid(8" in vmm_fails(Completed(), VmfailValid(8))
    assert "/ not reached" in vmm_fails(Stuck.NOT_REACHED)


def test_a_first_entry_that_fails_after_the_vmm() -> None:
    point = j.point(j.program(Inject(0x20)), StepExpected(EntryFails(EntryFailure(33))))
    seen = j.seen(StepResult((Completed(),)))
    assert j.found(point, replace(seen, entries=(EntryFailure(33),))) == ""
    assert "first VM entry" in j.found(point, seen)


def test_an_unexpected_failure_of_an_entry_after_the_vmm() -> None:
    steps = (StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, Vmm(tpr_threshold=0)), *steps)
    failed = j.seen(StepResult((VmExit(18),)), StepResult((Completed(), VmfailValid(7))))
    assert "VM entry succeeds / VMfailValid(7" in j.found(point, failed)
