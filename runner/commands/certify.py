"""``python -m runner certify``: every scenario on every subject that is here, and the report of it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.commands import presence
from runner.commands.doctor import say
from runner.loading import SPECS
from runner.outcome import Unsupported

ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios and return pytest's exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner certify", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", default=[str(SPECS)], metavar="PATH", help="only these scenario files"
    )
    parser.add_argument("--backend", action="append", metavar="NAME", help="only this subject; repeatable")
    parser.add_argument("--report", default="reports", metavar="FOLDER", help="write the report there")
    chosen = parser.parse_args(arguments)
    subjects = chosen.backend or tuple(_here())
    command = (
        *(sys.executable, "-m", "pytest", "-q", *chosen.paths),
        *(f"--backend={name}" for name in subjects),
        *("--alluredir", f"{chosen.report}/results", "--clean-alluredir"),
        *("--summary", f"{chosen.report}/summary.json"),
    )
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _here() -> Iterator[str]:
    """Say of each subject whether it is here, and yield those to run.

    A broken one runs too, so that its cases show as broken.
    """
    for name, found in presence.shipped():
        say(name, presence.words(found))
        if not isinstance(found, Unsupported):
            yield name
