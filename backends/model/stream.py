"""Steps that a virtual processor performs one after the other, and what each has shown so far."""

from __future__ import annotations

from collections.abc import Sequence

from runner.outcome import Completed, Delivery, Fault, Outcome, StepResult, Stuck
from runner.program import Step

COMPLETED = Completed()
_NOT_REACHED = (Stuck.NOT_REACHED,)


class Record:
    """What one step has shown so far."""

    __slots__ = ("delivered", "outcomes", "physical")

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.delivered: list[tuple[int, int, Stream]] = []
        self.physical: Completed | Fault | None = None

    def add(self, outcome: Outcome) -> None:
        """Note an outcome."""
        self.outcomes.append(outcome)

    def get_stuck(self, outcome: Stuck) -> None:
        """Note that the processor does not go on: what left it so has not completed."""
        if self.outcomes and self.outcomes[-1] == COMPLETED:
            self.outcomes.pop()
        self.outcomes.append(outcome)

    def result(self) -> StepResult:
        """Freeze it."""
        delivered = tuple(Delivery(vector, at, stream.results()) for vector, at, stream in self.delivered)
        return StepResult(tuple(self.outcomes) or _NOT_REACHED, delivered, self.physical)


class Stream:
    """The steps of a program on one virtual processor, or those of an interrupt handler.

    ``indices`` are the steps' places in what their list was taken from, ``end`` the place behind it.
    ``next`` is the position that RIP points to; ``inside``: within that step, which waits.
    ``interrupted`` is the record that the handler's delivery stands in; ``None`` for a program.
    """

    __slots__ = ("end", "indices", "inside", "interrupted", "next", "records", "steps")

    def __init__(
        self, indices: Sequence[int], steps: Sequence[Step], end: int, interrupted: Record | None = None
    ) -> None:
        self.indices = indices
        self.steps = steps
        self.end = end
        self.interrupted = interrupted
        self.records = [Record() for _ in steps]
        self.next = 0
        self.inside = False

    @property
    def at_end(self) -> bool:
        """Whether all steps are behind."""
        return self.next == len(self.steps)

    @property
    def step(self) -> Step:
        """The step that RIP points to."""
        return self.steps[self.next]

    @property
    def record(self) -> Record:
        """The record of that step."""
        return self.records[self.next]

    @property
    def rip(self) -> int:
        """That step's place, or the place behind the last."""
        return self.end if self.at_end else self.indices[self.next]

    def results(self) -> tuple[StepResult, ...]:
        """Freeze all records; a handler then forgets where it was delivered, which leaves no cycle."""
        self.interrupted = None
        return tuple(record.result() for record in self.records)
