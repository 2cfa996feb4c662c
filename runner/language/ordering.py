"""Which steps of two virtual processors no barrier orders though both touch one descriptor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from runner.program import Barrier, Post, Program


def unordered_posts(program: Program) -> Iterator[tuple[int, int]]:
    """Yield the indices of two posts into one descriptor that can happen in either order.

    Not those whose target waits for both at a barrier: PIR bits add up, in whatever order they are set.
    """
    posts = [
        (index, step.vcpu, step.action.to)
        for index, step in enumerate(program.steps)
        if isinstance(step.action, Post)
    ]
    before = _before(program)
    for (one, sender, target), (other, another, same) in combinations(posts, 2):
        ordered = sender == another or one in before[other] or other in before[one]
        if target == same and not ordered and not _waits_for(program, before, target, {one, other}):
            yield one, other


def _waits_for(program: Program, before: list[set[int]], vcpu: int, posts: set[int]) -> bool:
    return any(
        isinstance(step.action, Barrier) and posts <= before[index] for index, step in program.steps_of(vcpu)
    )


def _before(program: Program) -> list[set[int]]:
    """Return for each step those that are over when it starts; at a barrier all wait for all."""
    groups: dict[str, list[int]] = {}
    for index, step in enumerate(program.steps):
        if isinstance(step.action, Barrier):
            groups.setdefault(step.action.name, []).append(index)
    previous: list[set[int]] = []
    last: dict[int, int] = {}
    for index, step in enumerate(program.steps):
        previous.append({last[step.vcpu]} if step.vcpu in last else set())
        last[step.vcpu] = index
    for members in groups.values():
        together = set().union(*(previous[member] for member in members))
        for member in members:
            previous[member] = together
    return [_closure(index, previous) for index in range(len(program.steps))]


def _closure(index: int, previous: list[set[int]]) -> set[int]:
    found: set[int] = set()
    pending = set(previous[index])
    while pending:
        step = pending.pop()
        found.add(step)
        pending |= previous[step] - found
    return found
