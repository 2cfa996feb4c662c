"""JSON Schema held against nodes: what a file breaks, at the position where it breaks it.

The part of draft 2020-12 that the project's schemas use; a schema that uses more is refused. It exists
beside the ``jsonschema`` package for three things that one has not: positions of keys and values,
``$name`` (each value that ``vary`` gives a name is held against the place where the name stands), and
a tenth of the time. A test wants both to agree on every file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runner.keywords import COMPANIONS, KEYWORDS
from runner.misfits import Check, Findings, Values, type_of, wanted
from runner.nodes import Node, Scalar

ANNOTATIONS = frozenset(
    {
        "$schema",
        "$id",
        "$defs",
        "$comment",
        "title",
        "description",
        "markdownDescription",
        "default",
        "examples",
        "enumDescriptions",
        "defaultSnippets",
        "patternErrorMessage",
    }
)
"""Words for people; the last six and `markdownDescription` are known to editors."""

ANY_TYPE = frozenset({"object", "array", "boolean", "integer", "string", "null"})
TYPE_NAMES: Mapping[type, str] = {bool: "boolean", int: "integer", str: "string", type(None): "null"}


class Schema:
    """A schema document; definitions are compiled when they are first used."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Take a document; `ValueError`, at the first use, for a keyword that is not understood."""
        self.document = document
        self._compiled: dict[str, Check] = {}

    def findings(self, node: Node, file: str, pointer: str = "#", values: Values | None = None) -> Findings:
        """Return what is wrong with *node* under the definition at *pointer*, ``#/$defs/step``."""
        return Findings(file, values or {}).attempt(self.at(pointer), node)

    def at(self, pointer: str) -> Check:
        """Return the check of a definition, which may refer to itself."""
        if pointer not in self._compiled:

            def later(node: Node, findings: Findings) -> None:
                self._compiled[pointer](node, findings)

            self._compiled[pointer] = later
            self._compiled[pointer] = self.compile(self.definition(pointer))
        return self._compiled[pointer]

    def definition(self, pointer: str) -> Any:
        """Return the definition itself."""
        found: Any = self.document
        for name in pointer.removeprefix("#").split("/")[1:]:
            found = found[name]
        return found

    def types(self, schema: Any) -> frozenset[str]:
        """Return the types that a schema takes."""
        if "$ref" in schema:
            return self.types(self.definition(schema["$ref"]))
        if "type" in schema:
            return _listed(schema["type"])
        if "enum" in schema:
            return frozenset(TYPE_NAMES[type(value)] for value in schema["enum"])
        if "anyOf" in schema:
            return frozenset[str]().union(*(self.types(branch) for branch in schema["anyOf"]))
        return ANY_TYPE

    def compile(self, schema: Any) -> Check:
        """Return one check for all keywords of *schema*."""
        _refuse_unknown(schema)
        checks = [keyword(self, schema) for word, keyword in KEYWORDS.items() if word in schema]
        if "type" in schema:
            return _typed(schema, checks)
        return checks[0] if len(checks) == 1 else _all(checks)


def _listed(types: str | list[str]) -> frozenset[str]:
    return frozenset([types] if isinstance(types, str) else types)


def _refuse_unknown(schema: Any) -> None:
    for word in schema.keys() - KEYWORDS.keys() - ANNOTATIONS - {"type"}:
        if COMPANIONS.get(word) not in schema:
            raise ValueError(f"schema keyword not understood here: {word} beside {sorted(schema)}")


def _typed(schema: Any, checks: Sequence[Check]) -> Check:
    """Ask the other keywords only where the type fits; a name is held against by what it stands for."""
    types = _listed(schema["type"])

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and (meanings := findings.meanings(node.text)):
            findings.first_misfit(check, meanings)
        elif type_of(node) not in types:
            findings.add(node.mark, wanted(node, schema))
        else:
            for each in checks:
                each(node, findings)

    return check


def _all(checks: Sequence[Check]) -> Check:
    def check(node: Node, findings: Findings) -> None:
        for each in checks:
            each(node, findings)

    return check
