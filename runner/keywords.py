"""The keywords of JSON Schema that the project's schemas use: from a schema to a check, one function each.

A value that a schema holds against several types names its type first: the other keywords are asked only
where the type fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from runner.misfits import Check, Findings, found, purpose, type_of, unknown_key, wanted
from runner.nodes import Items, Map, Mark, Node, Scalar, plain
from runner.problems import Problem


class Compiler(Protocol):
    """What a keyword needs to know of the schema around it."""

    def compile(self, schema: Any) -> Check:
        """Return the check of a schema within the schema."""

    def at(self, pointer: str) -> Check:
        """Return the check of a definition."""

    def types(self, schema: Any) -> frozenset[str]:
        """Return the types that a schema takes."""


def reference(compiler: Compiler, schema: Any) -> Check:
    """Keyword ``$ref``."""
    return compiler.at(schema["$ref"])


def enumeration(_: Compiler, schema: Any) -> Check:
    """Keyword ``enum``."""
    values = frozenset((type(value), value) for value in schema["enum"])

    def check(node: Node, findings: Findings) -> None:
        if not isinstance(node, Scalar) or (type(node.value), node.value) not in values:
            findings.add(node.mark, wanted(node, schema))

    return check


def any_of(compiler: Compiler, schema: Any) -> Check:
    """Keyword ``anyOf``; where none fits, the branches that take the node's type say why."""
    titled = [{"title": schema["title"], **branch} for branch in schema["anyOf"]]
    branches = [(compiler.types(branch), compiler.compile(branch)) for branch in titled]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and (meanings := findings.meanings(node.text)):
            findings.first_misfit(check, meanings)
            return
        attempts = [findings.attempt(branch, node) for types, branch in branches if type_of(node) in types]
        if all(attempt.problems for attempt in attempts):
            findings.problems += _why(attempts, node)
            if not _why(attempts, node):
                findings.add(node.mark, wanted(node, schema))

    return check


def _why(attempts: Sequence[Findings], node: Node) -> list[Problem]:
    """Return the problems of the only branch in question, or of the best that got inside the node."""
    if len(attempts) == 1:
        return attempts[0].problems
    inside = [each for each in attempts if all((p.line, p.column) != node.mark for p in each.problems)]
    return min((each.problems for each in inside), key=len, default=[])


def condition(compiler: Compiler, schema: Any) -> Check:
    """Keyword ``if`` with ``then`` and ``else``."""
    test = compiler.compile(schema["if"])
    then, otherwise = (compiler.compile(schema.get(word, {})) for word in ("then", "else"))

    def check(node: Node, findings: Findings) -> None:
        (otherwise if findings.attempt(test, node).problems else then)(node, findings)

    return check


def bounds(_: Compiler, schema: Any) -> Check:
    """Keyword ``minimum`` with ``maximum``."""
    least, most = schema["minimum"], schema["maximum"]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and isinstance(node.value, int) and not least <= node.value <= most:
            findings.add(node.mark, f"`{node.text}` does not fit; wanted {schema['title']}")

    return check


def pattern(_: Compiler, schema: Any) -> Check:
    """Keyword ``pattern``."""
    searched = re.compile(schema["pattern"])
    message = schema.get("patternErrorMessage")

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and isinstance(node.value, str) and not searched.search(node.value):
            findings.add(node.mark, f"{found(node)}: {message}" if message else wanted(node, schema))

    return check


def length(_: Compiler, schema: Any) -> Check:
    """Keyword ``maxLength``."""
    most = schema["maxLength"]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and len(node.text) > most:
            findings.add(node.mark, f"{len(node.text)} characters; at most {most}")

    return check


