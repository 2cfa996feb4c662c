"""Known deviations in the words of a subject file, whose `instead` speaks those of the scenario language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from runner.judging.deviations import Deviation, Instead, plainly
from runner.language.expectations import after_fields, delivers, entry, exit_fields, outcome
from runner.language.values import entries, items, msr, span, word
from runner.language.vary import RANGE
from runner.outcome import Entered, Entry
from runner.reading.nodes import Map, Mark, Node, Notes, Scalar
from runner.rulebook.rules import Catalogue
from runner.scenario import Exit


def deviations(top: Node | None, catalogue: Catalogue, notes: Notes) -> Iterator[Deviation]:
    """Yield what a subject file announces; what is wrong with it goes into *notes*."""
    for node in items(entries(top).get("deviations")):
        if isinstance(node, Map):
            yield _deviation(node, catalogue, notes)


def _deviation(node: Map, catalogue: Catalogue, notes: Notes) -> Deviation:
    given = node.nodes
    return Deviation(
        rules=tuple(_rules(items(given["rules"]), catalogue, notes)),
        instead=_instead(given, notes),
        why=word(given["why"]),
        link=word(given["link"]),
        at=_limits(given.get("at"), notes),
        where=_limits(given.get("where"), notes),
        versions=_versions(given.get("versions"), notes),
        sometimes="sometimes" in given,
        name=f"{notes.file}:{node.mark.line}",
    )


def _limits(node: Node | None, notes: Notes) -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple((name, frozenset(_values(items(each), notes))) for name, each in entries(node).items())


def _rules(nodes: Iterable[Node], catalogue: Catalogue, notes: Notes) -> Iterator[str]:
    for node in nodes:
        if word(node) in catalogue:
            yield catalogue[word(node)].id
        else:
            notes.add(node.mark, catalogue.unknown(word(node)))


def _values(nodes: Iterable[Node], notes: Notes) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Scalar) and RANGE.fullmatch(node.text):
            first, last = span(node, notes)
            yield from map(str, range(first, last + 1))
        else:
            yield plainly(word(node))


def _versions(node: Node | None, notes: Notes) -> str:
    if node is None:
        return ""
    try:
        return str(SpecifierSet(word(node)))
    except InvalidSpecifier:
        notes.add(node.mark, f"`{word(node)}` is no version specifier; write `<3.2`, or `>=2.7,<3`")
        return ""


def _instead(given: Mapping[str, Node], notes: Notes) -> Instead:
    said = entries(given["instead"])
    shown = outcome(said, notes)
    first = said.get("expect-entry")
    return Instead(
        entry=_entry(first) if first else None,
        outcome=None if isinstance(shown, Exit) else shown,
        exit=tuple(exit_fields(said["exit"]).items()) if "exit" in said else (),
        delivers=delivers(said, lambda _: None, notes) if "delivers" in said else None,
        after=tuple(_after(said, notes)),
        step=word(given["step"]) if "step" in given else "",
        msrs=frozenset(map(msr, items(given.get("msrs")))),
        handlers="handlers" in given,
    )


def _entry(node: Node) -> Entry:
    return Entered() if isinstance(node, Scalar) else entry(node)


def _after(said: Mapping[str, Node], notes: Notes) -> Iterator[tuple[str, Any]]:
    """Yield fields of `After`; ``unchanged`` is what silence is: no words, or `None`."""
    unchanged = {name for name, node in said.items() if isinstance(node, Scalar) and node.text == "unchanged"}
    for name in sorted(unchanged):
        yield name, () if name == "page" else None
    named = Map({name: node for name, node in said.items() if name not in unchanged}, Mark(1, 1))
    yield from after_fields(named, notes).items()
