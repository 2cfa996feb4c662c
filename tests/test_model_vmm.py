"""What the VMM changes between a VM exit and the next VM entry, and raw VMCS fields."""

from __future__ import annotations

import pytest
from modelled import DELIVERY, DONE, OPEN, REGISTERS, TPR_ONLY, controls, delivered, observe, page, setup

from runner.apic import Fill
from runner.outcome import Completed, Observation, Outcome, Rip, Stuck, VmExit, VmfailValid
from runner.program import (
    Action,
    FieldValue,
    Flip,
    GuestState,
    Number,
    Page,
    PageAddress,
    Plain,
    Rdmsr,
    Setup,
    Vmm,
    Wrmsr,
)
from runner.vmx import Activity, Blocking, Field, MsrBitmap

ANY = MsrBitmap(reads=((0x800, 0x8FF),))


def after(vmm: Vmm, *actions: Action, one: Setup | None = None) -> Observation:
    """What follows once the VMM has changed something at the exit of a VMCALL."""
    base = setup(DELIVERY, page=page(isr=[0x21, 0x31], irr=[0x61]))
    return observe(one or base, Plain.VMCALL, vmm, *actions)


def outcome(vmm: Vmm, action: Action) -> Outcome:
    return after(vmm, action).steps[2].outcomes[0]


def test_words_of_the_page() -> None:
    assert outcome(Vmm(words=((0x20, 5), (0x24, 6))), Rdmsr(0x802)) == Completed(6 << 32 | 5)


def test_controls() -> None:
    assert outcome(Vmm(controls=controls(TPR_ONLY)), Rdmsr(0x803)) == Completed(0x01060015)
    failing = after(Vmm(controls=controls(f"{TPR_ONLY} -use-tpr-shadow")))
    assert failing.steps[1].outcomes == (DONE, VmfailValid(7))


def test_the_msr_bitmap() -> None:
    assert outcome(Vmm(msr_bitmap=ANY), Rdmsr(0x803)) == VmExit(31, instruction_length=2)


def test_the_tpr_threshold() -> None:
    one = setup(TPR_ONLY, page=page(tpr=0x50))
    seen = after(Vmm(tpr_threshold=4), Wrmsr(0x808, 0x30), one=one)
    assert seen.steps[2].outcomes == (VmExit(43, rip=Rip.NEXT),)


def test_rvi_svi_and_if() -> None:
    seen = after(Vmm(rvi=0x61, svi=0x31, interrupt_flag=True), Plain.NOP)
    assert delivered(seen.steps[1]) == [(0x61, 2)]
    held = after(Vmm(rvi=0x61, svi=0x31), Rdmsr(0x80A))
    assert (held.steps[2].outcomes, held.finals[0].rvi, held.finals[0].svi) == (
        (Completed(0x30),),
        0x61,
        0x31,
    )


def test_the_eoi_exit_bitmap() -> None:
    seen = after(Vmm(svi=0x31, eoi_exit_bitmap=frozenset([0x31])), Wrmsr(0x80B, 0))
    assert seen.steps[2].outcomes == (VmExit(45, 0x31, rip=Rip.NEXT),)
    exiting = setup(DELIVERY, page=page(isr=[0x31]), svi=0x31, eoi_exit_bitmap=frozenset([0x31]))
    assert after(Vmm(eoi_exit_bitmap=frozenset()), Wrmsr(0x80B, 0), one=exiting).steps[2].outcomes == (DONE,)


def test_blocking_and_activity() -> None:
    blocked = after(Vmm(rvi=0x61, interrupt_flag=True, blocking=Blocking.MOV_SS), Plain.NOP, Plain.NOP)
    assert delivered(blocked.steps[2]) == [(0x61, 3)]
    halted = after(Vmm(activity=Activity.HLT), Plain.NOP)
    assert halted.steps[1].outcomes == (Stuck.STAYS_HALTED,)
    assert halted.steps[2].outcomes == (Stuck.NOT_REACHED,)


def test_the_vmm_clears_blocking_when_it_skips_an_instruction() -> None:
    guest = GuestState(interrupt_flag=True, blocking=Blocking.MOV_SS)
    seen = observe(setup(DELIVERY, guest=guest, rvi=0x61), Plain.VMCALL, Plain.NOP)
    assert seen.steps[0].outcomes == (VmExit(18, instruction_length=3, blocking=Blocking.MOV_SS),)
    assert delivered(seen.steps[0]) == [(0x61, 1)]


def test_fields() -> None:
    stale = Vmm(fields=((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.STALE)),))
    assert outcome(stale, Rdmsr(0x802)) == Completed(0x9C401C39_9C401C39)


@pytest.mark.parametrize(
    ("field", "value", "rvi", "svi"),
    [
        (Field.GUEST_INTERRUPT_STATUS, Number(0x6131), 0x31, 0x61),
        (Field.GUEST_INTERRUPT_STATUS, Flip(0), 0x42, 0x51),
        (Field.GUEST_INTERRUPT_STATUS, Flip(15), 0x43, 0xD1),
        (Field.TPR_THRESHOLD, Number(3), 0x43, 0x51),
    ],
)
def test_raw_fields_of_a_setup(field: Field, value: FieldValue, rvi: int, svi: int) -> None:
    one = setup(DELIVERY, rvi=0x43, svi=0x51, fields=((field, value),), page=page(tpr=0xF0))
    final = observe(one, Plain.NOP).finals[0]
    assert (final.rvi, final.svi) == (rvi, svi)


@pytest.mark.parametrize(("index", "vector"), [(0, 5), (1, 0x45), (2, 0x85), (3, 0xC5)])
def test_raw_eoi_exit_bitmaps(index: int, vector: int) -> None:
    field = Field(Field.EOI_EXIT_BITMAP_0 + 2 * index)
    one = setup(DELIVERY, svi=vector, fields=((field, Number(1 << 5)),))
    assert observe(one, Wrmsr(0x80B, 0)).steps[0].outcomes == (VmExit(45, vector, rip=Rip.NEXT),)


def test_the_exception_bitmap_as_a_field() -> None:
    one = setup(DELIVERY, fields=((Field.EXCEPTION_BITMAP, Number(1 << 13)),))
    assert observe(one, Wrmsr(0x808, 0x100)).steps[0].outcomes[0] == VmExit(
        0, interruption_information=0x80000B0D
    )


def test_pending_debug_exceptions_as_a_field() -> None:
    guest = GuestState(trap_flag=True, blocking=Blocking.MOV_SS)
    one = setup(REGISTERS, guest=guest, fields=((Field.GUEST_PENDING_DEBUG_EXCEPTIONS, Number(1 << 14)),))
    seen = observe(one, Plain.NOP, Plain.NOP)
    assert [delivered(step) for step in seen.steps] == [[(1, 1)], []]


def test_an_injection_by_its_field() -> None:
    injecting = ((Field.VM_ENTRY_INTERRUPTION_INFORMATION, Number(0x80000091)),)
    assert delivered(observe(setup(DELIVERY, guest=OPEN, fields=injecting), Plain.NOP).steps[0]) == [
        (0x91, 0)
    ]


def test_a_vmm_step_that_no_exit_reaches_is_passed_over() -> None:
    one = setup(REGISTERS, page=page(fill=Fill.TAGGED))
    seen = observe(one, Plain.NOP, Vmm(words=((0x20, 1),)), Plain.NOP)
    assert [step.outcomes for step in seen.steps] == [(DONE,), (Stuck.NOT_REACHED,), (DONE,)]
    assert seen.finals[0].page == ()
