"""``python -m runner nightly`` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from backends import Identity
from runner import host
from runner.commands import nightly as command
from runner.outcome import BackendBroken, Unsupported

ROOT = Path(__file__).parents[1]
CASE = "specs/vmx/rdmsr/own-page.yaml::own-page"


def nightly(report: Path, *arguments: str, **changed: str) -> tuple[int, str, str]:
    nowhere = str(report / "nowhere")
    environ = {**os.environ, "PATH": nowhere, "XDG_CACHE_HOME": nowhere, host.NAME: "lab-1", **changed}
    command = (sys.executable, "-m", "runner", "nightly", "--report", str(report), *arguments)
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def written(path: Path) -> Any:
    return json.loads((path / "summary.json").read_text("utf-8"))


def test_a_night_and_the_next(tmp_path: Path) -> None:
    status, said, _ = nightly(tmp_path, f"{CASE}[model]")
    assert status == 0
    assert said.endswith("news: this is the first night of the history\n")
    assert written(tmp_path / "lab-1")["host"]["name"] == "lab-1"
    assert written(tmp_path)["hosts"].keys() == {"lab-1"}
    status, said, _ = nightly(tmp_path, f"{CASE}[model]")
    assert status == 0
    assert "news: nothing changed since " in said
    assert len((tmp_path / "history.jsonl").read_text("utf-8").splitlines()) == 2


def test_your_own_subject_is_part_of_the_night(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("says: A model of mine\nkind: model\n", "utf-8")
    status, said, _ = nightly(tmp_path, CASE, X2APIC_SUBJECTS=str(own))
    assert status == 0
    assert written(tmp_path)["hosts"]["lab-1"]["subjects"]["own"]["verdicts"]["conforms"] == 1
    assert "own" in said


def test_a_subject_that_is_required_and_not_here_fails_the_night(tmp_path: Path) -> None:
    status, said, _ = nightly(tmp_path, f"{CASE}[model]", "--require", "bochs")
    assert status == 1
    assert "fails: lab-1: bochs: required, and not here: no bochs in the PATH" in said
    status, said, _ = nightly(tmp_path, f"{CASE}[model]", X2APIC_REQUIRE="model bochs-3")
    assert status == 1
    assert "fails: lab-1: bochs-3: required, and not here: " in said
    assert "fails: lab-1: bochs:" not in said


def test_a_subject_without_vmx_is_not_here_at_level_vmx() -> None:
    found: dict[str, Any] = {
        "kvm": Identity("kvm", "6", {"vmx": "false"}),
        "bochs": Identity("bochs", "3.0", {"vmx": "true"}),
        "mine": Unsupported("no /dev/kvm"),
        "dead": BackendBroken("it does not start"),
    }
    asked = ("kvm", "kvm@vmx", "bochs@vmx", "mine@vmx", "dead@vmx")
    assert dict(command._unmet(asked, found)) == {  # noqa: SLF001 - VT-x is not everywhere
        "kvm@vmx": "its processor has no VMX, so it runs level guest alone",
        "mine@vmx": "no /dev/kvm",
    }


def test_what_cannot_be_used_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("says: Mine\nkind: modle\n", "utf-8")
    for wrong, message in (
        (("--subject", str(tmp_path / "own.yaml")), "own.yaml:2:7"),
        (("--subject", "nowhere.yaml"), "nowhere.yaml:1:1: cannot be read"),
        (("--require", "modle"), "did you mean 'model'?"),
    ):
        status, said, complained = nightly(tmp_path, CASE, *wrong)
        assert (status, said) == (2, "")
        assert message in complained
        assert "Traceback" not in complained
    status, _, complained = nightly(tmp_path, CASE, X2APIC_HOST="a/b")
    assert status == 2
    assert "X2APIC_HOST: `a/b` names no folder" in complained
    assert not (tmp_path / "summary.json").exists()


def test_a_run_that_leaves_nothing_is_a_host_without_results(tmp_path: Path) -> None:
    nightly(tmp_path, f"{CASE}[model]")
    status, said, _ = nightly(tmp_path, f"{CASE}-of-nobody[model]")
    assert status == 1
    assert "lab-1: no results tonight: no summary.json in " in said
