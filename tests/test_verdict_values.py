"""What a step may read: bits, alternatives, the page, the physical APIC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.apic import STALE
from runner.judging.step_mismatches import NothingToCompareError
from runner.judging.verdict import Verdict, judge
from runner.outcome import (
    Completed,
    Delivery,
    Fault,
    Final,
    Rip,
    StepResult,
    Stuck,
    VmExit,
)
from runner.program import (
    Level,
    Page,
    PageAddress,
    Rdmsr,
    WriteCr8,
    Wrmsr,
)
from runner.scenario import (
    After,
    Bits,
    Completes,
    Delivers,
    Exit,
    OneOf,
    Point,
    Relative,
    StepExpected,
    Value,
)
from runner.vmx import Field


@pytest.mark.parametrize(
    ("value", "fits"), [(0x50015, True), (0x50010, True), (0x5000F, False), (0x50016, False)]
)
def test_bits_are_judged_within_their_bounds(value: int, *, fits: bool) -> None:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Bits(((7, 0, 0x10, 0x15),))))
    assert (j.found(point, j.seen(StepResult((Completed(value),)))) == "") is fits


def test_any_value_will_do_where_only_completion_is_asked_for() -> None:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Completes()))
    assert j.found(point, j.seen(StepResult((Completed(0x1234),)))) == ""
    assert j.found(point, j.seen(StepResult((Completed(0x1234, upper_clear=False),))))
    assert j.found(point, j.seen(StepResult((Fault(13),))))


def test_one_of_takes_each_choice_and_nothing_else() -> None:
    choices = OneOf(
        (StepExpected(Value(1)), StepExpected(Exit(31)), StepExpected(delivers=(Delivers(0x51),))), "says so"
    )
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(choices))
    assert j.found(point, j.seen(StepResult((Completed(1),)))) == ""
    assert j.found(point, j.seen(StepResult((j.rdmsr_exit(),)))) == ""
    assert j.found(point, j.seen(StepResult((Completed(7),), (Delivery(0x51, 1),)))) == ""
    assert "value 1H or VM exit rdmsr (31) or" in j.found(point, j.seen(StepResult((Completed(2),))))
    assert j.found(point, j.seen(StepResult((j.rdmsr_exit(),), (Delivery(0x51, 1),))))


def physical(value: Completed | Fault | None, outcome: Completed | Fault) -> str:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Relative.PHYSICAL))
    return j.found(point, j.seen(StepResult((outcome,), physical=value)))


def test_physical_is_what_root_operation_read() -> None:
    assert physical(Completed(0x50014), Completed(0x50014)) == ""
    assert physical(Fault(13, 0), Fault(13, 0)) == ""
    assert "value 50014H (physical) / value 1H" in physical(Completed(0x50014), Completed(1))
    assert "#GP(0) (physical) / value 1H" in physical(Fault(13, 0), Completed(1))
    with pytest.raises(NothingToCompareError):
        physical(None, Completed(1))


def test_a_value_with_nothing_to_compare_it_with_is_broken() -> None:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Relative.PHYSICAL))
    result = judge(j.case(point), [j.seen(StepResult((Completed(1),)))], j.Catalogue())
    assert result.verdict is Verdict.BROKEN
    assert result.reason == "nothing is known to compare the value physical with"
    exits = j.seen(StepResult((j.rdmsr_exit(),)))
    assert judge(j.case(point), [exits], j.Catalogue()).verdict is Verdict.DOES_NOT_CONFORM


@pytest.mark.parametrize(
    ("relative", "identity", "value"),
    [
        (Relative.OWN_APIC_ID, 0x12345, 0x12345),
        (Relative.LOGICAL_ID, 0x0, 0x1),
        (Relative.LOGICAL_ID, 0x1F, 0x18000),
        (Relative.LOGICAL_ID, 0x12345, 0x12340020),
        (Relative.LOGICAL_ID, 0xFFF12345, 0x12340020),
    ],
)
def test_a_processor_knows_its_own_ids(relative: Relative, identity: int, value: int) -> None:
    asked = replace(j.program(Rdmsr(0x802)), level=Level.GUEST)
    point = j.point(asked, StepExpected(relative))
    for read, fits in ((value, True), (value + 1, False)):
        seen = j.seen(StepResult((Completed(read),), physical=Completed(identity)))
        assert (j.found(point, seen) == "") is fits


def from_page(point: Point, *results: StepResult) -> str:
    return j.found(point, j.seen(*results, final=Final(page=((0x80, 0x41), (0x84, 0x9)))))


def test_from_page_is_what_was_last_written() -> None:
    read = StepExpected(Relative.FROM_PAGE)
    asked = j.program(Rdmsr(0x808), Wrmsr(0x808, 0x9_00000041), Rdmsr(0x808))
    point = j.point(asked, read, StepExpected(), read, after=After(page=((0x80, 0x41), (0x84, 0x9))))
    first = StepResult((Completed(j.PAGE.qword(0x80)),))
    written = StepResult((Completed(),))
    assert from_page(point, first, written, StepResult((Completed(0x9_00000041),))) == ""
    assert "(from-page)" in from_page(point, first, written, first)
    faulted = StepResult((Fault(13),))
    assert "step 3" not in from_page(point, first, faulted, first)


def test_from_page_follows_the_virtual_apic_address() -> None:
    asked = j.program(Rdmsr(0x802))
    own, stale, other = (
        replace(asked.vcpus[0], fields=((Field.VIRTUAL_APIC_ADDRESS, address),))
        for address in (PageAddress(Page.OWN), PageAddress(Page.STALE), PageAddress(Page.OF_VCPU, 1))
    )
    second = replace(asked.vcpus[0], page=replace(j.PAGE, words=((0x20, 0x77), (0x24, 0))))
    values = {own: j.APICID_VALUE, stale: STALE << 32 | STALE, other: 0x77}
    for setup, value in values.items():
        point = j.point(replace(asked, vcpus=(setup, second)), StepExpected(Relative.FROM_PAGE))
        assert j.found(point, j.seen(StepResult((Completed(value),)), vcpus=2)) == ""
        assert j.found(point, j.seen(StepResult((Completed(value + 1),)), vcpus=2))


def test_from_page_at_an_address_that_is_no_page_is_never_right() -> None:
    fields = ((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OWN, add=8)),)
    point = j.point(j.program(Rdmsr(0x802), fields=fields), StepExpected(Relative.FROM_PAGE))
    with pytest.raises(NothingToCompareError):
        j.found(point, j.READ_SEEN)


def test_cr8_writes_the_tpr_of_the_page() -> None:
    point = j.point(
        j.program(WriteCr8(5), Rdmsr(0x808)),
        StepExpected(),
        StepExpected(Relative.FROM_PAGE),
        after=After(page=((0x80, 0x50),)),
    )
    upper = j.PAGE.word(0x84) << 32
    steps = (StepResult((Completed(),)), StepResult((Completed(upper | 0x50),)))
    assert j.found(point, j.seen(*steps, final=Final(page=((0x80, 0x50),)))) == ""


@pytest.mark.parametrize(
    ("outcome", "stored"),
    [
        (Completed(), True),
        (VmExit(43, rip=Rip.NEXT), True),
        (VmExit(32, instruction_length=2), False),
        (Fault(13), False),
        (Stuck.DID_NOT_RETURN, False),
    ],
)
def test_a_trap_like_exit_comes_after_the_write(outcome: Any, *, stored: bool) -> None:
    steps = (StepExpected(), StepExpected(Relative.FROM_PAGE))
    point = j.point(j.program(Wrmsr(0x808, 0x41), Rdmsr(0x808)), *steps)
    value = 0x41 if stored else j.PAGE.qword(0x80)
    seen = j.seen(StepResult((outcome,)), StepResult((Completed(value),)))
    assert "step 2" not in j.found(point, seen)


@pytest.mark.parametrize(("names", "stored"), [(j.DELIVERY, True), (j.REGISTERS, False)])
def test_a_write_that_is_not_virtualized_leaves_the_page_alone(names: Any, *, stored: bool) -> None:
    steps = (StepExpected(), StepExpected(Relative.FROM_PAGE))
    point = j.point(j.program(Wrmsr(0x83F, 0x41), Rdmsr(0x83F), names=names), *steps)
    value = 0x41 if stored else j.PAGE.qword(0x3F0)
    seen = j.seen(StepResult((Completed(),)), StepResult((Completed(value),)))
    assert "step 2" not in j.found(point, seen)


def test_the_entry_s_ppr_virtualization_is_in_the_page() -> None:
    page = replace(j.PAGE, words=((0x80, 0x34), (0xA0, 0), (0xA4, 0)))
    asked = j.program(Rdmsr(0x80A), names=j.DELIVERY, page=page)
    point = j.point(asked, StepExpected(Relative.FROM_PAGE))
    assert "step 1" not in j.found(point, j.seen(StepResult((Completed(0x34),))))
