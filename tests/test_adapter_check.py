"""``python -m runner adapter-check``: a right adapter passes, and each wrong one is told what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from programs import program

from backends.adapter import reading
from backends.adapter.asks import Asks, line
from backends.adapter.nonsense import nonsense
from backends.adapter.platform import Platform
from backends.capabilities import Processor
from runner.apic import Fill, VirtualApicPage
from runner.commands.adapter_check import main
from runner.program import Level, Rdmsr
from runner.vmx import Controls

BEYOND_THE_SCHEMA = ("range without end", "range between the halves", "which is not there")
TESTS = Path(__file__).parent
EXAMPLE = str(TESTS.parent / "backends" / "adapters" / "python" / "adapter.py")
CASES = """
title: One read
level: vmx
setup: {base: registers}
cases:
  - id: one-read
    says: RDMSR returns the word that the page holds
    rules: [rdmsr.register-virtualization]
    steps: [{rdmsr: MSR}]
  - id: another-read
    says: RDMSR returns another word that the page holds
    rules: [rdmsr.register-virtualization]
    steps: [{rdmsr: VERSION}]
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return tmp_path / "reads.yaml"


def check(*command: str, cases: Path, msr: str = "APICID", deadline: str = "10") -> int:
    cases.write_text(CASES.replace("MSR}", f"{msr}}}"), "utf-8")
    return main(["--deadline", deadline, "--cases", str(cases), *command])


def test_the_example_passes(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(sys.executable, EXAMPLE, cases=cases) == 0
    said = capsys.readouterr().out
    assert "wrong  " not in said
    for about in ("hello", "cases", "alone", "quiet", "in pieces", "nonsense", "stop", "end of file"):
        assert f"ok     {about}: " in said
    assert "2 cases: 2 observations, 0 unsupported" in said
    assert f'start: {{command: ["{sys.executable}", "{EXAMPLE}"]}}' in said


LOOSE = {
    "chatty": "wrote what nobody asked for: 'done'",
    "keeps-state": "2 of 2 cases end otherwise alone and in reverse order",
    "takes-anything": "wrong  nonsense: an unknown step: answered with an observation",
    "crashes": "wrong  nonsense: text that is no JSON: it ended: ended by SIGSEGV",
    "never-stops": "wrong  stop: it had not ended 2 s after `stop`",
    "stops-with-5": "wrong  stop: exit status 5",
    "never-ends": "wrong  end of file: it had not ended 2 s after the end of its input",
    "no-processors": "wrong  hello: vcpus: found 0, wanted a number 1-8",
}


@pytest.mark.parametrize("way", sorted(LOOSE))
def test_one_that_is_wrong_beside_its_cases_is_told(
    way: str, cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(sys.executable, str(TESTS / "loose_adapter.py"), way, cases=cases) == 1
    said = capsys.readouterr().out
    assert LOOSE[way] in said
    assert "\nFound wrong: " in said


def test_one_that_hangs_at_nonsense_is_told(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = str(TESTS / "loose_adapter.py")
    assert check(sys.executable, loose, "hangs", cases=cases, deadline="0.3") == 1
    assert "text that is no JSON: no answer within 0.3 s" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["die", "vector-256", "no-utf-8", "answer-twice", "a-long-line"])
def test_one_that_is_wrong_in_a_case_is_told_which(
    way: str, cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = str(TESTS / "hostile_adapter.py")
    assert check(sys.executable, hostile, way, cases=cases, msr="EOI") == 1
    said = capsys.readouterr().out
    assert "wrong  cases: 2 cases: 1 observation, 0 unsupported, 1 broken" in said
    culprit = "another-read" if way == "answer-twice" else "one-read"
    assert f"wrong  cases: {cases}::{culprit}: it: " in said


def test_one_that_cannot_begin_shows_why(cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(sys.executable, "-c", "import no_such_module", cases=cases) == 1
    said = capsys.readouterr().out
    assert "wrong  hello: it ended: exit status 1" in said
    assert "| ModuleNotFoundError: No module named 'no_such_module'" in said


def test_what_cannot_be_started_and_what_is_no_scenario_is_refused(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check("no-such-adapter", cases=cases) == 2
    assert "no program `no-such-adapter`" in capsys.readouterr().out
    assert check("true", cases=cases, msr="APICIDD") == 2
    assert "APICIDD" in capsys.readouterr().out


def test_every_nonsense_is_wrong_by_the_schema_or_no_line_at_all() -> None:
    processor = Processor(True, "", 0, 1 << 21, 46, 0x1060015, {})
    asking = Asks(Platform(processor, frozenset(Level), 1, 0x100000))
    page = VirtualApicPage(Fill.TAGGED, 0, ((0x80, 0),))
    body = asking.body(program(Rdmsr(0x802), controls=Controls(), page=page))
    right = line(1, 0, body).decode().rstrip()
    assert reading.first_mistake(json.loads(right)) == ""
    for each in nonsense(right):
        if each.is_case and not each.says.endswith(BEYOND_THE_SCHEMA):
            assert reading.first_mistake(json.loads(each.line)), each.says
