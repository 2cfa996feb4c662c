"""What is wrong with a file, where, and which known name was meant.

Every reader of `specs/` and of the subject files reports in these words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of a file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        """``specs/rules.yaml:12:3: duplicate key 'says'``."""
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class MalformedError(Exception):
    """One or more files cannot be used; carries everything that is wrong with them, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Take the problems in any order; there is at least one."""
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'tpr-shadow'?`` for the nearest known name, or nothing where none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