def properties(compiler: Compiler, schema: Any) -> Check:
    """Keyword ``properties`` with ``patternProperties`` and ``additionalProperties: false``."""
    exact = {name: compiler.compile(each) for name, each in schema["properties"].items()}
    patterns = [
        (re.compile(each), compiler.compile(inner))
        for each, inner in schema.get("patternProperties", {}).items()
    ]

    def entry(key: str, value: Node, findings: Findings) -> None:
        checks = [exact[key]] if key in exact else [inner for each, inner in patterns if each.search(key)]
        for each in checks:
            each(value, findings)
        if not checks and schema.get("additionalProperties") is False:
            findings.add(value.key or value.mark, unknown_key(key, schema))

    def check(node: Node, findings: Findings) -> None:
        for key, value in node.nodes.items() if isinstance(node, Map) else ():
            for spelling in _spellings(key, findings):
                entry(spelling, value, findings)

    return check


def _spellings(key: str, findings: Findings) -> Iterator[str]:
    """Yield what a key can become."""
    meanings = findings.meanings(key)
    for meaning in meanings:
        yield meaning.text if isinstance(meaning, Scalar) else found(meaning)
    if not meanings:
        yield key


def required(_: Compiler, schema: Any) -> Check:
    """Keyword ``required``."""

    def check(node: Node, findings: Findings) -> None:
        for name in schema["required"]:
            if isinstance(node, Map) and name not in node.nodes:
                findings.add(node.mark, f"`{name}` is missing: {purpose(schema, name)}")

    return check


def dependent(_: Compiler, schema: Any) -> Check:
    """Keyword ``dependentRequired``."""
    pairs = [(one, other) for one, others in schema["dependentRequired"].items() for other in others]

    def check(node: Node, findings: Findings) -> None:
        for one, other in pairs:
            if isinstance(node, Map) and one in node.nodes and other not in node.nodes:
                mark = node.nodes[one].key or node.mark
                findings.add(mark, f"`{one}` needs `{other}` beside it: {purpose(schema, other)}")

    return check


def count(kind: type[Map | Items], least: str, most: str) -> Keyword:
    """Keyword ``minProperties`` with ``maxProperties``, or ``minItems`` with ``maxItems``."""

    def keyword(_: Compiler, schema: Any) -> Check:
        low, high = schema.get(least, 0), schema.get(most)

        def check(node: Node, findings: Findings) -> None:
            if isinstance(node, kind) and (
                len(node.nodes) < low or (high is not None and len(node.nodes) > high)
            ):
                findings.add(node.mark, f"{found(node)} of {len(node.nodes)}; wanted {schema['title']}")

        return check

    return keyword


def members(compiler: Compiler, schema: Any) -> Check:
    """Keyword ``items``."""
    each = compiler.compile(schema["items"])

    def check(node: Node, findings: Findings) -> None:
        for item in node.nodes if isinstance(node, Items) else ():
            each(item, findings)

    return check


def unique(_: Compiler, __: Any) -> Check:
    """Keyword ``uniqueItems``."""

    def check(node: Node, findings: Findings) -> None:
        seen: dict[str, Mark] = {}
        for item in node.nodes if isinstance(node, Items) else ():
            if seen.setdefault(repr(plain(item)), item.mark) != item.mark:
                findings.add(item.mark, f"{found(item)} a second time in this list; keep one")

    return check


Keyword = Callable[[Compiler, Any], Check]

KEYWORDS: Mapping[str, Keyword] = {
    "$ref": reference,
    "enum": enumeration,
    "pattern": pattern,
    "maxLength": length,
    "minimum": bounds,
    "minProperties": count(Map, "minProperties", "maxProperties"),
    "minItems": count(Items, "minItems", "maxItems"),
    "properties": properties,
    "required": required,
    "dependentRequired": dependent,
    "items": members,
    "uniqueItems": unique,
    "anyOf": any_of,
    "if": condition,
}

COMPANIONS: Mapping[str, str] = {
    "maximum": "minimum",
    "maxProperties": "minProperties",
    "maxItems": "minItems",
    "patternProperties": "properties",
    "additionalProperties": "properties",
    "then": "if",
    "else": "if",
}
"""Keywords that are read with another one, which must stand beside them."""
