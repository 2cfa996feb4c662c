"""The example adapters as subjects of their own: each runs the corpus, or the part that it supports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from backends import Identity
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.model import Model
from runner.judging import subject_file
from runner.judging.batch import Bench
from runner.judging.verdict import Verdict
from runner.language import loading
from runner.outcome import Unsupported
from runner.rulebook import catalogue
from runner.scenario import Scenario

KITS = loading.ROOT / "backends" / "adapters"


@cache
def scenarios() -> tuple[Scenario, ...]:
    return tuple(loading.load_all(loading.scenario_files()))


def example(path: str) -> AdapterBackend:
    said = subject_file.load(KITS / path, catalogue.load())
    assert said.kind == "adapter"
    return AdapterBackend(said.name, Command.of(said.name, said.start))


def test_the_example_in_rust_conforms_as_far_as_it_goes() -> None:
    """Where rustc is, it is built and runs every scenario; where it is not, the subject says what lacks."""
    subject = example("rust/rust-adapter.yaml")
    who = subject.identity()
    if shutil.which("rustc") is None:
        assert who == Unsupported("building it needs rustc, which is not installed")
        return
    assert isinstance(who, Identity)
    cases = [case for each in scenarios() for case in each.cases]
    bench = Bench(subject.run, Model().run, catalogue.load(), (), who.capabilities)
    points = [point for result in bench.results(cases) for point in result.points]
    verdicts = Counter(point.verdict for point in points)
    assert set(verdicts) == {Verdict.CONFORMS, Verdict.UNSUPPORTED}, verdicts
    assert verdicts[Verdict.CONFORMS] > 5000


def test_an_example_whose_compiler_is_absent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    who = example("rust/rust-adapter.yaml").identity()
    assert who == Unsupported("building it needs rustc, which is not installed")


def test_what_crosses_is_complete() -> None:
    """The reference model behind the protocol sees all that it sees before it, and answers the same."""
    programs = [point.program for each in scenarios() for case in each.cases for point in case.points]
    differing = [
        program
        for program, seen, there in zip(
            programs, Model().run(programs), example("python/python-adapter.yaml").run(programs), strict=True
        )
        if seen != there
    ]
    assert differing == []
    assert len(programs) > 19000


def test_pytest_takes_it_as_any_subject(tmp_path: Path) -> None:
    """What a VMM's author types, with a file of their own: one column more, and its verdicts."""
    mine = tmp_path / "my-vmm.yaml"
    mine.write_text(
        "says: My VMM, driven by my adapter\nkind: adapter\n"
        f"start: {{command: [{sys.executable}, {KITS / 'python' / 'adapter.py'}]}}\n"
    )
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "specs/vmx/rdmsr/own-page.yaml")
    ran = subprocess.run(
        [sys.executable, *words, "--backend", str(mine), "--backend", "model"],
        cwd=loading.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"rules +my-vmm 1 +model 1", ran.stdout)
    assert re.search(r"all +(\d+) +\1\n", ran.stdout)
