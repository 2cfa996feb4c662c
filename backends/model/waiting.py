"""How virtual processors wait, for events and for each other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum

from runner.program import Barrier, Program


class Waiting(Enum):
    """Why a virtual processor does not go on by itself.

    ``TURN``: it has come through a barrier and lets the others come through too. ``NOTHING_ELSE``: it
    cannot go on before.
    """

    SPIN = "spin"
    TURN = "turn"
    NOTHING_ELSE = "nothing else"


@dataclass(frozen=True, slots=True)
class Wait:
    """A virtual processor goes on when ``ready`` holds."""

    ready: Callable[[], bool]
    why: Waiting = Waiting.NOTHING_ELSE


Run = Generator[Wait, bool | None, None]
"""A virtual processor at work; what is sent says whether the wait was in vain."""


class Ended(Exception):  # noqa: N818 -- no error
    """The program ends here on this virtual processor."""


MOST_EVENTS = 10_000
"""No program has more events at the boundaries of one virtual processor."""


class EndlessError(Exception):
    """A virtual processor comes to no end: the model is wrong."""


class Barriers:
    """Who is to come to each barrier, and who has not yet."""

    __slots__ = ("_missing",)

    def __init__(self, program: Program) -> None:
        self._missing: dict[str, set[int]] = {}
        for step in program.steps:
            if isinstance(step.action, Barrier):
                self._missing.setdefault(step.action.name, set()).add(step.vcpu)

    def arrive(self, name: str, vcpu: int) -> None:
        """Note that a virtual processor has come."""
        self._missing[name].discard(vcpu)

    def is_open(self, name: str) -> bool:
        """Whether all have come."""
        return not self._missing[name]
