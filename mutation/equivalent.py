"""Reads `equivalent.yaml`: the mutants that no scenario can kill, each with the reason."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from types import MappingProxyType

from runner.language.values import word
from runner.reading.nodes import Items, Map, Notes, plain, read
from runner.reading.problems import MalformedError
from runner.reading.schema import Schema

FILE = Path(__file__).with_name("equivalent.yaml")
SCHEMA = Path(__file__).with_name("equivalent.schema.json")


def load(known: Container[str], path: Path = FILE) -> Mapping[str, str]:
    """Return the reasons by mutant; `MalformedError` has everything that is wrong with the file.

    *known* are the ids of all mutants: one that is none of them is a mistake.
    """
    notes = Notes(f"{path.parent.name}/{path.name}")
    top = read(path.read_bytes(), notes)
    if top and not notes.problems:
        Schema(json.loads(SCHEMA.read_text(encoding="utf-8"))).check(top, notes)
    if isinstance(top, Items) and not notes.problems:
        _check(top, known, notes)
    if notes.problems or top is None:
        raise MalformedError(notes.problems)
    return MappingProxyType({each["mutant"]: each["because"] for each in plain(top)})


def _check(top: Items, known: Container[str], notes: Notes) -> None:
    met: set[str] = set()
    for entry in top.nodes:
        name = entry.nodes["mutant"] if isinstance(entry, Map) else entry
        if word(name) in met:
            notes.add(name.mark, "a second time; keep one")
        elif word(name) not in known:
            notes.add(name.mark, "no mutant has this id; remove it")
        met.add(word(name))
