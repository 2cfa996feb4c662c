"""What a hypervisor sees of its guest where another runs below, which may exit and enter again anywhere.

Its VM entry repeats PPR virtualization and the evaluation of pending virtual interrupts, so that a virtual
interrupt is recognized which nothing the guest does has evaluated. The model says what then may be observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from backends.model import delivery, evaluation, ppr
from backends.model.implementation import Implementation
from backends.model.instructions import Result
from backends.model.machine import Machine
from backends.model.memory import NotModelled
from backends.model.native import NativeProcessor
from backends.model.processor import Processor
from backends.model.state import LogicalProcessor
from backends.model.trace import SILENT
from backends.model.vmcs import BLOCKED
from backends.model.waiting import Barriers, EndlessError, Run
from runner.apic import VPPR
from runner.outcome import BETWEEN_STEPS, Entry, Observation
from runner.program import Action, Barrier, Level, Plain, Program
from runner.vmx import Activity, SecondaryControls

MOST_BOUNDARIES = 64
Kind = TypeVar("Kind", bound=Processor)

EVALUATES = "level 0 exited and entered again, which evaluates pending virtual interrupts"
DELIVERS = "a physical interrupt of level 0 that came with IF=0 delivered a recognized virtual one"


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


@dataclass(frozen=True, slots=True)
class Strike:
    """One physical interrupt for the hypervisor below.

    ``at``: the boundary, counted from VM entry, those in an exception's handler included. ``between``: it
    comes behind all that comes there, in what the subject itself adds to its guest before the next step.
    ``delivers``: what it does where a recognized virtual interrupt waits for RFLAGS.IF.
    """

    at: int
    between: bool
    delivers: bool


class Reentered(Processor):
    """A virtual processor that the hypervisor below takes out of non-root operation at one boundary."""

    def __init__(self, cpu: LogicalProcessor, program: Program, barriers: Barriers, strike: Strike) -> None:
        super().__init__(cpu, program, barriers)
        self._left = strike.at
        self._strike = strike
        self._between, self._is_noticed = False, cpu.vmcs.interrupt_flag

    @property
    def goes_on(self) -> bool:
        """Every boundary is looked at."""
        return False

    @property
    def reached(self) -> bool:
        """Whether there was such a boundary."""
        return self._left < 0

    def enter(self) -> Entry:
        """Enter, from IF=0: where the guest has IF=0, too, Bochs then notices no interrupt."""
        entry = super().enter()
        self._is_noticed = self.cpu.vmcs.interrupt_flag
        return entry

    def execute(self, action: Action) -> Result:
        """Execute one instruction; with CLI and STI, and with INT3 behind CPL 3, Bochs looks again."""
        self._is_noticed |= action in (Plain.CLI, Plain.STI) or self.cpu.cpl > 0
        return super().execute(action)

    def pass_boundary(self) -> Run:
        """Let the interrupt come, where it is time, before or behind all that comes at a boundary."""
        if self._is_time():
            if self._strike.between:
                yield from super().pass_boundary()
            yield from self._let_it_come(between=self._strike.between or self.stream is not self.program)
        yield from super().pass_boundary()
        self._between = False

    def handle_fault(self) -> Run:
        """Let it come in an exception's handler, too, which no step is part of."""
        self._is_noticed = True
        if self._is_time():
            vmcs = self.cpu.vmcs
            flag, vmcs.interrupt_flag = vmcs.interrupt_flag, False
            vmcs.guest_interruptibility_state &= ~BLOCKED
            yield from self._let_it_come(between=True)
            vmcs.interrupt_flag, self._between = flag, False

    def saved_rip(self) -> int:
        """Return the place in the stream, or that it is in between, for the one that the interrupt causes."""
        self._is_noticed = True
        between, self._between = self._between, False
        return BETWEEN_STEPS if between else super().saved_rip()

    def _wait(self, action: Plain | Barrier) -> Run:
        """Let it come while a step waits, too, which has boundaries of its own."""
        if self._is_time():
            yield from self._let_it_come(between=False)
        yield from super()._wait(action)

    def _is_time(self) -> bool:
        self._left -= 1
        return self._left == -1 and self.cpu.active.virtual_interrupt_delivery

    def _let_it_come(self, *, between: bool) -> Run:
        self._between = between
        if self._strike.delivers and self.cpu.recognized and self._holds():
            self._left, self._strike = 0, Strike(0, between=False, delivers=False)  # it exits behind that
            yield from self._interrupt(delivery.deliver(self.cpu))
        else:
            _enter_again(self.cpu)

    def _holds(self) -> bool:
        """Whether Bochs notices the interrupt where RFLAGS.IF holds what is recognized."""
        vmcs = self.cpu.vmcs
        blocked = vmcs.interrupt_flag or vmcs.guest_interruptibility_state & BLOCKED
        return self._is_noticed and not blocked and vmcs.guest_activity_state == Activity.ACTIVE


