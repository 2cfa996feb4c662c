"""The log of one virtual processor: which step each event belongs to.

The probe says where an RIP pointed: a *slot* (a step's place in its processor's list; the handlers'
steps follow the main ones) and ``AT_`` flags. The rules by which an event finds its step are those of
`runner.outcome.StepResult`.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends import events, wire
from backends.events import BadRecordError, Collected, ExitRecord, Running
from runner.outcome import (
    BETWEEN_STEPS,
    Completed,
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
from runner.program import Action, Program, is_vmm
from runner.vmx import TRAP_LIKE, Activity, ExitReason


class ProcessorLog:
    """Reads one virtual processor's log; `entry` and `results` then say what it holds."""

    def __init__(self, program: Program, vcpu: int) -> None:
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
            passed = slot < self._passed and not is_vmm(self._actions[slot])
            yield index, self._steps[slot].result(passed=passed)

    def read(self, log: bytes) -> None:
        """Read all events."""
        at = 0
        while at < len(log):
            if log[at] == events.EVENT_EXIT:
                self._exit(ExitRecord(*wire.EXIT.unpack_from(log, at)))
                at += wire.EXIT.size
            else:
                self._event(*wire.EVENT.unpack_from(log, at))
                at += wire.EVENT.size
        if self._pending:
            self._steps[self._last].outcomes += self._pending

    def _event(self, kind: int, at: int, slot: int, _: int, a: int, b: int) -> None:
        if kind == events.EVENT_PHYSICAL:
            self._at(slot).physical = Fault(b - 1, 0) if b else Completed(a)
        elif kind == events.EVENT_PERFORMED:
            self._performed.add(slot)
            self._last = slot
            self._steps[slot].outcomes.append(Completed())
        elif kind == events.EVENT_END:
            self._pass(len(self._steps))
        elif kind == events.EVENT_ENTRY:
            self._failed_entry(VmfailInvalid() if a == 1 else VmfailValid(b))
        elif kind == events.EVENT_RETURN and self._handlers:
            running = self._handlers.pop()
            running.passed = len(running.steps)
        else:
            self._guest_event(kind, at, slot, a, b)

    def _guest_event(self, kind: int, at: int, slot: int, a: int, b: int) -> None:
        self._entered = True
        if kind == events.EVENT_VALUE:
            self._value(slot, a, b)
        elif kind == events.EVENT_FAULT and not at & events.AT_NO_SLOT:
            self._at(slot).outcomes.append(Fault(a & 0xFFFFFFFF, a >> 32))
            self._pass(slot)
        elif kind == events.EVENT_DELIVERY:
            self._delivery(a, at, slot)
        elif kind == events.EVENT_FAULT:
            raise BadRecordError(f"exception {a & 0xFFFFFFFF} outside every step of the guest")
        else:
            raise BadRecordError(f"an event of kind {kind}")

    def _at(self, slot: int) -> Collected:
        """Return the step of a slot: a main one, or one of the handler that runs."""
        if slot < len(self._steps):
            return self._steps[slot]
        index = self._in_handler(slot)
        if index is not None:
            return self._handlers[-1].steps[index]
        raise BadRecordError(f"an event at slot {slot}, where no step is")

    def _action(self, slot: int | None) -> Action | None:
        """Return the action of a slot, if it has one."""
        if slot is None or slot < len(self._actions):
            return None if slot is None else self._actions[slot]
        index = self._in_handler(slot)
        return None if index is None else self._handlers[-1].actions[index]

    def _in_handler(self, slot: int) -> int | None:
        """Return which step of the handler that runs has a slot."""
        index = slot - self._handlers[-1].first_slot if self._handlers else -1
        return index if index >= 0 and index < len(self._handlers[-1].steps) else None

    def _pass(self, slot: int) -> None:
        """Note that everything before *slot* is behind the guest."""
        if self._handlers and slot >= len(self._steps):
            self._handlers[-1].passed = max(self._handlers[-1].passed, slot - self._handlers[-1].first_slot)
        else:
            self._passed = max(self._passed, slot)

    def _owner(self, at: int, slot: int) -> Collected:
        """Return the step that something at the boundary before *slot*, or inside it, belongs to."""
        if not self._steps:  # only the VM entry is asked about
            return Collected()
        if at & events.AT_NO_SLOT:
            return self._steps[self._last]
        inside = bool(at & events.AT_INSIDE)
        if self._handlers and slot >= len(self._steps) and self._handlers[-1].steps:
            running = self._handlers[-1]
            index = slot - running.first_slot - (not inside)
            return running.steps[min(max(index, 0), len(running.steps) - 1)]
        self._last = slot if inside else self._slot_before(slot)
        return self._steps[self._last]

    def _slot_before(self, slot: int) -> int:
        """Return the last slot before *slot* that is behind the guest; a VMM step only if performed."""
        done = (s for s in range(slot) if s in self._performed or not is_vmm(self._actions[s]))
        return max(done, default=0)

    def _value(self, slot: int, rax: int, rdx: int) -> None:
        collected = self._at(slot)
        if not collected.is_over:
            collected.outcomes.append(events.completed(self._action(slot), rax, rdx))
            self._pass(slot + 1)

    def _delivery(self, vector: int, at: int, slot: int) -> None:
        owner = self._owner(at, slot)
        running = Running.of(self._setup, vector, self._points_to(at, slot), len(self._steps))
        owner.handlers.append(running)
        owner.outcomes += self._pending
        self._pending = []
        if not at & events.AT_NO_SLOT:
            self._pass(slot)
        self._handlers.append(running)

    def _points_to(self, at: int, slot: int) -> int:
        """Return `Delivery.at` for a position."""
        if at & events.AT_NO_SLOT or (at & events.AT_BETWEEN and self._alone):
            return BETWEEN_STEPS
        if self._handlers and slot >= len(self._steps) and not at & events.AT_END:
            return slot - self._handlers[-1].first_slot
        while slot < len(self._actions) and is_vmm(self._actions[slot]):
            slot += 1
        return self._indices[slot] if slot < len(self._indices) else self._end

    def _failed_entry(self, how: VmfailInvalid | VmfailValid | EntryFailure) -> None:
        if self._entered:
            self._steps[self._last].outcomes.append(how)
        else:
            self.entry = how

    def _exit(self, record: ExitRecord) -> None:
        at, slot = record.at, record.slot
        if record.reason & events.ENTRY_FAILED:
            self._failed_entry(EntryFailure(record.reason & 0xFFFF, record.qualification))
            return
        self._entered = True
        if record.reason == ExitReason.VMX_PREEMPTION_TIMER_EXPIRED:
            self._stuck(at, slot, record.activity)
        else:
            cause, rip = (None, Rip.NEXT) if record.is_debug_trap else self._cause(record.reason, at, slot)
            outcome = record.outcome(rip, None if cause is None else self._action(cause))
            if at & events.AT_HANDLER:
                self._pending.append(outcome)
            elif cause is not None:
                self._instruction_exit(cause, outcome)
            else:
                self._boundary_exit(outcome, record)

    def _instruction_exit(self, slot: int, outcome: VmExit) -> None:
        self._at(slot).outcomes.append(outcome)
        self._pass(slot + 1)
        if slot < len(self._steps):
            self._last = slot

    def _boundary_exit(self, outcome: VmExit, record: ExitRecord) -> None:
        """Note an exit between two steps; a value that the guest has not noted yet is in its registers."""
        owner = self._owner(record.at, record.slot)
        if outcome.rip is Rip.NEXT and not owner.outcomes:
            action = self._action(record.slot - 1)
            owner.outcomes.append(events.completed(action, record.rax, record.rdx))
        owner.outcomes.append(outcome)
        if not record.at & events.AT_NO_SLOT:
            self._pass(record.slot)

    def _cause(self, reason: int, at: int, slot: int) -> tuple[int | None, Rip]:
        """Return the slot of the instruction that exited, if one did, and where RIP points.

        A RIP both behind one instruction and on the next is the first's for trap-like exits, else the
        second's; a VMM step performed in between has ended the first.
        """
        if at & (events.AT_NO_SLOT | events.AT_INSIDE):
            return None, Rip.ELSEWHERE
        before = self._guest_slot_before(slot)
        ended = before is not None and any(s in self._performed for s in range(before + 1, slot))
        behind = (
            bool(at & events.AT_PREVIOUS) and not ended and events.can_cause(self._action(before), reason)
        )
        on = bool(at & events.AT_START) and events.can_cause(self._action(slot), reason)
        if behind and (reason in TRAP_LIKE or not on):
            return before, Rip.NEXT
        if on and not (reason in TRAP_LIKE and slot == 0 and not self._passed):
            return slot, Rip.SAME
        return None, Rip.NEXT if slot > 0 else Rip.SAME

    def _guest_slot_before(self, slot: int) -> int | None:
        """Return the slot of the guest step before *slot* in its stream."""
        if slot > len(self._steps):
            return slot - 1
        slots = range(slot - 1, -1, -1)
        return next((before for before in slots if not is_vmm(self._actions[before])), None)

    def _stuck(self, at: int, slot: int, activity: int) -> None:
        halted = activity == Activity.HLT
        self._owner(at, slot).outcomes.append(Stuck.STAYS_HALTED if halted else Stuck.DID_NOT_RETURN)
        if not at & events.AT_NO_SLOT:
            self._pass(slot)
