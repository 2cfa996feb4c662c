"""The guest payload of the C starter kit, in a real guest: on KVM, wherever it is loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from runner.apic import ApicMode
from runner.judging import subject_file
from runner.language import loading
from runner.outcome import GP0, Completed, Observation, StepResult, Stuck, Unsupported
from runner.program import (
    Action,
    Cpuid,
    GuestState,
    Level,
    MmioRead,
    Plain,
    Program,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Setup,
    Step,
    WriteCr8,
    Wrmsr,
)
from runner.rulebook import catalogue

KIT = loading.ROOT / "backends" / "adapters" / "c"
PLACES = ("0x80000", "0x8fff0", "0x123450")
STI, NOP, HLT, SPIN, MOV_SS = Plain.STI, Plain.NOP, Plain.HLT, Plain.SPIN, Plain.MOV_SS
DONE = Completed()

pytestmark = pytest.mark.skipif(not Path("/dev/kvm").exists(), reason="this host has no /dev/kvm")


@cache
def adapter(place: str) -> AdapterBackend:
    said = subject_file.load(KIT / "payload" / "kvm-payload.yaml", catalogue.load())
    start = {**said.start, "command": [*said.start["command"], place]}
    return AdapterBackend(said.name, Command.of(said.name, start))


def perform(*actions: Action | Step, place: str = PLACES[0], **setup: object) -> tuple[StepResult, ...]:
    seen = observe(*actions, place=place, **setup)
    assert isinstance(seen, Observation), seen
    return seen.steps


def observe(*actions: Action | Step, place: str = PLACES[0], **setup: object) -> object:
    steps = tuple(action if isinstance(action, Step) else Step(action) for action in actions)
    (seen,) = adapter(place).run([Program(Level.GUEST, (Setup(**setup),), steps)])  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("place", PLACES)
def test_reads_writes_and_faults(place: str) -> None:
    """Values, MOV CR8 and #GP(0) are those of the guest's own instructions, wherever the payload lies."""
    seen = perform(
        Wrmsr(0x808, 0x57),
        Rdmsr(0x808),
        ReadCr8(),
        WriteCr8(0xA),
        Rdmsr(0x808, garbage=True),
        Rdmsr(0x80E),
        WriteCr8(0x10),
        Wrmsr(0x80F, 0x1EF),
        Rdmsr(0x80F),
        Cpuid(0xB),
        NOP,
        place=place,
    )
    values = [step.outcomes for step in seen]
    assert values[:9] == [
        (DONE,),
        (Completed(0x57),),
        (Completed(0x5),),
        (DONE,),
        (Completed(0xA0),),
        (GP0,),
        (GP0,),
        (DONE,),
        (Completed(0x1EF),),
    ]
    assert values[9][0].value >> 32 == 0  # type: ignore[union-attr] # its APIC ID
    assert values[10] == (DONE,)
    assert [step.physical for step in seen][:2] == [None, Completed(0)]


@pytest.mark.parametrize("place", PLACES)
def test_interrupts_and_their_handlers(place: str) -> None:
    """A handler's steps have results of their own; a wait ends with the interrupt."""
    handlers = ((0x51, (Step(Rdmsr(0x80F)), Step(Wrmsr(0x80B, 0)), Step(Rdmsr(0x80E)))),)
    seen = perform(Wrmsr(0x83F, 0x51), STI, SPIN, Rdmsr(0x808), place=place, handlers=handlers)
    (delivery,) = [taken for step in seen for taken in step.delivered]
    assert delivery.vector == 0x51
    assert [step.outcomes for step in delivery.steps] == [(Completed(0x1FF),), (DONE,), (GP0,)]
    assert [step.outcomes for step in seen] == [(DONE,), (DONE,), (DONE,), (Completed(0),)]


def test_a_handler_that_is_not_named_writes_eoi_or_nothing() -> None:
    for eoi in (True, False):
        seen = perform(Wrmsr(0x83F, 0x61), STI, SPIN, NOP, eoi=eoi)
        (delivery,) = [taken for step in seen for taken in step.delivered]
        assert [step.outcomes for step in delivery.steps] == [(DONE,)] * eoi


def test_an_interrupt_ends_hlt() -> None:
    seen = perform(Wrmsr(0x83F, 0x51), STI, HLT, Rdmsr(0x80F))
    assert [(each.vector, each.at) for step in seen for each in step.delivered] == [(0x51, 3)]
    assert [step.outcomes for step in seen] == [(DONE,), (DONE,), (DONE,), (Completed(0x1FF),)]


def test_a_guest_that_stays_halted_ends_its_case_alone() -> None:
    seen = perform(NOP, HLT, NOP)
    assert [step.outcomes for step in seen] == [(DONE,), (Stuck.STAYS_HALTED,), (Stuck.NOT_REACHED,)]
    assert perform(Rdmsr(0x80F))[0].outcomes == (Completed(0x1FF),)


@pytest.mark.parametrize(("mode", "value"), [(ApicMode.XAPIC, 0xFEE00900), (ApicMode.X2APIC, 0xFEE00D00)])
def test_the_mode_of_the_apic(mode: ApicMode, value: int) -> None:
    seen = perform(Rdmsr(0x1B), MOV_SS, NOP, SetApicBase(0xC00), Rdmsr(0x1B), Rdmsr(0x802), apic_mode=mode)
    assert seen[0].outcomes == (Completed(value),)
    assert [step.outcomes for step in seen[3:]] == [(DONE,), (Completed(0xFEE00D00),), (Completed(0),)]


def test_loads_from_the_page_in_xapic_mode() -> None:
    seen = perform(WriteCr8(5), MmioRead(0x80), MmioRead(0xF0), apic_mode=ApicMode.XAPIC)
    assert [step.outcomes for step in seen] == [(DONE,), (Completed(0x50),), (Completed(0x1FF),)]


def test_changed_registers_are_told_and_what_it_cannot_do_is_unsupported() -> None:
    seen = observe(Wrmsr(0x83F, 0x51), Wrmsr(0x83E, 0xB))
    assert isinstance(seen, Observation)
    assert seen.finals[0].physical == ((0x822, 0x20000), (0x83E, 0xB))
    refused = observe(Step(Rdmsr(0x802), cpl=3))
    assert isinstance(refused, Unsupported)
    assert "CPL 3" in refused.reason
    assert perform(NOP, guest=GuestState(interrupt_flag=True))[0].outcomes == (DONE,)
