"""The results of several hosts as one: each host's summary under its name, and who left none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from reports.summary import Summary, now
from runner.judging.verdict import Verdict

FAILING = (Verdict.DOES_NOT_CONFORM.value, Verdict.BROKEN.value)
SCHEMA = Path(__file__).with_name("summary.schema.json")


class UnusableError(Exception):
    """A file that is there and is not what it ought to be; the message names it and says what to do."""


def read(folder: Path) -> Summary | None:
    """Return the summary that a run left in its report folder; ``None`` where it left none.

    `UnusableError` where a file stands there that no run of this suite wrote.
    """
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnusableError(f"{path}: cannot be read as JSON: {error}; run that host again") from error
    wrong = best_match(_schema().iter_errors(found))
    if wrong is not None:
        place = "/".join(map(str, wrong.absolute_path)) or "the top"
        said = f"{path}: no summary of one host: at {place}: {wrong.message[:200]}"
        raise UnusableError(f"{said}; give the folder that the run on that host wrote")
    result: Summary = found
    return result


@cache
def _schema() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))


def merge(found: Mapping[str, Summary], missing: Mapping[str, str]) -> Summary:
    """Return one summary of hosts by name; *missing* says why a host has none."""
    return {
        "finished": max((each["finished"] for each in found.values()), default=now()),
        "hosts": {name: found[name] for name in sorted(found)},
        "missing": {name: missing[name] for name in sorted(missing)},
    }


def mixture(found: Mapping[str, Summary]) -> list[str]:
    """Say in what the runs differ that are to be merged: their suites, and the cases that they ran."""
    lines = []
    suites = {name: _suite_words(each["suite"]) for name, each in found.items()}
    if len(set(suites.values())) > 1:
        lines += [f"{name} ran {words}" for name, words in suites.items()]
    ran = {name: _cases(each) for name, each in found.items()}
    everything = {case for cases in ran.values() for case in cases}
    for name, cases in ran.items():
        if lack := sorted(everything - cases):
            lines.append(
                f"{name} ran {len(cases)} of {len(everything)} cases; the first that lacks: {lack[0]}"
            )
    return lines


def _suite_words(suite: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in suite.items())


def _cases(found: Summary) -> set[str]:
    return {case for subject in found["subjects"].values() for case in verdicts(subject)}


def verdicts(subject: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdict of every case that a subject ran, by the case's id."""
    conforming = (f"{file}::{case}" for file, cases in subject["conforming"].items() for case in cases)
    return {
        **dict.fromkeys(conforming, Verdict.CONFORMS.value),
        **{case["id"]: case["verdict"] for case in subject["cases"]},
    }


def failures(merged: Summary) -> Iterator[str]:
    """Yield what makes the exit status 1, a line each."""
    for name, reason in merged["missing"].items():
        yield f"{name}: no results: {reason}"
    for name, host in merged["hosts"].items():
        for subject, said in host["subjects"].items():
            for verdict in FAILING:
                if count := said["verdicts"][verdict]:
                    yield f"{name}: {subject}: {count} {verdict}"
            yield from (f"{name}: {subject}: {each}" for each in said["announced in vain"])
        for subject, reason in host.get("required", {}).items():
            yield f"{name}: {subject}: required, and not here: {reason}"
