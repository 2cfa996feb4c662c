"""The catalogue of rules: what x2APIC virtualization must do, one rule an id.

A rule says one thing that the SDM wants; its id never changes its meaning. Two ids may name the same
rule: one of them is then an alias, and the catalogue answers for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from runner.reading.problems import did_you_mean
from runner.vmx import Control


class Certainty(Enum):
    """How sure a rule is: read in the manual, derived, or left unclear by it."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Handling(Enum):
    """What an open point asks the judge to do with a rule that it touches."""

    ASSERT = "assert"
    REPORT = "report"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class OpenPoint:
    """A question that the SDM leaves open, and what scenarios do about it."""

    id: str
    origin: str
    kind: str
    question: str
    handling: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the catalogue.

    ``section`` are headings of the SDM, ``when_set`` and ``when_clear`` the controls under which the rule
    speaks, ``line`` is where it stands in the file.
    """

    id: str
    origin: str
    says: str
    observed: str
    section: tuple[str, ...]
    scope: str
    kind: str
    certainty: Certainty
    evidence: tuple[str, ...]
    when_set: tuple[Control, ...]
    when_clear: tuple[Control, ...]
    open_points: tuple[tuple[str, Handling], ...]
    notes: str
    line: int

    @property
    def area(self) -> str:
        """First part of the id, ``rdmsr``."""
        return self.id.partition(".")[0]

    @property
    def unsettled(self) -> str:
        """Why a subject that differs is not failed; empty where it is."""
        for name, handling in self.open_points:
            if handling is not Handling.ASSERT:
                return f"open point {name}: {handling.value} only"
        return "" if self.certainty is Certainty.HIGH else f"the rule's certainty is {self.certainty.value}"

    @property
    def settled(self) -> bool:
        """Whether a subject that differs does not conform."""
        return not self.unsettled


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All rules in reading order.

    ``areas`` and ``sources`` say in words what their names stand for; ``aliases`` lead to ids of ``rules``.
    """

    areas: Mapping[str, str]
    sources: Mapping[str, str]
    open_points: Mapping[str, OpenPoint]
    rules: Mapping[str, Rule]
    aliases: Mapping[str, str]

    def __iter__(self) -> Iterator[Rule]:
        """Each rule once, in reading order."""
        return iter(self.rules.values())

    def __contains__(self, rule: str) -> bool:
        """Whether this is the id of a rule or an alias of one."""
        return self.resolve(rule) in self.rules

    def __getitem__(self, rule: str) -> Rule:
        """Return the rule of an id or alias; `KeyError` names the nearest id where there is none."""
        try:
            return self.rules[self.resolve(rule)]
        except KeyError:
            raise KeyError(self.unknown(rule)) from None

    def resolve(self, rule: str) -> str:
        """Return the id that an alias stands for, and any other id as it is."""
        return self.aliases.get(rule, rule)

    def unknown(self, rule: str) -> str:
        """Say that no rule has this id, and which id was probably meant."""
        return f"unknown rule `{rule}`{did_you_mean(rule, [*self.rules, *self.aliases])}"
