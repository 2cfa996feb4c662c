"""What earlier nights found, a JSON line each: what tonight is compared with, and no more."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.merged import UnusableError, verdicts
from reports.summary import Summary

Night = dict[str, Any]
"""When it ended, and of each host: its facts, its subjects' versions, and the verdict of every case."""

MOST_NIGHTS = 30
"""Nights that are kept; the oldest goes."""


def night(merged: Summary) -> Night:
    """Return what is kept of a night; cases are grouped by verdict and file, to keep a line short."""
    return {
        "finished": merged["finished"],
        "hosts": {
            name: {
                "facts": _facts(host),
                "subjects": {subject: _subject(said) for subject, said in host["subjects"].items()},
                "absent": dict(host.get("absent", {})),
            }
            for name, host in merged["hosts"].items()
        },
        "missing": merged["missing"],
    }


def _facts(host: Mapping[str, Any]) -> dict[str, str]:
    facts = {name: value for name, value in host["host"].items() if name != "name"}
    return {**facts, **{f"suite, {name}": value for name, value in host["suite"].items()}}


def _subject(said: Mapping[str, Any]) -> dict[str, Any]:
    grouped: dict[str, dict[str, list[str]]] = {}
    for case, verdict in sorted(verdicts(said).items()):
        file, _, name = case.partition("::")
        grouped.setdefault(verdict, {}).setdefault(file, []).append(name)
    facts = {"version": said.get("version", ""), "IA32_VMX_* hash": said.get("vmx", "")}
    return {"facts": facts, "verdicts": grouped}


def by_case(subject: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict of every case of a subject that is kept, by the case's id."""
    return {
        f"{file}::{case}": verdict
        for verdict, files in subject["verdicts"].items()
        for file, cases in files.items()
        for case in cases
    }


def load(path: Path) -> list[Night]:
    """Return the nights of a history, the oldest first; none where there is no file yet.

    `UnusableError` names the line that is not a night.
    """
    if not path.exists():
        return []
    nights = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not found.keys() >= {"finished", "hosts", "missing"}:
            raise UnusableError(f"{path}:{number}: no night of a history; remove the line, or the file")
        nights.append(found)
    return nights


def keep(path: Path, nights: Sequence[Night]) -> None:
    """Write the last `MOST_NIGHTS`; the file is replaced whole, so that an interrupted run spoils nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}")
    made.write_text("".join(_line(each) for each in nights[-MOST_NIGHTS:]), "utf-8")
    made.replace(path)


def _line(entry: Night) -> str:
    return json.dumps(entry, separators=(",", ":")) + "\n"


def last_with(nights: Iterable[Night], host: str, subject: str | None = None) -> Night | None:
    """Return the last night that has results of a host, or of a subject on it."""
    found = None
    for each in nights:
        there = each["hosts"].get(host)
        if there is not None and (subject is None or subject in there["subjects"]):
            found = each
    return found
