"""RDMSR and WRMSR of 800H-8FFH in every combination of the three controls."""

from __future__ import annotations

import pytest
from modelled import DELIVERY, DONE, REGISTERS, TPR_ONLY, final, last, observe, page, setup, words_after

from runner.apic import ApicMode, Fill, tag
from runner.outcome import GP0, Completed, Rip, VmExit
from runner.program import GuestState, Rdmsr, Setup, Wrmsr
from runner.vmx import Blocking, MsrBitmap

PHYSICAL = "use-msr-bitmaps"
TAGGED = page(fill=Fill.TAGGED, tpr=0x25)
MODES = list(ApicMode)
WITHOUT_X2APIC = f"{DELIVERY} -virtualize-x2apic-mode"


def from_page(offset: int) -> Completed:
    return Completed(TAGGED.qword(offset))


def read(names: str, msr: int, mode: ApicMode = ApicMode.X2APIC) -> object:
    return last(setup(names, page=TAGGED, apic_mode=mode), Rdmsr(msr))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("msr", range(0x800, 0x900))
def test_register_virtualization_reads_eight_bytes_of_the_page(msr: int, mode: ApicMode) -> None:
    assert read(REGISTERS, msr, mode) == from_page((msr & 0xFF) << 4)


def test_the_upper_half_comes_from_the_page() -> None:
    one = setup(REGISTERS, page=page({0x20: 0x3, 0x24: 0xABCD0001}))
    assert last(one, Rdmsr(0x802)) == Completed(0xABCD0001_00000003)


def test_the_icr_is_one_64_bit_value_at_300h() -> None:
    one = setup(REGISTERS, page=page({0x300: 0x11111111, 0x304: 0x22222222, 0x310: 0x33333333}))
    assert last(one, Rdmsr(0x830)) == Completed(0x22222222_11111111)
    assert last(one, Rdmsr(0x831)) == Completed(0x33333333)


@pytest.mark.parametrize("mode", MODES)
def test_without_register_virtualization_the_tpr_alone_is_read_from_the_page(mode: ApicMode) -> None:
    assert read(TPR_ONLY, 0x808, mode) == Completed(tag(0x84) << 32 | 0x25)
    others = [read(TPR_ONLY, msr, mode) for msr in (0x802, 0x80A, 0x830)]
    x2apic = mode is ApicMode.X2APIC
    assert others == ([Completed(0)] * 3 if x2apic else [GP0] * 3)


@pytest.mark.parametrize("msr", [0x80B, 0x80E, 0x80C, 0x831, 0x83F, 0x840, 0x8FF])
def test_a_physical_register_that_cannot_be_read_faults(msr: int) -> None:
    assert read(TPR_ONLY, msr) == GP0
    assert read(WITHOUT_X2APIC, msr) == GP0


def test_without_virtualize_x2apic_mode_the_other_controls_change_nothing() -> None:
    assert read(WITHOUT_X2APIC, 0x808) == Completed(0)
    one = setup(WITHOUT_X2APIC, page=TAGGED)
    after = final(one, Wrmsr(0x808, 0x30), Wrmsr(0x83F, 0x51))
    assert dict(after.physical) == {0x808: 0x30, 0x822: 1 << 0x11}
    assert dict(after.page) == {0xA0: 0x25}  # PPR virtualization of VM entry


def test_inactive_secondary_controls_leave_the_physical_apic() -> None:
    names = f"{REGISTERS} virtual-interrupt-delivery -activate-secondary-controls"
    one = setup(names, page=TAGGED)
    assert last(one, Rdmsr(0x802)) == Completed(0)
    assert dict(final(one, Wrmsr(0x808, 0x30)).physical) == {0x808: 0x30}


@pytest.mark.parametrize("msr", [0x7FF, 0x900, 0x1802, 0xC0000802])
def test_the_range_ends_at_800h_and_8ffh(msr: int) -> None:
    assert read(REGISTERS, msr) == GP0
    assert last(setup(REGISTERS), Wrmsr(msr, 0)) == GP0


