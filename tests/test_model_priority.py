"""TPR, PPR, EOI and self-IPI virtualization, CR8, and the TPR threshold."""

from __future__ import annotations

import pytest
from modelled import (
    DELIVERY,
    DONE,
    MMIO,
    OPEN,
    REGISTERS,
    TPR_ONLY,
    delivered,
    final,
    last,
    observe,
    page,
    rules,
    setup,
    words_after,
)

from runner.apic import VPPR, VTPR, ApicMode, Fill
from runner.outcome import GP0, Completed, Rip, Stuck, VmExit, VmfailValid
from runner.program import Action, GuestState, Inject, Plain, Rdmsr, ReadCr8, Setup, Vmm, WriteCr8, Wrmsr
from runner.vmx import Activity, Blocking

BELOW = VmExit(43, rip=Rip.NEXT)
NO_SECONDARY = "use-tpr-shadow use-msr-bitmaps"


def below(names: str = TPR_ONLY, threshold: int = 4, tpr: int = 0x40, **more: object) -> Setup:
    return setup(names, tpr_threshold=threshold, page=page(tpr=tpr, ppr=0x55), **more)


# PPR virtualization


@pytest.mark.parametrize(
    ("tpr", "svi", "ppr"),
    [
        (0x57, 0x41, 0x57),
        (0x53, 0x5C, 0x53),
        (0x27, 0x61, 0x60),
        (0, 0, 0),
        (0xFF, 0xFF, 0xFF),
        (0x0F, 0x1F, 0x10),
    ],
)
def test_vppr_is_the_higher_of_vtpr_and_the_class_of_svi(tpr: int, svi: int, ppr: int) -> None:
    one = setup(DELIVERY, page=page({0xA4: 0x99}, tpr=tpr, ppr=0xABCDEF12), svi=svi)
    assert words_after(one, Plain.NOP) == {VPPR: ppr}


def test_ppr_virtualization_looks_at_svi_not_at_visr() -> None:
    assert words_after(setup(DELIVERY, page=page(tpr=0x25, isr=[0x91])), Plain.NOP) == {VPPR: 0x25}


def test_the_trace_says_which_is_higher() -> None:
    for tpr, svi, rule in (
        (0x57, 0x41, "ppr.vtpr-when-class-not-lower"),
        (0x53, 0x5C, "ppr.equal-classes-take-vtpr"),
        (0x27, 0x61, "ppr.svi-class-when-vtpr-lower"),
    ):
        named = rules(setup(DELIVERY, page=page(tpr=tpr), svi=svi), Plain.NOP)
        assert {each for each in named if each.startswith("ppr.")} == {rule}


# TPR virtualization and the threshold


@pytest.mark.parametrize("write", [Wrmsr(0x808, 0x3F), WriteCr8(3)])
def test_a_tpr_below_the_threshold_exits_after_the_store(write: Action) -> None:
    seen = observe(below(), write)
    assert seen.steps[0].outcomes == (BELOW,)
    assert dict(seen.finals[0].page)[VTPR] in (0x3F, 0x30)
    assert VPPR not in dict(seen.finals[0].page)


@pytest.mark.parametrize("value", [0x40, 0x4F, 0x50, 0xFF])
def test_the_comparison_is_strict(value: int) -> None:
    assert last(below(), Wrmsr(0x808, value)) == DONE


@pytest.mark.parametrize("value", [0x00, 0x0F, 0xFF])
def test_a_threshold_of_0_never_exits(value: int) -> None:
    assert last(below(threshold=0), Wrmsr(0x808, value)) == DONE


@pytest.mark.parametrize("action", [Rdmsr(0x808), ReadCr8(), Rdmsr(0x80A), Plain.NOP])
def test_reading_does_not_start_tpr_virtualization(action: Action) -> None:
    assert isinstance(last(below(), action), Completed)


