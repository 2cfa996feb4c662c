"""Why the model decided as it did: each decision, by rule, with the numbers at hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """One decision: the rule (an id of the catalogue) that made it, and what it means here.

    ``place`` says when: ``virtual processor 0, step 1: RDMSR APICID (802H)``.
    """

    place: str
    rule: str
    sentence: str


class Trace:
    """Collects reasons in the order of the decisions."""

    __slots__ = ("place", "reasons")

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.place = ""

    def at(self, place: str, *numbers: object) -> None:
        """Say where the decisions that follow are made; *place* is a format string."""
        self.place = place.format(*numbers)

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Record a decision; *sentence* is a format string, so that a silent trace formats nothing."""
        self.reasons.append(Reason(self.place, rule, sentence.format(*numbers)))


class SilentTrace(Trace):
    """A trace that nobody wants."""

    __slots__ = ()

    def at(self, place: str, *numbers: object) -> None:
        """Do nothing."""

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Do nothing."""


SILENT = SilentTrace()
