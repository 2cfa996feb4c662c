"""Known deviations excuse what they announce and nothing else, and are missed when nothing shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.judging.deviations import Deviation, Instead, excuse, unshown
from runner.judging.differences import differences
from runner.judging.verdict import Verdict, judge
from runner.outcome import (
    Completed,
    Delivery,
    Entered,
    Fault,
    Final,
    Observation,
    Rip,
    StepResult,
    Stuck,
    VmExit,
    VmfailValid,
)
from runner.program import Plain, Rdmsr, Step, Wrmsr
from runner.scenario import (
    After,
    Case,
    Completes,
    Delivers,
    Exit,
    Keep,
    Point,
    StepExpected,
    Value,
)
from runner.vmx import Blocking

EOI_RULE = "eoi.stores-eight-bytes"
FOUR_BYTES = Deviation(
    (EOI_RULE,), Instead(after=(("page", ((0xB4, Keep.UNCHANGED),)),)), "clears 4 of 8 bytes", "…", name="b:1"
)
BLOCKING = Deviation(
    (EOI_RULE,), Instead(exit=(("reason", 45), ("blocking", Blocking.STI))), "keeps blocking", "…", name="b:2"
)
EOI_CASE = j.case(j.EOI_EXIT, rules=("eoi.exit-bitmap", EOI_RULE))


def eoi(**changed: Any) -> Observation:
    return replace(j.EOI_EXIT_SEEN, finals=(replace(j.EOI_EXIT_SEEN.finals[0], **changed),))


SHOWN = eoi(page=((0xA0, 0), (0x120, 0)))


def judged_eoi(seen: Observation, *known: Deviation, case: Case = EOI_CASE) -> Verdict:
    return judge(case, [seen], j.Catalogue(), known).verdict


def test_an_announced_deviation_is_known() -> None:
    result = judge(EOI_CASE, [SHOWN], j.Catalogue(), [FOUR_BYTES])
    assert result.verdict is Verdict.KNOWN_DEVIATION
    assert result.reason == "clears 4 of 8 bytes"
    assert result.deviations == (FOUR_BYTES,)
    assert judged_eoi(SHOWN) is Verdict.DOES_NOT_CONFORM


def test_a_deviation_that_is_not_shown_excuses_nothing_and_changes_nothing() -> None:
    assert judged_eoi(j.EOI_EXIT_SEEN, FOUR_BYTES) is Verdict.CONFORMS


@pytest.mark.parametrize(
    "seen",
    [
        eoi(page=((0xA0, 0), (0xB4, 8), (0x120, 0))),
        eoi(page=((0x120, 0),)),
        eoi(page=((0xA0, 0), (0x120, 0), (0x300, 1))),
        eoi(page=((0xA0, 0), (0x120, 0)), rvi=1),
        replace(SHOWN, steps=(StepResult((Completed(),)),)),
    ],
)
def test_a_deviation_excuses_no_other_difference(seen: Observation) -> None:
    assert judged_eoi(seen, FOUR_BYTES) is Verdict.DOES_NOT_CONFORM


def test_a_deviation_speaks_of_cases_that_name_its_rule() -> None:
    other = replace(EOI_CASE, rules=("eoi.exit-bitmap",))
    assert judged_eoi(SHOWN, FOUR_BYTES, case=other) is Verdict.DOES_NOT_CONFORM


def test_a_deviation_speaks_of_points_that_it_names() -> None:
    low = replace(j.EOI_EXIT, values=(("vector", "0x51"),))
    case = replace(EOI_CASE, points=(low,))
    for allowed, expected in (("81", Verdict.KNOWN_DEVIATION), ("97", Verdict.DOES_NOT_CONFORM)):
        limited = replace(FOUR_BYTES, at=(("vector", frozenset({allowed})),))
        assert judged_eoi(SHOWN, limited, case=case) is expected


def test_deviations_may_show_together() -> None:
    unblocked = StepExpected(Exit(45, 0x51, blocking=Blocking(0)))
    point = replace(j.EOI_EXIT, expected=replace(j.EOI_EXIT.expected, steps=(unblocked,)))
    case = replace(EOI_CASE, points=(point,))
    both = replace(SHOWN, steps=(StepResult((VmExit(45, 0x51, Rip.NEXT, blocking=Blocking.STI),)),))
    result = judge(case, [both], j.Catalogue(), [FOUR_BYTES, BLOCKING])
    assert set(result.deviations) == {FOUR_BYTES, BLOCKING}
    assert judged_eoi(both, FOUR_BYTES, case=case) is Verdict.DOES_NOT_CONFORM
    assert judge(case, [SHOWN], j.Catalogue(), [FOUR_BYTES, BLOCKING]).deviations == (FOUR_BYTES,)


def test_an_announced_deviation_of_an_unsettled_rule_is_known() -> None:
    assert (
        judge(EOI_CASE, [SHOWN], j.Catalogue(settled=False), [FOUR_BYTES]).verdict is Verdict.KNOWN_DEVIATION
    )


def excused(point: Point, seen: Observation, instead: Instead) -> bool:
    found = differences(point.program, point.expected, seen)
    assert found, "the observation differs before it is excused"
    deviation = Deviation((j.RULE,), instead, "why", "link")
    return excuse(j.case(point), point, seen, found, [deviation]) == (deviation,)


def test_instead_of_a_halt_that_ends() -> None:
    asked = j.program(Plain.HLT, Plain.NOP, names=j.DELIVERY, rvi=0x51)
    after = After(rvi=0, svi=0x51, page=((0xA0, 0x50), (0x120, 1 << 0x11)))
    point = j.point(asked, StepExpected(delivers=(Delivers(0x51),)), StepExpected(), after=after)
    halted = j.seen(
        StepResult((Stuck.STAYS_HALTED,)), StepResult((Stuck.NOT_REACHED,)), final=Final(rvi=0x51)
    )
    unchanged = (("page", ()), ("rvi", None), ("svi", None))
    stays = Instead(outcome=Stuck.STAYS_HALTED, delivers=(), after=unchanged, step="hlt")
    assert excused(point, halted, stays)
    assert not excused(point, halted, replace(stays, step="nop"))
    assert not excused(point, halted, replace(stays, after=()))
    went_on = replace(halted, steps=(halted.steps[0], StepResult((Completed(),))))
    assert not excused(point, went_on, stays)


def test_instead_of_a_fault() -> None:
    point = j.point(j.program(Wrmsr(0x830, 1 << 13)), StepExpected(Fault(13, 0)))
    taken = j.seen(StepResult((Completed(),)))
    assert excused(point, taken, Instead(outcome=Completes()))
    assert excused(point, taken, Instead(outcome=Completes(), step="wrmsr", msrs=frozenset({0x830})))
    assert not excused(point, taken, Instead(outcome=Completes(), msrs=frozenset({0x832})))
    assert not excused(point, taken, Instead(outcome=Completes(), step="write-cr8"))
    assert not excused(point, taken, Instead(outcome=Exit(32)))


def test_instead_of_a_vm_entry() -> None:
    failed = replace(j.seen(StepResult((Stuck.NOT_REACHED,))), entries=(VmfailValid(7),))
    assert excused(j.READ, failed, Instead(entry=VmfailValid(7)))
    assert not excused(j.READ, failed, Instead(entry=VmfailValid(8)))
    entered = replace(failed, entries=(Entered(),))
    point = j.point(j.program(), entry=VmfailValid(7))
    assert excused(point, replace(j.seen(), entries=(Entered(),)), Instead(entry=Entered()))
    assert not excused(j.READ, entered, Instead(entry=VmfailValid(7)))


def test_instead_of_a_value_in_one_of_several_steps() -> None:
    point = j.point(j.program(Rdmsr(0x80D), Rdmsr(0x802)), StepExpected(Value(7)), StepExpected(Value(8)))
    ldr_is_0 = j.seen(StepResult((Completed(0),)), StepResult((Completed(8),)))
    assert excused(point, ldr_is_0, Instead(outcome=Value(0)))
    both = j.seen(StepResult((Completed(0),)), StepResult((Completed(0),)))
    assert not excused(point, both, Instead(outcome=Value(0), msrs=frozenset({0x80D})))


def test_instead_of_a_value_in_a_handler() -> None:
    handler = (Step(Rdmsr(0x80A)), Step(Rdmsr(0x812)))
    wanted = (StepExpected(Value(0x50)), StepExpected(Value(0x20000)))
    point = j.point(
        j.program(Plain.NOP, handlers=((0x51, handler),)),
        StepExpected(delivers=(Delivers(0x51),)),
        handlers=(((0x51, wanted),),),
    )

    def seen(ppr: int, isr: int) -> Observation:
        inner = (StepResult((Completed(ppr),)), StepResult((Completed(isr),)))
        return j.seen(StepResult((Completed(),), (Delivery(0x51, 1, inner),)))

    retired = Instead(outcome=Value(0), msrs=frozenset({0x812}), handlers=True)
    assert excused(point, seen(0x50, 0), retired)
    assert not excused(point, seen(0x50, 0), replace(retired, handlers=False))
    assert not excused(point, seen(0, 0), retired)
    assert not excused(point, seen(0x50, 1), retired)


def test_entries_that_no_case_shows_any_more() -> None:
    cases = {"f::a": EOI_CASE, "f::b": replace(EOI_CASE, id="b"), "f::c": j.case(j.READ)}
    everything = list(cases)
    assert unshown([FOUR_BYTES], cases, everything, []) == (FOUR_BYTES,)
    assert unshown([FOUR_BYTES], cases, everything, ["b:1"]) == ()
    assert unshown([FOUR_BYTES], cases, ["f::a", "f::c"], []) == (), "not all of its cases ran"
    assert unshown([FOUR_BYTES], {"f::c": cases["f::c"]}, ["f::c"], []) == ()


def test_instead_of_an_exit_with_another_reason() -> None:
    point = j.point(j.program(Wrmsr(0x80B, 0)), StepExpected(Exit(45, 0x51)))
    instead = Instead(exit=(("reason", 56),))
    for qualification, fits in ((0, True), (0x51, False)):
        seen = j.seen(StepResult((VmExit(56, qualification, Rip.NEXT),)))
        assert excused(point, seen, instead) is fits
