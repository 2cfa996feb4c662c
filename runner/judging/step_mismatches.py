"""Where a step's result is not the expected one: outcome, fields of an exit, interrupts delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from runner.apic import logical_id
from runner.judging.exit_mismatches import Mismatch, exit_mismatches, is_between
from runner.judging.expectation_words import expectation_words, step_expectation_words
from runner.judging.pages import happens_in_root, held
from runner.outcome import (
    Completed,
    Delivery,
    Entered,
    Entry,
    Fault,
    Observation,
    Outcome,
    Rip,
    StepResult,
    Stuck,
    VmExit,
)
from runner.program import Barrier, Cpuid, Level, Plain, Program, Rdmsr, Step
from runner.scenario import (
    Bits,
    Completes,
    Delivers,
    EntryFails,
    Exit,
    Expected,
    OneOf,
    OutcomeExpected,
    Relative,
    StepExpected,
    Value,
)
from runner.vmx import TRAP_LIKE, ExitReason
from runner.words import deliveries_words, hexadecimal, outcome_words, outcomes_words, result_words


@dataclass(frozen=True, slots=True)
class Place:
    """A step within what happened: its index in the program, and the step itself.

    In a handler the index is that of the step which the interrupt was delivered after.
    """

    program: Program
    expected: Expected
    observation: Observation
    index: int
    step: Step
    in_handler: bool = False


class NothingToCompareError(Exception):
    """The observation has a value, and not the one that it is to be compared with."""


def step_mismatches(place: Place, expected: StepExpected, result: StepResult) -> Iterator[Mismatch]:
    """Yield everything about one step that is not as expected."""
    if isinstance(expected.outcome, OneOf):
        if not any(_fits(place, _choice(one, expected), result) for one in expected.outcome.choices):
            yield "", step_expectation_words(expected), result_words(result)
        return
    if happens_in_root(place.step.action) and not isinstance(expected.outcome, Exit):
        yield from _root_mismatches(place, expected.outcome, result)
    else:
        yield from _outcome_mismatches(place, expected.outcome, result)
    yield from _delivery_mismatches(place, expected, result)


def _fits(place: Place, expected: StepExpected, result: StepResult) -> bool:
    return next(step_mismatches(place, expected, result), None) is None


def _choice(choice: StepExpected, around: StepExpected) -> StepExpected:
    return choice if choice.delivers else replace(choice, delivers=around.delivers)


def _root_mismatches(place: Place, expected: OutcomeExpected, result: StepResult) -> Iterator[Mismatch]:
    """Judge the VM entry after what the VMM does, which itself is the kit's own."""
    seen = tuple(each for each in result.outcomes if not isinstance(each, Completed))
    wanted: tuple[Outcome | Entry, ...] = (expected,) if isinstance(expected, Stuck) else ()
    if isinstance(expected, EntryFails) and not before_first_entry(place.program, place.index):
        wanted = (expected.entry,)
    if seen != wanted:
        yield "", outcomes_words(wanted or (Entered(),)), outcomes_words(seen or (Entered(),))


def before_first_entry(program: Program, index: int) -> bool:
    """Whether the step is the VMM's and no step of the guest comes before it on its virtual processor."""
    own = (step for step in program.steps[: index + 1] if step.vcpu == program.steps[index].vcpu)
    return all(happens_in_root(step.action) for step in own)


def _outcome_mismatches(place: Place, expected: OutcomeExpected, result: StepResult) -> Iterator[Mismatch]:
    wanted = _resolved(place, expected, result)
    outcomes = result.outcomes
    if wanted is None and outcomes and isinstance(outcomes[0], Completed | Fault):
        raise NothingToCompareError(f"nothing is known to compare the {expectation_words(expected)} with")
    if isinstance(wanted, Exit):
        completed = is_between(wanted) and len(outcomes) > 1 and _completes(outcomes[0])
        rip = Rip.NEXT if completed or wanted.reason in TRAP_LIKE else Rip.SAME
        outcomes = outcomes[1:] if completed else outcomes
        if outcomes and isinstance(outcomes[0], VmExit) and outcomes[0].reason == wanted.reason:
            yield from exit_mismatches(wanted, rip, outcomes[0])
            yield from _surplus(wanted, outcomes[1:], completed=completed)
            return
    if len(outcomes) != 1 or not _is(wanted, outcomes[0]):
        yield "", _resolved_words(expected, wanted), outcomes_words(result.outcomes)


def _surplus(wanted: Exit, rest: tuple[Outcome, ...], *, completed: bool) -> Iterator[Mismatch]:
    may_complete = is_between(wanted) and not completed
    if rest and not (may_complete and len(rest) == 1 and _completes(rest[0])):
        yield "after the VM exit", "nothing more", outcomes_words(rest)


Resolved = Outcome | Completes | Bits | Exit | None
"""An expectation without relative values; ``None``: what it refers to is not known."""


