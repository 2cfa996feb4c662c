"""Summaries of hosts as runs leave them, made by hand: what a test of merging needs to say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reports import summary
from runner.judging.verdict import Verdict

SUITE = {"version": "1", "scenarios": "aaaa", "code": "bbbb"}
FACTS = {"processor": "A processor", "microcode": "0x1", "kernel": "Linux 6"}
FILE = "specs/vmx/rdmsr/asked.yaml"
FAILS, KNOWN, BROKEN = "does not conform", "known deviation", "broken"


def record(subject: str, case: str, verdict: str) -> summary.Record:
    return {
        "id": f"{FILE}::{case}",
        "says": "It is so",
        "file": FILE,
        "line": 1,
        "rules": ["rdmsr.register-virtualization"],
        "subject": subject,
        "verdict": verdict,
        "reason": "" if verdict == Verdict.CONFORMS.value else "expected 1, observed 2",
        "points": {verdict: 1},
        "deviations": [],
        "differences": [],
    }


def host(
    name: str, finished: str = "2026-11-27T02:14:00+00:00", **verdicts: dict[str, str]
) -> summary.Summary:
    """A host's summary; each keyword is a subject, with the verdict of each of its cases."""
    records = [
        record(subject, case, verdict)
        for subject, cases in verdicts.items()
        for case, verdict in cases.items()
    ]
    known = {
        subject: {"version": "2.7", "capabilities": {"IA32_VMX_BASIC": "0x1"}, "announced in vain": []}
        for subject in verdicts
    }
    return {
        "finished": finished,
        "suite": dict(SUITE),
        "host": {"name": name, **FACTS},
        **summary.summarize(records, known),
    }


def folder(home: Path, said: summary.Summary, *allure: str) -> Path:
    """A host's report folder, with the names of Allure results."""
    made = home / str(said["host"]["name"])
    summary.write(said, made / "summary.json")
    (made / "results").mkdir(exist_ok=True)
    for name in allure:
        (made / "results" / f"{name}-result.json").write_text("{}", "utf-8")
    return made


def merged_in(report: Path) -> Any:
    return json.loads((report / "summary.json").read_text("utf-8"))
