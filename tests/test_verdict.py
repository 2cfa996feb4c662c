"""Each of the six verdicts is reached, and none hides a weightier one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.judging.verdict import Verdict, judge
from runner.outcome import (
    Answer,
    BackendBroken,
    Completed,
    Delivery,
    Final,
    StepResult,
    Unsupported,
    VmfailValid,
)
from runner.scenario import (
    Case,
    Expected,
)

RIGHT: Answer = j.READ_SEEN
WRONG: Answer = replace(j.READ_SEEN, steps=(StepResult((Completed(0),)),))
ABSENT: Answer = Unsupported("process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0")
BROKEN: Answer = BackendBroken("no end record", "log")


def reads(count: int) -> Case:
    return j.case(*(replace(j.READ, values=(("n", str(number)),)) for number in range(count)))


def verdict(*answers: Answer, settled: bool = True) -> Verdict:
    return judge(reads(len(answers)), answers, j.Catalogue(settled)).verdict


@pytest.mark.parametrize(
    ("answer", "expected", "reason"),
    [
        (RIGHT, Verdict.CONFORMS, ""),
        (
            WRONG,
            Verdict.DOES_NOT_CONFORM,
            "step 1, RDMSR APICID (802H): expected value ABCD0001_00000003H, observed value 0H",
        ),
        (ABSENT, Verdict.UNSUPPORTED, "process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0"),
        (BROKEN, Verdict.BROKEN, "no end record"),
    ],
)
def test_the_verdict_on_one_point(answer: Answer, expected: Verdict, reason: str) -> None:
    result = judge(j.case(j.READ), [answer], j.Catalogue())
    assert (result.verdict, result.reason) == (expected, reason)
    assert result.points[0].answer is (None if answer is RIGHT else answer)


def test_a_rule_that_is_not_settled_fails_nobody() -> None:
    assert verdict(WRONG, settled=False) is Verdict.UNSETTLED
    assert verdict(RIGHT, settled=False) is Verdict.CONFORMS
    assert verdict(BROKEN, settled=False) is Verdict.BROKEN


def test_a_point_without_an_answer_is_broken() -> None:
    result = judge(reads(3), [RIGHT], j.Catalogue())
    assert result.verdict is Verdict.BROKEN
    assert result.reason == "no answer: the run ended before this point"
    assert result.counts == {Verdict.BROKEN: 2, Verdict.CONFORMS: 1}


def test_a_case_without_points_is_broken() -> None:
    assert judge(j.case(), [], j.Catalogue()).verdict is Verdict.BROKEN


@pytest.mark.parametrize("part", ["entries", "steps", "finals"])
def test_an_observation_that_lacks_something_is_broken(part: str) -> None:
    changed: Any = {part: ()}
    result = judge(j.case(j.READ), [replace(j.READ_SEEN, **changed)], j.Catalogue())
    assert result.verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((RIGHT, WRONG, RIGHT), Verdict.DOES_NOT_CONFORM),
        ((BROKEN, WRONG, ABSENT), Verdict.DOES_NOT_CONFORM),
        ((RIGHT, BROKEN, ABSENT), Verdict.BROKEN),
        ((RIGHT, ABSENT, RIGHT), Verdict.UNSUPPORTED),
        ((RIGHT, RIGHT, RIGHT), Verdict.CONFORMS),
    ],
)
def test_the_weightiest_point_decides(answers: tuple[Answer, ...], expected: Verdict) -> None:
    assert verdict(*answers) is expected
    assert verdict(*reversed(answers)) is expected


def test_the_reason_is_that_of_the_weightiest_point() -> None:
    result = judge(reads(3), [RIGHT, ABSENT, RIGHT], j.Catalogue())
    assert result.reason.startswith("process-posted-interrupts")
    assert list(result.counts.items()) == [(Verdict.UNSUPPORTED, 1), (Verdict.CONFORMS, 2)]


def test_differences_name_their_point() -> None:
    result = judge(reads(2), [RIGHT, WRONG], j.Catalogue())
    assert [each.point for each in result.differences] == ["n=1"]


# Sweeps


SWEEP = replace(j.READ, expected=Expected(from_model=True))


def sweep(answer: Answer, *oracle: Answer) -> Verdict:
    return judge(j.case(SWEEP), [answer], j.Catalogue(), (), oracle).verdict


def test_a_sweep_is_judged_by_the_reference_model() -> None:
    assert sweep(RIGHT, RIGHT) is Verdict.CONFORMS
    assert sweep(WRONG, RIGHT) is Verdict.DOES_NOT_CONFORM
    assert sweep(RIGHT, ABSENT) is Verdict.UNSUPPORTED
    assert sweep(RIGHT, BROKEN) is Verdict.BROKEN
    assert sweep(BROKEN, RIGHT) is Verdict.BROKEN
    assert sweep(RIGHT) is not Verdict.CONFORMS, "no oracle, no expectation"


@pytest.mark.parametrize(
    "changed",
    [
        {"entries": (VmfailValid(7),)},
        {"steps": (StepResult((Completed(j.APICID_VALUE),), (Delivery(0x51, 1),)),)},
        {"finals": (Final(page=((0x20, 0),)),)},
        {"finals": (Final(rvi=1),)},
        {"finals": (Final(svi=1),)},
        {"finals": (Final(pid=(1, 0, 0, 0, 0, 0, 0, 0)),)},
        {"finals": (Final(pid=(0, 0, 0, 0, 1, 0, 0, 0)),)},
    ],
)
def test_a_sweep_notices(changed: Any) -> None:
    assert sweep(replace(j.READ_SEEN, **changed), RIGHT) is Verdict.DOES_NOT_CONFORM


def test_physical_registers_may_differ_from_those_of_the_model() -> None:
    model, machine = (
        j.seen(StepResult((Completed(value),), physical=Completed(value))) for value in (0x60015, 0x50014)
    )
    assert sweep(machine, model) is Verdict.CONFORMS
    wrong = j.seen(StepResult((Completed(1),), physical=Completed(0x50014)))
    assert sweep(wrong, model) is Verdict.DOES_NOT_CONFORM
