"""What backends/README.md tells a VMM author to do works as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from runner.judging import subject_file
from runner.rulebook import catalogue

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "backends"
GUIDE = (FOLDER / "README.md").read_text("utf-8")
MINE, DEVIATION = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)


def run(folder: Path, *words: str) -> tuple[int, str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_its_file_is_right_and_gets_a_verdict_on_a_real_machine(tmp_path: Path) -> None:
    mine = tmp_path / "my-vmm.yaml"
    mine.write_text(MINE, "utf-8")
    assert run(tmp_path, "runner", "check", "my-vmm.yaml") == (
        0,
        "my-vmm.yaml: subject `my-vmm`, kind machine, 0 known deviations\n",
    )
    report = ("--report", str(tmp_path / "report"))
    status, said = run(
        tmp_path, "runner", "certify", "--backend", "my-vmm.yaml", *report, "specs/guest/identity"
    )
    assert "present: " in said
    found = json.loads((tmp_path / "report/summary.json").read_text("utf-8"))["subjects"]["my-vmm"]
    assert found["verdicts"]["broken"] == 0
    assert status == (1 if found["verdicts"]["does not conform"] else 0)
    assert sum(found["verdicts"].values()) > 5


def test_its_deviation_is_one(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE + DEVIATION, "utf-8")
    assert len(subject_file.load(mine, catalogue.load()).deviations) == 1


def test_its_keys_are_those_of_the_schema() -> None:
    schema = json.loads(subject_file.SCHEMA.read_text("utf-8"))
    keys = set(schema["$defs"]["start-of-machine"]["properties"])
    told = set(re.findall(r"^\| `([a-z-]+)` \|", GUIDE, re.MULTILINE))
    assert keys <= told
    assert {"name", "says", "kind", "needs", "levels", "deviations"} <= told
    assert told <= keys | set(schema["properties"]) | {"rom", "kernel", "iso"}


def test_its_links_lead_somewhere() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^):]+)\)", GUIDE)]
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_its_files_are_there() -> None:
    named = re.findall(r"`(\w+\.py|\w+/)`", GUIDE)
    assert [name for name in named if not (FOLDER / name).exists()] == []
