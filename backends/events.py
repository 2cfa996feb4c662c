"""The log of one virtual processor: which step each event belongs to.

The probe says where an RIP pointed: a *slot* (a step's place in its processor's list; the handlers'
steps follow the main ones) and ``AT_`` flags. The rules by which an event finds its step are those of
`runner.outcome.StepResult`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from backends import wire
from runner.outcome import (
    Completed,
    Delivery,
    Entered,
    Entry,
    EntryFailure,
    Fault,
    Outcome,
    Rip,
    StepResult,
    Stuck,
    VmExit,
    VmfailInvalid,
    VmfailValid,
)
from runner.program import (
    Action,
    Cpuid,
    Plain,
    Post,
    Program,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    WriteCr8,
    Wrmsr,
    is_vmm,
)
from runner.vmx import TRAP_LIKE, Activity, Blocking, ExitReason

AT_START, AT_PREVIOUS, AT_INSIDE, AT_BETWEEN = 0x1, 0x2, 0x4, 0x8
AT_END, AT_HANDLER, AT_OTHER = 0x10, 0x20, 0x40
AT_NO_SLOT = AT_HANDLER | AT_OTHER
EVENT_VALUE, EVENT_FAULT, EVENT_DELIVERY, EVENT_RETURN = 1, 2, 3, 4
EVENT_EXIT, EVENT_ENTRY, EVENT_PHYSICAL, EVENT_PERFORMED = 5, 6, 7, 8

VALID = 0x80000000
ENTRY_FAILED = 0x80000000
LATE = -1
"""`Delivery.at` of an interrupt taken on the probe's own loads of operands."""

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

    def outcome(self, rip: Rip, *, registers_kept: bool) -> VmExit:
        """Return it as the outcome of a step, without what the SDM leaves undefined."""
        return VmExit(
            reason=self.reason,
            qualification=self.qualification,
            rip=rip,
            interruption_information=self.interruption if self.interruption & VALID else 0,
            idt_vectoring=self.vectoring if self.vectoring & VALID else 0,
            instruction_length=self.length if self.reason in HAS_LENGTH else 0,
            blocking=Blocking(self.blocking & 0xF),
            activity=Activity(self.activity & 3),
            registers_kept=registers_kept,
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
        """Whether the instruction has faulted or exited of its own, so that a value would be the probe's."""
        last = self.outcomes[-1] if self.outcomes else None
        return isinstance(last, Fault) or (isinstance(last, VmExit) and last.reason in CAUSES)


@dataclass(slots=True)
class Running:
    """A handler from its first instruction on; ``first_slot`` is the slot of its first step."""

    vector: int
    at: int
    first_slot: int
    actions: tuple[Action, ...]
    steps: list[Collected]
    passed: int = 0

    def delivery(self) -> Delivery:
        """Freeze it."""
        steps = tuple(step.result(passed=index < self.passed) for index, step in enumerate(self.steps))
        return Delivery(self.vector, self.at, steps)


class ProcessorLog:
    """Reads one virtual processor's log; `entry` and `results` then say what it holds."""

    def __init__(self, program: Program, vcpu: int) -> None:
        """Begin with nothing seen."""
        own = program.steps_of(vcpu)
        self.entry: Entry = Entered()
        self._indices = [index for index, _ in own]
        self._actions = [step.action for _, step in own]
        self._end = len(program.steps)
        self._alone = len(program.vcpus) == 1
        self._setup = program.vcpus[vcpu]
        self._steps = [Collected() for _ in own]
        self._passed = 0  # slots before this one are behind the guest
        self._handlers: list[Running] = []  # that have not returned, outermost first
        self._pending: list[Outcome] = []  # exits at a handler's first instruction
        self._last = 0  # the slot that the latest event of the main stream belongs to
        self._performed: set[int] = set()
        self._entered = False

    def results(self) -> Iterator[tuple[int, StepResult]]:
        """Yield each step's index in the program, and its result."""
        for slot, index in enumerate(self._indices):
            yield index, self._steps[slot].result(passed=slot < self._passed)

    def read(self, log: bytes) -> None:
        """Read all events."""
        at = 0
        while at < len(log):
            if log[at] == EVENT_EXIT:
                self._exit(ExitRecord(*wire.EXIT.unpack_from(log, at)))
                at += wire.EXIT.size
            else:
                self._event(*wire.EVENT.unpack_from(log, at))
                at += wire.EVENT.size
        if self._pending:
            self._steps[self._last].outcomes += self._pending

    def _event(self, kind: int, at: int, slot: int, _: int, a: int, b: int) -> None:
        if kind == EVENT_PHYSICAL:
            self._at(slot).physical = Fault(b - 1, 0) if b else Completed(a)
        elif kind == EVENT_PERFORMED:
            self._performed.add(slot)
            self._last = slot
            self._steps[slot].outcomes.append(Completed())
        elif kind == EVENT_ENTRY:
            self._failed_entry(VmfailInvalid() if a == 1 else VmfailValid(b))
        elif kind == EVENT_RETURN and self._handlers:
            running = self._handlers.pop()
            running.passed = len(running.steps)
        else:
            self._entered = True
            self._guest_event(kind, at, slot, a, b)

    def _guest_event(self, kind: int, at: int, slot: int, a: int, b: int) -> None:
        if kind == EVENT_VALUE:
            self._value(slot, a, b)
        elif kind == EVENT_FAULT and not at & AT_NO_SLOT:
            self._at(slot).outcomes.append(Fault(a & 0xFFFFFFFF, a >> 32))
            self._pass(slot)
        elif kind == EVENT_DELIVERY:
            self._delivery(a, at, slot)
        elif kind == EVENT_FAULT:
            raise BadRecordError(f"exception {a & 0xFFFFFFFF} outside every step of the guest")
        else:
            raise BadRecordError(f"an event of kind {kind}")

    def _at(self, slot: int) -> Collected:
        """Return the step of a slot: a main one, or one of the handler that runs."""
        if slot < len(self._steps):
            return self._steps[slot]
        running = self._handlers[-1] if self._handlers else None
        index = slot - running.first_slot if running else -1
        if running is None or not 0 <= index < len(running.steps):
            raise BadRecordError(f"an event at slot {slot}, where no step is")
        return running.steps[index]

    def _action(self, slot: int) -> Action | None:
        """Return the action of a slot, if it has one."""
        if slot < len(self._actions):
            return self._actions[slot]
        running = self._handlers[-1] if self._handlers else None
        index = slot - running.first_slot if running else -1
        return running.actions[index] if running and 0 <= index < len(running.actions) else None

    def _pass(self, slot: int) -> None:
        """Note that everything before *slot* is behind the guest."""
        if self._handlers and slot >= len(self._steps):
            running = self._handlers[-1]
            running.passed = max(running.passed, slot - running.first_slot)
        else:
            self._passed = max(self._passed, slot)

    def _owner(self, at: int, slot: int) -> Collected:
        """Return the step that something at the boundary before *slot*, or inside it, belongs to."""
        if at & AT_NO_SLOT:
            return self._steps[self._last]
        inside = bool(at & AT_INSIDE)
        if self._handlers and slot >= len(self._steps) and self._handlers[-1].steps:
            running = self._handlers[-1]
            index = slot - running.first_slot - (not inside)
            return running.steps[min(max(index, 0), len(running.steps) - 1)]
        self._last = min(slot if inside else max(slot - 1, 0), len(self._steps) - 1)
        return self._steps[self._last]

    def _value(self, slot: int, rax: int, rdx: int) -> None:
        collected = self._at(slot)
        if collected.is_over:
            return
        if isinstance(self._action(slot), ReadCr8):
            collected.outcomes.append(Completed(rax))
        else:
            value = rax & 0xFFFFFFFF | (rdx & 0xFFFFFFFF) << 32
            collected.outcomes.append(Completed(value, upper_clear=not (rax | rdx) & UPPER_HALF))
        self._pass(slot + 1)

    def _delivery(self, vector: int, at: int, slot: int) -> None:
        owner = self._owner(at, slot)
        actions = tuple(step.action for step in self._setup.handler(vector)) if vector >= 16 else ()
        running = Running(
            vector, self._points_to(at, slot), self._slot_of(vector), actions, [Collected() for _ in actions]
        )
        owner.handlers.append(running)
        owner.outcomes += self._pending
        self._pending = []
        if not at & AT_NO_SLOT:
            self._pass(slot)
        self._handlers.append(running)

    def _points_to(self, at: int, slot: int) -> int:
        """Return `Delivery.at` for a position."""
        if at & AT_NO_SLOT or (at & AT_BETWEEN and self._alone):
            return LATE
        if self._handlers and slot >= len(self._steps) and not at & AT_END:
            return slot - self._handlers[-1].first_slot
        while slot < len(self._actions) and is_vmm(self._actions[slot]):
            slot += 1
        return self._indices[slot] if slot < len(self._indices) else self._end

    def _slot_of(self, vector: int) -> int:
        """Return the slot of the first step of a vector's handler."""
        slot = len(self._steps)
        for number, steps in self._setup.handlers:
            if number == vector:
                break
            slot += len(steps)
        return slot

    def _failed_entry(self, how: VmfailInvalid | VmfailValid | EntryFailure) -> None:
        if self._entered:
            self._steps[self._last].outcomes.append(how)
        else:
            self.entry = how

    def _exit(self, record: ExitRecord) -> None:
        at, slot = record.at, record.slot
        if record.reason & ENTRY_FAILED:
            self._failed_entry(EntryFailure(record.reason & 0xFFFF, record.qualification))
            return
        self._entered = True
        if record.reason == ExitReason.VMCALL and at & AT_END and slot == len(self._steps):
            self._pass(slot)
        elif record.reason == ExitReason.VMX_PREEMPTION_TIMER_EXPIRED:
            self._stuck(at, slot, record.activity)
        else:
            cause, rip = self._cause(record.reason, at, slot)
            outcome = record.outcome(rip, registers_kept=self._registers_kept(cause, record))
            if at & AT_HANDLER:
                self._pending.append(outcome)
            elif cause is not None:
                self._instruction_exit(cause, outcome)
            else:
                self._boundary_exit(outcome, at, slot)

    def _instruction_exit(self, slot: int, outcome: VmExit) -> None:
        self._at(slot).outcomes.append(outcome)
        self._pass(slot + 1)
        if slot < len(self._steps):
            self._last = slot

    def _boundary_exit(self, outcome: VmExit, at: int, slot: int) -> None:
        owner = self._owner(at, slot)
        if outcome.rip is Rip.NEXT and not owner.outcomes:
            owner.outcomes.append(Completed())
        owner.outcomes.append(outcome)
        if not at & AT_NO_SLOT:
            self._pass(slot)

    def _cause(self, reason: int, at: int, slot: int) -> tuple[int | None, Rip]:
        """Return the slot of the instruction that exited, if one did, and where RIP points.

        A RIP both behind one instruction and on the next is the first's for trap-like exits, else the
        second's; a VMM step performed in between has ended the first.
        """
        if at & (AT_NO_SLOT | AT_INSIDE):
            return None, Rip.ELSEWHERE
        before = self._guest_slot_before(slot)
        ended = before is not None and any(s in self._performed for s in range(before + 1, slot))
        behind = bool(at & AT_PREVIOUS) and not ended and self._can_cause(reason, before)
        on = bool(at & AT_START) and self._can_cause(reason, slot)
        if behind and (reason in TRAP_LIKE or not on):
            return before, Rip.NEXT
        if on and not (reason in TRAP_LIKE and slot == 0 and not self._passed):
            return slot, Rip.SAME
        return None, Rip.NEXT if slot > 0 else Rip.SAME

    def _can_cause(self, reason: int, slot: int | None) -> bool:
        if slot is None:
            return False
        action = self._action(slot)
        if reason == ExitReason.EXCEPTION_OR_NMI:
            return action is not None
        return isinstance(action, CAUSES.get(reason, ()))

    def _guest_slot_before(self, slot: int) -> int | None:
        """Return the slot of the guest step before *slot* in its stream."""
        if slot > len(self._steps):
            return slot - 1
        slots = range(slot - 1, -1, -1)
        return next((before for before in slots if not is_vmm(self._actions[before])), None)

    def _stuck(self, at: int, slot: int, activity: int) -> None:
        halted = activity == Activity.HLT
        self._owner(at, slot).outcomes.append(Stuck.STAYS_HALTED if halted else Stuck.DID_NOT_RETURN)
        if not at & AT_NO_SLOT:
            self._pass(slot)

    def _registers_kept(self, slot: int | None, record: ExitRecord) -> bool:
        """Whether a fault-like exit left RAX, RCX and RDX as the step had loaded them."""
        loaded = None if slot is None or record.reason not in HAS_LENGTH else _loaded(self._action(slot))
        return loaded is None or loaded == (record.rax, record.rcx, record.rdx)


def _loaded(action: Action | None) -> tuple[int, int, int] | None:
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
