"""Each key of a setup gives exactly the values it stands for."""

from __future__ import annotations

import pytest
from spoken import (
    DELIVERY,
    IPI,
    POSTED,
    REGISTERS,
    TPR_ONLY,
    controls,
    point,
    setup,
)

from runner.apic import ApicMode, Fill, VirtualApicPage
from runner.program import (
    BeyondWidth,
    Flip,
    GuestState,
    MsrEntry,
    MsrLists,
    Number,
    Page,
    PageAddress,
    Plain,
    PostedInterrupts,
    Setup,
    Step,
    Wrmsr,
)
from runner.vmx import Activity, Blocking, Controls, Field, MsrBitmap


@pytest.mark.parametrize(
    ("base", "names"),
    [
        ("tpr-only", TPR_ONLY),
        ("registers", REGISTERS),
        ("delivery", DELIVERY),
        ("posted", POSTED),
        ("ipi", IPI),
    ],
)
def test_named_setups(base: str, names: tuple[str, ...]) -> None:
    posted = PostedInterrupts() if base in ("posted", "ipi") else None
    assert setup(f"{{base: {base}}}") == Setup(controls=controls(*names), posted=posted)


def test_no_setup_at_all() -> None:
    assert point().program.vcpus == (Setup(),)


WORDS = {0x100 + 16 * n: 0 for n in range(8)} | {0x110: 1 << 17, 0x120: 1 << 17}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("{set: [hlt-exiting]}", "controls", controls("hlt-exiting")),
        ("{base: registers, clear: [use-tpr-shadow]}", "controls", controls(*REGISTERS[1:])),
        ("{set: [hlt-exiting], clear: [hlt-exiting]}", "controls", Controls()),
        ("{msr-bitmap: {read: [TPR]}}", "msr_bitmap", MsrBitmap(reads=((0x808, 0x808),))),
        (
            "{msr-bitmap: {read: none, write: all}}",
            "msr_bitmap",
            MsrBitmap(writes=((0, 0x1FFF), (0xC0000000, 0xC0001FFF))),
        ),
        (
            "{msr-bitmap: {write: [0x840..0x8ff, EOI, 0x80a, 0x1b]}}",
            "msr_bitmap",
            MsrBitmap(writes=((0x1B, 0x1B), (0x80A, 0x80B), (0x840, 0x8FF))),
        ),
        (
            "{msr-bitmap: {read: [0x0, 0x1fff, 0xc0000000, 0xc0001fff]}}",
            "msr_bitmap",
            MsrBitmap(
                reads=((0, 0), (0x1FFF, 0x1FFF), (0xC0000000, 0xC0000000), (0xC0001FFF, 0xC0001FFF)),
            ),
        ),
        (
            "{msr-bitmap: {read: [0x810..0x820, 0x812, 0x80d..0x80e, 0x80b]}}",
            "msr_bitmap",
            MsrBitmap(reads=((0x80B, 0x80B), (0x80D, 0x80E), (0x810, 0x820))),
        ),
        ("{eoi-exit-bitmap: [0xfe..0xff, 0x31..0x31]}", "eoi_exit_bitmap", frozenset({0x31, 0xFE, 0xFF})),
        ("{apic-mode: disabled}", "apic_mode", ApicMode.DISABLED),
        ("{virtual-apic-page: {fill: ones}}", "page", VirtualApicPage(Fill.ONES)),
        ("{virtual-apic-page: {fill: 0x9c401c39}}", "page", VirtualApicPage(Fill.VALUE, 0x9C401C39)),
        (
            "{virtual-apic-page: {fill: tagged, 0x24: 0xabcd0001, APICID: 3}}",
            "page",
            VirtualApicPage(Fill.TAGGED, words=((0x20, 3), (0x24, 0xABCD0001))),
        ),
        (
            "{virtual-apic-page: {ICR: 0x1_2}}".replace("_", "0000000"),
            "page",
            VirtualApicPage(words=((0x300, 2), (0x304, 1))),
        ),
        ("{virtual-apic-page: {ISR: [0x31, 0x51]}}", "page", VirtualApicPage(words=tuple(WORDS.items()))),
        ("{tpr-threshold: 0x10}", "tpr_threshold", 0x10),
        ("{rvi: 0x31}", "rvi", 0x31),
        ("{svi: 255}", "svi", 255),
        ("{eoi-exit-bitmap: [0x10..0x12, 0xff]}", "eoi_exit_bitmap", frozenset({0x10, 0x11, 0x12, 0xFF})),
        ("{posted: {}}", "posted", PostedInterrupts()),
        (
            "{posted: {notification-vector: 0x100, pir: [0x71], outstanding: true, suppress: true}}",
            "posted",
            PostedInterrupts(0x100, frozenset({0x71}), outstanding=True, suppress=True),
        ),
        (
            "{posted: {words: {0x24: 0x5, 32: 0x410000, 0x3c: 0xffffffff}, pid-pointer: {flip: 5}}}",
            "posted",
            PostedInterrupts(words=((0x20, 0x410000), (0x24, 5), (0x3C, 0xFFFFFFFF)), pid_pointer_flip=5),
        ),
        (
            "{fields: {virtual-apic-address: {page: own, add: 8}, tpr-threshold: 5}}",
            "fields",
            ((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OWN, 0, 8)), (Field.TPR_THRESHOLD, Number(5))),
        ),
        (
            "{fields: {msr-bitmap-address: beyond-physical-address-width}}",
            "fields",
            ((Field.MSR_BITMAP_ADDRESS, BeyondWidth()),),
        ),
        (
            "{fields: {pin-based-controls: {flip: 4}, virtual-apic-address: {page: stale}}}",
            "fields",
            (
                (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.STALE)),
                (Field.PIN_BASED_CONTROLS, Flip(4)),
            ),
        ),
        (
            "{fields: {apic-access-address: {page: apic-access}, virtual-apic-address: {page: of-vcpu-0}}}",
            "fields",
            (
                (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OF_VCPU, 0)),
                (Field.APIC_ACCESS_ADDRESS, PageAddress(Page.APIC_ACCESS)),
            ),
        ),
        (
            "{msr-lists: {vm-entry-load: [{msr: TPR, value: 1}], vm-exit-store: [{msr: 0x1b}]}}",
            "msr_lists",
            MsrLists(entry_load=(MsrEntry(0x808, 1),), exit_store=(MsrEntry(0x1B, 0),)),
        ),
        (
            "{guest: {if: 1, tf: 1, cpl: 3, blocking: mov-ss, activity: hlt, exception-bitmap: [13]}}",
            "guest",
            GuestState(True, True, 3, Blocking.MOV_SS, Activity.HLT, frozenset({13})),
        ),
        ("{guest: {blocking: [sti, nmi]}}", "guest", GuestState(blocking=Blocking.STI | Blocking.NMI)),
        ("{handlers: {eoi: true}}", "eoi", True),
        (
            "{handlers: {0x51: [{wrmsr: {EOI: 0x0}}, {nop: true}], 0x31: []}}",
            "handlers",
            ((0x31, ()), (0x51, (Step(Wrmsr(0x80B, 0)), Step(Plain.NOP)))),
        ),
    ],
)
def test_setup(text: str, field: str, value: object) -> None:
    read = setup(text)
    assert getattr(read, field) == value
    others = {name: getattr(read, name) for name in Setup.__slots__ if name not in (field, "controls")}
    assert others == {name: getattr(Setup(), name) for name in others}
