"""Known deviations in sweeps, where the reference model's observation is the expectation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.judging.deviations import Deviation, Instead
from runner.judging.verdict import Verdict, judge
from runner.outcome import Completed, Entered, Fault, Final, Observation, StepResult, Stuck, VmfailValid
from runner.scenario import Delivers, Expected, Keep, OneOf, Point, StepExpected, Value, WordOneOf

POINT: Point = replace(j.READ, expected=Expected(from_model=True), values=(("n", "1"),))
MODEL = j.READ_SEEN
ZERO = StepResult((Completed(0),))
FAULTS = StepResult((Fault(13, 0),))


def with_final(**changed: Any) -> Observation:
    return replace(MODEL, finals=(Final(**changed),))


def judged(seen: Observation, *instead: Instead, wanted: Observation = MODEL, **more: Any) -> Verdict:
    known = [Deviation((j.RULE,), each, "it differs", "link", **more) for each in instead]
    return judge(j.case(POINT), [seen], j.Catalogue(), known, [wanted]).verdict


KNOWN, FAILS = Verdict.KNOWN_DEVIATION, Verdict.DOES_NOT_CONFORM


@pytest.mark.parametrize(
    ("instead", "wanted", "seen"),
    [
        (Instead(outcome=Value(0)), MODEL, replace(MODEL, steps=(ZERO,))),
        (Instead(outcome=Fault(13, 0)), MODEL, replace(MODEL, steps=(FAULTS,))),
        (Instead(after=(("page", ((0xB4, Keep.UNCHANGED),)),)), with_final(page=((0xB4, 0),)), MODEL),
        (
            Instead(after=(("page", ((0xB4, 7),)),)),
            with_final(page=((0xB4, 0),)),
            with_final(page=((0xB4, 7),)),
        ),
        (Instead(after=(("page", ()),)), with_final(page=((0xB0, 0), (0xB4, 0))), MODEL),
        (Instead(after=(("rvi", 0x91),)), MODEL, with_final(rvi=0x91)),
        (Instead(after=(("svi", None),)), with_final(svi=0x31), MODEL),
        (
            Instead(entry=Entered()),
            replace(MODEL, entries=(VmfailValid(7),), steps=(StepResult((Stuck.NOT_REACHED,)),)),
            replace(MODEL, steps=(StepResult((Completed(),)),)),
        ),
        (
            Instead(entry=VmfailValid(8)),
            replace(MODEL, entries=(VmfailValid(7),)),
            replace(MODEL, entries=(VmfailValid(8),)),
        ),
    ],
)
def test_what_is_announced_is_known(instead: Instead, wanted: Observation, seen: Observation) -> None:
    assert judged(seen, wanted=wanted) is FAILS
    assert judged(seen, instead, wanted=wanted) is KNOWN
    assert judged(wanted, instead, wanted=wanted) is Verdict.CONFORMS


def test_it_excuses_this_difference_and_no_other() -> None:
    zero = Instead(outcome=Value(0))
    assert judged(replace(MODEL, steps=(StepResult((Completed(1),)),)), zero) is FAILS
    assert judged(replace(MODEL, steps=(ZERO,), finals=(Final(rvi=1),)), zero) is FAILS
    assert judged(replace(MODEL, steps=(ZERO,)), replace(zero, step="wrmsr")) is FAILS
    assert judged(replace(MODEL, steps=(ZERO,)), replace(zero, msrs=frozenset({0x808}))) is FAILS
    word = Instead(after=(("page", ((0xB4, Keep.UNCHANGED),)),))
    wanted = with_final(page=((0xB0, 1), (0xB4, 0)))
    assert judged(with_final(page=((0xB0, 1),)), word, wanted=wanted) is KNOWN
    assert judged(MODEL, word, wanted=wanted) is FAILS


def test_two_deviations_may_explain_one_point() -> None:
    both = (Instead(outcome=Value(0)), Instead(after=(("rvi", 0x91),)))
    seen = replace(MODEL, steps=(ZERO,), finals=(Final(rvi=0x91),))
    assert judged(seen, *both) is KNOWN
    assert judged(seen, both[0]) is FAILS


def test_it_speaks_of_its_rules_and_points() -> None:
    seen, zero = replace(MODEL, steps=(ZERO,)), Instead(outcome=Value(0))
    assert judged(seen, zero, at=(("n", frozenset({"1"})),)) is KNOWN
    assert judged(seen, zero, at=(("n", frozenset({"2"})),)) is FAILS
    other = Deviation(("eoi.exit-bitmap",), zero, "it differs", "link")
    assert judge(j.case(POINT), [seen], j.Catalogue(), [other], [MODEL]).verdict is FAILS


@pytest.mark.parametrize(
    "unsayable",
    [
        Instead(exit=(("reason", 31),)),
        Instead(delivers=(Delivers(0x51),)),
        Instead(outcome=OneOf((StepExpected(Value(0)),), "either")),
        Instead(outcome=Value(0), after=(("page", ((0xB4, WordOneOf((0, 1), "either")),)),)),
        Instead(outcome=Value(0), after=(("activity", None),)),
    ],
)
def test_what_only_an_expectation_can_say_excuses_nothing(unsayable: Instead) -> None:
    assert judged(replace(MODEL, steps=(ZERO,)), unsayable) is FAILS
