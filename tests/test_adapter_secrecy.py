"""An adapter cannot see an expectation: every byte that it is sent is looked at."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest

from backends.adapter import asks
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.model import Model
from runner.judging.batch import Bench
from runner.language import loading
from runner.rulebook import catalogue

RECORDER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from hostile_adapter import CAPABILITIES, say
with open(sys.argv[2], "ab") as record:
    for line in sys.stdin.buffer:
        record.write(line)
        record.flush()
        message = json.loads(line)
        if message["message"] == "hello":
            say({**CAPABILITIES, "levels": ["vmx", "guest"], "vcpus": 8})
        elif message["message"] == "run":
            say({"message": "unsupported", "seq": message["seq"], "reason": "it only listens"})
"""
SECRET, OTHER = 0x5EC2E7A1, 0x0DDBA11
SCENARIO = """
title: A title that nobody else has, {word}
level: vmx
setup:
  base: registers
  virtual-apic-page: {{fill: tagged, APICID: 0x3, TPR: 0x0}}
cases:
  - id: {word}-value
    says: A sentence of its own with {word} in it
    rules: [rdmsr.register-virtualization]
    steps:
      - {{rdmsr: APICID, label: {word}-label, expect: {{value: {secret:#x}}}}}
      - {{wrmsr: {{TPR: 0x20}}, expect: {{exit: {{reason: wrmsr, qualification: {secret:#x}}}}}}}
    after: {{page: {{TPR: {secret:#x}}}, physical: {{SVR: {secret:#x}}}, rvi: {byte:#x}}}
  - id: {word}-fault
    says: Another sentence of its own with {word} in it
    rules: [rdmsr.register-virtualization, {rule}]
    steps:
      - rdmsr: VERSION
        expect: {{one-of: [{{value: {secret:#x}}}, {{fault: "#GP(0)"}}], because: of {word}}}
  - id: {word}-entry
    says: A third sentence of its own with {word} in it
    rules: [entry.x2apic-needs-tpr-shadow]
    setup: {{clear: [use-tpr-shadow, apic-register-virtualization]}}
    expect-entry: {{vmfail-valid: {byte}}}
"""


def sent(text: str, folder: Path) -> bytes:
    """Run a scenario as pytest would, and return every byte that its adapter was sent."""
    folder.mkdir()
    (folder / "recorder.py").write_text(RECORDER)
    (folder / "scenario.yaml").write_text(text)
    record = folder / "record"
    words = (sys.executable, str(folder / "recorder.py"), str(Path(__file__).parent), str(record))
    subject = AdapterBackend("listener", Command(words))
    cases = loading.load(folder / "scenario.yaml").cases
    assert len(list(Bench(subject.run, Model().run, catalogue.load(), (), {}).results(cases))) == len(cases)
    return record.read_bytes()


def scenario(word: str, secret: int, byte: int, rule: str) -> str:
    return SCENARIO.format(word=word, secret=secret, byte=byte, rule=rule)


def test_cases_that_differ_in_their_expectations_alone_are_the_same_to_it(tmp_path: Path) -> None:
    one = sent(scenario("sesame", SECRET, 0x5E, "rdmsr.id-as-stored"), tmp_path / "one")
    other = sent(scenario("barley", OTHER, 0x0D, "rdmsr.upper-half-from-page"), tmp_path / "other")
    assert one == other
    assert one.count(b'"message":"run"') == 3


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("secrets") / "one"
    return sent(scenario("sesame", SECRET, 0x5E, "rdmsr.id-as-stored"), folder)


@pytest.mark.parametrize(
    "secret", [f"{SECRET:x}", f"{SECRET:X}", str(SECRET), "sesame", "rdmsr.", "entry.", "expect", "title"]
)
def test_nothing_of_an_expectation_and_no_name_is_in_it(secret: str, everything: bytes) -> None:
    assert len(everything) > 5000
    assert secret.encode() not in everything


def test_what_makes_the_lines_takes_a_program_and_nothing_else() -> None:
    assert [p.annotation for p in inspect.signature(asks.Asks.body).parameters.values()][1:] == ["Program"]
    assert list(inspect.signature(asks.line).parameters) == ["seq", "left", "body"]
    source = inspect.getsource(asks)
    assert "runner.scenario" not in source
