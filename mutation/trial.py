"""One trial: whether some case notices that the model is not what it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import backends.model  # noqa: F401 - dataclasses of a private copy look for their module by name
from backends.faulty import private
from runner.judging.batch import Bench
from runner.judging.verdict import Verdict
from runner.language.loading import load_all, rules, scenario_files
from runner.scenario import Case


@dataclass(frozen=True, slots=True)
class Listed:
    """A case and its id."""

    id: str
    case: Case


@dataclass(frozen=True, slots=True)
class Noticed:
    """The first case that notices a change; ``raised``: since the model raises an exception."""

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


def first(listed: Iterable[Listed], wanted: str) -> tuple[Listed, ...]:
    """Return the cases, one of them before the others."""
    return tuple(sorted(listed, key=lambda each: each.id != wanted))


def notice(altered: Mapping[str, str], listed: Sequence[Listed]) -> Noticed | None:
    """Return which case notices the altered modules of the model, if one does.

    *altered* has the text of modules by file name. An exception that no case sees is passed on.
    """
    for each, verdict in _verdicts(altered, listed):
        if verdict is not Verdict.CONFORMS:
            return Noticed(each.id, verdict is Verdict.BROKEN)
    return None


def conforming(listed: Sequence[Listed]) -> tuple[Listed, ...]:
    """Return the cases that conform on the model as it is; the others can notice nothing."""
    return tuple(each for each, verdict in _verdicts({}, listed) if verdict is Verdict.CONFORMS)


def _verdicts(altered: Mapping[str, str], listed: Sequence[Listed]) -> Iterator[tuple[Listed, Verdict]]:
    model = private.package(altered).Model()
    bench = Bench(model.run, None, rules(), (), model.identity().capabilities)
    for each in listed:
        [result] = bench.results([each.case])
        yield each, result.verdict
