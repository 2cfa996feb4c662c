"""Level guest on the real Bochs: what the probe does where no VM exit helps it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from programs import REGISTERS, page, program

from backends import bochs, machine
from runner.apic import ApicMode
from runner.outcome import BackendBroken, Completed, Delivery, Observation, Unsupported
from runner.program import (
    Action,
    Barrier,
    Cpuid,
    InitSipi,
    Level,
    MmioRead,
    Plain,
    Program,
    Rdmsr,
    SetApicBase,
    Setup,
    Step,
    Wrmsr,
)

TPR, SVR, LVT_CMCI, APIC_BASE = 0x808, 0x80F, 0x82F, 0x1B


@pytest.fixture(scope="module")
def subject() -> machine.ProbeBackend:
    return bochs.backend("bochs", {})


def guest(*actions: Action | Step, mode: ApicMode = ApicMode.X2APIC, count: int = 1) -> Program:
    steps = tuple(each if isinstance(each, Step) else Step(each) for each in actions)
    return Program(Level.GUEST, (Setup(apic_mode=mode),) * count, steps)


def values(answer: object) -> Iterator[int | None]:
    assert isinstance(answer, Observation), answer
    for step in answer.steps:
        for outcome in step.outcomes:
            if isinstance(outcome, Completed) and outcome.value is not None:
                yield outcome.value


def test_level_guest_runs_without_vmx(subject: machine.ProbeBackend) -> None:
    (answer,) = subject.run([guest(Wrmsr(0x83F, 0x51), Plain.STI, Plain.NOP, Plain.NOP)])
    assert isinstance(answer, Observation)
    assert [step.outcomes for step in answer.steps] == [(Completed(),)] * 4
    assert [step.delivered for step in answer.steps] == [(), (), (Delivery(0x51, 3),), ()]


def test_cpuid_gives_the_feature_words(subject: machine.ProbeBackend) -> None:
    features, topology = values(next(subject.run([guest(Cpuid(1), Cpuid(0xB))])))
    assert features is not None
    assert topology is not None
    assert (features >> 21 & 1, features >> 41 & 1, topology >> 32) == (1, 1, 0)


def test_the_registers_are_those_after_reset_whatever_a_case_does(subject: machine.ProbeBackend) -> None:
    changes = (Wrmsr(TPR, 0x57), Wrmsr(SVR, 0x1EF))
    first, second = subject.run([guest(*changes, Plain.DUMP_AT_RESET), guest(Plain.DUMP_AT_RESET)])
    assert isinstance(first, Observation)
    assert isinstance(second, Observation)
    registers = dict(first.finals[0].physical)
    assert (registers[APIC_BASE], registers[TPR], registers[SVR]) == (0xFEE00900, 0, 0xFF)
    assert first.finals == second.finals


def test_a_processor_that_is_started_again_goes_on_behind_its_hlt(subject: machine.ProbeBackend) -> None:
    ready, done = ([Step(Barrier(name), vcpu) for vcpu in (0, 1)] for name in ("ready", "done"))
    started = guest(
        Step(Wrmsr(0x835, 0x10051), 1),
        *ready,
        Step(InitSipi(1)),
        Step(Plain.HLT, 1),
        Step(MmioRead(0xF0), 1),
        *done,
        mode=ApicMode.XAPIC,
        count=2,
    )
    others = [guest(Step(Rdmsr(APIC_BASE), 1), mode=ApicMode.XAPIC, count=2)] * 2
    before, answer, after = subject.run([others[0], started, others[1]])
    assert list(values(answer)) == [0xFF]
    assert list(values(before)) == list(values(after)) == [0xFEE00800]


def test_a_disabled_apic_is_there_again_for_the_next_case(subject: machine.ProbeBackend) -> None:
    read = guest(Rdmsr(APIC_BASE))
    first, _, second = subject.run([read, guest(SetApicBase(0)), read])
    assert list(values(first)) == list(values(second)) == [0xFEE00D00]


def test_level_vmx_runs_after_level_guest(subject: machine.ProbeBackend) -> None:
    _, seen = subject.run([guest(Plain.NOP), program(Rdmsr(0x802), controls=REGISTERS, page=page(x20=0x7))])
    assert list(values(seen)) == [0x7]


def test_an_lvt_entry_that_is_not_counted_does_not_reach_the_next_case(subject: machine.ProbeBackend) -> None:
    first, second = subject.run([guest(Wrmsr(LVT_CMCI, 0x10051)), guest(Rdmsr(LVT_CMCI))])
    assert isinstance(first, Observation)
    assert list(values(second)) == [0x10000]


def test_a_guest_that_nobody_wakes_costs_its_own_answer(
    subject: machine.ProbeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bochs, "BOOT_SECONDS", 5.0)
    read = guest(Rdmsr(0x802))
    first, halted, last = subject.run([read, guest(Plain.HLT), read])
    assert isinstance(halted, BackendBroken)
    assert list(values(first)) == list(values(last)) == [0]


def test_a_processor_without_x2apic_lacks_it() -> None:
    penryn = bochs.backend("penryn", {"model": "core2_penryn_t9600"})
    lacks, runs = penryn.run([guest(Rdmsr(TPR)), guest(Cpuid(1), mode=ApicMode.XAPIC)])
    assert lacks == Unsupported("x2APIC mode: CPUID.01H:ECX[21] = 0")
    (features,) = values(runs)
    assert features is not None
    assert not features >> 21 & 1
