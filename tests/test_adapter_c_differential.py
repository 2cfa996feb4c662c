"""Two readings of the SDM on programs that nobody wrote: the reference model and the model in C.

Where they differ one of them is wrong, or the SDM leaves it open; the commits say which it was so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from random_programs import Chance
from test_adapter_c import subject

from backends.model import Model
from backends.model.implementation import Implementation
from runner.outcome import Answer, Completed, Observation, Stuck
from runner.program import Program

# What the SDM leaves to the implementation, as the model in C has it.
CHOICES = Implementation(blocking_repeats=False, external_interrupts_wait_for_blocking=True)


def comparable(answer: Answer) -> Answer:
    """Leave out how each tells of registers of a changed mode, and of a VMM step before being stuck."""
    if not isinstance(answer, Observation):
        return answer
    steps = tuple(
        replace(step, outcomes=step.outcomes[1:], physical=None)
        if step.outcomes[0] == Completed() and isinstance(step.outcomes[-1], Stuck)
        else replace(step, physical=None)
        for step in answer.steps
    )
    return replace(answer, steps=steps, finals=tuple(replace(final, physical=()) for final in answer.finals))


@pytest.mark.parametrize(("make", "count"), [(Chance.vmx, 2500), (Chance.guest, 800)])
def test_both_readings_agree_on_programs_by_chance(make: Callable[[Chance], Program], count: int) -> None:
    programs = [make(Chance(seed)) for seed in range(count)]
    pairs = zip(programs, Model(CHOICES).run(programs), subject().run(programs), strict=True)
    both = [(seed, program, *map(comparable, seen)) for seed, (program, *seen) in enumerate(pairs)]
    observed = [
        each for each in both if isinstance(each[2], Observation) and isinstance(each[3], Observation)
    ]
    assert len(observed) > count * 0.9
    assert [(seed, program, one, other) for seed, program, one, other in observed if one != other][:1] == []
