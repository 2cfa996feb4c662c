"""The model at level guest: processors and their local APICs, without VMX."""

from __future__ import annotations

import pytest
from modelled import OPEN, answer, delivered, steps_of

from backends.model import Model
from runner.apic import ApicMode
from runner.outcome import GP0, Completed, Delivery, Observation, Stuck, Unsupported
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
    ReadCr8,
    SetApicBase,
    Setup,
    Step,
    WriteCr8,
    Wrmsr,
)

APIC_BASE, APICID, TPR, PPR, SVR, ESR, ICR, SELF_IPI = 0x1B, 0x802, 0x808, 0x80A, 0x80F, 0x828, 0x830, 0x83F
COMPLETED = Completed()
QUIET = Setup()
BUSY = Setup(guest=OPEN, eoi=True)


def guest(*actions: Action | Step, setup: Setup = QUIET, count: int = 1) -> Observation:
    return answer(Program(Level.GUEST, (setup,) * count, steps_of(actions)))


def outcomes(seen: Observation) -> list[object]:
    return [outcome for step in seen.steps for outcome in step.outcomes]


def everybody(name: str, count: int) -> list[Step]:
    return [Step(Barrier(name), vcpu) for vcpu in range(count)]


def test_an_interrupt_goes_through_the_guests_idt() -> None:
    seen = guest(Wrmsr(SELF_IPI, 0x51), Rdmsr(PPR), setup=BUSY)
    assert delivered(seen.steps[0]) == [(0x51, 1)]
    assert outcomes(seen) == [COMPLETED, Completed(0)]


def test_sti_holds_for_one_instruction() -> None:
    seen = guest(Wrmsr(SELF_IPI, 0x51), Plain.STI, Plain.NOP, Plain.NOP)
    assert [delivered(step) for step in seen.steps] == [[], [], [(0x51, 3)], []]


def test_a_handler_nests() -> None:
    inner = (Step(Wrmsr(SELF_IPI, 0x61)), Step(Plain.STI), Step(Rdmsr(PPR)))
    seen = guest(Wrmsr(SELF_IPI, 0x51), setup=Setup(guest=OPEN, handlers=((0x51, inner),)))
    (outer,) = seen.steps[0].delivered
    assert [step.outcomes for step in outer.steps] == [(COMPLETED,), (COMPLETED,), (Completed(0x50),)]
    assert outer.steps[2].delivered == (Delivery(0x61, 3),)


def test_hlt_ends_with_an_ipi_of_another_processor() -> None:
    steps = [Step(Plain.STI, 1), Step(Plain.HLT, 1), Step(Wrmsr(ICR, 0x1_00004051), 0)]
    seen = guest(*steps, count=2)
    assert delivered(seen.steps[1]) == [(0x51, 3)]


def test_hlt_without_an_interrupt_stays() -> None:
    seen = guest(Plain.HLT, Plain.NOP)
    assert outcomes(seen) == [Stuck.STAYS_HALTED, Stuck.NOT_REACHED]


@pytest.mark.parametrize(
    ("command", "receivers"),
    [
        (0x1_00004051, [1]),
        (0x5_00004851, [0, 2]),
        (0xFFFFFFFF_00004051, [0, 1, 2]),
        (0xFFFFFFFF_00004851, [0, 1, 2]),
        (0xFF_00004051, []),
        (0x44051, [0]),
        (0x84051, [0, 1, 2]),
        (0xC4051, [1, 2]),
    ],
)
def test_an_ipi_reaches_whom_it_names(command: int, receivers: list[int]) -> None:
    reads = [Step(Rdmsr(0x822), vcpu) for vcpu in range(3)]
    seen = guest(*everybody("ready", 3), Step(Wrmsr(ICR, command)), *everybody("sent", 3), *reads, count=3)
    values = [step.outcomes for step in seen.steps[-3:]]
    assert [vcpu for vcpu in range(3) if values[vcpu] == (Completed(0x20000),)] == receivers


