"""YAML read into frozen nodes that know their line and column.

The subset is YAML 1.2's core schema without floats, anchors, aliases, tags and several documents.
Whatever YAML 1.1 readers take for something else (``on``, ``010``, ``1:30``) is refused, not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from runner.reading.problems import Problem

DEEPEST = 40
"""Levels of nesting; more is a mistake, and would exhaust the stack."""


class Mark(NamedTuple):
    """A position in a file, both numbers counted from 1."""

    line: int
    column: int


class Scalar(NamedTuple):
    """A number, a text, ``true``, ``false`` or nothing; ``text`` as written, ``key`` where its key stands."""

    value: str | int | bool | None
    text: str
    mark: Mark
    key: Mark | None = None


class Items(NamedTuple):
    """A list."""

    nodes: tuple[Node, ...]
    mark: Mark
    key: Mark | None = None


class Map(NamedTuple):
    """A mapping; keys stay text, ``0x24`` is the key "0x24" and not 36."""

    nodes: Mapping[str, Node]
    mark: Mark
    key: Mark | None = None


Node = Scalar | Items | Map


def plain(node: Node) -> Any:
    """Return the same data without positions, as a JSON reader would give it."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(item) for item in node.nodes]
        case Map():
            return {key: plain(value) for key, value in node.nodes.items()}


class Notes:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        """*file* is the name that messages give."""
        self.file = file
        self.problems: list[Problem] = []

    def add(self, mark: Mark, message: str) -> None:
        """Note a problem at a position."""
        self.problems.append(Problem(self.file, mark.line, mark.column, message))


def read(data: bytes, notes: Notes) -> Node | None:
    """Return the one document in *data*; ``None`` where nothing can be made of it."""
    text = _text(data, notes)
    if text is None:
        return None
    try:
        return _Reader(text, notes).document()
    except _TooDeepError as deep:
        notes.add(deep.mark, f"nested more than {DEEPEST} levels deep; scenarios need about ten")
    except yaml.MarkedYAMLError as error:
        context = f"{error.context}: " if error.context else ""
        notes.add(_position(error.problem_mark or error.context_mark), f"not YAML: {context}{error.problem}")
    return None


class _TooDeepError(Exception):
    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class _Reader:
    """Builds nodes from the parser's events, the only place where anchors and aliases still show."""

    def __init__(self, text: str, notes: Notes) -> None:
        self.events: Iterator[Any] = yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.refuse = notes.add

    def document(self) -> Node | None:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), StreamEndEvent):
            self.refuse(Mark(1, 1), "the file is empty; a scenario has title, level and cases")
            return None
        node = self.node(next(self.events), 0, None)
        more = [event for event in self.events if not isinstance(event, DocumentEndEvent)]
        if not isinstance(more[0], StreamEndEvent):
            self.refuse(_position(more[0].start_mark), "a second document; put it into a file of its own")
        return node

    def node(self, event: Any, depth: int, key: Mark | None) -> Node:
        mark = _position(event.start_mark)
        if depth > DEEPEST:
            raise _TooDeepError(mark)
        if isinstance(event, AliasEvent):
            self.refuse(mark, f"alias *{event.anchor}; write the value out, or use `vary`")
            return Scalar(None, "", mark, key)
        self.refuse_decoration(event, mark)
        if isinstance(event, ScalarEvent):
            return self.scalar(event, mark, key)
        if isinstance(event, SequenceStartEvent):
            return Items(tuple(self.items(depth + 1)), mark, key)
        return Map(self.entries(depth + 1), mark, key)

    def items(self, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), SequenceEndEvent):
            yield self.node(event, depth, None)

    def entries(self, depth: int) -> dict[str, Node]:
        result: dict[str, Node] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            mark, text = self.key(event, depth)
            value = self.node(next(self.events), depth, mark)
            if text is None:
                continue
            if text in result:
                first = result[text].key or mark
                self.refuse(mark, f"`{text}` a second time (first on line {first.line}); keep one")
            else:
                result[text] = value
        return result

    def key(self, event: Any, depth: int) -> tuple[Mark, str | None]:
        mark = _position(event.start_mark)
        if not isinstance(event, ScalarEvent):
            self.node(event, depth, None)
            self.refuse(mark, "a key is one word, not a list, a mapping or an alias")
            return mark, None
        self.refuse_decoration(event, mark)
        return mark, event.value

    def scalar(self, event: Any, mark: Mark, key: Mark | None) -> Scalar:
        text: str = event.value
        if not text and not event.style and key:  # nothing has no place of its own
            mark = key
        if event.style:  # quoted or a block: always text
            return Scalar(text, text, mark, key)
        for pattern, advice in SURPRISES:
            if pattern.fullmatch(text):
                self.refuse(mark, f"`{text}`: {advice}")
                break
        return Scalar(_value(text), text, mark, key)

    def refuse_decoration(self, event: Any, mark: Mark) -> None:
        if event.anchor:
            self.refuse(mark, f"anchor &{event.anchor}; there are no aliases here, take it away")
        if event.tag not in (None, "!"):
            self.refuse(mark, f"tag {event.tag}; take it away, a value has the type it looks like")


INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})|0x[0-9A-Fa-f]{1,40}")
WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}

SURPRISES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            r"(?i:on|off|yes|no|y|n)|True|TRUE|False|FALSE",
            "some YAML readers take this for a truth value; write true or false, or quote it",
        ),
        (r"Null|NULL", "write null, or leave the key out"),
        (
            r"[-+]?0[0-9_]+|0o[0-7]+|0b[01_]+",
            "decimal for some YAML readers and not for others; write it without a leading 0, or as 0x…",
        ),
        (r"0X[0-9A-Fa-f]+", "write 0x in lower case"),
        (
            r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?",
            "some YAML readers count this in sixties; quote it, or write one number",
        ),
        (r"[-+]?(0x[0-9A-Fa-f]*_[0-9A-Fa-f_]*|[1-9][0-9]*_[0-9_]*)", "write the number without _"),
        (
            r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf|nan)",
            "a floating-point number; every number here is whole",
        ),
        (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?", "some YAML readers take this for a date; quote it"),
    )
)


def _value(text: str) -> str | int | bool | None:
    """Resolve a plain scalar as YAML 1.2's core schema does."""
    if text in WORDS:
        return WORDS[text]
    return int(text, 0) if INTEGER.fullmatch(text) else text


CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(data: bytes, notes: Notes) -> str | None:
    """Return the file's characters, if it is UTF-8 without control characters."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _after(data[: error.start].decode(errors="replace"))
        notes.add(mark, f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8")
        return None
    if bad := CONTROL.search(text):
        notes.add(_after(text[: bad.start()]), f"control character U+{ord(bad[0]):04X}; take it away")
        return None
    return text


def _after(text: str) -> Mark:
    return Mark(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _position(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
