"""Setups as an adapter gets them: what each VMCS field and each structure holds, in JSON.

The values are final: controls with the bits that must be 1, addresses in the adapter's own memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from backends.adapter.platform import CONTROL_WORD_OF, SHARED_STRUCTURES, Platform
from runner.apic import ApicMode, VirtualApicPage
from runner.descriptor import descriptor_words
from runner.program import (
    BeyondWidth,
    FieldValue,
    Flip,
    MsrEntry,
    Number,
    Page,
    PageAddress,
    PostedInterrupts,
    Setup,
    Vmm,
)
from runner.vmx import CONTROL_WORDS, Controls, Field, MsrBitmap, MsrRange, name_of

QWORD = (1 << 64) - 1
_EOI_EXIT_BITMAPS = tuple(Field(Field.EOI_EXIT_BITMAP_0 + 2 * index) for index in range(4))
_FIELD_HEADS = {field: f'["{field.value:#x}","{name_of(field)}","' for field in Field}


class CannotAskError(Exception):
    """The program needs what the adapter has not, or what the protocol does not carry; the text says what."""


def joined(texts: Iterable[str]) -> str:
    """Return a JSON array of these."""
    return "[" + ",".join(texts) + "]"


def pairs(some: Iterable[tuple[int, int]]) -> str:
    """Return an array of pairs of hexadecimal strings."""
    return "[" + ",".join([f'["{one:#x}","{other:#x}"]' for one, other in some]) + "]"


def page_json(page: VirtualApicPage, address: int) -> str:
    """Return a virtual-APIC page."""
    return (
        f'{{"address":"{address:#x}","fill":"{page.fill.value}","value":"{page.value:#x}",'
        f'"words":{pairs(page.words)}}}'
    )


def bitmap_json(bitmap: MsrBitmap, address: int) -> str:
    """Return an MSR bitmap."""
    return f'{{"address":"{address:#x}","reads":{_ranges(bitmap.reads)},"writes":{_ranges(bitmap.writes)}}}'


def _ranges(ranges: Iterable[MsrRange]) -> str:
    return pairs(ranges) if ranges else "[]"


@lru_cache(maxsize=4096)
def controls_json(controls: Controls) -> str:
    """Return the names of the controls that are 1."""
    names = (name_of(c) for kind in CONTROL_WORDS for c in kind if controls.word(kind) & int(c))
    return joined(f'"{name}"' for name in names)


def fields_json(fields: Iterable[tuple[Field, int]]) -> str:
    """Return VMCS fields."""
    return "[" + ",".join([f'{_FIELD_HEADS[field]}{value:#x}"]' for field, value in fields]) + "]"


def descriptor_json(posted: PostedInterrupts | None, vcpu: int, mode: ApicMode, platform: Platform) -> str:
    """Return a posted-interrupt descriptor; NDST supposes that virtual processor N has APIC ID N."""
    address = platform.address(Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, vcpu) or 0
    words, pointer = "[]", 0
    if posted is not None:
        destination = vcpu if mode is ApicMode.X2APIC else vcpu << 8
        words = joined(f'"{word:#x}"' for word in descriptor_words(posted, destination=destination))
        flipped = 0 if posted.pid_pointer_flip is None else 1 << posted.pid_pointer_flip
        pointer = (address | 1) ^ flipped
    return f'{{"address":"{address:#x}","words":{words},"pid-pointer":"{pointer:#x}"}}'


def msr_list_json(entries: Iterable[MsrEntry]) -> str:
    """Return an MSR area."""
    return pairs((entry.msr, entry.value) for entry in entries)


class Vmcs:
    """The VMCS of one virtual processor as its setup describes it, on one platform."""

    def __init__(self, platform: Platform, setup: Setup, vcpu: int, vcpus: int) -> None:
        self._platform = platform
        self._vcpu = vcpu
        self._values = self._base(setup, vcpus)
        for field, value in setup.fields:
            self._values[field] = self.resolved(field, value)

    def fields(self) -> Iterator[tuple[Field, int]]:
        """Yield every field that exists with its value."""
        values = self._values
        return ((field, values.get(field, 0)) for field in self._platform.fields)

    def _base(self, setup: Setup, vcpus: int) -> dict[Field, int]:
        platform, vcpu, guest, lists = self._platform, self._vcpu, setup.guest, setup.msr_lists
        values = dict(platform.addresses[vcpu])
        values.update(control_words(setup.controls, platform))
        values.update(eoi_exit_bitmaps(setup.eoi_exit_bitmap))
        values[Field.TPR_THRESHOLD] = setup.tpr_threshold
        values[Field.GUEST_INTERRUPT_STATUS] = setup.rvi | setup.svi << 8
        values[Field.EXCEPTION_BITMAP] = sum(1 << vector for vector in guest.exception_bitmap)
        values[Field.GUEST_INTERRUPTIBILITY_STATE] = int(guest.blocking)
        values[Field.GUEST_ACTIVITY_STATE] = int(guest.activity)
        values[Field.LAST_PID_POINTER_INDEX] = vcpus - 1
        values[Field.VM_ENTRY_MSR_LOAD_COUNT] = len(lists.entry_load)
        values[Field.VM_EXIT_MSR_STORE_COUNT] = len(lists.exit_store)
        values[Field.VM_EXIT_MSR_LOAD_COUNT] = len(lists.exit_load)
        vector = (setup.posted or PostedInterrupts()).notification_vector
        values[Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR] = vector
        return values

    def resolved(self, field: Field, value: FieldValue) -> int:
        """Return the number that a scenario's value of *field* stands for. Raises `CannotAskError`."""
        match value:
            case Number(number):
                return number
            case Flip(bit):
                return self._values.get(field, 0) ^ 1 << bit
            case BeyondWidth():
                return self._address(field, self._vcpu) | 1 << self._platform.processor.physical_width
            case PageAddress(Page.STALE, _, add):
                return self._platform.stale_page + add
            case PageAddress(Page.APIC_ACCESS, _, add):
                return self._platform.memory + SHARED_STRUCTURES[Field.APIC_ACCESS_ADDRESS] + add
            case PageAddress(page, vcpu, add):
                return self._address(field, vcpu if page is Page.OF_VCPU else self._vcpu) + add

    def _address(self, field: Field, vcpu: int) -> int:
        address = self._platform.address(field, vcpu)
        if address is None:
            raise CannotAskError(f"the address of a structure in {name_of(field)}, which has none")
        return address

    def changes(self, vmm: Vmm) -> Iterator[tuple[Field, int]]:
        """Yield what a VMM step writes; RVI and SVI, each a byte of one field, stand elsewhere."""
        if vmm.controls is not None:
            words = control_words(vmm.controls, self._platform)
            yield from ((field, word) for field, word in words if field in self._platform.fields)
        if vmm.eoi_exit_bitmap is not None:
            yield from eoi_exit_bitmaps(vmm.eoi_exit_bitmap)
        for field, plain in (
            (Field.TPR_THRESHOLD, vmm.tpr_threshold),
            (Field.GUEST_INTERRUPTIBILITY_STATE, vmm.blocking),
            (Field.GUEST_ACTIVITY_STATE, vmm.activity),
        ):
            if plain is not None:
                yield field, int(plain)
        for field, value in vmm.fields:
            yield field, self.resolved(field, value)


def control_words(controls: Controls, platform: Platform) -> Iterator[tuple[Field, int]]:
    """Yield the control words with the bits that must be 1."""
    required = platform.required
    return ((field, controls.word(kind) | required[kind]) for field, kind in CONTROL_WORD_OF.items())


def eoi_exit_bitmaps(vectors: frozenset[int]) -> Iterator[tuple[Field, int]]:
    """Yield the four EOI-exit bitmaps."""
    bits = sum(1 << vector for vector in vectors)
    for index, field in enumerate(_EOI_EXIT_BITMAPS):
        yield field, bits >> 64 * index & QWORD