@pytest.mark.parametrize("action", [Rdmsr(APICID), Wrmsr(TPR, 0), ReadCr8(), WriteCr8(0), Rdmsr(APIC_BASE)])
def test_privileged_instructions_fault_at_cpl_3(action: Action) -> None:
    assert outcomes(guest(Step(action, cpl=3))) == [GP0]


def test_cr8_is_the_class_of_the_tpr() -> None:
    seen = guest(WriteCr8(5), Rdmsr(TPR), Wrmsr(TPR, 0xA7), ReadCr8(), WriteCr8(0x10), Rdmsr(TPR))
    assert outcomes(seen) == [COMPLETED, Completed(0x50), COMPLETED, Completed(0xA), GP0, Completed(0xA7)]


def test_mode_bits_go_over_the_address_and_other_numbers_replace_it() -> None:
    seen = guest(SetApicBase(0x400), SetApicBase(0), Rdmsr(APIC_BASE), Cpuid(1), Cpuid(0x10))
    assert outcomes(seen) == [GP0, COMPLETED, Completed(0xFEE00100), Completed(1 << 21), COMPLETED]
    moved = guest(SetApicBase(0xFED00D00), Rdmsr(APIC_BASE))
    assert outcomes(moved) == [COMPLETED, Completed(0xFED00D00)]


def test_cpuid_says_that_there_is_an_apic_and_whose() -> None:
    seen = guest(Step(Cpuid(1), 1), Step(Cpuid(0xB), 1), count=2)
    assert outcomes(seen) == [Completed(1 << 41 | 1 << 21), Completed(1 << 32)]


def test_loads_reach_the_apic_in_xapic_mode_only() -> None:
    load = (WriteCr8(0x5), MmioRead(0x80))
    assert outcomes(guest(*load, setup=Setup(apic_mode=ApicMode.XAPIC)))[1] == Completed(0x50)
    assert outcomes(guest(*load))[1] == Completed(0xFFFFFFFF)


def test_the_registers_after_reset() -> None:
    registers = dict(guest(Wrmsr(TPR, 0x50), Plain.DUMP_AT_RESET).finals[0].physical)
    assert (registers[APIC_BASE], registers[SVR], registers[TPR]) == (0xFEE00900, 0xFF, 0)
    assert {registers[lvt] for lvt in range(0x832, 0x838)} == {0x10000}


@pytest.mark.parametrize("mode", [ApicMode.X2APIC, ApicMode.XAPIC])
def test_init_keeps_the_mode_and_leads_behind_hlt(mode: ApicMode) -> None:
    steps = [
        Step(WriteCr8(5), 1),
        *everybody("ready", 2),
        Step(InitSipi(1), 0),
        Step(Plain.HLT, 1),
        Step(ReadCr8(), 1),
        Step(Rdmsr(APIC_BASE), 1),
    ]
    seen = guest(*steps, setup=Setup(apic_mode=mode, guest=OPEN), count=2)
    base = 0xFEE00C00 if mode is ApicMode.X2APIC else 0xFEE00800
    assert outcomes(seen)[-3:] == [COMPLETED, Completed(0), Completed(base)]


def test_init_does_not_find_a_processor_elsewhere() -> None:
    steps = (Step(InitSipi(1), 0), Step(Plain.NOP, 1), Step(Plain.HLT, 1))
    (seen,) = Model().run([Program(Level.GUEST, (Setup(),) * 2, steps)])
    assert isinstance(seen, Unsupported)


def test_an_illegal_vector_waits_for_the_latch() -> None:
    seen = guest(Wrmsr(SELF_IPI, 0x5), Rdmsr(ESR), Wrmsr(ESR, 0), Rdmsr(ESR), Wrmsr(ESR, 0), Rdmsr(ESR))
    assert outcomes(seen)[1::2] == [Completed(0), Completed(0x60), Completed(0)]