@pytest.mark.parametrize("mode", MODES)
def test_what_root_operation_reads_stands_beside_each_rdmsr(mode: ApicMode) -> None:
    x2apic = mode is ApicMode.X2APIC
    apic_base = {ApicMode.X2APIC: 0xFEE00D00, ApicMode.XAPIC: 0xFEE00900, ApicMode.DISABLED: 0xFEE00100}[mode]
    expected = {
        0x803: Completed(0x01060015) if x2apic else GP0,
        0x80E: GP0,
        0x1B: Completed(apic_base),
        0x6E0: Completed(0),
        0x900: GP0,
        0x2000: GP0,
    }
    seen = observe(setup(REGISTERS, page=TAGGED, apic_mode=mode), Wrmsr(0x808, 0x10), *map(Rdmsr, expected))
    assert {step.physical for step in seen.steps[:1]} == {None}
    assert [step.physical for step in seen.steps[1:]] == list(expected.values())
    unknown = observe(setup(REGISTERS, msr_bitmap=MsrBitmap(reads=((0x10, 0x10),))), Rdmsr(0x10))
    assert unknown.steps[0].physical is None


def test_apic_base_and_tsc_deadline_are_the_processors() -> None:
    assert read(REGISTERS, 0x1B) == Completed(0xFEE00D00)
    assert read(REGISTERS, 0x6E0) == Completed(0)


def test_reading_has_no_side_effect() -> None:
    one = setup(DELIVERY, page=page(fill=Fill.TAGGED, ppr=0), rvi=0x1, svi=0x2)
    after = final(one, *(Rdmsr(msr) for msr in range(0x800, 0x900)))
    assert (after.page, after.rvi, after.svi, after.physical) == ((), 1, 2, ())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [TPR_ONLY, REGISTERS, DELIVERY])
def test_wrmsr_of_the_tpr_is_always_virtualized_and_stores_eight_bytes(names: str, mode: ApicMode) -> None:
    one = setup(names, page=page({0x84: 0xFFFFFFFF, 0x88: 0x77}), apic_mode=mode)
    after = final(one, Wrmsr(0x808, 0x57))
    expected = {0x80: 0x57, 0x84: 0} | ({0xA0: 0x57} if names == DELIVERY else {})
    assert (dict(after.page), after.physical) == (expected, ())
    assert last(one, Wrmsr(0x808, 0xFF), Rdmsr(0x808)) == Completed(0xFF)


@pytest.mark.parametrize("value", [0x100, 1 << 31, 1 << 32, 0xFFFFFFFF_00000000])
@pytest.mark.parametrize("msr", [0x808, 0x83F])
def test_reserved_bits_of_tpr_and_self_ipi_fault_before_anything_is_stored(msr: int, value: int) -> None:
    one = setup(DELIVERY, page=page(fill=Fill.TAGGED, tpr=0x40, ppr=0x40))
    assert last(one, Wrmsr(msr, value)) == GP0
    assert words_after(one, Wrmsr(msr, value)) == {}


@pytest.mark.parametrize("value", [1, 0x100, 1 << 32])
def test_a_non_zero_eoi_faults_and_changes_nothing(value: int) -> None:
    one = setup(DELIVERY, page=page(isr=[0x61], ppr=0x60), svi=0x61, eoi_exit_bitmap=frozenset([0x61]))
    assert last(one, Wrmsr(0x80B, value)) == GP0
    after = final(one, Wrmsr(0x80B, value))
    assert (after.page, after.svi) == ((), 0x61)


