"""Faults: what is wrong, the rule that it breaks, and where the text of the model differs.

They are data: one file for each area of the catalogue under ``faults``, and ``known-bugs.yaml`` with what
implementations really did.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backends.faulty.private import FOLDER
from runner.reading.nodes import Notes, plain, read
from runner.reading.problems import MalformedError, Problem, did_you_mean
from runner.reading.schema import Schema

HERE = Path(__file__).parent
KNOWN_BUGS = HERE / "known-bugs.yaml"


class MisplacedError(Exception):
    """A fault's text does not stand in the model exactly once."""


@dataclass(frozen=True, slots=True)
class Change:
    """One place of the model where another text stands.

    Lines after the first are indented as far as the line is in which the old text stands.
    """

    module: str
    old: str
    new: str

    def made_in(self, text: str) -> str:
        """Return a module's text with this change; `MisplacedError` where the old is not there just once."""
        places = list(self._places(text))
        if len(places) != 1:
            raise MisplacedError(f"found {len(places)} times in {self.module}: {self.old!r}")
        place, indented = places[0]
        return text[:place] + indented(self.new) + text[place + len(indented(self.old)) :]

    def _places(self, text: str) -> Iterator[tuple[int, Callable[[str], str]]]:
        """Yield where the old text stands, and how lines are indented there."""
        for found in re.finditer(re.escape(self.old.splitlines()[0]), text):
            line = text[text.rfind("\n", 0, found.start()) + 1 :]
            indentation = line[: len(line) - len(line.lstrip(" "))]
            indented = partial(_indented, indentation)
            if text.startswith(indented(self.old), found.start()):
                yield found.start(), indented


def _indented(indentation: str, text: str) -> str:
    return f"\n{indentation}".join(text.splitlines())


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break a rule.

    ``equivalent`` is the reason why no scenario can convict it, empty where one can.
    """

    id: str
    rule: str
    wrong: str
    changes: tuple[Change, ...]
    equivalent: str = ""

    def sources(self) -> Mapping[str, str]:
        """Return the altered text of each module by file name; `MisplacedError` as `Change.made_in`."""
        texts: dict[str, str] = {}
        for change in self.changes:
            text = texts.get(change.module) or (FOLDER / change.module).read_text("utf-8")
            texts[change.module] = change.made_in(text)
        return texts


@dataclass(frozen=True, slots=True)
class KnownBug:
    """A bug that an implementation had; ``fault`` repeats it, or ``not_shown`` says why none can."""

    id: str
    subject: str
    reference: str
    level: str
    wrong: str
    fault: Fault | None
    not_shown: str


@cache
def faults() -> Mapping[str, Fault]:
    """Return every fault by id: those of rules in the order of the catalogue's areas, then known bugs."""
    found = [*_of_rules(), *(bug.fault for bug in known_bugs() if bug.fault)]
    return MappingProxyType({each.id: each for each in found})


@cache
def known_bugs() -> tuple[KnownBug, ...]:
    """Return the known bugs."""
    return tuple(_known_bug(entry) for entry in _read(KNOWN_BUGS, "bugs"))


def fault(name: str) -> Fault:
    """Return the fault with this id; `MalformedError` says which was probably meant where there is none."""
    if name in faults():
        return faults()[name]
    said = f"no fault `{name}`{did_you_mean(name, faults())}; it is RULE-ID, RULE-ID/2 or a known bug, K02"
    raise MalformedError([Problem("--backend", 1, 1, said)])


def _of_rules() -> Iterator[Fault]:
    """Yield the faults of rules; the second of a rule is RULE-ID/2."""
    seen: Counter[str] = Counter()
    for path in sorted((HERE / "faults").glob("*.yaml")):
        for entry in _read(path, "faults"):
            rule = entry["rule"]
            seen[rule] += 1
            yield _fault(f"{rule}/{seen[rule]}" if seen[rule] > 1 else rule, entry)


def _known_bug(entry: Mapping[str, Any]) -> KnownBug:
    return KnownBug(
        id=entry["id"],
        subject=entry["subject"],
        reference=entry["reference"],
        level=entry["level"],
        wrong=entry["wrong"],
        fault=_fault(entry["id"], entry) if "rule" in entry else None,
        not_shown=entry.get("not-shown", ""),
    )


def _fault(name: str, entry: Mapping[str, Any]) -> Fault:
    changes = tuple(_changes([entry, *entry.get("also", ())]))
    return Fault(name, entry["rule"], entry["wrong"], changes, entry.get("equivalent", ""))


def _changes(entries: Iterable[Mapping[str, Any]]) -> Iterator[Change]:
    for entry in entries:
        yield Change(entry["in"], entry["from"], entry["to"])


def _read(path: Path, pointer: str) -> list[Mapping[str, Any]]:
    """Read a file of faults; `MalformedError` has everything that is wrong with it."""
    notes = Notes(f"backends/faulty/{path.relative_to(HERE).as_posix()}")
    top = read(path.read_bytes(), notes)
    if top is not None and not notes.problems:
        _schema().check(top, notes, f"#/$defs/{pointer}")
    if top is None or notes.problems:
        raise MalformedError(notes.problems)
    entries: list[Mapping[str, Any]] = plain(top)
    return entries


@cache
def _schema() -> Schema:
    return Schema(json.loads((HERE / "fault.schema.json").read_text("utf-8")))
