"""``python -m runner adapter-check COMMAND…``: whether a program is an adapter, backends/adapters/README.md.

It is asked right cases, wrong ones, and lines that are none. Exit status: 0 it keeps to the protocol,
1 it does not, 2 the line cannot be used.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from backends.adapter.command import Command
from backends.adapter.examination import Finding, examine
from runner.language.loading import SPECS, load_all, scenario_files
from runner.program import Program
from runner.reading.problems import MalformedError

WRONG, UNUSABLE = 1, 2
LOG_LINES = 6

NEXT = """\
It keeps to the protocol. Put this into a file, my-vmm.yaml, and run `pytest specs --backend my-vmm.yaml`:

says: …
kind: adapter
start: {{command: [{words}]}}"""


def main(arguments: Sequence[str]) -> int:
    """Print what is found, a line each, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner adapter-check", description=__doc__)
    parser.add_argument(
        "--deadline", type=float, default=10.0, metavar="SECONDS", help="for a batch, and for each answer"
    )
    parser.add_argument(
        "--cases", type=Path, action="append", metavar="PATH", help="right cases, from these scenario files"
    )
    parser.add_argument("command", metavar="COMMAND", help="the adapter's program")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="and its arguments")
    given = parser.parse_args(arguments)
    words = (given.command, *given.words)
    if shutil.which(given.command) is None:
        print(f"no program `{given.command}` can be started; a program of this folder is `./NAME`")
        return UNUSABLE
    try:
        programs = _programs(given.cases or [SPECS])
    except MalformedError as malformed:
        print(*malformed.problems, sep="\n")
        return UNUSABLE
    wrong = 0
    for finding in examine(Command(words, deadline=given.deadline), programs):
        _say(finding)
        wrong += finding.wrong
    print()
    if wrong:
        print(f"Found wrong: {wrong}. backends/adapters/README.md says how it is meant.")
        return WRONG
    print(NEXT.format(words=", ".join(f'"{word}"' for word in words)))
    return 0


def _programs(paths: Sequence[Path]) -> dict[str, Program]:
    """Return the first point of each case, by the case's name."""
    return {
        f"{scenario.path}::{case.id}": case.points[0].program
        for scenario in load_all(scenario_files(paths))
        for case in scenario.cases
    }


def _say(finding: Finding) -> None:
    print(f"{'wrong' if finding.wrong else 'ok':5}  {finding.about}: {finding.says}")
    if finding.wrong:
        for line in finding.log.splitlines()[-LOG_LINES:]:
            print(f"         | {line}")
