"""Why the model decided as it did: each decision, by rule, with the numbers at hand."""

from __future__ import annotations

from dataclasses import dataclass

from runner.program import Action
from runner.words import action_words


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a program a decision is made: at a VM entry (no ``action``), or in a step.

    ``index`` is the step's place in the program, or in the handler of an interrupt.
    """

    vcpu: int
    action: Action | None = None
    index: int = 0
    in_handler: bool = False

    def words(self, *, many: bool) -> str:
        """Return ``step 3: WRMSR EOI (80BH), 0H``, with the virtual processor where there are many."""
        whose = f"virtual processor {self.vcpu}, " if many else ""
        if self.action is None:
            return f"{whose}VM entry"
        return f"{whose}{'handler ' * self.in_handler}step {self.index + 1}: {action_words(self.action)}"


@dataclass(frozen=True, slots=True)
class Reason:
    """One decision: the rule (an id of the catalogue) that made it, and what it means here."""

    place: Place
    rule: str
    sentence: str


class Trace:
    """Collects reasons in the order of the decisions."""

    __slots__ = ("_place", "reasons")

    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self._place = Place(0)

    def at_entry(self, vcpu: int) -> None:
        """Say that the decisions that follow belong to a VM entry."""
        self._place = Place(vcpu)

    def at_step(self, vcpu: int, action: Action, index: int, *, in_handler: bool = False) -> None:
        """Say that the decisions that follow belong to a step."""
        self._place = Place(vcpu, action, index, in_handler)

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Record a decision; *sentence* is a format string, so that a silent trace formats nothing."""
        self.reasons.append(Reason(self._place, rule, sentence.format(*numbers)))


class SilentTrace(Trace):
    """A trace that nobody wants."""

    __slots__ = ()

    def at_entry(self, vcpu: int) -> None:
        """Do nothing."""

    def at_step(self, vcpu: int, action: Action, index: int, *, in_handler: bool = False) -> None:
        """Do nothing."""

    def by(self, rule: str, sentence: str, *numbers: object) -> None:
        """Do nothing."""


SILENT = SilentTrace()
