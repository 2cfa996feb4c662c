"""The summary of a run: plain data, from the results of cases to `reports/summary.json`.

Records and summary hold nothing but what JSON can carry: worker processes send records to the
controlling one, and other programs read the summary.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reports.judged import Judged
from runner import host, suite
from runner.judging.deviations import Deviation, unshown
from runner.judging.verdict import Verdict
from runner.scenario import Case, Scenario

Record = dict[str, Any]
"""One case on one subject: id, subject, verdict, reason and what they rest on."""

Summary = dict[str, Any]

MOST_DIFFERENCES = 20
"""Differences that a record keeps; a sweep may have thousands."""


def record(judged: Judged) -> Record:
    """Return what a summary keeps of one result."""
    result = judged.result
    return {
        **_of_case(judged.scenario, judged.case),
        "subject": judged.subject,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "points": {verdict.value: count for verdict, count in result.counts.items()},
        "deviations": [each.name for each in result.deviations],
        "differences": [
            {"point": each.point, "where": each.where, "expected": each.expected, "observed": each.observed}
            for each in result.differences[:MOST_DIFFERENCES]
        ],
    }


def without_record(node: str, reason: str, scenarios: Iterable[Scenario]) -> Record:
    """Return the record of a case that left none: broken; *node* is its test id ``FILE::case[subject]``."""
    name, _, subject = node.rpartition("[")
    return {
        **next(
            _of_case(scenario, case)
            for scenario in scenarios
            for case in scenario.cases
            if scenario.case_id(case) == name
        ),
        "subject": subject.rstrip("]"),
        "verdict": Verdict.BROKEN.value,
        "reason": reason.strip().rpartition("\n")[2],
        "points": {},
        "deviations": [],
        "differences": [],
    }


def _of_case(scenario: Scenario, case: Case) -> Record:
    return {
        "id": scenario.case_id(case),
        "says": case.says,
        "file": scenario.path,
        "line": case.line,
        "rules": list(case.rules),
    }


def now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def of_this_run() -> Summary:
    """Return what results are kept with: when the run ended, of which suite it was, on which host."""
    here = host.here()
    return {
        "finished": now(),
        "suite": suite.identity(),
        "host": {"name": here.name, **here.facts()},
    }


def summarize(records: Iterable[Record], subjects: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Return counts and everything that does not plainly conform, for each subject.

    ``cases`` has what does not conform in full, ``conforming`` the ids of the other cases by file.

    ``areas`` counts a case at the rule that it asks about, ``rules`` at each rule on which it rests.

    *subjects* gives what is known of each: ``says``, ``version``, ``capabilities`` and the like.
    """
    by_subject: dict[str, list[Record]] = {name: [] for name in subjects}
    for each in records:
        by_subject.setdefault(each["subject"], []).append(each)
    return {
        "subjects": {
            name: {**_known(subjects.get(name, {})), **_of_subject(own)} for name, own in by_subject.items()
        }
    }


def _known(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a subject, with the hash of its IA32_VMX_* values."""
    return {**said, "vmx": host.vmx_hash(said.get("capabilities", {}))}


def in_vain(
    deviations: Iterable[Deviation], scenarios: Iterable[Scenario], records: Iterable[Record]
) -> list[str]:
    """Say which announced deviations of a subject no case shows any more, when all that could have ran.

    *scenarios* are all there are, *records* those of the subject. A case that the subject does not
    support cannot show anything.
    """
    verdicts = {each["id"]: Verdict(each["verdict"]) for each in records}
    cases = {scenario.case_id(case): case for scenario in scenarios for case in scenario.cases}
    supported = {name: case for name, case in cases.items() if verdicts.get(name) is not Verdict.UNSUPPORTED}
    judged = [name for name, verdict in verdicts.items() if verdict is not Verdict.BROKEN]
    shown = {name for each in records for name in each["deviations"]}
    return [
        f"{each.name}: no case shows this deviation any more, remove it: {each.why}"
        for each in unshown(deviations, supported, judged, shown)
    ]


def _of_subject(records: Iterable[Record]) -> dict[str, Any]:
    verdicts = {verdict.value: 0 for verdict in Verdict}
    areas: dict[str, Counter[str]] = {}
    rules: dict[str, Counter[str]] = {}
    shown = []
    conforming: dict[str, list[str]] = {}
    for each in sorted(records, key=lambda each: (each["file"], each["line"])):
        verdicts[each["verdict"]] += 1
        areas.setdefault(_area(each), Counter())[each["verdict"]] += 1
        for rule in each["rules"]:
            rules.setdefault(rule, Counter())[each["verdict"]] += 1
        if each["verdict"] == Verdict.CONFORMS.value:
            conforming.setdefault(each["file"], []).append(each["id"].partition("::")[2])
        else:
            shown.append({name: value for name, value in each.items() if name != "subject"})
    return {
        "verdicts": verdicts,
        "areas": {name: dict(counts) for name, counts in areas.items()},
        "rules": {name: dict(counts) for name, counts in rules.items()},
        "cases": shown,
        "conforming": conforming,
    }


def by_reason(cases: Iterable[Record]) -> list[tuple[str, str, list[Record]]]:
    """Return cases that share a verdict and a reason together, the weightiest verdict first."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for case in cases:
        groups.setdefault((case["verdict"], case["reason"]), []).append(case)
    order = [verdict.value for verdict in Verdict]
    return [(*key, groups[key]) for key in sorted(groups, key=lambda key: order.index(key[0]))]


def _area(each: Record) -> str:
    """Return the area of the rule that a case asks about: the first part of the rule's id."""
    return str(each["rules"][0]).partition(".")[0]


def write(summary: Summary, path: Path) -> None:
    """Write the summary; the folder is made if it lacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> Summary:
    """Read a summary that `write` wrote."""
    summary: Summary = json.loads(path.read_text(encoding="utf-8"))
    return summary
