"""One mutant of the reference model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """One module with one change.

    ``was`` and ``now`` are the lines that differ, joined, without indentation; ``number`` tells mutants
    apart whose lines are the same. None of them depends on the line's place, so that an id outlives edits
    elsewhere in its module.
    """

    module: str
    was: str
    now: str
    text: str
    number: int = 1

    @property
    def id(self) -> str:
        """``tpr.py: vtpr_class >= threshold -> vtpr_class > threshold``."""
        return f"{self.module}: {self.was} -> {self.now}{f' #{self.number}' if self.number > 1 else ''}"
