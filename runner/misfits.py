"""Findings of a schema, and the words in which they are put: what stands there, what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from runner.nodes import Items, Map, Node, Notes, Scalar
from runner.problems import did_you_mean

Values = Mapping[str, Sequence[Node]]
"""What each ``$name`` stands for, by the name with its ``$``."""

Check = Callable[[Node, "Findings"], None]
"""Notes what is wrong with a node."""

FEW = 12
"""So many known names are listed where none is near."""


class Findings(Notes):
    """The problems of one file under these values of ``$name``."""

    def __init__(self, file: str, values: Values) -> None:
        """*file* is the name that messages give."""
        super().__init__(file)
        self.values = values

    def attempt(self, check: Check, node: Node) -> Findings:
        """Return what *check* finds, without noting it here."""
        findings = Findings(self.file, self.values)
        check(node, findings)
        return findings

    def meanings(self, text: str) -> Sequence[Node]:
        """Return what ``$name`` stands for, nothing where it is no name or not known."""
        return self.values.get(text, ()) if text.startswith("$") else ()

    def first_misfit(self, check: Check, meanings: Sequence[Node]) -> None:
        """Note what is wrong with the first value of a name that does not fit."""
        for meaning in meanings:
            if problems := self.attempt(check, meaning).problems:
                self.problems += problems
                return


def type_of(node: Node) -> str:
    """Return JSON Schema's name for the type of a node."""
    match node:
        case Map():
            return "object"
        case Items():
            return "array"
        case Scalar(value=bool()):
            return "boolean"
        case Scalar(value=int()):
            return "integer"
        case Scalar(value=str()):
            return "string"
        case _:
            return "null"


def found(node: Node) -> str:
    """Say what stands there."""
    match node:
        case Map():
            return "a mapping"
        case Items():
            return "a list"
        case Scalar(text=""):
            return "nothing"
        case Scalar(text=text):
            return f"`{text}`"


def wanted(node: Node, schema: Any) -> str:
    """Say what stands there, what is wanted, and the nearest name that fits."""
    names = [name for name in _names(schema) if isinstance(name, str)]
    spelled = node.value if isinstance(node, Scalar) else None
    near = did_you_mean(spelled, names) if isinstance(spelled, str) else ""
    few = f"; one of {', '.join(names)}" if not near and spelled is not None and 0 < len(names) <= FEW else ""
    return f"{found(node)}; wanted {schema['title']}{near}{few}"


def _names(schema: Any) -> Iterator[Any]:
    yield from schema.get("enum", ())
    for branch in schema.get("anyOf", ()):
        yield from _names(branch)


def unknown_key(key: str, schema: Any) -> str:
    """Say that a mapping has no such key, and which was probably meant."""
    known = list(schema.get("properties", {}))
    near = did_you_mean(key, known)
    few = f"; known are {', '.join(known)}" if not near and 0 < len(known) <= 2 * FEW else ""
    hint = f"; {schema['patternErrorMessage']}" if "patternErrorMessage" in schema else ""
    return f"unknown key `{key}` in {schema['title']}{near}{few}{hint}"


def purpose(schema: Any, name: str) -> str:
    """Return the first sentence of what a schema says of a key."""
    said: str = schema.get("properties", {}).get(name, {}).get("description", "write it")
    return said.split(". ", maxsplit=1)[0].rstrip(".")
