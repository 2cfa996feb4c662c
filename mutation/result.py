"""What became of all mutants of a run, and whether that is good enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mutation.session import End, Outcome

WANTED = 95.0
"""Per cent of the mutants that the scenarios must kill; errors and equivalent mutants do not count."""


@dataclass(frozen=True, slots=True)
class Result:
    """Outcomes by mutant, and the reasons why some mutants are equivalent to the model."""

    outcomes: Mapping[str, Outcome]
    explained: Mapping[str, str]

    @property
    def unexplained(self) -> tuple[str, ...]:
        """Survivors without a reason."""
        return tuple(
            name
            for name, outcome in self.outcomes.items()
            if outcome.end is End.SURVIVED and name not in self.explained
        )

    @property
    def refuted(self) -> tuple[str, ...]:
        """Mutants that are explained as equivalent, and did not survive."""
        return tuple(
            name
            for name, outcome in self.outcomes.items()
            if outcome.end is not End.SURVIVED and name in self.explained
        )

    @property
    def score(self) -> float:
        """Per cent of the mutants that scenarios killed; 100 where there is none."""
        ends = Counter(outcome.end for name, outcome in self.outcomes.items() if name not in self.explained)
        killed = ends[End.KILLED] + ends[End.TIMEOUT]
        tried = killed + ends[End.SURVIVED]
        return 100 * killed / tried if tried else 100.0

    @property
    def suffices(self) -> bool:
        """Whether every survivor is explained, no killed one is, and the score is as wanted."""
        return not self.unexplained and not self.refuted and self.score >= WANTED

    def words(self) -> Iterator[str]:
        """Yield the lines of a report."""
        if self.unexplained:
            yield "survivors without a reason:"
            yield from (f"  {name}" for name in self.unexplained)
        if self.refuted:
            yield "explained in mutation/equivalent.yaml, and not equivalent; remove them:"
            yield from (f"  {name}: {self._end(name)}" for name in self.refuted)
        yield self._counts()
        yield f"score {self.score:.1f} % without errors and equivalent mutants, wanted {WANTED:.0f} %"

    def _end(self, name: str) -> str:
        outcome = self.outcomes[name]
        return f"{outcome.end.value} by {outcome.by}" if outcome.by else outcome.end.value

    def _counts(self) -> str:
        ends = Counter(outcome.end for outcome in self.outcomes.values())
        raised = sum(outcome.raised for outcome in self.outcomes.values())
        explained = ends[End.SURVIVED] - len(self.unexplained)
        return (
            f"{len(self.outcomes)} mutants: {ends[End.KILLED]} killed ({raised} by an exception in the "
            f"model), {ends[End.TIMEOUT]} timeouts, {ends[End.ERROR]} errors, "
            f"{ends[End.SURVIVED]} survived ({explained} explained)"
        )
