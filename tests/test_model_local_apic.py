"""The physical local APIC in its three modes, as passed-through accesses reach it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from modelled import DONE, OPEN, deliveries, final, last, observe, program, rules, setup, steps_of

from backends.model import Model
from backends.model.implementation import Implementation
from runner.apic import REGISTERS, ApicMode
from runner.outcome import GP0, Completed, Observation, Outcome, Unsupported, VmExit
from runner.program import (
    Action,
    Level,
    MmioRead,
    Plain,
    Program,
    Raise,
    Rdmsr,
    ReadCr8,
    Setup,
    Wrmsr,
)
from runner.vmx import MsrBitmap

NATIVE = "use-msr-bitmaps"
PLATFORM = Implementation(lvt_entries=6, directed_eoi=False, svr_bit_9=True)

WRITABLE = [register for register in REGISTERS if register.writable]
MISSING = [msr for msr in range(0x800, 0x900) if msr not in {register.msr for register in REGISTERS}]


def native(*actions: Action, mode: ApicMode = ApicMode.X2APIC) -> Outcome:
    return last(setup(NATIVE, apic_mode=mode), *actions)


def physical(*actions: Action) -> dict[int, int]:
    return dict(final(setup(NATIVE), *actions).physical)


def on(implementation: Implementation, action: Action) -> Outcome:
    asked = Program(Level.VMX, (setup(NATIVE),), steps_of([action]))
    (seen,) = Model(implementation).run([asked])
    assert isinstance(seen, Observation)
    return seen.steps[0].outcomes[0]


@pytest.mark.parametrize("msr", MISSING)
def test_a_missing_register_faults_without_an_esr_error(msr: int) -> None:
    assert native(Rdmsr(msr)) == native(Wrmsr(msr, 0)) == GP0
    assert native(Rdmsr(msr), Wrmsr(0x828, 0), Rdmsr(0x828)) == Completed(0)


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_each_register_can_be_read_and_written_as_its_table_says(register: object) -> None:
    msr, readable, writable = register.msr, register.readable, register.writable  # type: ignore[attr-defined]
    assert (native(Rdmsr(msr)) == GP0) is not readable
    value = 0x10000 if "LVT" in register.name else 0  # type: ignore[attr-defined]
    assert (native(Wrmsr(msr, value)) == GP0) is not writable
    for mode in (ApicMode.XAPIC, ApicMode.DISABLED):
        assert native(Rdmsr(msr), mode=mode) == native(Wrmsr(msr, value), mode=mode) == GP0


@pytest.mark.parametrize("register", WRITABLE, ids=lambda register: register.name)
def test_each_reserved_bit_faults_and_changes_nothing(register: object) -> None:
    reserved = register.reserved  # type: ignore[attr-defined]
    for bit in range(64):
        if reserved >> bit & 1:
            write = Wrmsr(register.msr, 1 << bit)  # type: ignore[attr-defined]
            assert native(write) == GP0, f"bit {bit}"
            assert physical(write) == {}


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        (Rdmsr(0x80C), "apic.no-remote-read"),
        (Rdmsr(0x80E), "apic.no-dfr"),
        (Wrmsr(0x831, 0), "apic.no-msr-831h"),
        (Rdmsr(0x840), "apic.msrs-without-register"),
        (Rdmsr(0x80B), "apic.eoi-accepts-only-zero"),
        (Rdmsr(0x83F), "apic.self-ipi-write-only"),
        (Wrmsr(0x802, 0), "apic.id-32-bits-read-only"),
        (Wrmsr(0x813, 0), "apic.isr-words-read-only"),
        (Wrmsr(0x81F, 0), "apic.tmr-words-read-only"),
        (Wrmsr(0x820, 0), "apic.irr-words-read-only"),
        (Wrmsr(0x839, 0), "apic.timer-counts"),
        (Wrmsr(0x808, 0x100), "apic.tpr-reserved-bits"),
        (Wrmsr(0x808, 1 << 32), "apic.wrmsr-upper-half-faults"),
        (Wrmsr(0x828, 1), "apic.esr-accepts-only-zero"),
        (Wrmsr(0x830, 1 << 63 | 1 << 20), "apic.icr-reserved-bits"),
        (Wrmsr(0x832, 0x60000), "apic.lvt-timer-layout"),
        (Wrmsr(0x835, 1 << 20), "apic.other-lvt-layouts"),
        (Wrmsr(0x83E, 4), "apic.divide-configuration-bits"),
        (Wrmsr(0x80F, 0x200), "apic.svr-bit-9-reserved"),
        (Wrmsr(0x80F, 0x400), "apic.svr-reserved-bits"),
    ],
)
def test_a_fault_names_its_rule(action: Action, rule: str) -> None:
    assert native(action) == GP0
    assert rule in rules(setup(NATIVE), action)


@pytest.mark.parametrize(
    ("msr", "value"),
    [(0x808, 0xFF), (0x80F, 0x1FF), (0x80F, 0x11FF), (0x832, 0x1_00FF), (0x832, 0x5_0031), (0x833, 0x1_0731),
     (0x835, 0x1_A731), (0x837, 0x1_00FE), (0x82F, 0x1_0731), (0x838, 0xFFFFFFFF), (0x83E, 0xB)],
)  # fmt: skip
def test_a_legal_value_reads_back(msr: int, value: int) -> None:
    assert native(Wrmsr(msr, value), Rdmsr(msr)) == Completed(value)


def test_read_only_lvt_bits_do_not_stick() -> None:
    assert native(Wrmsr(0x835, 0x15031), Rdmsr(0x835)) == Completed(0x10031)


def test_the_timer_mode_11b_is_reserved() -> None:
    assert native(Wrmsr(0x832, 0x70000)) == GP0


def test_what_depends_on_the_platform() -> None:
    assert (native(Wrmsr(0x80F, 0x3FF)), native(Rdmsr(0x82F))) == (GP0, Completed(0x10000))
    assert (on(PLATFORM, Wrmsr(0x80F, 0x3FF)), on(PLATFORM, Rdmsr(0x82F))) == (DONE, GP0)
    assert (native(Wrmsr(0x80F, 0x11FF)), on(PLATFORM, Wrmsr(0x80F, 0x11FF))) == (DONE, GP0)
    assert native(Rdmsr(0x803)) == Completed(0x01060015)
    assert on(PLATFORM, Rdmsr(0x803)) == Completed(0x00050015)


def test_ids() -> None:
    seen = _on_each(18, Rdmsr(0x802), Rdmsr(0x80D))
    assert [step.outcomes[0] for step in seen.steps[-2:]] == [Completed(17), Completed(1 << 16 | 1 << 1)]


def _on_each(vcpus: int, *actions: Action) -> Observation:
    steps = [step for vcpu in range(vcpus) for step in steps_of(actions, vcpu)]
    (seen,) = Model().run([Program(Level.VMX, (setup(NATIVE),) * vcpus, tuple(steps))])
    assert isinstance(seen, Observation)
    return seen


def test_cr8_and_the_tpr_are_the_same_state() -> None:
    assert native(Wrmsr(0x808, 0xA7), ReadCr8()) == Completed(0xA)


@pytest.mark.parametrize(("tpr", "ppr"), [(0x25, 0x25), (0xF3, 0xF3), (0x10, 0x10)])
def test_ppr_follows_tpr_with_nothing_in_service(tpr: int, ppr: int) -> None:
    assert native(Wrmsr(0x808, tpr), Rdmsr(0x80A)) == Completed(ppr)


def in_service(vector: int, *actions: Action) -> Observation:
    return observe(setup(NATIVE, guest=OPEN), Raise(vector), Plain.NOP, *actions)


def test_ppr_follows_the_interrupt_in_service() -> None:
    assert in_service(0x61, Rdmsr(0x80A)).steps[-1].outcomes == (Completed(0x60),)
    assert in_service(0x61, Wrmsr(0x808, 0x65), Rdmsr(0x80A)).steps[-1].outcomes == (Completed(0x65),)
    assert in_service(0x61, Wrmsr(0x808, 0x75), Rdmsr(0x80A)).steps[-1].outcomes == (Completed(0x75),)


def test_eoi_retires_the_highest_vector_in_service() -> None:
    seen = observe(setup(NATIVE, guest=OPEN), Raise(0x41), Plain.NOP, Raise(0x61), Wrmsr(0x80B, 0))
    assert dict(seen.finals[0].physical) == {}
    two = observe(
        setup(NATIVE, guest=OPEN), Raise(0x41), Plain.VMCALL, Raise(0x61), Wrmsr(0x808, 0), Wrmsr(0x80B, 0)
    )
    assert dict(two.finals[0].physical) == {0x812: 1 << 1}


def test_a_self_ipi_is_in_irr_at_once_and_waits_for_the_tpr() -> None:
    assert native(Wrmsr(0x83F, 0x51), Rdmsr(0x822)) == Completed(1 << 0x11)
    held = observe(setup(NATIVE, guest=OPEN), Wrmsr(0x808, 0x50), Wrmsr(0x83F, 0x51), Wrmsr(0x808, 0x40))
    assert deliveries(held) == [[], [], [(0x51, 3)]]


@pytest.mark.parametrize("action", [Wrmsr(0x83F, 5), Wrmsr(0x830, 0x40005)])
def test_an_illegal_vector_is_an_error_and_no_interrupt(action: Action) -> None:
    assert native(action, Rdmsr(0x828)) == Completed(0)
    assert native(action, Wrmsr(0x828, 0), Rdmsr(0x828)) == Completed(0x60)
    assert native(action, Wrmsr(0x828, 0), Wrmsr(0x828, 0), Rdmsr(0x828)) == Completed(0)
    assert 0x820 not in physical(action)


def test_vector_16_is_legal() -> None:
    assert native(Wrmsr(0x83F, 0x10), Wrmsr(0x828, 0), Rdmsr(0x828)) == Completed(0)
    assert native(Wrmsr(0x83F, 0x10), Rdmsr(0x820)) == Completed(0x10000)


def test_a_self_ipi_reaches_nobody_else() -> None:
    (seen,) = Model().run([Program(Level.VMX, (setup(NATIVE),) * 3, steps_of([Wrmsr(0x83F, 0x51)], 1))])
    assert isinstance(seen, Observation)
    assert [bool(final.physical) for final in seen.finals] == [False, True, False]


def test_software_disable_masks_the_lvts_and_refuses_interrupts() -> None:
    off = Wrmsr(0x80F, 0xFF)
    assert native(Wrmsr(0x835, 0x31), off, Rdmsr(0x835)) == Completed(0x10031)
    assert native(off, Wrmsr(0x835, 0x31), Rdmsr(0x835)) == Completed(0x10031)
    assert native(off, Wrmsr(0x83F, 0x51), Rdmsr(0x822)) == Completed(0)
    assert native(Wrmsr(0x83F, 0x51), off, Rdmsr(0x822)) == Completed(1 << 0x11)


def test_the_timer_counts() -> None:
    assert native(Wrmsr(0x838, 0x1000), Rdmsr(0x838)) == Completed(0x1000)
    assert native(Wrmsr(0x838, 1), Rdmsr(0x838)) == Completed(1)
    assert native(Wrmsr(0x838, 0x1000), Wrmsr(0x838, 0), Rdmsr(0x839)) == Completed(0)
    deadline = Wrmsr(0x832, 0x50000)
    assert native(deadline, Wrmsr(0x838, 0x1000), Rdmsr(0x839)) == Completed(0)
    assert native(deadline, Wrmsr(0x838, 0x1000), Rdmsr(0x838)) == Completed(0)
    assert native(deadline, Wrmsr(0x6E0, 99), Rdmsr(0x6E0)) == Completed(99)
    assert native(Wrmsr(0x6E0, 99), Rdmsr(0x6E0)) == Completed(0)


def test_the_timer_interrupts_a_guest_that_waits() -> None:
    arm = (Wrmsr(0x832, 0xE1), Wrmsr(0x838, 0x2000))
    halted = observe(setup(NATIVE, guest=OPEN), *arm, Plain.HLT, Rdmsr(0x839), Rdmsr(0x838))
    assert deliveries(halted) == [[], [], [(0xE1, 3)], [], []]
    assert [step.outcomes[0] for step in halted.steps[3:]] == [Completed(0), Completed(0x2000)]
    spinning = observe(setup(NATIVE, guest=OPEN), *arm, Plain.SPIN)
    assert deliveries(spinning)[2] == [(0xE1, 2)]
    masked = observe(setup(NATIVE, guest=OPEN), Wrmsr(0x838, 0x2000), Plain.SPIN, Rdmsr(0x839))
    assert (deliveries(masked)[1], masked.steps[2].outcomes) == ([], (Completed(0),))
    disabled = observe(setup(NATIVE, guest=OPEN), *arm, Wrmsr(0x1B, OFF), Wrmsr(0x1B, X), Plain.SPIN)
    assert deliveries(disabled)[4] == []
    stopped = observe(setup(NATIVE, guest=OPEN), *arm, Wrmsr(0x838, 0), Plain.SPIN)
    assert deliveries(stopped)[3] == []


def test_the_icr_ignores_bit_12() -> None:
    assert native(Wrmsr(0x830, 0x45051), Rdmsr(0x822)) == Completed(1 << 0x11)


@pytest.mark.parametrize(
    ("command", "targets"),
    [
        (0x51 | 0x40000, {0}),
        (0x51 | 0x80000, {0, 1, 2}),
        (0x51 | 0xC0000, {1, 2}),
        (0x51 | 1 << 32, {1}),
        (0x51 | 0xFFFFFFFF << 32, {0, 1, 2}),
        (0x51 | 0x800 | 0x6 << 32, {1, 2}),
        (0x51 | 0x800 | 0x1_0001 << 32, set()),
        (0x51 | 0x800 | 0xFFFFFFFF << 32, {0, 1, 2}),
        (0x51 | 9 << 32, set()),
    ],
)
def test_an_ipi_reaches_its_destinations(command: int, targets: set[int]) -> None:
    setups: Sequence[Setup] = (setup(NATIVE),) * 3
    (seen,) = Model().run([Program(Level.VMX, tuple(setups), steps_of([Wrmsr(0x830, command)]))])
    assert isinstance(seen, Observation)
    reached = {index for index, after in enumerate(seen.finals) if dict(after.physical).get(0x822)}
    assert reached == targets


# IA32_APIC_BASE

BASE = 0xFEE00100
X, X2, OFF, INVALID = BASE | 0x800, BASE | 0xC00, BASE, BASE | 0x400


@pytest.mark.parametrize(
    ("mode", "value", "outcome"),
    [
        (ApicMode.DISABLED, X, DONE), (ApicMode.DISABLED, X2, GP0), (ApicMode.DISABLED, INVALID, GP0),
        (ApicMode.DISABLED, OFF, DONE), (ApicMode.XAPIC, X2, DONE), (ApicMode.XAPIC, OFF, DONE),
        (ApicMode.XAPIC, INVALID, GP0), (ApicMode.XAPIC, X, DONE), (ApicMode.X2APIC, OFF, DONE),
        (ApicMode.X2APIC, X, GP0), (ApicMode.X2APIC, INVALID, GP0), (ApicMode.X2APIC, X2, DONE),
    ],
)  # fmt: skip
def test_transitions_between_modes(mode: ApicMode, value: int, outcome: Outcome) -> None:
    assert native(Wrmsr(0x1B, value), mode=mode) == outcome
    kept = native(Rdmsr(0x1B), mode=mode)
    after = native(Wrmsr(0x1B, value), Rdmsr(0x1B), mode=mode)
    assert after == (Completed(value) if outcome == DONE else kept)


@pytest.mark.parametrize("bit", [0, 7, 9, 46, 63])
def test_reserved_bits_of_apic_base_fault(bit: int) -> None:
    assert native(Wrmsr(0x1B, X2 | 1 << bit)) == GP0


def test_a_new_mode_is_all_that_the_final_state_says() -> None:
    assert physical(Wrmsr(0x1B, OFF)) == {0x1B: OFF}
    assert physical(Wrmsr(0x1B, OFF), Wrmsr(0x1B, X), Wrmsr(0x1B, X2)) == {0x80F: 0xFF}


def test_leaving_x2apic_mode_loses_the_registers_and_entering_keeps_them() -> None:
    assert native(
        Wrmsr(0x808, 0x20), Wrmsr(0x1B, OFF), Wrmsr(0x1B, X), Wrmsr(0x1B, X2), Rdmsr(0x808)
    ) == Completed(0)
    assert native(Wrmsr(0x1B, X2), Rdmsr(0x80F), mode=ApicMode.XAPIC) == Completed(0x1FF)
    assert native(Wrmsr(0x1B, X2), Rdmsr(0x80D), mode=ApicMode.XAPIC) == Completed(1)


def test_apic_base_follows_the_msr_bitmap_alone() -> None:
    one = setup(NATIVE, msr_bitmap=MsrBitmap(writes=((0x1B, 0x1B),)))
    assert last(one, Wrmsr(0x1B, OFF)) == VmExit(32, instruction_length=2)
    assert final(one, Wrmsr(0x1B, OFF)).physical == ()


# Memory-mapped reads


def test_only_an_apic_in_xapic_mode_answers_a_load() -> None:
    assert native(MmioRead(0x30), mode=ApicMode.XAPIC) == Completed(0x01060015)
    for mode in (ApicMode.X2APIC, ApicMode.DISABLED):
        assert native(MmioRead(0x30), mode=mode) == Completed(0xFFFFFFFF)
    (seen,) = Model().run(
        [Program(Level.VMX, (setup(NATIVE, apic_mode=ApicMode.XAPIC),) * 2, steps_of([MmioRead(0x20)], 1))]
    )
    assert isinstance(seen, Observation)
    assert seen.steps[0].outcomes == (Completed(1 << 24),)
    for offset in (0xB0, 0x34, 0x400):
        (seen,) = Model().run([program(setup(NATIVE, apic_mode=ApicMode.XAPIC), MmioRead(offset))])
        assert isinstance(seen, Unsupported)


@pytest.mark.parametrize("mode", [ApicMode.XAPIC, ApicMode.DISABLED])
def test_a_raised_interrupt_comes_in_xapic_mode_and_not_while_disabled(mode: ApicMode) -> None:
    seen = observe(setup(NATIVE, guest=OPEN, apic_mode=mode), Raise(0x51), Plain.NOP)
    assert deliveries(seen)[0] == ([(0x51, 1)] if mode is ApicMode.XAPIC else [])


# Level guest


def test_level_guest_reaches_the_local_apic() -> None:
    asked = Program(
        Level.GUEST, (Setup(),), steps_of([Wrmsr(0x808, 0x30), Rdmsr(0x808), Rdmsr(0x80E), Rdmsr(0x1B)])
    )
    (seen,) = Model().run([asked])
    assert isinstance(seen, Observation)
    values = [step.outcomes[0] for step in seen.steps]
    assert values == [DONE, Completed(0x30), GP0, Completed(0xFEE00D00)]
