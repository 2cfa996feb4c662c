"""YAML with positions, so that every later message can name file, line and column.

What is read is a strict subset of YAML 1.2: one document of maps, lists, text, integers, booleans and
nulls. Keys stay text as they are written (``0x24`` is not 36). Refused are duplicate keys, anchors,
aliases, tags, floats, and every plain scalar that YAML 1.1 and YAML 1.2 read differently (``on``, ``010``,
``1:30``): the author and an editor might not mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
)

from runner.problems import MalformedError, Problem

Path = tuple[str | int, ...]
"""Way to a value from the top of a document: keys and indexes."""

Position = tuple[int, int]
"""Line and column, from 1."""

DEEPEST = 40
LONGEST_NUMBER = 80

NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"true|True|TRUE")
FALSE = re.compile(r"false|False|FALSE")
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
OCTAL = re.compile(r"[-+]?0o?[0-9_]+")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where it says it.

    ``value`` is made of ``dict[str, …]``, ``list``, ``str``, ``int``, ``bool`` and ``None``; ``values`` and
    ``keys`` give the position of each value and, under the value's path, of the key before it.
    """

    file: str
    value: Any
    values: Mapping[Path, Position]
    keys: Mapping[Path, Position]

    def problem(self, path: Path, message: str) -> Problem:
        """Return a problem of the value at *path*, or of the nearest value around it."""
        while path not in self.values:
            path = path[:-1]
        return Problem(self.file, *self.values[path], message)

    def key_problem(self, path: Path, message: str) -> Problem:
        """Return a problem of the key that *path* ends in."""
        return (
            Problem(self.file, *self.keys[path], message)
            if path in self.keys
            else self.problem(path, message)
        )

    def line(self, path: Path) -> int:
        """Line of the key that *path* ends in, or of the value where it is a list's."""
        return self.key_problem(path, "").line


def parse(data: bytes, file: str) -> Document:
    """Read one YAML document; *file* is the name that messages give.

    Raises `MalformedError` with all problems, of which a broken syntax can show only the first.
    """
    builder = _Builder(file, _events(data, file))
    value = builder.document()
    if builder.problems:
        raise MalformedError(builder.problems)
    return Document(file, value, builder.values, builder.keys)


def _events(data: bytes, file: str) -> Iterator[Event]:
    try:
        yield from yaml.parse(data.decode("utf-8"), Loader=yaml.CSafeLoader)
    except UnicodeDecodeError as error:
        raise MalformedError([_at_offset(file, data, error.start, "not UTF-8")]) from error
    except yaml.reader.ReaderError as error:
        raise MalformedError(
            [_at_offset(file, data, error.position, "a character that YAML does not allow")]
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise MalformedError([Problem(file, line, column, f"not YAML: {said}")]) from error


def _at_offset(file: str, data: bytes, offset: int, message: str) -> Problem:
    before = data[:offset]
    line_start = before.rfind(b"\n") + 1
    column = len(before[line_start:].decode("utf-8", "replace")) + 1
    return Problem(file, before.count(b"\n") + 1, column, message)


class _Builder:
    """Builds the value of a document from its events and notes positions and problems on the way."""

    def __init__(self, file: str, events: Iterator[Event]) -> None:
        self.file = file
        self.events = events
        self.values: dict[Path, Position] = {}
        self.keys: dict[Path, Position] = {}
        self.problems: list[Problem] = []

    def document(self) -> Any:
        value, documents = None, 0
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(event, "a second document; a file holds one")
            elif isinstance(event, NodeEvent):
                value = self.node(event, ())
        if value is None:
            self.problems.append(Problem(self.file, 1, 1, "the file says nothing"))
        return value

    def node(self, event: Event, path: Path) -> Any:
        self.values.setdefault(path, _position(event))
        if len(path) > DEEPEST:
            raise MalformedError(
                [*self.problems, self.refusal(event, f"nested deeper than {DEEPEST} levels")]
            )
        if isinstance(event, AliasEvent):
            return self.refuse(event, f"alias *{event.anchor}; write out what it stands for")
        if isinstance(event, ScalarEvent | CollectionStartEvent):
            self.refuse_properties(event)
        if isinstance(event, ScalarEvent):
            return self.scalar(event)
        return self.mapping(path) if isinstance(event, MappingStartEvent) else self.sequence(path)

    def refuse_properties(self, event: ScalarEvent | CollectionStartEvent) -> None:
        if event.anchor is not None:
            self.refuse(event, f"anchor &{event.anchor}; there are no aliases to use it")
        if event.tag is not None:
            self.refuse(event, f"tag {event.tag}; values have no tags")

    def mapping(self, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.key(event, path)
            inner = (*path, key)
            if key in result:
                line = self.keys[inner][0]
                self.refuse(event, f"duplicate key {key!r}; the first is in line {line}")
            self.keys.setdefault(inner, _position(event))
            result[key] = self.node(next(self.events), inner)
        return result

    def key(self, event: Event, path: Path) -> str:
        if isinstance(event, ScalarEvent) and event.anchor is None and event.tag is None:
            return str(event.value)
        self.refuse(event, "a key that is not plain text")
        self.node(event, (*path, "?"))
        return "?"

    def sequence(self, path: Path) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            result.append(self.node(event, (*path, len(result))))
        return result

    def scalar(self, event: ScalarEvent) -> str | int | bool | None:
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block
            return text
        if text != "" and (why := _surprise(text)):
            self.refuse(event, f"{text[:LONGEST_NUMBER]!r} {why}")
            return None
        return _plain(text)

    def refuse(self, event: Event, message: str) -> None:
        self.problems.append(self.refusal(event, message))

    def refusal(self, event: Event, message: str) -> Problem:
        return Problem(self.file, *_position(event), message)


def _position(event: Event) -> Position:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _plain(text: str) -> str | int | bool | None:
    """Return what YAML 1.2 (core schema) makes of a plain scalar that is no surprise."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text) or FALSE.fullmatch(text):
        return bool(TRUE.fullmatch(text))
    return int(text, 0) if INTEGER.fullmatch(text) else text


def _surprise(text: str) -> str:
    """Return why a plain scalar is refused, or nothing."""
    if INTEGER.fullmatch(text):
        return "has too many digits" if len(text) > LONGEST_NUMBER else ""
    if OCTAL.fullmatch(text):
        return (
            "is octal in one edition of YAML and not in the other; write 0x… or a number without leading zero"
        )
    if FLOAT.fullmatch(text):
        return "is a floating-point number; nothing here is one (quote it if it is text)"
    tag: str = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    known = any(kind.fullmatch(text) for kind in (NULL, TRUE, FALSE))
    if known or tag == "tag:yaml.org,2002:str":
        return ""
    kind = tag.rpartition(":")[2]
    return f"is of type {kind} in YAML 1.1 and text in YAML 1.2; quote it if it is text"


_YAML_1_1 = yaml.resolver.Resolver()
