"""What a hypervisor below may show, where one runs below the subject that is asked about.

It may exit and enter again anywhere, also in what the subject itself adds to its guest between two steps. An
interrupt that is taken there, or within a handler, then belongs to no step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from runner.judging import swept
from runner.judging.deviations import Deviation
from runner.judging.differences import disagreements
from runner.outcome import BETWEEN_STEPS, Delivery, Observation, StepResult
from runner.program import Program
from runner.scenario import Point

Taken = Counter[Delivery]


class Below(Protocol):
    """A hypervisor below that exits and enters again at a boundary."""

    def may_show(self, program: Program, /) -> bool:
        """Whether anything but the usual may be observed of a program."""

    def observations(self, program: Program, /) -> Iterable[tuple[str, Observation]]:
        """Yield what may be observed of it, and why."""


def explain(
    point: Point, answer: Observation, below: Below | None, known: Sequence[Deviation]
) -> tuple[str, tuple[Deviation, ...]] | None:
    """Return why exactly this may be seen, alone or with *known* deviations; ``None``: it may not."""
    program, (seen, taken) = point.program, apart(answer)
    for why, allowed in below.observations(program) if below else ():
        wanted, may_be_taken = apart(allowed)
        if taken != may_be_taken or _physical(point, answer) != _physical(point, allowed):
            continue
        if not disagreements(program, wanted, seen):
            return why, ()
        if some := swept.excuse(program, wanted, seen, known):
            return why, some
    return None


def _physical(point: Point, observation: Observation) -> list[int | None]:
    """Return the registers of physical APICs that the expectation names; ``None``: unchanged."""
    afters = zip(point.expected.after, observation.finals, strict=False)
    return [dict(final.physical).get(msr) for after, final in afters for msr, _ in after.physical]


def apart(observation: Observation) -> tuple[Observation, Taken]:
    """Return an observation without the interrupts that belong to no step, and those."""
    taken: Taken = Counter()
    steps = tuple(_apart(step, taken) for step in observation.steps)
    return replace(observation, steps=steps), taken


def _apart(step: StepResult, taken: Taken, *, in_handler: bool = False) -> StepResult:
    kept = []
    for each in step.delivered:
        inner = tuple(_apart(result, taken, in_handler=True) for result in each.steps)
        if in_handler or each.at == BETWEEN_STEPS:
            taken[Delivery(each.vector, BETWEEN_STEPS, inner)] += 1
        else:
            kept.append(replace(each, steps=inner))
    return replace(step, delivered=tuple(kept)) if step.delivered else step
