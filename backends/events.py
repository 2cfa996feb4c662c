"""What the probe's log is made of, and what is gathered from it for each step.

Twin of the events in ``probe/wire.h``; `backends.processor_log` decides which step an event belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from backends import wire
from runner.outcome import (
    Completed,
    Delivery,
    Fault,
    Outcome,
    Rip,
    StepResult,
    Stuck,
    VmExit,
)
from runner.program import (
    Action,
    Cpuid,
    MmioRead,
    Plain,
    Post,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Setup,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import TRAP_LIKE, Activity, Blocking, ExitReason

AT_START, AT_PREVIOUS, AT_INSIDE, AT_BETWEEN = 0x1, 0x2, 0x4, 0x8
AT_END, AT_HANDLER, AT_OTHER = 0x10, 0x20, 0x40
AT_NO_SLOT = AT_HANDLER | AT_OTHER
EVENT_VALUE, EVENT_FAULT, EVENT_DELIVERY, EVENT_RETURN = 1, 2, 3, 4
EVENT_EXIT, EVENT_ENTRY, EVENT_PHYSICAL, EVENT_PERFORMED, EVENT_END = 5, 6, 7, 8, 9

VALID = 0x80000000
DEBUG_EXCEPTION = 1
ENTRY_FAILED = 0x80000000
LOWEST_INTERRUPT = 16
"""Vectors below it are exceptions to the probe's handlers, which perform no steps for them."""

CAUSES: dict[int, tuple[type[Action], ...]] = {
    ExitReason.CPUID: (Cpuid,),
    ExitReason.HLT: (Plain,),
    ExitReason.VMCALL: (Plain,),
    ExitReason.CONTROL_REGISTER_ACCESS: (ReadCr8, WriteCr8),
    ExitReason.RDMSR: (Rdmsr,),
    ExitReason.WRMSR: (Wrmsr, SetApicBase, Post),
    ExitReason.TPR_BELOW_THRESHOLD: (Wrmsr, WriteCr8),
    ExitReason.VIRTUALIZED_EOI: (Wrmsr,),
    ExitReason.APIC_WRITE: (Wrmsr, Post),
}
"""The actions that an exit with a reason of its own can come from."""

HAS_LENGTH = frozenset(CAUSES) - TRAP_LIKE
UPPER_HALF = 0xFFFFFFFF_00000000


class BadRecordError(Exception):
    """A frame's payload is not what wire.h says; the text says where."""


class ExitRecord(NamedTuple):
    """A ``struct wire_exit``."""

    kind: int
    at: int
    slot: int
    reason: int
    qualification: int
    interruption: int
    vectoring: int
    length: int
    error_code: int
    blocking: int
    activity: int
    reserved: int
    rax: int
    rcx: int
    rdx: int

    @property
    def is_debug_trap(self) -> bool:
        """Whether it is the exit of a single-step trap, which comes behind an instruction."""
        return self.reason == ExitReason.EXCEPTION_OR_NMI and self.interruption & 0xFF == DEBUG_EXCEPTION

    def outcome(self, rip: Rip, cause: Action | None) -> VmExit:
        """Return it as the outcome of the step *cause*, without what the SDM leaves undefined."""
        before = loaded(cause) if self.reason in HAS_LENGTH else None
        return VmExit(
            reason=self.reason,
            qualification=self.qualification,
            rip=rip,
            interruption_information=self.interruption if self.interruption & VALID else 0,
            idt_vectoring=self.vectoring if self.vectoring & VALID else 0,
            instruction_length=self.length if self.reason in HAS_LENGTH else 0,
            blocking=Blocking(self.blocking & 0xF),
            activity=Activity(self.activity & 3),
            registers_kept=before is None or before == (self.rax, self.rcx, self.rdx),
        )


@dataclass(slots=True)
class Collected:
    """What one step has gathered so far."""

    outcomes: list[Outcome] = field(default_factory=list)
    handlers: list[Running] = field(default_factory=list)
    physical: Completed | Fault | None = None

    def result(self, *, passed: bool) -> StepResult:
        """Freeze it; a step that was passed and showed nothing completed."""
        outcomes = tuple(self.outcomes)
        if not outcomes:
            outcomes = (Completed(),) if passed else (Stuck.NOT_REACHED,)
        return StepResult(outcomes, tuple(h.delivery() for h in self.handlers), self.physical)

    @property
    def is_over(self) -> bool:
        """Whether the instruction has completed, faulted or exited of its own: a value is none of its."""
        return any(
            isinstance(outcome, Completed | Fault)
            or (isinstance(outcome, VmExit) and outcome.reason in CAUSES)
            for outcome in self.outcomes
        )


@dataclass(slots=True)
class Running:
    """A handler from its first instruction on; ``first_slot`` is the slot of its first step."""

    vector: int
    at: int
    first_slot: int
    actions: tuple[Action, ...]
    steps: list[Collected]
    passed: int = 0

    @classmethod
    def of(cls, setup: Setup, vector: int, at: int, slot: int) -> Running:
        """Return a vector's handler as it begins; *slot* is the first that belongs to a handler."""
        for number, steps in setup.handlers:
            if number == vector:
                break
            slot += len(steps)
        actions = tuple(step.action for step in setup.handler(vector)) if vector >= LOWEST_INTERRUPT else ()
        return cls(vector, at, slot, actions, [Collected() for _ in actions])

    def delivery(self) -> Delivery:
        """Freeze it."""
        steps = tuple(step.result(passed=index < self.passed) for index, step in enumerate(self.steps))
        return Delivery(self.vector, self.at, steps)


def completed(action: Action | None, rax: int, rdx: int) -> Completed:
    """Return how an action completed that left these registers."""
    if isinstance(action, ReadCr8):
        return Completed(rax)
    if not isinstance(action, Rdmsr | MmioRead | Cpuid):
        return Completed()
    value = rax & 0xFFFFFFFF | (rdx & 0xFFFFFFFF) << 32
    return Completed(value, upper_clear=not (rax | rdx) & UPPER_HALF)


def can_cause(action: Action | None, reason: int) -> bool:
    """Whether an exit with this reason can come from an instruction; any can raise an exception."""
    if reason == ExitReason.EXCEPTION_OR_NMI:
        return action is not None
    return isinstance(action, CAUSES.get(reason, ()))


def loaded(action: Action | None) -> tuple[int, int, int] | None:
    """Return RAX, RCX and RDX as the probe loads them before an action; ``None``: not known."""
    match action:
        case Rdmsr(msr, garbage):
            ones = UPPER_HALF if garbage else 0
            return wire.BEFORE_RAX | ones, msr | ones, wire.BEFORE_RDX | ones
        case Wrmsr(msr, value, garbage):
            ones = UPPER_HALF if garbage else 0
            return value & 0xFFFFFFFF | ones, msr | ones, value >> 32 | ones
        case ReadCr8():
            return wire.BEFORE_RAX, 0, wire.BEFORE_RDX
        case WriteCr8(value):
            return value, 0, 0
    return None
