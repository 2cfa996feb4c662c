"""JSON Schema held against nodes: what a file breaks, at the position where it breaks it.

The part of draft 2020-12 that the project's schemas use; a schema that uses more is refused. It exists
beside the ``jsonschema`` package for three things that one has not: positions of keys and values,
``$name`` (each value that ``vary`` gives a name is held against the place where the name stands), and
a tenth of the time. A test wants both to agree on every file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runner.nodes import Items, Map, Mark, Node, Notes, Scalar, plain
from runner.problems import did_you_mean

Values = Mapping[str, Sequence[Node]]
"""What each ``$name`` stands for, by the name with its ``$``."""

Check = Callable[[Node, "Findings"], None]
"""Notes what is wrong with a node."""


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


class Schema:
    """A schema document; definitions are compiled when they are first used."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Raise `ValueError`, now or at the first use, for a keyword that is not understood."""
        self.document = document
        self._compiled: dict[str, Check] = {}

    def findings(self, node: Node, file: str, pointer: str = "#", values: Values | None = None) -> Findings:
        """Return what is wrong with *node* under the definition at *pointer*, ``#/$defs/step``."""
        return Findings(file, values or {}).attempt(self.at(pointer), node)

    def at(self, pointer: str) -> Check:
        """Return the check of a definition; a definition may refer to itself."""
        if pointer not in self._compiled:
            self._compiled[pointer] = lambda node, findings: self._compiled[pointer](node, findings)
            self._compiled[pointer] = self.compile(self.definition(pointer))
        return self._compiled[pointer]

    def definition(self, pointer: str) -> Any:
        """Return the definition itself."""
        found: Any = self.document
        for name in pointer.removeprefix("#").split("/")[1:]:
            found = found[name]
        return found

    def compile(self, schema: Any) -> Check:
        """Return one check for all keywords of *schema*."""
        if unknown := schema.keys() - KEYWORDS.keys() - ANNOTATIONS:
            raise ValueError(f"schema keywords not understood: {sorted(unknown)}")
        checks = [KEYWORDS[word](self, schema) for word in KEYWORDS if word in schema]
        if "type" in schema:
            return _of_type(schema, checks)
        return checks[0] if len(checks) == 1 else _all(checks)


def _of_type(schema: Any, checks: Sequence[Check]) -> Check:
    """Hold a node against the keywords only where its type fits, and a name by what it stands for."""
    types = frozenset([schema["type"]] if isinstance(schema["type"], str) else schema["type"])

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and (meanings := findings.meanings(node.text)):
            _first_misfit(check, meanings, findings)
        elif _type(node) not in types:
            findings.add(node.mark, _wanted(node, schema))
        else:
            for each in checks:
                each(node, findings)

    return check


def _first_misfit(check: Check, meanings: Sequence[Node], findings: Findings) -> None:
    for meaning in meanings:
        if problems := findings.attempt(check, meaning).problems:
            findings.problems.extend(problems)
            return


def _all(checks: Sequence[Check]) -> Check:
    def check(node: Node, findings: Findings) -> None:
        for each in checks:
            each(node, findings)

    return check


def _type(node: Node) -> str:
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


def _found(node: Node) -> str:
    match node:
        case Map():
            return "a mapping"
        case Items():
            return "a list"
        case Scalar(text=""):
            return "nothing"
        case Scalar(text=text):
            return f"`{text}`"


def _wanted(node: Node, schema: Any) -> str:
    """Say what stands there, what is wanted, and the nearest name that fits."""
    text = node.text if isinstance(node, Scalar) else ""
    names = [name for name in _names(schema) if isinstance(name, str)]
    near = did_you_mean(text, names)
    few = f"; one of {', '.join(names)}" if not near and 0 < len(names) <= 12 else ""
    return f"{_found(node)}; wanted {schema.get('title', 'something else')}{near}{few}"


def _names(schema: Any) -> Iterator[Any]:
    yield from schema.get("enum", ())
    for branch in schema.get("anyOf", ()):
        yield from _names(branch)


# One function a keyword: from the schema that holds it to a check.


def _reference(compiler: Schema, schema: Any) -> Check:
    return compiler.at(schema["$ref"])


def _enumeration(_: Schema, schema: Any) -> Check:
    names = frozenset((type(value), value) for value in schema["enum"])

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and (type(node.value), node.value) not in names:
            meanings = findings.meanings(node.text)
            if not meanings:
                findings.add(node.mark, _wanted(node, schema))
            _first_misfit(check, meanings, findings)

    return check


def _any_of(compiler: Schema, schema: Any) -> Check:
    branches = [compiler.compile(branch) for branch in schema["anyOf"]]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and (meanings := findings.meanings(node.text)):
            _first_misfit(check, meanings, findings)
            return
        attempts: list[Findings] = []
        for branch in branches:
            attempts.append(findings.attempt(branch, node))
            if not attempts[-1].problems:
                return
        inside = [each for each in attempts if not _at_once(each, node)]
        if inside:
            findings.problems.extend(min(inside, key=lambda each: len(each.problems)).problems)
        else:
            findings.add(node.mark, _wanted(node, schema))

    return check


def _at_once(findings: Findings, node: Node) -> bool:
    """Whether the node itself does not fit, rather than something inside it."""
    return any((each.line, each.column) == node.mark for each in findings.problems)


def _condition(compiler: Schema, schema: Any) -> Check:
    test = compiler.compile(schema["if"])
    then = compiler.compile(schema.get("then", {}))
    otherwise = compiler.compile(schema.get("else", {}))

    def check(node: Node, findings: Findings) -> None:
        (otherwise if findings.attempt(test, node).problems else then)(node, findings)

    return check


