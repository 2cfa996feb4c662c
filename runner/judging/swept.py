"""Known deviations in sweeps: there the reference model's observation is the expectation.

An entry's `instead` is put into that observation in the places that differ, as `deviations.amend` puts it
into a written expectation. What it says in words that only an expectation has (``one-of``, fields of an
exit, interrupts by step) excuses nothing in a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from runner.judging.deviations import Deviation, Instead, meant
from runner.judging.differences import Difference, Part, disagreements
from runner.outcome import Completed, Entered, Fault, Final, Observation, StepResult, Stuck
from runner.program import Program, Setup
from runner.scenario import Keep, Value

SAID = {"page", "rvi", "svi"}
"""What of an ``after`` an observation can say as well."""


def excuse(
    program: Program, wanted: Observation, seen: Observation, known: Iterable[Deviation]
) -> tuple[Deviation, ...]:
    """Return the fewest deviations that together announce all differences; none if they do not.

    *wanted* is the reference model's observation, *known* are deviations that speak of the point.
    """
    found = disagreements(program, wanted, seen)
    candidates = [each for each in known if _can_be_said(each.instead)]
    for size in range(1, len(candidates) + 1):
        for some in combinations(candidates, size):
            amended = wanted
            for deviation in some:
                amended = _amend(program, amended, deviation.instead, found)
            if not disagreements(program, amended, seen):
                return some
    return ()


def _can_be_said(instead: Instead) -> bool:
    words = [word for name, said in instead.after if name == "page" for _, word in said]
    return (
        not instead.exit
        and instead.delivers is None
        and (instead.outcome is None or isinstance(instead.outcome, Value | Fault))
        and {name for name, _ in instead.after} <= SAID
        and all(isinstance(word, int | Keep) for word in words)
    )


def _amend(
    program: Program, wanted: Observation, instead: Instead, found: Sequence[Difference]
) -> Observation:
    parts = {(each.part, each.vcpu if each.step is None else each.step) for each in found}
    entries = tuple(
        instead.entry if instead.entry is not None and (Part.ENTRY, vcpu) in parts else entry
        for vcpu, entry in enumerate(wanted.entries)
    )
    entered = {vcpu for vcpu, entry in enumerate(entries) if isinstance(entry, Entered)}
    steps = tuple(
        _step(result, instead)
        if (Part.STEP, index) in parts and meant(step.action, instead)
        else _reached(result)
        if step.vcpu in entered and entries != wanted.entries
        else result
        for index, (step, result) in enumerate(zip(program.steps, wanted.steps, strict=True))
    )
    finals = tuple(
        _final(program.vcpus[vcpu], final, instead) if (Part.FINAL, vcpu) in parts else final
        for vcpu, final in enumerate(wanted.finals)
    )
    return Observation(entries, steps, finals)


def _reached(result: StepResult) -> StepResult:
    """Return a step behind a VM entry that succeeds after all: it completes."""
    return StepResult((Completed(),)) if result.outcomes == (Stuck.NOT_REACHED,) else result


def _step(result: StepResult, instead: Instead) -> StepResult:
    match instead.outcome:
        case Value(value):
            return replace(result, outcomes=(Completed(value),))
        case Fault() as fault:
            return replace(result, outcomes=(fault,))
        case _:
            return _reached(result) if instead.entry is not None else result


def _final(setup: Setup, final: Final, instead: Instead) -> Final:
    after = dict(instead.after)
    page = dict(final.page) if after.get("page", True) else {}
    for offset, word in after.get("page", ()):
        page[offset] = setup.page.word(offset) if isinstance(word, Keep) else word
    changed = tuple(sorted((at, word) for at, word in page.items() if word != setup.page.word(at)))
    said = {name: after[name] for name in ("rvi", "svi") if name in after}
    as_set_up = {name: getattr(setup, name) for name, value in said.items() if value is None}
    return replace(final, page=changed, **{**said, **as_set_up})