def _resolved(place: Place, expected: OutcomeExpected, result: StepResult) -> Resolved:
    match expected:
        case Value(value):
            return Completed(value)
        case Relative():
            return _relative(place, expected, result)
        case Completes():
            return _completion(place)
        case Fault() | Stuck() | Bits() | Exit():
            return expected
        case _:
            return None


def _completion(place: Place) -> Completes | Exit:
    """CPUID and VMCALL complete, for a guest, by the VM exit that they always cause."""
    if place.program.level is Level.VMX and place.step.action is Plain.VMCALL:
        return Exit(ExitReason.VMCALL)
    if place.program.level is Level.VMX and isinstance(place.step.action, Cpuid):
        return Exit(ExitReason.CPUID)
    return Completes()


def _relative(place: Place, relative: Relative, result: StepResult) -> Resolved:
    """Find the value; at level guest ``physical`` is the APIC ID that CPUID leaf 0BH gives in EDX."""
    physical = result.physical
    match relative:
        case Relative.FROM_PAGE if isinstance(place.step.action, Rdmsr):
            steps = place.index + place.in_handler
            value = held(place.program, place.observation, steps, place.step.vcpu, place.step.action.msr)
            return None if value is None else Completed(value)
        case Relative.LOGICAL_ID if isinstance(physical, Completed) and physical.value is not None:
            return Completed(logical_id(physical.value))
        case Relative.PHYSICAL | Relative.OWN_APIC_ID:
            return physical
        case _:
            return None


def _resolved_words(expected: OutcomeExpected, wanted: Resolved) -> str:
    if isinstance(expected, Relative) and isinstance(wanted, Completed | Fault):
        return f"{outcome_words(wanted)} ({expected.value})"
    return expectation_words(expected)


def _is(wanted: Resolved, observed: Outcome) -> bool:
    match wanted:
        case Completes():
            return _completes(observed)
        case Bits(ranges):
            return _completes(observed) and _within(ranges, observed)
        case _:
            return wanted == observed


def _completes(observed: Outcome) -> bool:
    return isinstance(observed, Completed) and observed.upper_clear


def _within(ranges: tuple[tuple[int, int, int, int], ...], observed: Outcome) -> bool:
    value = observed.value if isinstance(observed, Completed) else None
    return value is not None and all(
        least <= value >> low & (1 << (high - low + 1)) - 1 <= most for high, low, least, most in ranges
    )


def _delivery_mismatches(place: Place, expected: StepExpected, result: StepResult) -> Iterator[Mismatch]:
    if not expected.delivers and not result.delivered:
        return
    seen = tuple((each.vector, None if place.in_handler else each.at) for each in result.delivered)
    wanted = tuple((each.vector, _saved_rip(place, each)) for each in expected.delivers)
    if wanted != seen:
        yield "interrupts delivered", deliveries_words(wanted), deliveries_words(seen)
    for delivery in result.delivered:
        yield from _handler_mismatches(place, delivery)


def _saved_rip(place: Place, delivers: Delivers) -> int | None:
    """Return the index of the step that the saved RIP points to; in a handler it is not judged."""
    if place.in_handler:
        return None
    return next_step(place.program, place.index) if delivers.at is None else delivers.at


def next_step(program: Program, index: int) -> int:
    """Return the index of the guest's next step after one; a wait for an interrupt is its own next step."""
    this = program.steps[index]
    if this.action is Plain.SPIN or isinstance(this.action, Barrier):
        return index
    for later in range(index + 1, len(program.steps)):
        step = program.steps[later]
        if step.vcpu == this.vcpu and not happens_in_root(step.action):
            return later
    return len(program.steps)


def _handler_mismatches(place: Place, delivery: Delivery) -> Iterator[Mismatch]:
    vcpu = place.program.steps[place.index].vcpu
    steps = place.program.vcpus[vcpu].handler(delivery.vector)
    expected = _handler_expected(place.expected, vcpu, delivery.vector) or (StepExpected(),) * len(steps)
    where = f"handler of {hexadecimal(delivery.vector)}"
    if len(delivery.steps) != len(steps):
        yield where, f"{len(steps)} steps", f"{len(delivery.steps)} steps"
        return
    for number, (step, wanted, result) in enumerate(zip(steps, expected, delivery.steps, strict=True), 1):
        inner = replace(place, step=replace(step, vcpu=vcpu), in_handler=True)
        for what, want, seen in step_mismatches(inner, wanted, result):
            yield f"{where}, step {number}{', ' if what else ''}{what}", want, seen


def _handler_expected(expected: Expected, vcpu: int, vector: int) -> tuple[StepExpected, ...]:
    handlers = expected.handlers[vcpu] if vcpu < len(expected.handlers) else ()
    return next((steps for number, steps in handlers if number == vector), ())
