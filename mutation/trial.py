"""One trial: whether some case notices that the model is not what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import backends.model  # noqa: F401 - dataclasses of a private copy look for their module by name
from backends.faulty import private
from runner.judging.batch import Bench
from runner.judging.verdict import Verdict
from runner.language.loading import load_all, rules, scenario_files
from runner.scenario import Case

OTHER = {"lvt_entries": 6, "directed_eoi": False}
"""The choices of another implementation, for the cases that suppose them (``when``)."""

Benches = tuple[Bench, Bench]
"""The model with its own choices, and with others."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A case and its id; ``on`` says which bench runs it."""

    id: str
    case: Case
    on: int = 0


@dataclass(frozen=True, slots=True)
class Noticed:
    """The first case that notices a change; ``raised``: by an exception."""

    by: str
    raised: bool


def cases() -> tuple[Listed, ...]:
    """Return the cases whose expectation is not the model's own, those with few points first."""
    found = [
        Listed(scenario.case_id(case), case)
        for scenario in load_all(scenario_files())
        for case in scenario.cases
        if not any(point.expected.from_model for point in case.points)
    ]
    return tuple(sorted(found, key=lambda each: len(each.case.points)))


def benches(altered: Mapping[str, str]) -> Benches:
    """Return where cases are run on the model with altered modules, whose text is given by file name."""
    package = private.package(altered)
    return _bench(package.Model()), _bench(package.Model(package.Implementation(**OTHER)))


def _bench(model: Any) -> Bench:
    return Bench(model.run, None, rules(), (), model.identity().capabilities)


def notice(altered: Benches, listed: Iterable[Listed]) -> Noticed | None:
    """Return which case notices that the model is altered, if one does.

    What the altered model says may be no observation at all, at which the judge raises an exception.
    """
    for each in listed:
        try:
            verdict = _verdict(altered, each)
        except (OSError, MemoryError):
            raise
        except Exception:  # noqa: BLE001 - the judge's, since the bench keeps the model's own
            return Noticed(each.id, raised=True)
        if verdict is not Verdict.CONFORMS:
            return Noticed(each.id, raised=verdict is Verdict.BROKEN)
    return None


def conforming(listed: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return the cases that conform on the model as it is, each where it does; others can notice nothing."""
    unaltered = benches({})
    return tuple(
        placed
        for placed in (replace(each, on=0 if _conforms(unaltered, each) else 1) for each in listed)
        if placed.on == 0 or _conforms(unaltered, placed)
    )


def _conforms(on: Benches, listed: Listed) -> bool:
    return _verdict(on, listed) is Verdict.CONFORMS


def _verdict(on: Benches, listed: Listed) -> Verdict:
    [result] = on[listed.on].results([listed.case])
    return result.verdict
