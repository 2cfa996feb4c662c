"""Cases do not touch each other on a real machine: alone, shuffled, and after what a case leaves behind."""

from __future__ import annotations

import random

import pytest
from programs import DELIVERY, OPEN, TPR_ONLY, program

from backends import bochs, machine
from runner.apic import ApicMode
from runner.language.loading import ROOT, load_all, scenario_files
from runner.outcome import GP0, Completed, Observation
from runner.program import GuestState, Plain, Program, Raise, Rdmsr, Wrmsr
from runner.vmx import Blocking

SVR, LVT_TIMER = 0x80F, 0x832


@pytest.fixture(scope="module")
def subject() -> machine.ProbeBackend:
    return bochs.backend("bochs", {})


def corpus() -> list[Program]:
    """Return the first point of every case, and of every fortieth the others."""
    scenarios = load_all(scenario_files([ROOT / "specs"]))
    cases = [case for scenario in scenarios for case in scenario.cases]
    return [point.program for case in cases for point in (*case.points[:1], *case.points[7::40])]


def test_shuffled_batches_give_the_same_observations(subject: machine.ProbeBackend) -> None:
    programs = corpus()
    assert len(programs) > 10
    first = list(subject.run(programs))
    order = list(range(len(programs)))
    for seed in range(3):
        random.Random(seed).shuffle(order)  # noqa: S311 - no secret
        again = list(subject.run([programs[index] for index in order]))
        assert [again[order.index(index)] for index in range(len(programs))] == first


def test_every_case_alone_gives_the_same_observation(subject: machine.ProbeBackend) -> None:
    scenarios = load_all(scenario_files([ROOT / "specs"]))
    programs = [case.points[0].program for scenario in scenarios for case in scenario.cases]
    together = list(subject.run(programs))
    assert [next(subject.run([each])) for each in programs] == together


def test_a_passed_through_svr_write_does_not_reach_the_next_case(subject: machine.ProbeBackend) -> None:
    write = program(Wrmsr(SVR, 0x0FF), Wrmsr(LVT_TIMER, 0x10031), controls=TPR_ONLY)
    read = program(Rdmsr(SVR), Rdmsr(LVT_TIMER), controls=TPR_ONLY)
    first, second = subject.run([write, read])
    assert isinstance(first, Observation)
    assert isinstance(second, Observation)
    assert first.finals[0].physical == ((SVR, 0xFF), (LVT_TIMER, 0x10031))
    assert [step.outcomes for step in second.steps] == [(Completed(0x1FF),), (Completed(0x10000),)]


def test_a_physical_interrupt_left_pending_does_not_reach_the_next_case(
    subject: machine.ProbeBackend,
) -> None:
    leave = program(Wrmsr(0x83F, 0x41), controls=TPR_ONLY)
    look = program(Plain.NOP, Plain.NOP, controls=DELIVERY, guest=OPEN)
    first, second = subject.run([leave, look])
    assert isinstance(first, Observation)
    assert isinstance(second, Observation)
    assert first.finals[0].physical == ((0x822, 0x2),)
    assert [step.outcomes for step in second.steps] == [(Completed(),)] * 2


def test_an_interrupt_taken_by_the_guest_and_not_ended_does_not_reach_the_next_case(
    subject: machine.ProbeBackend,
) -> None:
    take = program(Raise(0x61), Plain.NOP, controls=TPR_ONLY, guest=OPEN)
    look = program(Rdmsr(0x80A), Rdmsr(0x813), controls=TPR_ONLY)
    first, second = subject.run([take, look])
    assert isinstance(first, Observation)
    assert isinstance(second, Observation)
    assert (0x813, 0x2) in first.finals[0].physical
    assert [step.outcomes for step in second.steps] == [(Completed(0),)] * 2


def test_blocking_by_nmi_does_not_reach_the_next_case(subject: machine.ProbeBackend) -> None:
    blocked = program(Plain.NOP, guest=GuestState(blocking=Blocking.NMI))
    plain = program(Plain.VMCALL)
    _, after = subject.run([blocked, plain])
    assert after == next(subject.run([plain]))


def test_apic_modes_in_any_order(subject: machine.ProbeBackend) -> None:
    modes = [ApicMode.DISABLED, ApicMode.XAPIC, ApicMode.X2APIC, ApicMode.DISABLED, ApicMode.XAPIC]
    answers = list(subject.run([program(Rdmsr(0x803), controls=TPR_ONLY, apic_mode=m) for m in modes]))
    faults = [isinstance(a, Observation) and a.steps[0].outcomes == (GP0,) for a in answers]
    assert faults == [mode is not ApicMode.X2APIC for mode in modes]
