"""The words for what breaks a schema: what stands there, what is wanted, the nearest name that fits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from runner.reading.nodes import Items, Map, Mark, Node, Scalar
from runner.reading.problems import did_you_mean

Error = Any
"""A ``ValidationError`` of the validator of nodes."""

FEW = 12
"""So many known names are listed where none is near."""


def misfits(error: Error) -> Iterator[tuple[Mark, str]]:
    """Yield position and message of each problem that an error of the validator of nodes stands for."""
    for cause in _causes(error):
        yield cause.instance.mark, _message(cause)


def _causes(error: Error) -> list[Error]:
    """Return the error, or where no branch of ``anyOf`` fits those that say why.

    Why: the errors of the only branch that takes such a node, or of the best that got inside it.
    """
    branches: dict[Any, list[Error]] = defaultdict(list)
    for each in error.context:
        branches[each.relative_schema_path[0]].append(each)
    told = [
        [cause for each in branch for cause in _causes(each)]
        for branch in branches.values()
        if not any(_excludes(each, error.instance) for each in branch)
    ]
    if len(told) == 1:
        return told[0]
    inside = [causes for causes in told if all(each.instance is not error.instance for each in causes)]
    return min(inside, key=len, default=[error])


def _excludes(error: Error, node: Node) -> bool:
    """Whether the error says that no node of this type, whatever is in it, can stand there."""
    match error.validator:
        case _ if error.instance is not node:
            return False
        case "type":
            return True
        case "enum":
            return type(node[0]) not in map(type, error.validator_value)
        case "anyOf":
            return all(_excludes(each, node) for each in error.context)
    return False


def _message(error: Error) -> str:
    """Say what is wrong."""
    node, schema, key = error.instance, error.schema, error.message
    match error.validator:
        case "additionalProperties":
            return _unknown_key(node.text, schema)
        case "required":
            return f"`{key}` is missing: {_purpose(schema, key)}"
        case "dependentRequired":
            return f"`{node.text}` needs `{key}` beside it: {_purpose(schema, key)}"
        case "uniqueItems":
            return f"{found(node)} a second time in this list; keep one"
        case "minimum" | "maximum":
            return f"{found(node)} does not fit; wanted {_title(error)}"
        case "minProperties" | "maxProperties" | "minItems" | "maxItems":
            return f"{found(node)} of {len(node.nodes)}; wanted {_title(error)}"
        case "maxLength":
            return f"{len(node.text)} characters; at most {error.validator_value}"
        case "pattern" if "patternErrorMessage" in schema:
            return f"{found(node)}: {schema['patternErrorMessage']}"
    return f"{found(node)}; wanted {_title(error)}{_names_near(node, schema)}"


def found(node: Node) -> str:
    """Say what stands there."""
    match node:
        case Map():
            return "a mapping"
        case Items():
            return "a list"
    return f"`{node.text}`" if node.text else "nothing"


def _title(error: Error) -> str:
    """Return the title of the error's schema; a branch of ``anyOf`` leaves it to the schema around it."""
    title: str | None = error.schema.get("title")
    return title or (_title(error.parent) if error.parent else "something else")


def _names_near(node: Node, schema: Any) -> str:
    """Return the nearest name that fits, or all where none is near and they are few."""
    names = [name for name in _names(schema) if isinstance(name, str)]
    if not isinstance(node, Scalar) or node.value is None:
        return ""
    near = did_you_mean(node.text, names) if isinstance(node.value, str) else ""
    return near or (f"; one of {', '.join(names)}" if 0 < len(names) <= FEW else "")


def _names(schema: Any) -> Iterator[Any]:
    yield from schema.get("enum", ())
    for branch in schema.get("anyOf", ()):
        yield from _names(branch)


def _unknown_key(key: str, schema: Any) -> str:
    known = list(schema.get("properties", ()))
    near = did_you_mean(key, known)
    few = f"; known are {', '.join(known)}" if not near and 0 < len(known) <= 2 * FEW else ""
    hint = f"; {schema['patternErrorMessage']}" if "patternErrorMessage" in schema else ""
    return f"unknown key `{key}` in {schema['title']}{near}{few}{hint}"


def _purpose(schema: Any, name: str) -> str:
    """Return the first sentence of what a schema says of a key."""
    said: str = schema.get("properties", {}).get(name, {}).get("description", "write it")
    return said.split(". ", maxsplit=1)[0].rstrip(".")
