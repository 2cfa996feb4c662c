"""The CI definitions: what they run is there, and the variables they set are read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from runner import host
from runner.commands import nightly
from runner.language import loading

ROOT = Path(__file__).parents[1]
DEFINITIONS = (".github/workflows/nightly.yml", ".gitlab-ci.yml", "nightly/fleet.fmf", "nightly/main.fmf")
READ = {host.NAME, nightly.SUBJECTS, nightly.REQUIRED, "X2APIC_NIGHTLY"}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_what_it_runs_is_there_and_what_it_sets_is_read(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    for script in set(re.findall(r"(?<![\w/.])((?:\.ci|nightly)/[a-z-]+)(?![\w./-])", text)):
        assert os.access(ROOT / script, os.X_OK), script
    assert set(re.findall(r"X2APIC_\w+", text)) <= READ


@pytest.mark.parametrize("name", DEFINITIONS[:2])
def test_a_night_goes_on_where_a_subject_lacks_and_says_so(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    assert "X2APIC_REQUIRE: model bochs" in text, "hosted runners have no VT-x"
    assert "X2APIC_REQUIRE: model kvm@vmx" in text, "your own runners have, or the night fails"


def test_the_page_counts_the_points_of_the_sweeps() -> None:
    page = (ROOT / "nightly" / "README.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `([a-z-]+\.yaml)` \| ([\d,]+) \|", page, re.MULTILINE))
    scenarios = {path.name: loading.load(path) for path in loading.NIGHTLY.glob("*.yaml")}
    counts = {name: sum(len(case.points) for case in scenario.cases) for name, scenario in scenarios.items()}
    assert said == {name: f"{count:,}" for name, count in counts.items()}
    assert f"every run: {sum(counts.values()):,} points" in page
