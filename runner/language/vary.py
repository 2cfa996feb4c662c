"""``vary``: every combination of a case's values, and what ``$name`` stands for in each.

A point's id is made of the values as the file spells them: ``msr=0x802,mode=xapic``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import combinations, product

from runner.language.values import entries, items, span, word
from runner.reading.nodes import Items, Map, Mark, Node, Notes, Scalar

NAME = re.compile(r"\$[a-z][a-z0-9-]*")
RANGE = re.compile(r"(0x[0-9a-fA-F]+|0|[1-9][0-9]*)\.\.(0x[0-9a-fA-F]+|0|[1-9][0-9]*)")

MOST_POINTS = 1 << 17
"""More points than this in one case is a mistake, or belongs into several cases."""

Values = Mapping[str, Node]
"""One value for each ``$name``."""


def variations(vary: Node | None, notes: Notes) -> dict[str, tuple[Node, ...]]:
    """Return the values of each ``$name``, in file order."""
    result: dict[str, tuple[Node, ...]] = {}
    points = 1
    for name, node in entries(vary).items():
        values = tuple(_values(node, notes))
        points *= len(values)
        if points > MOST_POINTS:
            notes.add(node.mark, f"`{name}` makes it {points} points; at most {MOST_POINTS} in a case")
            return {}
        _refuse_repetition(values, notes)
        result[f"${name}"] = values
    return result


def combinations_of(values: Mapping[str, tuple[Node, ...]]) -> Iterator[Values]:
    """Yield one value for each name in every combination; the last name changes fastest."""
    for choice in product(*values.values()):
        yield dict(zip(values, choice, strict=True))


def point_values(values: Values) -> tuple[tuple[str, str], ...]:
    """Return the values as a point's id spells them."""
    return tuple((name[1:], spelled(node)) for name, node in values.items())


def spelled(node: Node) -> str:
    """Spell a value for an id: a scalar as written, a list joined with ``+``, an empty one ``none``."""
    if isinstance(node, Items):
        return "+".join(spelled(item) for item in node.nodes) or "none"
    return word(node)


def _values(node: Node, notes: Notes) -> Iterator[Node]:
    if isinstance(node, Map):
        yield from _subsets(node.nodes["subsets-of"])
    for each in items(node) if isinstance(node, Items) else [node]:
        if isinstance(each, Scalar):
            yield from _numbers(each, notes)
        elif isinstance(each, Items):
            yield each


def _numbers(node: Scalar, notes: Notes) -> Iterator[Scalar]:
    """Yield the numbers of a range, spelled like its first, or the value itself."""
    if not isinstance(node.value, str) or not RANGE.fullmatch(node.text):
        yield node
        return
    first, last = span(node, notes)
    if last - first > MOST_POINTS:
        notes.add(
            node.mark, f"`{node.text}` has more than {MOST_POINTS} values; take a list of the telling ones"
        )
        return
    form = "#x" if node.text.startswith("0x") else "d"
    for value in range(first, last + 1):
        yield Scalar(value, format(value, form), node.mark)


def _subsets(node: Node) -> Iterator[Items]:
    members = items(node)
    for size in range(len(members) + 1):
        for chosen in combinations(members, size):
            yield Items(chosen, node.mark)


def _refuse_repetition(values: tuple[Node, ...], notes: Notes) -> None:
    seen: set[str] = set()
    for node in values:
        if spelled(node) in seen:
            notes.add(node.mark, f"`{spelled(node)}` a second time; every value once")
            return
        seen.add(spelled(node))


def names_in(node: Node | None) -> dict[str, Mark]:
    """Return the ``$name``s that a node uses, each with the first place where it stands."""
    found: dict[str, Mark] = {}
    _collect(node, found)
    return found


def _collect(node: Node | None, found: dict[str, Mark]) -> None:
    match node:
        case Scalar(text=text, mark=mark) if NAME.fullmatch(text):
            found.setdefault(text, mark)
        case Items(nodes=nodes):
            for each in nodes:
                _collect(each, found)
        case Map(nodes=nodes):
            for key, each in nodes.items():
                if NAME.fullmatch(key):
                    found.setdefault(key, each.key or each.mark)
                _collect(each, found)
        case _:
            pass


class Filling:
    """Puts values in place of names."""

    def __init__(self, notes: Notes) -> None:
        """Two keys of a mapping that become one are noted."""
        self.notes = notes
        self._names: dict[int, tuple[str, ...]] = {}

    def names(self, node: Node) -> tuple[str, ...]:
        """Return the names that a node uses; it is a part of the case, which outlives this."""
        found = self._names.get(id(node))
        if found is None:
            found = self._names[id(node)] = tuple(names_in(node))
        return found

    def __call__(self, node: Node, values: Values) -> Node:
        """Return *node* with each name replaced; the node itself where it uses none."""
        if not self.names(node):
            return node
        match node:
            case Scalar(text=text, mark=mark, key=key):
                return values[text]._replace(mark=mark, key=key)
            case Items(nodes=nodes):
                return node._replace(nodes=tuple(self(each, values) for each in nodes))
            case Map(nodes=nodes):
                return node._replace(nodes=self._entries(nodes, values))

    def _entries(self, nodes: Mapping[str, Node], values: Values) -> dict[str, Node]:
        result: dict[str, Node] = {}
        for name, node in nodes.items():
            key = spelled(values[name]) if name in values else name
            if key in result:
                self.notes.add(node.key or node.mark, f"`{name}` becomes `{key}`, which stands here already")
            result[key] = self(node, values)
        return result
