"""``python -m runner check [PATH…]``: whether scenarios and subjects say what can be run; none is run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.judging import subject_file
from runner.language.loading import SPECS, load_all, scenario_files, stray_files
from runner.language.ordering import unordered_posts
from runner.reading.problems import MalformedError
from runner.rulebook import catalogue
from runner.scenario import Scenario

REFUSED = 2
"""Exit status where a file is wrong."""


def main(arguments: Sequence[str]) -> int:
    """Print every mistake of all files, or one line of counts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner check", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, default=[SPECS], metavar="PATH")
    asked: Sequence[Path] = parser.parse_args(arguments).paths
    subjects = [path for path in asked if subject_file.is_subject(path)]
    paths = [path for path in asked if path not in subjects]
    files = scenario_files(paths)
    try:
        _check_subjects(subjects)
        scenarios = load_all(files)
    except MalformedError as malformed:
        print(*malformed.problems, *_strays(paths), sep="\n")
        return REFUSED
    if strays := [*_strays(paths), *_nothing(files, paths)]:
        print(*strays, sep="\n")
        return REFUSED
    for warning in _warnings(scenarios):
        print(warning)
    if paths:
        print(_counts(scenarios))
    return 0


def _check_subjects(paths: Sequence[Path]) -> None:
    """Say of each subject file what it is; `InvalidSubject` where one is wrong."""
    for path in paths:
        said = subject_file.load(path, catalogue.load())
        known = _many(len(said.deviations), "known deviation")
        print(f"{path}: subject `{said.name}`, kind {said.kind}, {known}")


def _strays(paths: Sequence[Path]) -> Iterator[str]:
    for path in stray_files(paths):
        yield f"{path}:1:1: no scenario file stands here; move it to specs/vmx/TOPIC/NAME.yaml or the like"


def _nothing(files: Sequence[Path], paths: Sequence[Path]) -> Iterator[str]:
    if paths and not files:
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
