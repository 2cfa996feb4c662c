"""Reads `specs/rules.yaml`: strict YAML, its schema, and then what its entries say of each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runner.reading.nodes import Items, Map, Mark, Node, Notes, Scalar, plain, read
from runner.reading.problems import MalformedError, did_you_mean
from runner.reading.schema import Schema
from runner.rulebook.rules import Catalogue, Certainty, Handling, OpenPoint, Rule
from runner.vmx import CONTROLS_BY_NAME

SPECS = Path(__file__).resolve().parents[2] / "specs"


def load(specs: Path = SPECS) -> Catalogue:
    """Read the catalogue of a ``specs`` directory; `MalformedError` has all that is wrong with it."""
    schema = Schema(json.loads((specs / "rules.schema.json").read_text(encoding="utf-8")))
    return parse((specs / "rules.yaml").read_bytes(), schema, "specs/rules.yaml")


def parse(data: bytes, schema: Schema, file: str) -> Catalogue:
    """Read a catalogue; *file* is the name that messages give."""
    notes = Notes(file)
    top = read(data, notes)
    if top and not notes.problems:
        schema.check(top, notes)
    if isinstance(top, Map) and not notes.problems:
        _check_references(top, notes)
        _check_origins(top, notes)
    if notes.problems or not isinstance(top, Map):
        raise MalformedError(notes.problems)
    return _catalogue(top)


def _check_references(top: Map, notes: Notes) -> None:
    """Note every name that a rule uses and nothing has."""
    rules = _entries(top, "rules")
    known: dict[str, Iterable[str]] = {
        "areas": _entries(top, "areas"),
        "sources": _entries(top, "sources"),
        "open-points": _entries(top, "open-points"),
        "controls": CONTROLS_BY_NAME,
        "rules": [name for name, entry in rules.items() if "alias-of" not in _nodes(entry)],
    }
    for table, name, mark in _references(rules):
        if name not in known[table]:
            notes.add(mark, f"`{name}` is not one of the {table}{did_you_mean(name, known[table])}")


def _references(rules: Mapping[str, Node]) -> Iterator[tuple[str, str, Mark]]:
    """Yield (table, name, where) for every name that a rule uses of another table."""
    for name, rule in rules.items():
        yield "areas", name.partition(".")[0], rule.key or rule.mark
        fields = _nodes(rule)
        if alias := fields.get("alias-of"):
            yield "rules", _text(alias), alias.mark
        for source in _items(fields.get("evidence")):
            yield "sources", _text(source), source.mark
        for point, handling in _nodes(fields.get("open-points")).items():
            yield "open-points", point, handling.key or handling.mark
        for controls in _nodes(fields.get("needs")).values():
            for control in _items(controls):
                yield "controls", _text(control), control.mark


def _check_origins(top: Map, notes: Notes) -> None:
    """Note an origin that two rules claim."""
    owners: dict[str, str] = {}
    for name, rule in _entries(top, "rules").items():
        origin = _nodes(rule)["origin"]
        owner = owners.setdefault(_text(origin), name)
        if owner != name:
            notes.add(origin.mark, f"`{_text(origin)}` is the origin of `{owner}`")


def _nodes(node: Node | None) -> Mapping[str, Node]:
    return node.nodes if isinstance(node, Map) else {}


def _items(node: Node | None) -> tuple[Node, ...]:
    return node.nodes if isinstance(node, Items) else ()


def _text(node: Node) -> str:
    return node.text if isinstance(node, Scalar) else ""


def _entries(top: Map, table: str) -> Mapping[str, Node]:
    return _nodes(top.nodes[table])


def _catalogue(top: Map) -> Catalogue:
    """Build the values of a file that is known to be right."""
    data = plain(top)
    rules = {name: entry for name, entry in data["rules"].items() if "alias-of" not in entry}
    lines = {name: (node.key or node.mark).line for name, node in _entries(top, "rules").items()}
    return Catalogue(
        areas=MappingProxyType(data["areas"]),
        sources=MappingProxyType(data["sources"]),
        open_points=MappingProxyType(
            {name: OpenPoint(name, **point) for name, point in data["open-points"].items()}
        ),
        rules=MappingProxyType({name: _rule(name, entry, lines[name]) for name, entry in rules.items()}),
        aliases=MappingProxyType(
            {name: entry["alias-of"] for name, entry in data["rules"].items() if "alias-of" in entry}
        ),
    )


def _rule(name: str, entry: Mapping[str, Any], line: int) -> Rule:
    section = entry["section"]
    needs = entry.get("needs", {})
    return Rule(
        id=name,
        origin=entry["origin"],
        says=entry["says"],
        observed=entry["observed"],
        section=(section,) if isinstance(section, str) else tuple(section),
        scope=entry["scope"],
        kind=entry["kind"],
        certainty=Certainty(entry["certainty"]),
        evidence=tuple(entry["evidence"]),
        when_set=tuple(CONTROLS_BY_NAME[control] for control in needs.get("set", ())),
        when_clear=tuple(CONTROLS_BY_NAME[control] for control in needs.get("clear", ())),
        open_points=tuple((point, Handling(how)) for point, how in entry.get("open-points", {}).items()),
        notes=entry.get("notes", ""),
        line=line,
    )
