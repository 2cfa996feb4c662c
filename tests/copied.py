"""A copy of the project with scenarios and subjects of a test's own, run by a pytest of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("runner", "backends", "reports")
FILES = ("conftest.py", "pyproject.toml")
SPECS = ("rules.yaml", "rules.schema.json", "scenario.schema.json", "setups.yaml")

HEADER = """\
title: What a test wants to know
level: vmx
setup: {base: registers, virtual-apic-page: {fill: tagged, APICID: 0x3, 0x24: 0xabcd0001}}
cases:
"""
ONE = """\
  - id: one
    says: The first case reads the page
    rules: [rdmsr.register-virtualization]
    steps: [{rdmsr: APICID, expect: {value: 0xabcd000100000003}}]
"""
TWO = """\
  - id: two
    says: The upper half comes from the page
    rules: [rdmsr.upper-half-from-page, rdmsr.register-virtualization]
    steps: [{rdmsr: APICID, expect: {value: 0xabcd000100000003}}]
"""
MANY = """\
  - id: many
    says: Every number reads the page
    rules: [rdmsr.any-msr-of-the-range]
    vary: {msr: 0x802..0x807}
    steps: [{rdmsr: $msr, expect: {value: from-page}}]
"""
UNSETTLED = """\
  - id: unsettled
    says: A rule that is not settled fails nobody
    rules: [apic.reserved-msr-range]
    steps: [{rdmsr: APICID, expect: {value: 0xabcd000100000003}}]
"""
SWEEP = """\
title: A sweep
level: vmx
setup: {base: registers, virtual-apic-page: {fill: tagged}}
cases:
  - id: swept
    says: The reference model says what is right
    rules: [rdmsr.any-msr-of-the-range]
    vary: {msr: 0x802..0x807}
    steps: [{rdmsr: $msr}]
    expect: model
"""


@dataclass(frozen=True)
class Ran:
    """What one run of pytest left."""

    status: int
    text: str
    summary: dict[str, Any]
    allure: tuple[dict[str, Any], ...]
    batches: tuple[str, ...]

    def verdicts(self, subject: str) -> dict[str, int]:
        counts: dict[str, int] = self.summary["subjects"][subject]["verdicts"]
        return {verdict: count for verdict, count in counts.items() if count}


class Project:
    def __init__(self, home: Path) -> None:
        self.home = home
        for package in PACKAGES:
            ignore = shutil.ignore_patterns("probe", "*.yaml")
            shutil.copytree(ROOT / package, home / package, ignore=ignore)
        for name in FILES:
            shutil.copy(ROOT / name, home / name)
        (home / "specs").mkdir()
        for name in SPECS:
            shutil.copy(ROOT / "specs" / name, home / "specs" / name)
        (home / "misbehaving.py").write_bytes((ROOT / "tests" / "misbehaving.py").read_bytes())
        self.subject("model", says="The reference model", kind="model")

    def scenario(self, name: str, *cases: str) -> None:
        self.write(f"specs/vmx/{name}.yaml", HEADER + "".join(cases))

    def subject(self, name: str, **said: object) -> None:
        """A subject file; `fault=` makes it a misbehaving model."""
        if "fault" in said:
            said |= {"kind": "bochs", "start": {"model": said.pop("fault")}}
        self.write(
            f"backends/subjects/{name}.yaml", json.dumps({"says": f"Subject {name}", **said}, indent=1)
        )

    def write(self, path: str, text: str) -> None:
        (self.home / path).parent.mkdir(parents=True, exist_ok=True)
        (self.home / path).write_text(text, encoding="utf-8")

    def pytest(self, *arguments: str, report: bool = True) -> Ran:
        shutil.rmtree(self.home / "results", ignore_errors=True)
        for name in ("summary.json", "batches.log"):
            (self.home / name).unlink(missing_ok=True)
        into = ("--summary", "summary.json", "--alluredir", "results") if report else ()
        command = [sys.executable, "-m", "pytest", "-p", "misbehaving", "-q", *into, *arguments]
        done = subprocess.run(
            command, cwd=self.home, capture_output=True, text=True, check=False, timeout=120
        )
        return Ran(
            done.returncode,
            done.stdout + done.stderr,
            self._json("summary.json"),
            tuple(json.loads(path.read_text()) for path in self.home.glob("results/*-result.json")),
            tuple(self._lines("batches.log")),
        )

    def _json(self, name: str) -> dict[str, Any]:
        path = self.home / name
        return json.loads(path.read_text()) if path.exists() else {}

    def _lines(self, name: str) -> list[str]:
        path = self.home / name
        return sorted(path.read_text().splitlines()) if path.exists() else []