class Native(Reentered, NativeProcessor):
    """A processor at level guest, where Bochs itself delivers what is pending at the local APIC."""

    def _is_time(self) -> bool:
        self._left -= 1
        return self._left == -1

    def _let_it_come(self, *, between: bool) -> Run:
        vector = self.cpu.apic.pending()
        if vector and self._holds():
            self._between = between
            self.cpu.apic.acknowledge(vector)
            yield from self._interrupt(vector)


def _enter_again(cpu: LogicalProcessor) -> None:
    ppr.virtualize(cpu)
    evaluation.evaluate(cpu)


@dataclass(frozen=True, slots=True)
class Below:
    """A hypervisor below, on a processor that is as it should be or, ``delivers_with_if_0``, as Bochs is."""

    delivers_with_if_0: bool = False

    def may_show(self, program: Program) -> bool:
        """Whether a re-entry at some boundary of some virtual processor could be seen."""
        control = SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY
        with_delivery = (
            vcpu for vcpu, setup in enumerate(program.vcpus) if setup.controls.secondary & control
        )
        return any(_run(program, vcpu, Watched)[0].matters for vcpu in with_delivery)

    def observations(self, program: Program) -> Iterator[tuple[str, Observation]]:
        """Yield what may be observed of a program, and why, by the virtual processor and the boundary."""
        first = program.level is Level.GUEST
        for vcpu in range(len(program.vcpus)):
            for delivers in (False, True)[first : 1 + self.delivers_with_if_0]:
                why = DELIVERS if delivers else EVALUATES
                yield from ((why, seen) for seen in _by_boundary(program, vcpu, delivers=delivers))


def _by_boundary(program: Program, vcpu: int, *, delivers: bool) -> Iterator[Observation]:
    """Yield what differs from what is observed where nothing comes from below."""
    _, usual = _run(program, vcpu, _usual(program))
    kind = Native if program.level is Level.GUEST else Reentered
    for at in range(MOST_BOUNDARIES):
        for between in (False, True)[: 1 + (at > 0)]:  # VM entry leads to a step itself
            strike = Strike(at, between, delivers)
            struck, seen = _run(program, vcpu, partial(kind, strike=strike))
            if not struck.reached:
                return
            if seen not in (None, usual):
                yield seen


def _run(
    program: Program, vcpu: int, kind: Callable[[LogicalProcessor, Program, Barriers], Kind]
) -> tuple[Kind, Observation | None]:
    """Run a program with one virtual processor of a *kind*; ``None``: the model knows no way on."""
    made: list[Kind] = []

    def processor(cpu: LogicalProcessor, program: Program, barriers: Barriers) -> Processor:
        if cpu.index != vcpu:
            return _usual(program)(cpu, program, barriers)
        made.append(kind(cpu, program, barriers))
        return made[0]

    try:
        seen = Machine(program, Implementation(), SILENT, processor).run()
    except (NotModelled, EndlessError, RecursionError):
        seen = None
    return made[0], seen


def _usual(program: Program) -> type[Processor]:
    return NativeProcessor if program.level is Level.GUEST else Processor
