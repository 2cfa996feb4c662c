"""The emulated host with its boot: several virtual processors take turns on its one processor."""

from __future__ import annotations

import pytest

from backends.emulated import EmulatedHost, host
from backends.model import Model
from runner.judging.differences import disagreements
from runner.language.loading import ROOT, parse
from runner.outcome import Observation, Unsupported

HERE = host.Host(unpacked=True, apicv=True)
SAID = HERE.version()
pytestmark = pytest.mark.skipif(isinstance(SAID, Unsupported), reason=getattr(SAID, "reason", ""))

FILES = (
    "many-processors/page-nobody-set",
    "many-processors/own-pages",
    "many-processors/own-ids",
    "posted-ipi/taken",
    "posted-ipi/many-at-once",
)


def test_who_waits_with_if_0_lets_others_run() -> None:
    files = [f"specs/vmx/{name}.yaml" for name in FILES]
    cases = [case for file in files for case in parse(ROOT.joinpath(file).read_bytes(), file).cases]
    programs = [point.program for case in cases for point in case.points]
    assert {2, 3, 4, 8} == {len(program.vcpus) for program in programs}
    expected = list(Model().run(programs))
    seen = list(EmulatedHost("here", HERE).run(programs))
    for program, wanted, answer in zip(programs, expected, seen, strict=True):
        assert isinstance(wanted, Observation)
        assert isinstance(answer, Observation), answer
        assert not disagreements(program, wanted, answer)
