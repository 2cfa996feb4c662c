"""JSON Schema held against nodes: what a file breaks, at the position where it breaks it.

The validator is the ``jsonschema`` package's. It walks the nodes themselves, so that the instance of each of
its errors knows its position, and holds every value that a ``vary`` gives a name against the name's place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from runner.reading.misfits import found, misfits
from runner.reading.nodes import Items, Map, Mark, Node, Notes, Scalar, plain

Values = Mapping[str, Sequence[Node]]
"""What each ``$name`` stands for, by the name with its ``$``."""

Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError]]
"""The package's form: validator, value of the keyword, what it is held against, schema around it."""


class Schema:
    """A schema document of draft 2020-12, in which what can misfit has a title."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Take a document; `ValueError`, when it is met, for a keyword that nodes cannot be held against."""
        # `$schema` names the package's own validator, which would take this one's place.
        self._validator = VALIDATOR({word: said for word, said in document.items() if word != "$schema"})

    def check(self, node: Node, notes: Notes, pointer: str = "#", values: Values | None = None) -> None:
        """Note what is wrong with *node* under the definition at *pointer*, ``#/$defs/step``.

        A position that has a problem already gets no second one.
        """
        known = {(problem.line, problem.column) for problem in notes.problems}
        validator = self._validator.evolve(schema={"$ref": pointer})
        for error in validator.iter_errors(_meant(node, values) if values else node):
            for mark, message in misfits(error):
                if mark not in known:
                    notes.add(mark, message)


def borrowing(path: Path, lender: Path) -> Schema:
    """Return the schema in *path* with what it refers to of *lender*; nothing varies there."""
    document = json.loads(re.sub(rf'"[^"]*{re.escape(lender.name)}#', '"#', path.read_text("utf-8")))
    lent = json.loads(re.sub(r",? or a \$name", "", lender.read_text("utf-8")))
    return Schema({**document, "$defs": {**lent["$defs"], **document["$defs"]}})


class Meanings(NamedTuple):
    """Nodes of which each stands in the same place."""

    nodes: tuple[Node, ...]
    mark: Mark
    key: Mark | None = None


def _meant(node: Node, values: Values) -> Any:
    """Return the node with `Meanings` in place of names."""
    match node:
        case Scalar() if node.text in values:
            return Meanings(tuple(values[node.text]), node.mark, node.key)
        case Items():
            return node._replace(nodes=tuple(_meant(item, values) for item in node.nodes))
        case Map():
            entries = {key: _meant(each, values) for key, each in node.nodes.items()}
            return _keys_meant(node._replace(nodes=entries), values)
    return node


def _keys_meant(node: Map, values: Values) -> Map | Meanings:
    """Return the mapping once for each value of each name that is a key of it."""
    renamed = [
        node._replace(nodes={text if key == name else key: each for key, each in node.nodes.items()})
        for name in node.nodes
        for text in map(_as_key, values.get(name, ()))
    ]
    return Meanings(tuple(renamed), node.mark, node.key) if renamed else node


def _as_key(value: Node) -> str:
    return value.text if isinstance(value, Scalar) else found(value)


def _on_nodes(keyword: Keyword, *, is_in_place: bool) -> Keyword:
    """Return the keyword for nodes, and for `Meanings`, of which the first misfit counts."""

    def check(validator: Any, said: Any, node: Any, schema: Any) -> Iterable[ValidationError]:
        if not isinstance(node, Meanings):
            # a node begins with what stands there: a bare value, or the nodes in it
            return keyword(validator, said, node if is_in_place else node[0], schema)
        for meaning in node.nodes:
            if errors := list(check(validator, said, meaning, schema)):
                for error in errors:
                    if not isinstance(error.instance, tuple):  # not set so far
                        error.instance = meaning
                return errors
        return ()

    return check


def _additional(validator: Any, allowed: Any, nodes: Any, schema: Any) -> Iterator[ValidationError]:
    """Keyword ``additionalProperties``: an error at each key."""
    patterns = schema.get("patternProperties", ())
    for key, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if key not in schema.get("properties", ()) and not any(re.search(each, key) for each in patterns):
            if allowed is False:
                yield ValidationError(key, instance=_key_of(key, node))
            else:
                yield from validator.descend(node, allowed, path=key)


def _required(_: Any, names: Any, nodes: Any, __: Any) -> Iterator[ValidationError]:
    """Keyword ``required``: an error for each missing key."""
    yield from (ValidationError(name) for name in names if isinstance(nodes, Mapping) and name not in nodes)


def _dependent(_: Any, needs: Any, nodes: Any, __: Any) -> Iterator[ValidationError]:
    """Keyword ``dependentRequired``: an error at the key that needs another one."""
    for one in needs.keys() & nodes.keys() if isinstance(nodes, Mapping) else ():
        for missing in set(needs[one]) - nodes.keys():
            yield ValidationError(missing, instance=_key_of(one, nodes[one]))


def _unique(_: Any, is_unique: Any, nodes: Any, __: Any) -> Iterator[ValidationError]:
    """Keyword ``uniqueItems``: an error at each item that stands there a second time."""
    seen: set[str] = set()
    for item in nodes if is_unique and isinstance(nodes, tuple) else ():
        if isinstance(item, Meanings):  # as it was written it has been seen before
            continue
        spelled = repr(plain(item))
        if spelled in seen:
            yield ValidationError(spelled, instance=item)
        seen.add(spelled)


def _key_of(key: str, node: Node) -> Scalar:
    return Scalar(key, key, node.key or node.mark)


def _refused(_: Any, __: Any, ___: Any, schema: Any) -> Iterator[ValidationError]:
    raise ValueError(f"schema keyword not understood here: one of {sorted(schema)}")


PASSING = frozenset({"$ref", "allOf"})
"""Keywords that only pass on what they are held against."""

IN_PLACE = frozenset({"anyOf", "oneOf", "not", "if"})
"""Keywords that hold schemas against the node itself."""

OWN: Mapping[str, Keyword] = {
    "additionalProperties": _additional,
    "required": _required,
    "dependentRequired": _dependent,
    "uniqueItems": _unique,
    **dict.fromkeys(
        ("propertyNames", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties"), _refused
    ),
}
"""Keywords whose errors say which key or item it is; a missing or unknown key is the message."""

VALIDATOR = extend(  # type: ignore[no-untyped-call]  # its stub has no types
    Draft202012Validator,
    {
        word: _on_nodes(keyword, is_in_place=word in IN_PLACE)
        for word, keyword in {**Draft202012Validator.VALIDATORS, **OWN}.items()
        if word not in PASSING
    },
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "array", lambda _, value: isinstance(value, tuple)
    ),
)
