"""Reads `specs/uncovered.yaml`: the rules on which no case rests, each with the reason."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from types import MappingProxyType

from runner.reading.nodes import Map, Notes, plain, read
from runner.reading.problems import MalformedError
from runner.reading.schema import Schema
from runner.rulebook.catalogue import SPECS
from runner.rulebook.rules import Catalogue

FILE = f"{SPECS.name}/uncovered.yaml"


def load(catalogue: Catalogue, covered: Container[str], specs: Path = SPECS) -> Mapping[str, str]:
    """Return the reasons by rule; `MalformedError` has everything that is wrong with the file.

    *covered* are the ids of the rules on which some case rests: a reason for one of them is a mistake.
    """
    schema = Schema(json.loads((specs / "uncovered.schema.json").read_text(encoding="utf-8")))
    return parse((specs / "uncovered.yaml").read_bytes(), schema, catalogue, covered)


def parse(data: bytes, schema: Schema, catalogue: Catalogue, covered: Container[str]) -> Mapping[str, str]:
    """Return the reasons in *data*, as `load`."""
    notes = Notes(FILE)
    top = read(data, notes)
    if top and not notes.problems:
        schema.check(top, notes)
    if isinstance(top, Map) and not notes.problems:
        _check_rules(top, catalogue, covered, notes)
    if notes.problems or not isinstance(top, Map):
        raise MalformedError(notes.problems)
    return MappingProxyType(plain(top))


def _check_rules(top: Map, catalogue: Catalogue, covered: Container[str], notes: Notes) -> None:
    for name, reason in top.nodes.items():
        mark = reason.key or reason.mark
        if name not in catalogue:
            notes.add(mark, catalogue.unknown(name))
        elif name in catalogue.aliases:
            notes.add(mark, f"`{name}` is an alias; write `{catalogue.resolve(name)}`")
        elif name in covered:
            notes.add(mark, f"cases rest on `{name}`; remove it")
