"""Which cases rest on which rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runner.rulebook.rules import Catalogue
from runner.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Citation:
    """One case that rests on a rule; ``asks`` where it is the rule that the case asks about."""

    case: str
    asks: bool


def citations(catalogue: Catalogue, scenarios: Iterable[Scenario]) -> Mapping[str, tuple[Citation, ...]]:
    """Return for every rule, in reading order, the cases that cite it or an alias of it.

    A rule that no case cites has none. `KeyError` for a rule that is not in the catalogue.
    """
    found: dict[str, list[Citation]] = {rule.id: [] for rule in catalogue}
    for scenario in scenarios:
        for case in scenario.cases:
            for place, cited in enumerate(case.rules):
                found[catalogue[cited].id].append(Citation(scenario.case_id(case), asks=place == 0))
    return MappingProxyType({rule: tuple(cases) for rule, cases in found.items()})
