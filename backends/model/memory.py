"""Physical memory: the pages and structures that VMCS fields point to, by address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from runner.apic import (
    STALE,
    Fill,
    VirtualApicPage,
    fill_bytes,
    vector_bit,
)
from runner.descriptor import descriptor_words
from runner.program import Page, PageAddress, PostedInterrupts
from runner.vmx import HIGH_MSRS, LOW_MSRS, Field, MsrBitmap

PID_POINTER_TABLE, APIC_ACCESS_PAGE, STALE_PAGE = 0x0F0000, 0x0F1000, 0x0F2000
_OF_VCPU, _PER_VCPU = 0x100000, 0x10000


class NotModelled(Exception):  # noqa: N818 -- what is not modelled is no error
    """A program needs something that this model does not do; the message says what."""


@dataclass(frozen=True, slots=True)
class Structures:
    """The physical addresses of what belongs to one virtual processor."""

    virtual_apic_page: int
    msr_bitmap: int
    descriptor: int
    entry_load_area: int
    exit_store_area: int
    exit_load_area: int


@lru_cache
def structures_of(vcpu: int) -> Structures:
    """Return where the structures of a virtual processor lie."""
    base = _OF_VCPU + vcpu * _PER_VCPU
    return Structures(*range(base, base + 0x6000, 0x1000))


def own_address(field: Field, vcpu: int) -> int:
    """Return the physical address of the structure that belongs into *field* on *vcpu*."""
    own = structures_of(vcpu)
    match field:
        case Field.VIRTUAL_APIC_ADDRESS:
            return own.virtual_apic_page
        case Field.MSR_BITMAP_ADDRESS:
            return own.msr_bitmap
        case Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS:
            return own.descriptor
        case Field.VM_ENTRY_MSR_LOAD_ADDRESS:
            return own.entry_load_area
        case Field.VM_EXIT_MSR_STORE_ADDRESS:
            return own.exit_store_area
        case Field.VM_EXIT_MSR_LOAD_ADDRESS:
            return own.exit_load_area
        case Field.APIC_ACCESS_ADDRESS:
            return APIC_ACCESS_PAGE
        case Field.PID_POINTER_TABLE_ADDRESS:
            return PID_POINTER_TABLE
        case _:
            raise NotModelled(f"VMCS field {field.name} ({field.value:X}H): no structure belongs to it here")


def address_of(page: PageAddress, field: Field, vcpu: int) -> int:
    """Return the physical address that *page* names in *field* of virtual processor *vcpu*."""
    match page.page:
        case Page.STALE:
            start = STALE_PAGE
        case Page.APIC_ACCESS:
            start = APIC_ACCESS_PAGE
        case Page.OF_VCPU:
            start = own_address(field, page.vcpu)
        case Page.OWN:
            start = own_address(field, vcpu)
    return start + page.add


class MemoryPage:
    """A page that can serve as virtual-APIC page, in 32-bit words by offset."""

    __slots__ = ("_fill", "_initial", "_words")

    def __init__(self, initial: VirtualApicPage) -> None:
        self._initial = initial
        self._fill = fill_bytes(initial.fill, initial.value)
        self._words = dict(initial.words)

    def word(self, offset: int) -> int:
        """Return the 32-bit word at *offset*."""
        word = self._words.get(offset)
        return int.from_bytes(self._fill[offset : offset + 4], "little") if word is None else word

    def qword(self, offset: int) -> int:
        """Return the 8 bytes at *offset*."""
        return self.word(offset) | self.word(offset + 4) << 32

    def store(self, offset: int, word: int) -> None:
        """Store a 32-bit word."""
        self._words[offset] = word

    def store_qword(self, offset: int, value: int) -> None:
        """Store 8 bytes."""
        self._words[offset] = value & 0xFFFFFFFF
        self._words[offset + 4] = value >> 32

    def set_vector(self, base: int, vector: int) -> None:
        """Set a vector's bit in VISR or VIRR."""
        offset, mask = vector_bit(base, vector)
        self.store(offset, self.word(offset) | mask)

    def clear_vector(self, base: int, vector: int) -> None:
        """Clear a vector's bit in VISR or VIRR."""
        offset, mask = vector_bit(base, vector)
        self.store(offset, self.word(offset) & ~mask)

    def highest_vector(self, base: int) -> int:
        """Return the highest vector whose bit is set in VISR or VIRR, or 0."""
        for index in range(7, -1, -1):
            word = self.word(base + 16 * index)
            if word:
                return 32 * index + word.bit_length() - 1
        return 0

    def changed(self) -> tuple[tuple[int, int], ...]:
        """Return the words that differ from the initial ones, by offset."""
        initial = self._initial
        return tuple(
            (offset, word) for offset, word in sorted(self._words.items()) if word != initial.word(offset)
        )


