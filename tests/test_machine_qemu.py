"""QEMU under the guest corpus: what convicts it when nothing is announced, and what it does right."""

from __future__ import annotations

from functools import cache

import pytest

from backends import Identity, subjects
from backends.kvm import Kvm
from backends.model import Model
from runner.judging import subject_file
from runner.judging.batch import Bench
from runner.judging.subject_file import SubjectFile
from runner.judging.verdict import Verdict
from runner.language.loading import SPECS, load_all, scenario_files
from runner.outcome import Answer, Unsupported
from runner.program import Program
from runner.rulebook import catalogue
from runner.scenario import Scenario

RULES = catalogue.load()


def said(name: str) -> SubjectFile:
    return subject_file.load(subject_file.find(name), RULES)


@cache
def scenarios(*places: str) -> tuple[Scenario, ...]:
    return load_all(scenario_files([SPECS / "guest" / place for place in places]))


def verdicts(name: str, *places: str) -> dict[str, Verdict]:
    """Return the verdict of each case, with no deviation announced."""
    file = said(name)
    backend = subjects.backend(file.kind, file.name, file.start, file.needs, file.levels)
    who = backend.identity()
    assert isinstance(who, Identity), who
    cases = {
        f"{each.path.rpartition('/')[2]}::{case.id}": case
        for each in scenarios(*places)
        for case in each.cases
    }
    bench = Bench(backend.run, Model().run, RULES, (), who.capabilities)
    return dict(zip(cases, (each.verdict for each in bench.results([*cases.values()])), strict=True))


def of(found: dict[str, Verdict], verdict: Verdict) -> set[str]:
    return {case for case, each in found.items() if each is verdict}


def test_a_qemu_without_x2apic_is_convicted() -> None:
    found = verdicts("qemu-tcg", "register-map/outside-x2apic-mode.yaml", "modes/transitions.yaml")
    who = subjects.backend("machine", "qemu-tcg", said("qemu-tcg").start).identity()
    assert isinstance(who, Identity)
    if who.capabilities["x2apic"] == "true":
        assert not of(found, Verdict.DOES_NOT_CONFORM), "QEMU 9 or later: `qemu-10-tcg` is convicted"
        return
    convicting = of(found, Verdict.DOES_NOT_CONFORM)
    assert {"outside-x2apic-mode.yaml::no-reads", "outside-x2apic-mode.yaml::no-writes"} <= convicting
    assert {"transitions.yaml::without-x2apic", "transitions.yaml::xapic-to-x2apic"} <= convicting
    assert not of(found, Verdict.BROKEN)


def test_a_qemu_with_x2apic_is_convicted_of_its_reserved_bits_and_passes_what_it_does_right() -> None:
    found = verdicts("qemu-10-tcg", "reserved-bits", "eoi-and-priority")
    convicting = of(found, Verdict.DOES_NOT_CONFORM)
    assert {
        "tpr-eoi-esr.yaml::tpr-reserved",
        "tpr-eoi-esr.yaml::eoi-nonzero",
        "svr.yaml::reserved",
        "lvt.yaml::timer-reserved",
        "icr.yaml::reserved",
        "dcr-and-self-ipi.yaml::dcr-reserved",
        "dcr-and-self-ipi.yaml::self-ipi-reserved",
        "cr8.yaml::reserved-bits",
    } <= convicting
    assert {"tpr-eoi-esr.yaml::tpr-legal", "svr.yaml::legal", "lvt.yaml::timer-legal"} <= of(
        found, Verdict.CONFORMS
    )
    assert len(of(found, Verdict.CONFORMS)) > 2 * len(convicting)
    assert not of(found, Verdict.BROKEN)


def programs() -> list[Program]:
    """Accesses to registers: without VT-x under KVM, when an interrupt comes is another matter.

    EOI-broadcast suppression is there with the launcher's split interrupt chip, not with QEMU's.
    """
    files = ("reserved-bits/svr.yaml", "reserved-bits/dcr-and-self-ipi.yaml", "identity/own-id.yaml")
    cases = [case for each in scenarios(*files) for case in each.cases if "suppression" not in case.id]
    return [point.program for case in cases for point in case.points]


@pytest.mark.skipif(
    isinstance(Kvm().version(), Unsupported), reason="no /dev/kvm here: the launcher says why"
)
def test_qemu_with_kvm_agrees_with_the_launcher() -> None:
    asked = programs()
    answers: list[list[Answer]] = []
    for name in ("qemu-kvm", "kvm"):
        file = said(name)
        answers.append([*subjects.backend(file.kind, file.name, file.start).run(asked)])
    by_qemu, by_launcher = answers
    assert by_qemu == by_launcher
