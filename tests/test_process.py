"""Processes end: by themselves, at their deadline, or when they have been silent for too long."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from backends import process

SPEAKS = "import time\nfor _ in range(28): print('.', flush=True); time.sleep(0.25)"
SLEEPS = "import time; print('.', flush=True); time.sleep(60)"


def run(code: str, folder: Path, **limits: float) -> process.Ended:
    return process.run([sys.executable, "-c", code], folder=folder, environment={}, **limits)


def test_a_process_that_goes_on_speaking_may_go_on(tmp_path: Path) -> None:
    ended = run(SPEAKS, tmp_path, deadline=60, silence=3)
    assert (ended.status, ended.timed_out, ended.stdout) == (0, False, b".\n" * 28)


@pytest.mark.parametrize("limits", [{"deadline": 1.0}, {"deadline": 60.0, "silence": 0.5}])
def test_a_silent_process_is_ended(tmp_path: Path, limits: dict[str, float]) -> None:
    start = time.monotonic()
    ended = run(SLEEPS, tmp_path, **limits)
    assert ended.timed_out
    assert ended.describe() == "killed at its deadline"
    assert time.monotonic() - start < 30
