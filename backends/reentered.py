"""What a hypervisor sees of its guest where another runs below, which may exit and enter again anywhere.

Its VM entry repeats PPR virtualization and the evaluation of pending virtual interrupts, so that a virtual
interrupt is recognized which nothing the guest does has evaluated. The model says what then may be observed.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.model import evaluation, ppr
from backends.model.implementation import Implementation
from backends.model.machine import Machine
from backends.model.memory import NotModelled
from backends.model.processor import Processor
from backends.model.state import LogicalProcessor
from backends.model.trace import SILENT
from backends.model.waiting import Barriers, EndlessError, Run
from runner.outcome import Observation
from runner.program import Level, Program

MOST_BOUNDARIES = 64


class Reentered(Processor):
    """A virtual processor that the hypervisor below takes out of non-root operation at one boundary."""

    def __init__(self, cpu: LogicalProcessor, program: Program, barriers: Barriers, at: int) -> None:
        """Take the number of the boundary, counted from VM entry."""
        super().__init__(cpu, program, barriers)
        self._left = at

    @property
    def goes_on(self) -> bool:
        """Every boundary is looked at."""
        return False

    @property
    def reached(self) -> bool:
        """Whether there was such a boundary."""
        return self._left < 0

    def pass_boundary(self) -> Run:
        """Do what VM entry does, where it is time."""
        if self._left == 0 and self.cpu.active.virtual_interrupt_delivery:
            ppr.virtualize(self.cpu)
            evaluation.evaluate(self.cpu)
        self._left -= 1
        yield from super().pass_boundary()


def observations(program: Program) -> Iterator[Observation]:
    """Yield what may be observed of a program of one virtual processor, by the boundary of the re-entry."""
    if program.level is Level.GUEST or len(program.vcpus) > 1:
        return
    for at in range(MOST_BOUNDARIES):
        made: list[Reentered] = []

        def processor(
            cpu: LogicalProcessor,
            program: Program,
            barriers: Barriers,
            at: int = at,
            made: list[Reentered] = made,
        ) -> Processor:
            made.append(Reentered(cpu, program, barriers, at))
            return made[0]

        try:
            yield Machine(program, Implementation(), SILENT, processor).run()
        except (NotModelled, EndlessError, RecursionError):
            return
        if not made[0].reached:
            return
