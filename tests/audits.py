"""Audits in few words: a sound configuration, changes to it, and what is then found."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from runner.auditing.dump import InvalidDump, parse
from runner.auditing.finding import Finding, Rank
from runner.auditing.findings import Placed, findings
from runner.commands.audited import all_audited
from runner.reading.nodes import Map, Notes, plain, read

DUMPS = Path(__file__).with_name("dumps")


@cache
def _sound() -> Any:
    top = read((DUMPS / "sound.yaml").read_bytes(), Notes("sound.yaml"))
    assert isinstance(top, Map)
    return plain(top)


def sound(*changes: str, one: bool = True) -> str:
    """Return the sound configuration with changes, ``all.apic-mode=xapic`` or ``vcpus.0.apic-id=``.

    An empty value takes the key away; ``one`` leaves only virtual processor 0.
    """
    top = deepcopy(_sound())
    if one:
        del top["vcpus"]["1"]
    for change in changes:
        place, _, value = change.partition("=")
        *path, key = place.split(".")
        node = top
        for name in path:
            node = node.setdefault(name, {})
        if value:
            node[key] = _value(value)
        else:
            del node[key]
    return json.dumps(top)


def _value(text: str) -> Any:
    node = read(text.encode(), Notes("change"))
    assert node is not None
    return plain(node)


def found(text: str | bytes) -> tuple[Placed, ...]:
    """Return the findings of a dump."""
    data = text.encode() if isinstance(text, str) else text
    return findings([*all_audited(parse(data, "dump"))])


def one_finding(text: str | bytes) -> Finding:
    """Return the only finding of a dump; questions do not count."""
    [placed] = [each for each in found(text) if not each.finding.is_open]
    return placed.finding


def broken(text: str | bytes, rank: Rank | None = None) -> list[str]:
    """Return the rule of each finding of a dump, in order; questions do not count."""
    return [
        each.finding.rules[0]
        for each in found(text)
        if not each.finding.is_open and rank in (None, each.finding.rank)
    ]


def asked(text: str | bytes) -> list[str]:
    """Return the rule of each question that a dump leaves."""
    return [each.finding.rules[0] for each in found(text) if each.finding.is_open]


def mistakes(text: str | bytes) -> list[str]:
    """Return what is wrong with a dump, ``line:column: message``."""
    data = text.encode() if isinstance(text, str) else text
    try:
        parse(data, "dump")
    except InvalidDump as invalid:
        return [str(problem).removeprefix("dump:") for problem in invalid.problems]
    return []