def test_delivery_takes_the_place_of_the_threshold() -> None:
    one = setup(DELIVERY, tpr_threshold=0xF, page=page(tpr=0xF0, ppr=0xF0))
    assert last(one, Wrmsr(0x808, 0x12)) == DONE
    assert words_after(one, Wrmsr(0x808, 0x12)) == {VTPR: 0x12, VPPR: 0x12}


def test_the_exit_ends_blocking_and_keeps_a_single_step_pending() -> None:
    blocked = GuestState(interrupt_flag=True)
    assert last(below(guest=GuestState()), Plain.STI, Wrmsr(0x808, 0)) == BELOW
    assert last(below(guest=blocked), Plain.CLI, Plain.STI, Wrmsr(0x808, 0)) == BELOW
    stepping = observe(below(guest=GuestState(trap_flag=True)), Wrmsr(0x808, 0), Plain.NOP)
    assert stepping.steps[0].outcomes == (BELOW,)
    assert delivered(stepping.steps[0]) == [(1, 1)]


def test_after_the_exit_the_vmm_lowers_the_threshold() -> None:
    seen = observe(below(), Wrmsr(0x808, 0x20), Wrmsr(0x808, 0x10))
    assert [step.outcomes for step in seen.steps] == [(BELOW,), (DONE,)]
    kept = observe(below(), Wrmsr(0x808, 0x20), Vmm(tpr_threshold=4), Plain.NOP)
    assert kept.steps[1].outcomes == (DONE, VmfailValid(7))


def test_with_apic_accesses_the_threshold_exits_right_after_the_entry() -> None:
    seen = observe(below(MMIO, threshold=5), Plain.NOP)
    assert seen.steps[0].outcomes == (VmExit(43, rip=Rip.SAME), DONE)
    assert "threshold.exit-right-after-entry" in rules(below(MMIO, threshold=5), Plain.NOP)
    assert observe(below(MMIO, threshold=4), Plain.NOP).steps[0].outcomes == (DONE,)


def test_the_entry_exit_is_blocked_by_nothing_and_follows_injection() -> None:
    blocked = GuestState(interrupt_flag=True, blocking=Blocking.MOV_SS)
    one = below(MMIO, threshold=5, guest=blocked)
    assert observe(one, Plain.NOP).steps[0].outcomes[0] == VmExit(43, blocking=Blocking.MOV_SS)
    injected = observe(below(MMIO, threshold=5, guest=OPEN), Inject(0x91), Plain.NOP)
    assert injected.steps[0].outcomes[-1] == VmExit(43, rip=Rip.ELSEWHERE)
    assert delivered(injected.steps[0]) == [(0x91, 1)]


def test_the_entry_exit_ends_hlt_but_not_shutdown() -> None:
    halted = observe(below(MMIO, threshold=5, guest=GuestState(activity=Activity.HLT)), Plain.NOP)
    assert halted.steps[0].outcomes[0] == VmExit(43, activity=Activity.HLT)
    shut = observe(below(MMIO, threshold=5, guest=GuestState(activity=Activity.SHUTDOWN)), Plain.NOP)
    assert shut.steps[0].outcomes == (Stuck.DID_NOT_RETURN,)


def test_writing_a_tpr_that_is_below_already_exits_again() -> None:
    one = below(MMIO, threshold=5)
    seen = observe(one, WriteCr8(4), Vmm(tpr_threshold=6), WriteCr8(4), Vmm(tpr_threshold=5), WriteCr8(4))
    # Each entry with the threshold above VTPR exits by itself first.
    assert seen.steps[2].outcomes[-1] == DONE
    again = observe(below(NO_SECONDARY), WriteCr8(3), Vmm(tpr_threshold=3), WriteCr8(2))
    assert [step.outcomes[-1] for step in again.steps] == [BELOW, DONE, BELOW]


# CR8


