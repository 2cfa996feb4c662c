"""The sweeps of the night can be run: tried with the ends of their ranges, since all of them take long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backends.model import Model
from runner.language.loading import NIGHTLY, SWEEPS, parse
from runner.outcome import Observation

FILES = sorted(NIGHTLY.glob("*.yaml"))
RANGE = re.compile(r"\b(0x[0-9a-f]+|\d+)\.\.(0x[0-9a-f]+|\d+)")


def test_there_are_some() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_well_formed_and_the_model_has_an_answer(file: Path) -> None:
    text = RANGE.sub(r"[\1, \2]", file.read_text("utf-8"))
    scenario = parse(text.encode(), f"{SWEEPS}nightly/{file.name}")
    for case in scenario.cases:
        answers = Model().run([point.program for point in case.points])
        assert all(isinstance(answer, Observation) for answer in answers), case.id
