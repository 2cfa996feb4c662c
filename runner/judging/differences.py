"""Every difference between what a point expects and what a subject did, in SDM words.

Silence is strict: whatever an expectation does not name has not changed and did not happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from runner.judging.exit_mismatches import Mismatch
from runner.judging.final_mismatches import final_mismatches, state_mismatches
from runner.judging.step_mismatches import Place, before_first_entry, step_mismatches
from runner.outcome import Entry, Observation
from runner.program import Program
from runner.scenario import EntryFails, Expected
from runner.words import action_words, entry_words, result_words


class Part(Enum):
    """What of a program a difference lies in."""

    ENTRY = "VM entry"
    STEP = "step"
    FINAL = "final state"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a subject did otherwise; ``where``, ``expected`` and ``observed`` are for people.

    ``step`` is an index into the program's steps, ``point`` the id of the point.
    """

    where: str
    expected: str
    observed: str
    part: Part
    vcpu: int = 0
    step: int | None = None
    point: str = ""


def differences(program: Program, expected: Expected, observation: Observation) -> tuple[Difference, ...]:
    """Return all differences; none where the observation is the expected one.

    The observation has as many entries, steps and finals as the program asks for.
    """
    return (
        *_entries(program, expected, observation),
        *_steps(program, expected, observation),
        *_finals(program, expected, observation),
    )


def disagreements(program: Program, oracle: Observation, seen: Observation) -> tuple[Difference, ...]:
    """Return where a subject differs from the reference model, whose observation is the expectation.

    A register that both read from their own physical APIC may differ.
    """
    return (
        *_oracle_entries(program, oracle, seen),
        *_oracle_steps(program, oracle, seen),
        *_oracle_finals(program, oracle, seen),
    )


def _oracle_entries(program: Program, oracle: Observation, seen: Observation) -> Iterator[Difference]:
    for vcpu, (wanted, entry) in enumerate(zip(oracle.entries, seen.entries, strict=True)):
        if wanted != entry:
            where = f"{_processor(program, vcpu)}first VM entry"
            yield Difference(where, entry_words(wanted), entry_words(entry), Part.ENTRY, vcpu)


def _oracle_steps(program: Program, oracle: Observation, seen: Observation) -> Iterator[Difference]:
    for index, (wanted, result) in enumerate(zip(oracle.steps, seen.steps, strict=True)):
        step = program.steps[index]
        physical = (wanted.physical,) == wanted.outcomes and (result.physical,) == result.outcomes
        if not (physical or wanted.outcomes == result.outcomes) or wanted.delivered != result.delivered:
            where = _step_name(program, index)
            yield Difference(where, result_words(wanted), result_words(result), Part.STEP, step.vcpu, index)


def _oracle_finals(program: Program, oracle: Observation, seen: Observation) -> Iterator[Difference]:
    for vcpu, (wanted, final) in enumerate(zip(oracle.finals, seen.finals, strict=True)):
        for mismatch in state_mismatches(wanted, final):
            yield _difference(f"{_processor(program, vcpu)}final state", mismatch, Part.FINAL, vcpu)


def _entries(program: Program, expected: Expected, observation: Observation) -> Iterator[Difference]:
    for vcpu, seen in enumerate(observation.entries):
        wanted = _first_entry(program, expected, vcpu)
        if seen != wanted:
            where = f"{_processor(program, vcpu)}first VM entry"
            yield Difference(where, entry_words(wanted), entry_words(seen), Part.ENTRY, vcpu)


def _first_entry(program: Program, expected: Expected, vcpu: int) -> Entry:
    """Return the expectation of the case, or that of a VMM step before the first VM entry."""
    for index, _ in program.steps_of(vcpu):
        outcome = expected.steps[index].outcome
        if isinstance(outcome, EntryFails) and before_first_entry(program, index):
            return outcome.entry
    return expected.entry


def _steps(program: Program, expected: Expected, observation: Observation) -> Iterator[Difference]:
    for index, step in enumerate(program.steps):
        place = Place(program, expected, observation, index, step)
        for mismatch in step_mismatches(place, expected.steps[index], observation.steps[index]):
            yield _difference(_step_name(program, index), mismatch, Part.STEP, step.vcpu, index)


def _finals(program: Program, expected: Expected, observation: Observation) -> Iterator[Difference]:
    for vcpu, final in enumerate(observation.finals):
        for mismatch in final_mismatches(program, expected, vcpu, final):
            yield _difference(f"{_processor(program, vcpu)}final state", mismatch, Part.FINAL, vcpu)


def _difference(where: str, mismatch: Mismatch, part: Part, vcpu: int, step: int | None = None) -> Difference:
    what, wanted, seen = mismatch
    return Difference(f"{where}: {what}" if what else where, wanted, seen, part, vcpu, step)


def _step_name(program: Program, index: int) -> str:
    step = program.steps[index]
    return f"{_processor(program, step.vcpu)}step {index + 1}, {action_words(step.action)}"


def _processor(program: Program, vcpu: int) -> str:
    return f"virtual processor {vcpu}, " if len(program.vcpus) > 1 else ""
