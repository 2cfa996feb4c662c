"""``python -m runner certify`` as a user calls it; pytest runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CASE = "specs/vmx/rdmsr/own-page.yaml::own-page"


def certify(report: Path, *arguments: str, **changed: str) -> tuple[int, str]:
    environ = {**os.environ, **changed}
    command = (sys.executable, "-m", "runner", "certify", "--report", str(report), *arguments)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def summary(report: Path) -> Any:
    return json.loads((report / "summary.json").read_text("utf-8"))["subjects"]


def test_one_case_on_the_model(tmp_path: Path) -> None:
    status, said = certify(tmp_path, "--backend", "model", f"{CASE}[model]")
    assert status == 0
    assert "\n1 passed in " in said
    page = tmp_path / "certificates" / "model.html"
    assert said.splitlines()[-2].startswith(f"{page}: no certificate: ")
    assert 'href="model.html"' in page.with_name("index.html").read_text("utf-8")
    assert "not asked" in page.read_text("utf-8")
    assert summary(tmp_path)["model"]["verdicts"]["conforms"] == 1
    assert len(list((tmp_path / "results").glob("*-result.json"))) == 1


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    for _ in range(2):
        certify(tmp_path, "--backend", "model", f"{CASE}[model]")
    assert len(list((tmp_path / "results").glob("*-result.json"))) == 1


def test_a_subject_that_is_not_here_is_said_and_not_run(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    status, said = certify(tmp_path, "specs/vmx/rdmsr", PATH=nowhere, XDG_CACHE_HOME=nowhere)
    lines = dict(line.split(maxsplit=1) for line in said.splitlines() if " absent: " in line)
    assert set(lines) == {"bochs", "bochs-3", "kvm", "qemu-tcg", "qemu-10-tcg"}
    assert "the program qemu-system-x86_64, which is not in the PATH" in lines["qemu-tcg"]
    assert "the doctor unpacks it" in lines["qemu-10-tcg"]
    assert "PATH" in lines["bochs"]
    assert "doctor" in lines["bochs-3"]
    assert "no make" in lines["kvm"]
    assert status == 0
    assert set(summary(tmp_path)) == {"model"}
    absent = json.loads((tmp_path / "summary.json").read_text("utf-8"))["absent"]
    assert "PATH" in absent["bochs"]
    assert "doctor" in absent["bochs-3"]


SUBJECT = """\
says: A machine of a test
kind: machine
needs: [{need}]
start: {{command: ["true", "{{image}}"], image: rom, records: stdout}}
"""


def test_a_subject_that_was_asked_for_and_is_not_here_fails(tmp_path: Path) -> None:
    mine = tmp_path / "my-vmm.yaml"
    mine.write_text(SUBJECT.format(need="./my-vmm"), "utf-8")
    status, said = certify(tmp_path, "--backend", str(mine), CASE)
    assert status == 1
    assert f"absent: needs {tmp_path}/my-vmm, which is not here" in said
    assert "unsupported" in said


def test_a_subject_file_is_found_from_where_the_user_stands(tmp_path: Path) -> None:
    (tmp_path / "my-vmm.yaml").write_text(SUBJECT.format(need="cat"), "utf-8")
    command = (
        sys.executable,
        "-m",
        "runner",
        "certify",
        "--report",
        str(tmp_path),
        "--backend",
        "my-vmm.yaml",
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, CASE], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert "ended before its last record: exit status 0" in done.stdout
    assert done.returncode == 1
    assert summary(tmp_path)["my-vmm"]["verdicts"]["broken"] == 1


def test_a_wrong_subject_file_is_said_before_anything_runs(tmp_path: Path) -> None:
    mine = tmp_path / "my-vmm.yaml"
    mine.write_text(SUBJECT.format(need="x").replace("{image}", "{imge}"), "utf-8")
    status, said = certify(tmp_path, "--backend", str(mine), CASE)
    assert status == 2
    assert f"{mine}:4:" in said
    assert "no such placeholder" in said
    assert not (tmp_path / "summary.json").exists()


def test_the_exit_status_is_that_of_the_run(tmp_path: Path) -> None:
    status, said = certify(tmp_path, "--backend", "nobody")
    assert status == 2
    assert "passed" not in said
    status, _ = certify(tmp_path, "--backend", "model", f"{CASE}-and-another[model]")
    assert status == 4
