"""Why the model decided as it did: each decision, by rule, with the numbers at hand."""

from __future__ import annotations

from dataclasses import dataclass

from runner.program import Action
from runner.words import action_words


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

    def at_entry(self, vcpu: int) -> None:
        """Say that the decisions that follow belong to a VM entry."""
        self.place = f"virtual processor {vcpu}, VM entry"

    def at_step(self, vcpu: int, index: int, action: Action, *, in_handler: bool) -> None:
        """Say that the decisions that follow belong to a step, of the program or of a handler."""
        whose = "handler step" if in_handler else "step"
        self.place = f"virtual processor {vcpu}, {whose} {index + 1}: {action_words(action)}"

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Record a decision; *sentence* is a format string, so that a silent trace formats nothing."""
        self.reasons.append(Reason(self.place, rule, sentence.format(*numbers)))


class SilentTrace(Trace):
    """A trace that nobody wants."""

    __slots__ = ()

    def at_entry(self, vcpu: int) -> None:
        """Do nothing."""

    def at_step(self, vcpu: int, index: int, action: Action, *, in_handler: bool) -> None:
        """Do nothing."""

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Do nothing."""


SILENT = SilentTrace()