def _bound(_: Schema, schema: Any) -> Check:
    least, most = schema.get("minimum"), schema.get("maximum")

    def check(node: Node, findings: Findings) -> None:
        if not isinstance(node, Scalar) or not isinstance(node.value, int):
            return
        if (most is not None and node.value > most) or (least is not None and node.value < least):
            findings.add(node.mark, f"`{node.text}` does not fit; wanted {schema.get('title', '')}")

    return check


def _multiple(_: Schema, schema: Any) -> Check:
    factor = schema["multipleOf"]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and isinstance(node.value, int) and node.value % factor:
            findings.add(node.mark, _wanted(node, schema))

    return check


def _pattern(_: Schema, schema: Any) -> Check:
    pattern = re.compile(schema["pattern"])

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and isinstance(node.value, str) and not pattern.search(node.value):
            message = schema.get("patternErrorMessage")
            findings.add(node.mark, f"{_found(node)}: {message}" if message else _wanted(node, schema))

    return check


def _length(_: Schema, schema: Any) -> Check:
    most = schema["maxLength"]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) and len(node.text) > most:
            findings.add(node.mark, f"{len(node.text)} characters; at most {most}")

    return check


def _properties(compiler: Schema, schema: Any) -> Check:
    """Hold each key of a mapping against ``properties``, ``patternProperties``, ``additionalProperties``."""
    exact = {name: compiler.compile(each) for name, each in schema.get("properties", {}).items()}
    patterns = [
        (re.compile(pattern), compiler.compile(each))
        for pattern, each in schema.get("patternProperties", {}).items()
    ]

    def checks(key: str) -> Iterable[Check]:
        if key in exact:
            return (exact[key],)
        return [check for pattern, check in patterns if pattern.search(key)]

    def entry(key: str, value: Node, findings: Findings) -> None:
        applicable = checks(key)
        for each in applicable:
            each(value, findings)
        if not applicable and schema.get("additionalProperties") is False:
            findings.add(value.key or value.mark, _unknown_key(key, schema))

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Map):
            for key, value in node.nodes.items():
                for spelling in [_spelling(each) for each in findings.meanings(key)] or [key]:
                    entry(spelling, value, findings)

    return check


def _spelling(node: Node) -> str:
    return node.text if isinstance(node, Scalar) else _found(node)


def _unknown_key(key: str, schema: Any) -> str:
    known = list(schema.get("properties", {}))
    near = did_you_mean(key, known)
    few = f"; known are {', '.join(known)}" if not near and 0 < len(known) <= 24 else ""
    hint = schema.get("patternErrorMessage", "")
    return f"unknown key `{key}` in {schema['title']}{near}{few}{hint and '; ' + hint}"


def _nothing(_: Schema, __: Any) -> Check:
    return lambda _node, _findings: None


def _required(_: Schema, schema: Any) -> Check:
    names = schema["required"]

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Map):
            for name in names:
                if name not in node.nodes:
                    findings.add(node.mark, f"`{name}` is missing: {_first_sentence(schema, name)}")

    return check


def _first_sentence(schema: Any, name: str) -> str:
    said: str = schema.get("properties", {}).get(name, {}).get("description", "write it")
    return said.split(". ")[0].rstrip(".")


def _dependent(_: Schema, schema: Any) -> Check:
    needs: Mapping[str, Sequence[str]] = schema["dependentRequired"]

    def check(node: Node, findings: Findings) -> None:
        if not isinstance(node, Map):
            return
        for name, others in needs.items():
            for missing in [other for other in others if name in node.nodes and other not in node.nodes]:
                mark = node.nodes[name].key or node.mark
                findings.add(
                    mark, f"`{name}` needs `{missing}` beside it: {_first_sentence(schema, missing)}"
                )

    return check


def _count(_: Schema, schema: Any) -> Check:
    low = schema.get("minProperties", schema.get("minItems", 0))
    high = schema.get("maxProperties", schema.get("maxItems"))

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Scalar) or isinstance(node, Map) == (
            "minItems" in schema or "maxItems" in schema
        ):
            return
        if len(node.nodes) < low or (high is not None and len(node.nodes) > high):
            findings.add(node.mark, f"{_found(node)} of {len(node.nodes)}; wanted {schema['title']}")

    return check


def _items(compiler: Schema, schema: Any) -> Check:
    each = compiler.compile(schema["items"])

    def check(node: Node, findings: Findings) -> None:
        if isinstance(node, Items):
            for item in node.nodes:
                each(item, findings)

    return check


def _unique(_: Schema, __: Any) -> Check:
    def check(node: Node, findings: Findings) -> None:
        seen: dict[str, Mark] = {}
        for item in node.nodes if isinstance(node, Items) else ():
            first = seen.setdefault(repr(plain(item)), item.mark)
            if first != item.mark:
                findings.add(item.mark, f"{_found(item)} a second time in this list; keep one")

    return check


KEYWORDS: Mapping[str, Callable[[Schema, Any], Check]] = {
    "type": _nothing,
    "$ref": _reference,
    "enum": _enumeration,
    "pattern": _pattern,
    "maxLength": _length,
    "minimum": _bound,
    "multipleOf": _multiple,
    "minProperties": _count,
    "minItems": _count,
    "properties": _properties,
    "required": _required,
    "dependentRequired": _dependent,
    "items": _items,
    "uniqueItems": _unique,
    "anyOf": _any_of,
    "if": _condition,
}

ANNOTATIONS = frozenset(
    """$schema $id $defs $comment title description markdownDescription default examples
    enumDescriptions defaultSnippets patternErrorMessage
    maximum maxProperties maxItems patternProperties additionalProperties then else""".split()
)
"""Keywords without a check of their own: words for people, and companions read with another keyword."""