@pytest.mark.parametrize("names", [NO_SECONDARY, TPR_ONLY, REGISTERS, DELIVERY, MMIO])
@pytest.mark.parametrize("mode", list(ApicMode))
def test_cr8_works_on_vtpr_with_the_tpr_shadow(names: str, mode: ApicMode) -> None:
    one = setup(names, page=page(fill=Fill.TAGGED, tpr=0xA7, ppr=0xA7), apic_mode=mode)
    assert last(one, ReadCr8()) == Completed(0xA)
    after = final(one, WriteCr8(0xB))
    ppr = {VPPR: 0xB0} if names == DELIVERY else {}
    assert (dict(after.page), after.physical) == ({VTPR: 0xB0, **ppr}, ())


def test_cr8_keeps_bytes_084h_to_087h_and_wrmsr_does_not() -> None:
    one = setup(TPR_ONLY, page=page({0x84: 0x12345678}))
    assert words_after(one, WriteCr8(5)) == {VTPR: 0x50}
    assert words_after(one, Wrmsr(0x808, 0x50)) == {VTPR: 0x50, 0x84: 0}


def test_without_the_tpr_shadow_cr8_is_the_physical_tpr() -> None:
    one = setup("use-msr-bitmaps", page=page(tpr=0x70))
    after = final(one, WriteCr8(5))
    assert (after.page, dict(after.physical)) == ((), {0x808: 0x50})
    assert last(one, Wrmsr(0x808, 0xA7), ReadCr8()) == Completed(0xA)


@pytest.mark.parametrize("value", [0x10, 1 << 63])
def test_reserved_source_bits_fault_unless_cr8_load_exits(value: int) -> None:
    assert last(setup(TPR_ONLY), WriteCr8(value)) == GP0
    assert words_after(setup(TPR_ONLY, page=page(tpr=0x20)), WriteCr8(value)) == {}
    assert last(setup(f"{TPR_ONLY} cr8-load-exiting"), WriteCr8(value)) == VmExit(28, 8, instruction_length=4)


def test_cr8_exiting_comes_before_the_tpr_shadow() -> None:
    load, store = setup(f"{TPR_ONLY} cr8-load-exiting"), setup(f"{TPR_ONLY} cr8-store-exiting")
    assert last(load, WriteCr8(5)) == VmExit(28, 0x08, instruction_length=4)
    assert last(store, ReadCr8()) == VmExit(28, 0x18, instruction_length=4)
    assert words_after(load, WriteCr8(5)) == {}
    assert (last(load, ReadCr8()), last(store, WriteCr8(5))) == (Completed(0), DONE)


# EOI virtualization


def in_service(*vectors: int, svi: int, **more: object) -> Setup:
    return setup(DELIVERY, page=page({0x184: 1, 0x104: 0x77}, isr=vectors), svi=svi, **more)


