"""Merging of setups: maps merge, lists and plain values replace.

Nothing is copied: a key is looked up from the highest layer down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runner.reading.nodes import Map, Node


@dataclass(frozen=True, slots=True)
class Layers:
    """Maps that lie on each other, the lowest first."""

    levels: tuple[Map, ...] = ()

    @classmethod
    def of(cls, levels: Iterable[Node | None]) -> Layers:
        """Keep those that are maps."""
        return cls(tuple(level for level in levels if isinstance(level, Map)))

    def last(self, key: str) -> Node | None:
        """Return the value of *key* in the highest layer that has it."""
        for level in reversed(self.levels):
            if key in level.nodes:
                return level.nodes[key]
        return None

    def inner(self, key: str) -> Layers:
        """Return the maps under *key*, as layers."""
        return Layers.of(level.nodes.get(key) for level in self.levels)
