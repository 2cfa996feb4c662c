"""specs/README.md teaches the language: its examples load, and the reference model does what they say."""

from __future__ import annotations

import json
import re

import pytest

from backends.model import Model
from runner.judging.differences import differences
from runner.language.loading import SPECS, parse
from runner.outcome import Observation

PAGE = (SPECS / "README.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.splitlines()[0])
def test_an_example_says_what_the_model_does(text: str) -> None:
    points = [point for case in parse(text.encode(), "README.md").cases for point in case.points]
    assert points
    for point, answer in zip(points, Model().run([each.program for each in points]), strict=True):
        assert isinstance(answer, Observation)
        assert differences(point.program, point.expected, answer) == ()


def test_the_page_begins_with_the_question_and_is_read_in_one_sitting() -> None:
    assert "2621447225" in EXAMPLES[0]
    assert len(EXAMPLES) >= 5
    assert len(PAGE.splitlines()) <= 200
    assert max(map(len, PAGE.splitlines())) <= 240


def test_every_key_of_a_setup_and_of_a_step_is_on_the_page() -> None:
    definitions = json.loads((SPECS / "scenario.schema.json").read_text())["$defs"]
    for kind in ("setup", "step", "after-one"):
        for key in definitions[kind]["properties"]:
            assert re.search(rf"(?<![a-z-]){key}(?![a-z-])", PAGE), f"{kind}: {key}"