@pytest.mark.parametrize(
    ("vectors", "svi", "left", "new"),
    [
        ((0x41, 0x61), 0x61, {0x41}, 0x41),
        ((0x61,), 0x61, set(), 0),
        ((0x61, 0x91), 0x61, {0x91}, 0x91),
        ((0x51,), 0, {0x51}, 0x51),
        ((0xFF, 0x10), 0xFF, {0x10}, 0x10),
        ((0x20, 0x3F, 0x40), 0x40, {0x20, 0x3F}, 0x3F),
    ],
)
def test_eoi_retires_svi_and_takes_the_highest_left(
    vectors: tuple[int, ...], svi: int, left: set[int], new: int
) -> None:
    one = in_service(*vectors, svi=svi)
    after = final(one, Wrmsr(0x80B, 0))
    words = {0x100 + 16 * word: 0 for word in range(8)}
    for vector in left:
        words[0x100 + 16 * (vector // 32)] |= 1 << vector % 32
    seen = {at: dict(after.page).get(at, one.page.word(at)) for at in words}
    assert (seen, after.svi) == (words, new)
    assert dict(after.page).get(VPPR, 0) == new & 0xF0
    assert 0x104 not in dict(after.page)


@pytest.mark.parametrize("vector", [0, 0x3F, 0x40, 0x7F, 0x80, 0xBF, 0xC0, 0xFF])
def test_the_eoi_exit_bitmap_decides_by_the_retired_vector(vector: int) -> None:
    exits = in_service(vector, svi=vector, eoi_exit_bitmap=frozenset([vector]))
    assert last(exits, Wrmsr(0x80B, 0)) == VmExit(45, vector, rip=Rip.NEXT)
    others = frozenset(range(256)) - {vector}
    assert last(in_service(vector, svi=vector, eoi_exit_bitmap=others), Wrmsr(0x80B, 0)) == DONE


@pytest.mark.parametrize("vector", [0, 64, 128, 192])
def test_an_empty_eoi_exit_bitmap_never_exits(vector: int) -> None:
    assert last(in_service(vector, svi=vector), Wrmsr(0x80B, 0)) == DONE


def test_the_eoi_exit_comes_after_the_updates_and_instead_of_the_evaluation() -> None:
    pending = page(isr=[0x31, 0x61], irr=[0x51], ppr=0x60)
    exits = setup(DELIVERY, page=pending, svi=0x61, rvi=0x51, guest=OPEN, eoi_exit_bitmap=frozenset([0x61]))
    seen = observe(exits, Wrmsr(0x80B, 0), Plain.NOP)
    assert seen.steps[0].outcomes == (VmExit(45, 0x61, rip=Rip.NEXT),)
    assert delivered(seen.steps[0]) == [(0x51, 1)]
    stopped = observe(exits, Wrmsr(0x80B, 0))
    assert delivered(stopped.steps[0]) == []
    assert (stopped.finals[0].svi, stopped.finals[0].rvi) == (0x31, 0x51)
    assert dict(stopped.finals[0].page)[VPPR] == 0x30


def test_eoi_touches_neither_virr_nor_the_physical_apic() -> None:
    one = setup(DELIVERY, page=page(isr=[0x61], irr=[0x61, 0x71]), svi=0x61, rvi=0x11)
    after = final(one, Wrmsr(0x80B, 0))
    assert (after.rvi, after.physical) == (0x11, ())
    assert not {at for at, _ in after.page if at & 0xF00 == 0x200}


# Self-IPI virtualization


@pytest.mark.parametrize(
    ("rvi", "vector", "expected"), [(0x81, 0x51, 0x81), (0x81, 0x91, 0x91), (0, 0x10, 0x10)]
)
def test_a_self_ipi_sets_virr_and_raises_rvi(rvi: int, vector: int, expected: int) -> None:
    one = setup(DELIVERY, rvi=rvi, page=page(fill=Fill.TAGGED, isr=[], irr=[0xA1]))
    after = final(one, Wrmsr(0x83F, vector))
    changed = dict(after.page)
    assert changed.pop(0x200 + 16 * (vector // 32)) & 1 << vector % 32
    assert (changed.pop(0x3F0), changed.pop(0x3F4), changed.pop(VPPR, 0)) == (vector, 0, 0)
    assert (changed, after.rvi, after.svi) == ({}, expected, 0)


def test_a_self_ipi_of_a_low_class_stays_pending_and_repeating_it_changes_nothing() -> None:
    one = setup(DELIVERY, guest=OPEN, page=page(tpr=0x60, ppr=0x60))
    seen = observe(one, Wrmsr(0x83F, 0x5F), Wrmsr(0x83F, 0x5F))
    assert [delivered(step) for step in seen.steps] == [[], []]
    assert (seen.finals[0].rvi, dict(seen.finals[0].page)[0x220]) == (0x5F, 1 << 31)
    taken = observe(setup(DELIVERY), Wrmsr(0x83F, 0x51), Wrmsr(0x83F, 0x51), Plain.STI, Plain.NOP, Plain.NOP)
    assert [delivered(step) for step in taken.steps] == [[], [], [], [(0x51, 4)], []]
