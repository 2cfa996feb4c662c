"""MSR bitmaps, and what comes before and after them: CPL, missing registers, reserved bits."""

from __future__ import annotations

import pytest
from modelled import DELIVERY, DONE, REGISTERS, final, last, observe, page, rules, setup

from runner.outcome import GP0, Completed, Rip, VmExit
from runner.program import Action, GuestState, Rdmsr, ReadCr8, Step, Vmm, WriteCr8, Wrmsr
from runner.vmx import Blocking, MsrBitmap

READS = MsrBitmap(reads=((0x800, 0x8FF),))
WRITES = MsrBitmap(writes=((0x800, 0x8FF),))
RDMSR_EXIT = VmExit(31, instruction_length=2)
WRMSR_EXIT = VmExit(32, instruction_length=2)


def test_a_set_bit_exits_and_a_clear_bit_lets_execute() -> None:
    one = setup(REGISTERS, msr_bitmap=MsrBitmap(reads=((0x802, 0x802),)), page=page({0x30: 7}))
    assert last(one, Rdmsr(0x802)) == RDMSR_EXIT
    assert last(one, Rdmsr(0x803)) == Completed(7)
    assert rules(one, Rdmsr(0x802)) >= {"bitmap.set-bit-exits", "bitmap.exits-are-fault-like"}


def test_read_and_write_bits_are_independent() -> None:
    assert last(setup(REGISTERS, msr_bitmap=READS), Wrmsr(0x808, 0x20)) == DONE
    assert last(setup(REGISTERS, msr_bitmap=READS), Rdmsr(0x808)) == RDMSR_EXIT
    assert last(setup(REGISTERS, msr_bitmap=WRITES), Rdmsr(0x808)) == Completed(0)
    assert last(setup(REGISTERS, msr_bitmap=WRITES), Wrmsr(0x808, 0x20)) == WRMSR_EXIT


@pytest.mark.parametrize("msr", [0x808, 0x1B, 0x7FF])
def test_without_msr_bitmaps_everything_exits(msr: int) -> None:
    one = setup(f"{DELIVERY} -use-msr-bitmaps")
    assert last(one, Rdmsr(msr)) == RDMSR_EXIT
    assert last(one, Wrmsr(msr, 0)) == WRMSR_EXIT
    assert "bitmap.unused-exits-always" in rules(one, Rdmsr(msr))


@pytest.mark.parametrize("msr", [0x2000, 0xBFFFFFFF, 0xC0002000, 0xFFFFFFFF])
def test_an_msr_outside_both_ranges_exits(msr: int) -> None:
    assert last(setup(REGISTERS), Rdmsr(msr)) == RDMSR_EXIT
    assert last(setup(REGISTERS), Wrmsr(msr, 0)) == WRMSR_EXIT
    assert "bitmap.outside-both-ranges-exits" in rules(setup(REGISTERS), Rdmsr(msr))


def test_the_bitmap_decides_before_apic_virtualization() -> None:
    one = setup(DELIVERY, msr_bitmap=WRITES, rvi=0x21, svi=0x31, page=page(isr=[0x31], irr=[0x21], ppr=0x30))
    for action in (Wrmsr(0x808, 0x50), Wrmsr(0x80B, 0), Wrmsr(0x83F, 0x51)):
        after = final(one, action)
        assert (after.page, after.rvi, after.svi) == ((), 0x21, 0x31)


def test_the_exit_comes_before_the_fault_of_a_missing_register_or_a_reserved_bit() -> None:
    physical = "use-msr-bitmaps"
    assert last(setup(physical, msr_bitmap=READS), Rdmsr(0x80E)) == RDMSR_EXIT
    assert last(setup(REGISTERS, msr_bitmap=WRITES), Wrmsr(0x808, 0xFFFF)) == WRMSR_EXIT
    assert last(setup(physical), Rdmsr(0x80E)) == GP0


@pytest.mark.parametrize("action", [Rdmsr(0x802), Wrmsr(0x808, 0x20), Wrmsr(0x83F, 0x51), Rdmsr(0x2000)])
@pytest.mark.parametrize("bitmap", [READS, WRITES, MsrBitmap()])
def test_cpl_3_faults_before_everything_and_leaves_the_page(action: Action, bitmap: MsrBitmap) -> None:
    one = setup(DELIVERY, msr_bitmap=bitmap)
    seen = observe(one, Step(action, cpl=3))
    assert seen.steps[0].outcomes == (GP0,)
    assert (seen.finals[0].page, seen.finals[0].rvi) == ((), 0)
    assert observe(setup(DELIVERY, guest=GuestState(cpl=3)), action).steps[0].outcomes == (GP0,)


@pytest.mark.parametrize("exiting", ["", "cr8-load-exiting cr8-store-exiting"])
@pytest.mark.parametrize("action", [ReadCr8(), WriteCr8(5)])
def test_cr8_at_cpl_3_faults_before_exits_and_vtpr(exiting: str, action: Action) -> None:
    seen = observe(setup(f"{REGISTERS} {exiting}"), Step(action, cpl=3))
    assert seen.steps[0].outcomes == (GP0,)
    assert seen.finals[0].page == ()


def test_the_exit_saves_blocking_by_sti_in_force() -> None:
    guest = GuestState(interrupt_flag=True, blocking=Blocking.STI)
    exit_ = last(setup(REGISTERS, msr_bitmap=READS, guest=guest), Rdmsr(0x802))
    assert exit_ == VmExit(31, instruction_length=2, blocking=Blocking.STI)


def test_a_change_of_the_bitmap_acts_at_the_next_entry() -> None:
    one = setup(REGISTERS, msr_bitmap=READS, page=page({0x20: 5}))
    seen = observe(one, Rdmsr(0x802), Vmm(msr_bitmap=MsrBitmap()), Rdmsr(0x802))
    assert [step.outcomes[0] for step in seen.steps] == [RDMSR_EXIT, DONE, Completed(5)]


@pytest.mark.parametrize(
    "action", [Wrmsr(0x808, 0x100), Wrmsr(0x80B, 1), Wrmsr(0x83F, 0x100), Wrmsr(0x808, 1 << 32)]
)
def test_a_fault_follows_the_exception_bitmap(action: Action) -> None:
    intercepted = setup(DELIVERY, guest=GuestState(exception_bitmap=frozenset([13])))
    expected = VmExit(0, rip=Rip.SAME, interruption_information=0x80000B0D)
    assert last(setup(DELIVERY), action) == GP0
    assert last(intercepted, action) == expected
    assert "priority.fault-follows-exception-bitmap" in rules(intercepted, action)
