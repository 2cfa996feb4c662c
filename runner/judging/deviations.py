"""Known deviations: differences that a subject's own file announces.

An entry says what the subject shows *instead*. It is put into the expectation in the places that differ,
and the observation is judged again: so it excuses exactly this difference and no other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from runner.judging.differences import Difference, Part, differences
from runner.judging.step_mismatches import before_first_entry
from runner.outcome import Entered, Entry, Observation, Stuck
from runner.program import Action, Program, Setup
from runner.scenario import (
    After,
    Case,
    Delivers,
    Exit,
    Expected,
    OutcomeExpected,
    Point,
    StepExpected,
)

Handlers = tuple[tuple[tuple[int, tuple[StepExpected, ...]], ...], ...]
"""What `Expected.handlers` is."""
NOT_REACHED = StepExpected(Stuck.NOT_REACHED)


@dataclass(frozen=True, slots=True)
class Instead:
    """What a subject shows instead of the expectation; what is ``None`` or empty is as expected.

    ``exit`` are fields of `Exit` by name, for an expected exit with the same reason or in place of another
    outcome. ``after`` are fields of `After`: page and physical registers are merged word by word, unless
    empty; empty and ``None`` are *as set up*. ``step`` (its name in the scenario language) and ``msrs``
    limit ``outcome``, ``exit`` and ``delivers`` to such steps; with ``handlers`` all such steps of interrupt
    handlers show it, too.
    """

    entry: Entry | None = None
    outcome: OutcomeExpected | None = None
    exit: tuple[tuple[str, Any], ...] = ()
    delivers: tuple[Delivers, ...] | None = None
    after: tuple[tuple[str, Any], ...] = ()
    step: str = ""
    msrs: frozenset[int] = frozenset()
    handlers: bool = False


@dataclass(frozen=True, slots=True)
class Deviation:
    """One announced deviation of a subject, for cases that name one of ``rules``.

    ``at`` limits it to points of a ``vary``, ``where`` to subjects that report one of these values: values
    by name, as `plainly` spells them. One that shows only ``sometimes`` is not missed. ``name`` is where
    it stands, ``backends/subjects/bochs.yaml:12``.
    """

    rules: tuple[str, ...]
    instead: Instead
    why: str
    link: str
    at: tuple[tuple[str, frozenset[str]], ...] = ()
    where: tuple[tuple[str, frozenset[str]], ...] = ()
    versions: str = ""
    sometimes: bool = False
    name: str = ""

    def is_of(self, version: str, capabilities: Mapping[str, str]) -> bool:
        """Whether it is of a subject of this version: ``3.0``, or ``6.1 on Bochs 3.0`` in Bochs' file."""
        file = Path(self.name.partition(":")[0]).stem
        named = re.search(rf"\b{re.escape(file)} (\d+(?:\.\d+)*)", version, re.IGNORECASE)
        first = re.search(r"(\d+(?:\.\d+)*)", version)
        known = (named or first or ["", "0"])[1]
        return SpecifierSet(self.versions, prereleases=True).contains(known) and all(
            plainly(capabilities.get(name, "")) in values for name, values in self.where
        )

    def speaks_of(self, case: Case, point: Point) -> bool:
        """Whether the entry may excuse a difference in this point."""
        values = dict(point.values)
        return not set(self.rules).isdisjoint(case.rules) and all(
            plainly(values.get(name, "")) in allowed for name, allowed in self.at
        )


def plainly(value: str) -> str:
    """Spell a number in decimal, so that ``0x51`` and ``81`` are the same value of a ``vary``."""
    return str(int(value, 0)) if re.fullmatch(r"0x[0-9a-fA-F]+|0|[1-9][0-9]*", value) else value


def excuse(
    case: Case,
    point: Point,
    observation: Observation,
    found: Sequence[Difference],
    known: Iterable[Deviation],
) -> tuple[Deviation, ...]:
    """Return the fewest deviations that together announce all that was found; none if they do not."""
    candidates = [deviation for deviation in known if deviation.speaks_of(case, point)]
    for size in range(1, len(candidates) + 1):
        for some in combinations(candidates, size):
            expected = point.expected
            for deviation in some:
                expected = amend(point.program, expected, deviation.instead, found)
            if not differences(point.program, expected, observation):
                return some
    return ()


