"""Where an interrupt is taken, and what its handler does."""

from __future__ import annotations

from typing import Any

import judged as j
import pytest

from runner.outcome import (
    Completed,
    Delivery,
    StepResult,
    VmExit,
)
from runner.program import (
    Barrier,
    Inject,
    Plain,
    Post,
    Rdmsr,
    Step,
)
from runner.scenario import (
    Delivers,
    StepExpected,
    Value,
)


@pytest.mark.parametrize(
    ("action", "index", "at"),
    [(Plain.NOP, 0, 2), (Plain.SPIN, 0, 0), (Barrier("here"), 0, 0), (Plain.HLT, 0, 2), (Plain.NOP, 2, 3)],
)
def test_where_a_saved_rip_points(action: Any, index: int, at: int) -> None:
    actions: list[Any] = [Plain.NOP, Inject(0x51), Plain.NOP]
    actions[index] = action
    expected = [StepExpected()] * 3
    expected[index] = StepExpected(delivers=(Delivers(0x51),))
    point = j.point(j.program(*actions), *expected)
    for place in range(4):
        results = [StepResult((Completed(),))] * 3
        results[index] = StepResult((Completed(),), (Delivery(0x51, place),))
        assert (j.found(point, j.seen(*results)) == "") is (place == at)


def test_a_delivery_may_be_expected_elsewhere() -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(delivers=(Delivers(0x51, 0),)))
    assert j.found(point, j.seen(StepResult((Completed(),), (Delivery(0x51, 0),)))) == ""
    assert j.found(point, j.seen(StepResult((Completed(),), (Delivery(0x51, 1),))))


def test_steps_of_a_named_handler_are_judged() -> None:
    handler = (Step(Rdmsr(0x80A)),)
    asked = j.program(Plain.NOP, handlers=((0x51, handler),))
    expected = StepExpected(delivers=(Delivers(0x51),))
    point = j.point(asked, expected, handlers=((((0x51, (StepExpected(Value(0x50)),)),),)))
    for value, fits in ((0x50, True), (0x40, False)):
        inner = (StepResult((Completed(value),)),)
        seen = j.seen(StepResult((Completed(),), (Delivery(0x51, 1, inner),)))
        assert (j.found(point, seen) == "") is fits


def test_a_post_of_the_vmm_is_no_place_for_a_saved_rip() -> None:
    post = Post(0, frozenset({0x51}), None, by_guest=False)
    expected = (StepExpected(delivers=(Delivers(0x51),)), StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, post, Plain.NOP), *expected)
    results = [StepResult((VmExit(18),), (Delivery(0x51, 2),)), *[StepResult((Completed(),))] * 2]
    assert j.found(point, j.seen(*results)) == ""
