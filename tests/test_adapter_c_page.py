"""The C starter kit's page: each command is tried as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runner.language import loading

ROOT = loading.ROOT
KIT = ROOT / "backends" / "adapters" / "c"
PAGE = (KIT / "README.md").read_text("utf-8")
COMMANDS = [line.strip() for line in PAGE.splitlines() if re.match(r" {4}(cp|gcc|python|pytest|make) ", line)]
SUBJECT = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in *folder*, where the suite's folders are to be found."""
    words = shlex.split(command)
    if words[0] in ("python", "pytest"):
        words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "pytest", "-q"]
    there = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words, cwd=folder, env=there, capture_output=True, text=True, timeout=500, check=False
    )


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) == 7, COMMANDS


def test_ten_minutes(tmp_path: Path) -> None:
    """Typed in a folder of its own, so that nothing is left in the suite's."""
    suite, mine = tmp_path / "suite", tmp_path / "mine"
    suite.mkdir()
    mine.mkdir()
    for name in ("backends", "specs", "runner", "reports"):
        (suite / name).symlink_to(ROOT / name)
    for command in COMMANDS[:3]:
        done = typed(command, suite)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "It keeps to the protocol." in done.stdout
    assert SUBJECT
    subject = mine / "my-vmm.yaml"
    subject.write_text(SUBJECT[1].replace("./my-adapter", str(suite / "my-adapter")))
    judged = typed(COMMANDS[3].replace("my-vmm.yaml", str(subject)), ROOT)
    assert judged.returncode == 0, judged.stdout
    assert re.search(r"^1 passed, \d+ skipped", judged.stdout, re.MULTILINE), judged.stdout
    assert "unsupported: all but RDMSR of the APIC ID at level guest" in judged.stdout


def test_the_example_is_a_subject() -> None:
    command = COMMANDS[4]
    assert command == "pytest specs --backend backends/adapters/c/c-model.yaml"
    judged = typed(command.replace("specs ", "specs/vmx/rdmsr "), ROOT)  # all of it: test_adapter_c.py
    assert judged.returncode == 0, judged.stdout


def test_the_payload_is_built(tmp_path: Path) -> None:
    done = typed(f"{COMMANDS[5]} BUILD={tmp_path}", ROOT)
    assert done.returncode == 0, done.stderr
    assert 4096 < (tmp_path / "payload.bin").stat().st_size < 8192


@pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="this host has no /dev/kvm")
def test_the_adapter_of_kvm_is_a_subject() -> None:
    judged = typed(COMMANDS[6], ROOT)
    assert judged.returncode == 0, judged.stdout
    assert " passed" in judged.stdout, judged.stdout