class PostedInterruptDescriptor:
    """A posted-interrupt descriptor. SDM: *Posted-Interrupt Processing*, *IPI Virtualization*.

    ``pir`` are its bits 255:0, ``control`` its bits 319:256 with ON, SN, NV and NDST, ``rest`` the others.
    """

    __slots__ = ("control", "pir", "rest")

    def __init__(self, posted: PostedInterrupts, destination: int = 0) -> None:
        words = descriptor_words(posted, destination=destination)
        self.pir = sum(word << 64 * index for index, word in enumerate(words[:4]))
        self.control, self.rest = words[4], words[5:]

    def words(self) -> tuple[int, ...]:
        """Return the eight 64-bit words."""
        return (*(self.pir >> 64 * index & (1 << 64) - 1 for index in range(4)), self.control, *self.rest)


class Memory:
    """What lies at which physical address; every virtual processor's structures, and the stale page.

    ``pid_pointers`` are the 8-byte entries of the PID-pointer table that are not 0, by address.
    """

    __slots__ = ("bitmaps", "descriptors", "pages", "pid_pointers")

    def __init__(self) -> None:
        self.pages: dict[int, MemoryPage] = {}
        self.bitmaps: dict[int, MsrBitmap] = {}
        self.descriptors: dict[int, PostedInterruptDescriptor] = {}
        self.pid_pointers: dict[int, int] = {}

    def add_descriptor(self, vcpu: int, posted: PostedInterrupts, destination: int) -> None:
        """Set up a virtual processor's posted-interrupt descriptor, and its PID pointer."""
        address = structures_of(vcpu).descriptor
        self.descriptors[address] = PostedInterruptDescriptor(posted, destination)
        flipped = 0 if posted.pid_pointer_flip is None else 1 << posted.pid_pointer_flip
        self.pid_pointers[PID_POINTER_TABLE + 8 * vcpu] = (address | 1) ^ flipped

    def page(self, address: int) -> MemoryPage | None:
        """Return the page at *address*; ``None`` where nothing is known of that memory."""
        page = self.pages.get(address)
        if page is None and address == STALE_PAGE:
            page = self.pages[address] = MemoryPage(VirtualApicPage(Fill.VALUE, STALE))
        return page

    def bitmap(self, address: int) -> MsrBitmap | None:
        """Return the MSR bitmap at *address*; ``None`` where nothing is known of that memory."""
        return _stale_bitmap() if address == STALE_PAGE else self.bitmaps.get(address)

    def descriptor(self, address: int) -> PostedInterruptDescriptor:
        """Return the posted-interrupt descriptor at *address*."""
        if address not in self.descriptors:
            raise NotModelled(f"the posted-interrupt descriptor at {address:X}H: nothing is known there")
        return self.descriptors[address]

    def pid_pointer(self, address: int) -> int:
        """Return the entry of the PID-pointer table at *address*."""
        if address & ~0xFFF != PID_POINTER_TABLE or address & 7:
            raise NotModelled(f"a PID pointer at {address:X}H: nothing is known there")
        return self.pid_pointers.get(address, 0)


@lru_cache
def _stale_bitmap() -> MsrBitmap:
    """Return the MSR bitmap that the stale page makes."""
    ones = tuple(
        (msr, msr)
        for first in (LOW_MSRS[0], HIGH_MSRS[0])
        for msr in range(first, first + 0x2000)
        if STALE >> (msr & 31) & 1
    )
    return MsrBitmap(ones, ones)
