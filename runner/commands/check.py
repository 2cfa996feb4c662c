"""``python -m runner check [PATH…]``: whether scenario files say what can be run; nothing is run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.language.loading import SPECS, load_all, scenario_files, stray_files
from runner.language.ordering import unordered_posts
from runner.reading.problems import MalformedError
from runner.scenario import Scenario

REFUSED = 2
"""Exit status where a file is wrong."""


def main(arguments: Sequence[str]) -> int:
    """Print every mistake of all files, or one line of counts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner check", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[SPECS], metavar="PATH")
    paths: Sequence[Path] = parser.parse_args(arguments).paths
    files = scenario_files(paths)
    try:
        scenarios = load_all(files)
    except MalformedError as malformed:
        print(*malformed.problems, *_strays(paths), sep="\n")
        return REFUSED
    if strays := [*_strays(paths), *_nothing(files, paths)]:
        print(*strays, sep="\n")
        return REFUSED
    for warning in _warnings(scenarios):
        print(warning)
    print(_counts(scenarios))
    return 0


def _strays(paths: Sequence[Path]) -> Iterator[str]:
    for path in stray_files(paths):
        yield f"{path}:1:1: no scenario file stands here; move it to specs/vmx/TOPIC/NAME.yaml or the like"


def _nothing(files: Sequence[Path], paths: Sequence[Path]) -> Iterator[str]:
    if not files:
        yield f"no scenario files under {', '.join(map(str, paths))}"


def _warnings(scenarios: Sequence[Scenario]) -> Iterator[str]:
    for scenario in scenarios:
        for case in scenario.cases:
            for one, other in unordered_posts(case.points[0].program):
                place = f"{scenario.path}:{case.step_lines[other]}:1"
                yield (
                    f"{place}: warning: no barrier orders this post and that of line {case.step_lines[one]}, "
                    "and both touch one descriptor; put a barrier between them"
                )


def _counts(scenarios: Sequence[Scenario]) -> str:
    cases = [case for scenario in scenarios for case in scenario.cases]
    points = sum(len(case.points) for case in cases)
    return f"{_many(len(scenarios), 'file')}, {_many(len(cases), 'case')}, {_many(points, 'point')}"


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