def amend(program: Program, expected: Expected, instead: Instead, found: Sequence[Difference]) -> Expected:
    """Return the expectation with *instead* in the places where something else was found."""
    parts = {(each.part, each.vcpu if each.step is None else each.step) for each in found}
    entry = instead.entry if instead.entry and Part.ENTRY in {part for part, _ in parts} else expected.entry
    steps = tuple(
        _step(wanted, instead) if (Part.STEP, index) in parts and meant(step.action, instead) else wanted
        for index, (step, wanted) in enumerate(zip(program.steps, expected.steps, strict=True))
    )
    after = tuple(
        _after(wanted, instead) if (Part.FINAL, vcpu) in parts or entry != expected.entry else wanted
        for vcpu, wanted in enumerate(expected.after)
    )
    handlers = _handlers(program, expected, instead) if instead.handlers else expected.handlers
    steps = _reached(program, entry, expected.steps, steps)
    return replace(expected, entry=entry, steps=steps, after=after, handlers=handlers)


def _handlers(program: Program, expected: Expected, instead: Instead) -> Handlers:
    """Return the expectations of the handlers' steps, with *instead* in each that it may speak of."""
    return tuple(
        tuple(
            (
                vector,
                tuple(_in_handler(setup, vector, index, each, instead) for index, each in enumerate(steps)),
            )
            for vector, steps in handlers
        )
        for setup, handlers in zip(program.vcpus, expected.handlers, strict=False)
    )


def _in_handler(
    setup: Setup, vector: int, index: int, wanted: StepExpected, instead: Instead
) -> StepExpected:
    return _step(wanted, instead) if meant(setup.handler(vector)[index].action, instead) else wanted


def _reached(
    program: Program, entry: Entry, before: Sequence[StepExpected], steps: Sequence[StepExpected]
) -> tuple[StepExpected, ...]:
    """Expect no step of a guest after one that now gets stuck, and none after an entry that now fails."""
    ended = set() if isinstance(entry, Entered) else set(range(len(program.vcpus)))
    result = []
    for index, (step, old, new) in enumerate(zip(program.steps, before, steps, strict=True)):
        result.append(NOT_REACHED if step.vcpu in ended and not before_first_entry(program, index) else new)
        if new != old and isinstance(new.outcome, Stuck) and new != NOT_REACHED:
            ended.add(step.vcpu)
    return tuple(result)


def meant(action: Action, instead: Instead) -> bool:
    """Whether *instead* speaks of such actions."""
    kind_fits = instead.step in ("", step_name(action))
    return kind_fits and (not instead.msrs or getattr(action, "msr", None) in instead.msrs)


def step_name(action: Action) -> str:
    """Return the name of an action in the scenario language, ``write-cr8``."""
    spelled = getattr(action, "value", None)
    name = spelled if isinstance(spelled, str) else type(action).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _step(wanted: StepExpected, instead: Instead) -> StepExpected:
    outcome = wanted.outcome if instead.outcome is None else instead.outcome
    if instead.exit:
        fields = dict(instead.exit)
        same = outcome if isinstance(outcome, Exit) and outcome.reason == fields["reason"] else None
        outcome = replace(same, **fields) if same else Exit(**fields)
    return StepExpected(outcome, wanted.delivers if instead.delivers is None else instead.delivers)


def _after(wanted: After, instead: Instead) -> After:
    changed = dict(instead.after)
    for name in ("page", "physical"):
        if changed.get(name):
            changed[name] = tuple(sorted({**dict(getattr(wanted, name)), **dict(changed[name])}.items()))
    return replace(wanted, **changed)


def unshown(
    known: Iterable[Deviation], cases: Mapping[str, Case], judged: Collection[str], shown: Collection[str]
) -> tuple[Deviation, ...]:
    """Return the entries to remove: all cases that could show them were judged, and none does.

    *cases* are all that the subject supports, by id, *judged* the ids of those that ran, *shown* the
    names of the entries that excused something.
    """
    return tuple(
        deviation
        for deviation in known
        if deviation.name not in shown
        and not deviation.sometimes
        and (could_show := {name for name, case in cases.items() if _may_show(deviation, case)})
        and could_show <= set(judged)
    )


def _may_show(deviation: Deviation, case: Case) -> bool:
    return any(deviation.speaks_of(case, point) for point in case.points)
