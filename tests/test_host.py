"""What tells the results of one host and one suite from another's."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from runner import host, suite

CPUINFO = """\
processor\t: 0
model name\t: A  Processor @ 2.50GHz
microcode\t: 0x1
processor\t: 1
model name\t: A Processor @ 2.50GHz
microcode\t: 0x2b
"""


def test_a_host_says_who_it_is(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO, "utf-8")
    here = host.here({}, tmp_path / "cpuinfo")
    assert here.name == platform.node()
    assert here.facts() == {
        "processor": "A Processor @ 2.50GHz",
        "microcode": "0x1, 0x2b",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def test_a_host_may_be_given_a_name(tmp_path: Path) -> None:
    assert host.here({host.NAME: " lab-3 "}, tmp_path).name == "lab-3"
    assert host.here({host.NAME: " "}, tmp_path).name == platform.node()


def test_what_a_host_does_not_tell_is_unknown(tmp_path: Path) -> None:
    facts = host.here({}, tmp_path / "nothing").facts()
    assert (facts["processor"], facts["microcode"]) == ("unknown", "unknown")


def test_the_hash_is_of_the_vmx_capabilities_alone() -> None:
    basic, misc = {"IA32_VMX_BASIC": "0x1"}, {"IA32_VMX_MISC": "0x2"}
    found = host.vmx_hash(basic | misc)
    assert len(found) == 12
    assert found == host.vmx_hash({**misc, **basic, "vendor": "GenuineIntel"})
    assert found != host.vmx_hash({**basic, "IA32_VMX_MISC": "0x3"})
    assert found != host.vmx_hash(basic)
    assert host.vmx_hash({"vendor": "GenuineIntel"}) == ""


def test_a_suite_is_its_scenarios_and_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "7"\n', "utf-8")
    for name in ("conftest.py", "specs/rules.yaml", "backends/probe/main.c", "backends/subjects/a.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", "utf-8")
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    monkeypatch.setattr(suite, "SPECS", tmp_path / "specs")
    before = suite.identity()
    assert before["version"] == "7"
    (tmp_path / "backends/probe/build").mkdir()
    (tmp_path / "backends/probe/build/rom.h").write_text("made", "utf-8")
    assert suite.identity() == before, "what is built counts for nothing"
    (tmp_path / "specs/rules.yaml").write_text("more", "utf-8")
    assert suite.identity() == before | {"scenarios": suite.identity()["scenarios"]} != before
    (tmp_path / "backends/subjects/a.yaml").write_text("deviations: []", "utf-8")
    assert suite.identity()["code"] != before["code"]
