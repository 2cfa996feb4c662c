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
from runner.apic import VPPR
from runner.outcome import Observation
from runner.program import Level, Program
from runner.vmx import SecondaryControls

MOST_BOUNDARIES = 64


class Watched(Processor):
    """A virtual processor that notes whether a re-entry at any of its boundaries would change something."""

    matters = False

    @property
    def goes_on(self) -> bool:
        """Every boundary is looked at."""
        return False

    def pass_boundary(self) -> Run:
        """Look what VM entry would do here, and take it back."""
        if not self.matters and self.cpu.active.virtual_interrupt_delivery:
            page, before = self.cpu.virtual_apic_page, self._recognition()
            _enter_again(self.cpu)
            self.matters = self._recognition() != before
            self.cpu.recognized, vppr = before
            page.store(VPPR, vppr)
        yield from super().pass_boundary()

    def _recognition(self) -> tuple[bool, int]:
        return self.cpu.recognized, self.cpu.virtual_apic_page.word(VPPR)


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
            _enter_again(self.cpu)
        self._left -= 1
        yield from super().pass_boundary()


def _enter_again(cpu: LogicalProcessor) -> None:
    ppr.virtualize(cpu)
    evaluation.evaluate(cpu)


def may_show(program: Program) -> bool:
    """Whether a re-entry at some boundary could be seen in a program of one virtual processor."""
    delivery = SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY
    if not _is_modelled(program) or not program.vcpus[0].controls.secondary & delivery:
        return False
    watched: list[Watched] = []

    def processor(cpu: LogicalProcessor, program: Program, barriers: Barriers) -> Processor:
        watched.append(Watched(cpu, program, barriers))
        return watched[0]

    try:
        Machine(program, Implementation(), SILENT, processor).run()
    except (NotModelled, EndlessError, RecursionError):
        return False
    return watched[0].matters


def observations(program: Program) -> Iterator[Observation]:
    """Yield what may be observed of a program of one virtual processor, by the boundary of the re-entry."""
    if not _is_modelled(program):
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


def _is_modelled(program: Program) -> bool:
    return program.level is Level.VMX and len(program.vcpus) == 1
