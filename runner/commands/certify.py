"""``python -m runner certify``: every scenario on every subject that is here, and the report of it."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reports import certificate, summary
from runner.commands import presence
from runner.commands.doctor import say
from runner.language.loading import SPECS, load_all, scenario_files
from runner.outcome import Unsupported
from runner.reading.problems import MalformedError
from runner.rulebook import catalogue

ROOT = Path(__file__).parents[2]
CERTIFICATES = "certificates"
"""Folder in the report: a page for each subject."""
WRONG_FILES = 2
"""Exit status where a subject's file is wrong; nothing has run then."""


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios; return pytest's exit status, or 1 where a subject that was asked for is not here."""
    parser = argparse.ArgumentParser(prog="python -m runner certify", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", default=[str(SPECS)], metavar="PATH", help="only these scenario files"
    )
    parser.add_argument(
        "--backend", action="append", metavar="NAME|FILE", help="only this subject; repeatable"
    )
    parser.add_argument("--report", default="reports", metavar="FOLDER", help="write the report there")
    chosen = parser.parse_args(arguments)
    asked = [_seen_from_here(name) for name in chosen.backend or ()]
    try:
        found = said(presence.of(asked) if asked else presence.cheap())
    except MalformedError as wrong:
        print(wrong)
        return WRONG_FILES
    lacking = absent(found)
    subjects = asked or [name for name in found if name not in lacking]
    report = Path(chosen.report)
    status = run(chosen.paths, subjects, lacking, report)
    _write_certificates(report)
    return status or int(bool(asked and lacking))


def _write_certificates(report: Path) -> None:
    """Write a page for each subject of the run, and print what it says."""
    into = report / "summary.json"
    if not into.exists():
        return
    rules, found = catalogue.load(), summary.load(into)
    scenarios = load_all(scenario_files())
    corpus = [scenario.case_id(case) for scenario in scenarios for case in scenario.cases]
    folder = report / CERTIFICATES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = {
        f"{name.replace(':', '-')}.html": certificate.of(found, name, rules, corpus)
        for name in found["subjects"]
    }
    print()
    for file, each in said.items():
        (folder / file).write_text(certificate.page(each), "utf-8")
        print(f"{folder / file}: {certificate.finding(each)}")
    (folder / "index.html").write_text(certificate.index(found, said, rules), "utf-8")
    print(f"{folder / 'index.html'}: all of them")


def _seen_from_here(name: str) -> str:
    """Return a subject's name, or its file's path as it holds in the project's folder, too."""
    path = Path(name)
    is_here = path.suffix != ".yaml" or Path.cwd() == ROOT
    return name if is_here else str(path.resolve())


def run(paths: Sequence[str], subjects: Iterable[str], lacking: Mapping[str, str], report: Path) -> int:
    """Run scenarios on subjects and write the report; return pytest's exit status.

    *lacking* says which subjects are not here, and why.
    """
    into = report / "summary.json"
    into.unlink(missing_ok=True)
    command = (
        *(sys.executable, "-m", "pytest", "-q", *paths, *_workers(paths)),
        *(f"--backend={name}" for name in subjects),
        *("--alluredir", str(report / "results"), "--clean-alluredir", "--summary", str(into)),
    )
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if lacking and into.exists():
        summary.write({**summary.load(into), "absent": dict(lacking)}, into)
    return status


def said(subjects: Iterable[tuple[str, presence.Presence]]) -> dict[str, presence.Presence]:
    """Look after each subject, and say whether it is here."""
    result = {}
    for name, found in subjects:
        say(name, presence.words(found))
        result[name] = found
    return result


def absent(found: Mapping[str, presence.Presence]) -> dict[str, str]:
    """Return why subjects are not here; a broken one is, so that its cases show as broken."""
    return {name: each.reason for name, each in found.items() if isinstance(each, Unsupported)}


def _workers(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the option for a worker on each processor; one file is one batch and needs none."""
    processors = len(os.sched_getaffinity(0))
    files = scenario_files(Path(path.partition("::")[0]) for path in paths)
    return ("-n", str(processors)) if processors > 1 and len(files) > 1 else ()
