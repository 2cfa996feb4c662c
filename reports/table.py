"""The summary as a table of rules and subjects, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reports.summary import Summary, by_reason
from runner.judging.verdict import Verdict

MARKS: Mapping[str, str] = {
    Verdict.DOES_NOT_CONFORM.value: "FAIL",
    Verdict.BROKEN.value: "broken",
    Verdict.UNSUPPORTED.value: "unsupported",
    Verdict.UNSETTLED.value: "unsettled",
    Verdict.KNOWN_DEVIATION.value: "known",
}
"""How a cell names what does not conform; what conforms is the number in front."""


MOST_UNSUPPORTED = 10
"""Cases that are named of those which one lack keeps from running; the summary has all of them."""


def table(summary: Summary, areas: Mapping[str, str]) -> str:
    """Return areas of rules by subjects, then every case that does not conform with its reason.

    Of many cases that are unsupported for one reason the first are named. *areas* are the catalogue's,
    name to words, in reading order.
    """
    return "\n".join(_lines(summary, areas))


def _lines(summary: Summary, areas: Mapping[str, str]) -> Iterator[str]:
    subjects = summary["subjects"]
    asked = [area for area in areas if any(area in subject["areas"] for subject in subjects.values())]
    asked += sorted({area for subject in subjects.values() for area in subject["areas"]} - set(asked))
    header = ["rules", *(_title(name, subject) for name, subject in subjects.items())]
    rows = [
        [area, *(cell(subject["areas"].get(area, {})) for subject in subjects.values())] for area in asked
    ]
    total = ["all", *(cell(subject["verdicts"]) for subject in subjects.values())]
    yield from columns([header, *rows, total])
    for name, reason in summary.get("absent", {}).items():
        yield f"{name} is not here: {reason}"
    for name, subject in subjects.items():
        yield from _shown(name, subject)


def _title(name: str, subject: Mapping[str, Any]) -> str:
    version = subject.get("version")
    return f"{name} {version}" if version else name


def cell(counts: Mapping[str, int]) -> str:
    """Return ``29, 1 known``: how many conform, then the others that there are."""
    others = [f"{counts[verdict]} {mark}" for verdict, mark in MARKS.items() if counts.get(verdict)]
    conform = counts.get(Verdict.CONFORMS.value, 0)
    return (
        ", ".join([*([str(conform)] if conform or not others else []), *others])
        if any(counts.values())
        else "-"
    )


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows with their cells one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def of_points(case: Mapping[str, Any]) -> str:
    """Return ``: 3 of 9 points`` where a case has several."""
    points = sum(case["points"].values())
    return f": {case['points'].get(case['verdict'], 0)} of {points} points" if points > 1 else ""


def _shown(name: str, subject: Mapping[str, Any]) -> Iterator[str]:
    """Yield each case that does not conform; those with one verdict and one reason in one entry."""
    for verdict, reason, cases in by_reason(subject["cases"]):
        yield ""
        yield f"{name}: {verdict}: {reason}"
        named = cases[:MOST_UNSUPPORTED] if verdict == Verdict.UNSUPPORTED.value else cases
        yield from (f"  {case['id']} ({case['rules'][0]}){of_points(case)}" for case in named)
        if len(named) < len(cases):
            yield f"  and {len(cases) - len(named)} more"
    for entry in subject.get("announced in vain", ()):
        yield ""
        yield f"{name}: {entry}"