@pytest.mark.parametrize("mode", MODES)
def test_eoi_and_self_ipi_are_virtualized_in_every_apic_mode(mode: ApicMode) -> None:
    one = setup(DELIVERY, page=page({0xB0: 5, 0xB4: 6, 0x3F4: 7}), apic_mode=mode)
    after = final(one, Wrmsr(0x80B, 0), Wrmsr(0x83F, 0x51))
    assert dict(after.page) == {0xB0: 0, 0xB4: 0, 0x220: 1 << 0x11, 0x3F0: 0x51, 0x3F4: 0}
    assert (after.rvi, after.physical) == (0x51, ())


def test_without_delivery_eoi_and_self_ipi_are_physical() -> None:
    after = final(setup(REGISTERS), Wrmsr(0x80B, 0), Wrmsr(0x83F, 0x51))
    assert (after.page, dict(after.physical), after.rvi) == ((), {0x822: 1 << 0x11}, 0)
    for mode in (ApicMode.XAPIC, ApicMode.DISABLED):
        assert last(setup(REGISTERS, apic_mode=mode), Wrmsr(0x80B, 0)) == GP0
        assert last(setup(REGISTERS, apic_mode=mode), Wrmsr(0x83F, 0x51)) == GP0


@pytest.mark.parametrize("vector", range(16))
def test_a_self_ipi_below_16_causes_an_apic_write_exit(vector: int) -> None:
    one = setup(DELIVERY)
    seen = observe(one, Wrmsr(0x83F, vector))
    assert seen.steps[0].outcomes == (VmExit(56, 0x3F0, rip=Rip.NEXT),)
    assert (dict(seen.finals[0].page), seen.finals[0].rvi) == ({0x3F0: vector} if vector else {}, 0)


@pytest.mark.parametrize(
    ("msr", "value"),
    [(0x80F, 0x12F), (0x832, 0x10031), (0x835, 0x10700), (0x837, 0x100FE), (0x838, 0x1000), (0x83E, 0xB)],
)
@pytest.mark.parametrize("names", [PHYSICAL, TPR_ONLY, REGISTERS, DELIVERY])
def test_other_registers_are_never_virtualized(names: str, msr: int, value: int) -> None:
    one = setup(names, page=page(fill=Fill.TAGGED, ppr=0))
    after = final(one, Wrmsr(msr, value))
    assert (after.page, dict(after.physical)) == ((), {msr: value})
    xapic = setup(names, page=page(fill=Fill.TAGGED, ppr=0), apic_mode=ApicMode.XAPIC)
    assert last(xapic, Wrmsr(msr, value)) == GP0


@pytest.mark.parametrize(
    "msr", [0x802, 0x803, 0x80A, 0x80D, 0x810, 0x81F, 0x827, 0x839, 0x80E, 0x831, 0x840, 0x8FF]
)
def test_writing_what_cannot_be_written_faults_though_it_reads_from_the_page(msr: int) -> None:
    one = setup(REGISTERS, page=TAGGED)
    assert last(one, Wrmsr(msr, 0)) == GP0
    assert last(one, Rdmsr(msr)) == from_page((msr & 0xFF) << 4)


def test_the_icr_is_physical_without_ipi_virtualization() -> None:
    after = final(setup(DELIVERY), Wrmsr(0x830, 0x400F1))
    assert after.page == ()
    assert dict(after.physical) == {0x827: 1 << 0x11}


@pytest.mark.parametrize("names", [TPR_ONLY, DELIVERY])
def test_a_virtualized_write_leaves_the_physical_apic_alone(names: str) -> None:
    assert final(setup(names), Wrmsr(0x808, 0xF0)).physical == ()


def test_trap_like_exits_end_blocking() -> None:
    blocked = GuestState(interrupt_flag=True, blocking=Blocking.STI)
    one: Setup = setup(DELIVERY, guest=blocked)
    assert last(one, Wrmsr(0x83F, 5)) == VmExit(56, 0x3F0, rip=Rip.NEXT, blocking=Blocking(0))
    assert last(one, Wrmsr(0x808, 0)) == DONE
