"""What a VMCS holds: items of a record, each a field or something beside the VMCS, how to set it, a value.

Only what differs from the base that the probe itself writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends import wire
from runner.descriptor import CONTROL, descriptor_words, names_destination
from runner.program import (
    BeyondWidth,
    FieldValue,
    Flip,
    Number,
    Page,
    PageAddress,
    PostedInterrupts,
    Setup,
    Vmm,
)
from runner.vmx import CONTROL_FIELDS, Controls, Field

Item = tuple[int, int, int]
"""``struct wire_item``: what, how, value."""


def of_setup(setup: Setup) -> Iterator[Item]:
    """Yield what the VMCS and the structures beside it hold beyond the probe's own base; overrides last."""
    yield from _controls(setup.controls)
    if setup.tpr_threshold:
        yield Field.TPR_THRESHOLD, wire.HOW_SET, setup.tpr_threshold
    if setup.rvi or setup.svi:
        yield Field.GUEST_INTERRUPT_STATUS, wire.HOW_SET, setup.rvi | setup.svi << 8
    if setup.eoi_exit_bitmap:
        yield from _eoi_exit_bitmap(setup.eoi_exit_bitmap)
    guest = setup.guest
    if guest.exception_bitmap:
        yield Field.EXCEPTION_BITMAP, wire.HOW_SET, sum(1 << vector for vector in guest.exception_bitmap)
    if guest.blocking:
        yield Field.GUEST_INTERRUPTIBILITY_STATE, wire.HOW_SET, int(guest.blocking)
    if guest.activity:
        yield Field.GUEST_ACTIVITY_STATE, wire.HOW_SET, int(guest.activity)
    if setup.posted:
        yield from _posted(setup.posted)
    yield from _msr_lists(setup)
    for field, value in setup.fields:
        yield _field(field, value)


def _controls(controls: Controls) -> Iterator[Item]:
    for kind, field in CONTROL_FIELDS.items():
        word = controls.word(kind)
        if word:
            yield field, wire.HOW_CONTROL, word


def _posted(posted: PostedInterrupts) -> Iterator[Item]:
    yield Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR, wire.HOW_SET, posted.notification_vector
    for index, word in enumerate(descriptor_words(posted)):
        own = 8 * index == CONTROL and not names_destination(posted)
        yield wire.ITEM_PID + index, wire.HOW_OWN if own else wire.HOW_SET, word
    if posted.pid_pointer_flip is not None:
        yield wire.ITEM_PID_POINTER, wire.HOW_FLIP, posted.pid_pointer_flip


def _eoi_exit_bitmap(vectors: frozenset[int]) -> Iterator[Item]:
    bits = sum(1 << vector for vector in vectors)
    for index in range(4):
        yield Field.EOI_EXIT_BITMAP_0 + 2 * index, wire.HOW_SET, bits >> 64 * index & (1 << 64) - 1


def _msr_lists(setup: Setup) -> Iterator[Item]:
    lists = setup.msr_lists
    for entries, what, count in (
        (lists.entry_load, wire.ITEM_ENTRY_LOAD, Field.VM_ENTRY_MSR_LOAD_COUNT),
        (lists.exit_store, wire.ITEM_EXIT_STORE, Field.VM_EXIT_MSR_STORE_COUNT),
        (lists.exit_load, wire.ITEM_EXIT_LOAD, Field.VM_EXIT_MSR_LOAD_COUNT),
    ):
        if entries:
            yield count, wire.HOW_SET, len(entries)
        for index, entry in enumerate(entries):
            yield what + index, entry.msr, entry.value


_PAGES = {Page.OWN: wire.HOW_OWN, Page.STALE: wire.HOW_STALE, Page.APIC_ACCESS: wire.HOW_APIC_ACCESS}


def _field(field: Field, value: FieldValue) -> Item:
    match value:
        case Number(number):
            return field, wire.HOW_SET, number
        case Flip(bit):
            return field, wire.HOW_FLIP, bit
        case BeyondWidth():
            return field, wire.HOW_BEYOND, 0
        case PageAddress(Page.OF_VCPU, vcpu, add):
            return field, wire.HOW_OF_VCPU | vcpu << 8, add
        case PageAddress(page, _, add):
            return field, _PAGES[page], add


def of_vmm(vmm: Vmm) -> Iterator[Item]:
    """Yield what a VMM step puts into the VMCS."""
    if vmm.controls is not None:
        for kind, field in CONTROL_FIELDS.items():
            yield field, wire.HOW_CONTROL, vmm.controls.word(kind)
    for field, how, value in (
        (Field.TPR_THRESHOLD, wire.HOW_SET, vmm.tpr_threshold),
        (Field.GUEST_INTERRUPT_STATUS, wire.HOW_LOW_BYTE, vmm.rvi),
        (Field.GUEST_INTERRUPT_STATUS, wire.HOW_HIGH_BYTE, vmm.svi),
        (Field.GUEST_INTERRUPTIBILITY_STATE, wire.HOW_SET, vmm.blocking),
        (Field.GUEST_ACTIVITY_STATE, wire.HOW_SET, vmm.activity),
    ):
        if value is not None:
            yield field, how, int(value)
    if vmm.eoi_exit_bitmap is not None:
        yield from _eoi_exit_bitmap(vmm.eoi_exit_bitmap)
    for field, setting in vmm.fields:
        yield _field(field, setting)
