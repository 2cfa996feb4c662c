"""The example adapters as subjects of their own: each runs the corpus, or the part that it supports."""

from __future__ import annotations

from functools import cache

from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.model import Model
from runner.judging import subject_file
from runner.language import loading
from runner.program import Program
from runner.rulebook import catalogue

KITS = loading.ROOT / "backends" / "adapters"


@cache
def corpus() -> tuple[Program, ...]:
    scenarios = loading.load_all(loading.scenario_files())
    return tuple(point.program for each in scenarios for case in each.cases for point in case.points)


def example(path: str) -> AdapterBackend:
    said = subject_file.load(KITS / path, catalogue.load())
    assert said.kind == "adapter"
    return AdapterBackend(said.name, Command.of(said.name, said.start))


def test_what_crosses_is_complete() -> None:
    """The reference model behind the protocol sees all that it sees before it, and answers the same."""
    programs = corpus()
    differing = [
        program
        for program, seen, there in zip(
            programs, Model().run(programs), example("python/python-adapter.yaml").run(programs), strict=True
        )
        if seen != there
    ]
    assert differing == []
    assert len(programs) > 19000
