"""The x2APIC registers and the virtual-APIC page.

Source: SDM, *x2APIC Register Address Space*, *Virtual APIC State*, *Virtualized APIC Registers*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType

FIRST_MSR, LAST_MSR = 0x800, 0x8FF
PAGE_SIZE = 4096


def is_x2apic(msr: int) -> bool:
    """Whether *msr* lies in the range 800H-8FFH that x2APIC virtualization treats specially."""
    return FIRST_MSR <= msr <= LAST_MSR


def page_offset(msr: int) -> int:
    """Return the byte offset ``(ECX & FFH) << 4`` in the virtual-APIC page, 000H-FF0H."""
    return (msr & 0xFF) << 4


class ApicMode(Enum):
    """State of a local APIC, IA32_APIC_BASE[11:10]."""

    DISABLED = "disabled"
    XAPIC = "xapic"
    X2APIC = "x2apic"


@dataclass(frozen=True, slots=True)
class ApicRegister:
    """One x2APIC register as RDMSR and WRMSR reach it in a physical APIC in x2APIC mode.

    ``reserved`` are the bits that a WRMSR must leave 0, in 64 bits.
    """

    name: str
    msr: int
    readable: bool
    writable: bool
    reserved: int = 0xFFFFFFFF_00000000
    says: str = ""

    @property
    def offset(self) -> int:
        """Byte offset of the register in the virtual-APIC page."""
        return page_offset(self.msr)


_HIGH = 0xFFFFFFFF_00000000


def _table() -> Iterator[ApicRegister]:
    def register(name: str, msr: int, access: str, reserved: int = 0, says: str = "") -> ApicRegister:
        return ApicRegister(name, msr, "r" in access, "w" in access, _HIGH | reserved, says)

    yield register("APICID", 0x802, "r", says="local APIC ID")
    yield register("VERSION", 0x803, "r", says="local APIC version")
    yield register("TPR", 0x808, "rw", 0xFFFFFF00, "task priority")
    yield register("PPR", 0x80A, "r", says="processor priority")
    yield register("EOI", 0x80B, "w", 0xFFFFFFFF, "end of interrupt")
    yield register("LDR", 0x80D, "r", says="logical destination")
    yield register("SVR", 0x80F, "rw", 0xFFFFEC00, "spurious interrupt vector")
    for base, name in ((0x810, "ISR"), (0x818, "TMR"), (0x820, "IRR")):
        for index in range(8):
            yield register(f"{name}{index}", base + index, "r", says=f"{name} word {index}")
    yield register("ESR", 0x828, "rw", 0xFFFFFFFF, "error status")
    yield register("LVT_CMCI", 0x82F, "rw", 0xFFFEE800, "LVT, corrected machine checks")
    yield ApicRegister("ICR", 0x830, True, True, 0xFFF32000, "interrupt command")
    yield register("LVT_TIMER", 0x832, "rw", 0xFFF8EF00, "LVT, timer")
    yield register("LVT_THERMAL", 0x833, "rw", 0xFFFEE800, "LVT, thermal sensor")
    yield register("LVT_PERF", 0x834, "rw", 0xFFFEE800, "LVT, performance counters")
    yield register("LVT_LINT0", 0x835, "rw", 0xFFFE0800, "LVT, LINT0")
    yield register("LVT_LINT1", 0x836, "rw", 0xFFFE0800, "LVT, LINT1")
    yield register("LVT_ERROR", 0x837, "rw", 0xFFFEEF00, "LVT, errors")
    yield register("INITIAL_COUNT", 0x838, "rw", says="timer, initial count")
    yield register("CURRENT_COUNT", 0x839, "r", says="timer, current count")
    yield register("DCR", 0x83E, "rw", 0xFFFFFFF4, "timer, divide configuration")
    yield register("SELF_IPI", 0x83F, "w", 0xFFFFFF00, "self IPI")


REGISTERS: tuple[ApicRegister, ...] = tuple(_table())
REGISTERS_BY_NAME: Mapping[str, ApicRegister] = MappingProxyType({r.name: r for r in REGISTERS})
REGISTERS_BY_MSR: Mapping[int, ApicRegister] = MappingProxyType({r.msr: r for r in REGISTERS})

APICID, TPR, PPR, EOI, ICR, SELF_IPI = (
    REGISTERS_BY_NAME[name].msr for name in ("APICID", "TPR", "PPR", "EOI", "ICR", "SELF_IPI")
)
VTPR, VPPR, VEOI, VICR, VSELF_IPI = (page_offset(msr) for msr in (TPR, PPR, EOI, ICR, SELF_IPI))
VISR, VTMR, VIRR = 0x100, 0x180, 0x200
VECTOR_SETS: Mapping[str, int] = MappingProxyType({"ISR": VISR, "TMR": VTMR, "IRR": VIRR})

QUIET_MSRS = frozenset(
    register.msr
    for register in REGISTERS
    if register.name in ("TPR", "ESR", "INITIAL_COUNT") or register.name[:3] in VECTOR_SETS
)
"""The registers of a physical APIC that hold 0 before the first VM entry, on every subject."""

OBSERVED_MSRS = frozenset({0x1B}) | {
    register.msr
    for register in REGISTERS
    if register.readable and register.name not in ("APICID", "VERSION", "PPR", "ICR", "CURRENT_COUNT")
}
"""What a final state tells of a physical APIC: IA32_APIC_BASE and the registers that keep what a case did."""

STALE = 0x9C401C39
"""What the words of the stale page hold: the 2621447225 of the question this project began from."""


def register_name(msr: int) -> str:
    """Return ``APICID (802H)`` for a register, ``MSR 80EH`` for a number without one."""
    register = REGISTERS_BY_MSR.get(msr)
    return f"{register.name} ({msr:X}H)" if register else f"MSR {msr:X}H"


def vector_bit(base: int, vector: int) -> tuple[int, int]:
    """Return byte offset and mask of a vector's bit in VISR, VTMR or VIRR."""
    return base | (vector & 0xE0) >> 1, 1 << (vector & 0x1F)


def vectors_to_words(base: int, vectors: Iterable[int]) -> dict[int, int]:
    """Return the eight 32-bit words of VISR, VTMR or VIRR, by offset, that hold *vectors*."""
    words = {base + 16 * index: 0 for index in range(8)}
    for vector in vectors:
        offset, mask = vector_bit(base, vector)
        words[offset] |= mask
    return words


def processor_priority(vtpr: int, svi: int) -> int:
    """Return VPPR for these: VTPR[7:0] unless SVI has the higher class. SDM: *PPR Virtualization*."""
    return vtpr & 0xFF if vtpr & 0xF0 >= svi & 0xF0 else svi & 0xF0


def logical_id(identity: int) -> int:
    """Return the LDR of an APIC ID. SDM: *Deriving Logical x2APIC ID from the Local x2APIC ID*."""
    return (identity & 0xFFFF0) << 12 | 1 << (identity & 0xF)


class Fill(Enum):
    """What the words of a page hold that a setup does not name."""

    ZERO = "zero"
    ONES = "ones"
    TAGGED = "tagged"
    VALUE = "value"


def tag(offset: int) -> int:
    """Return the word of a tagged fill: it names its offset, and no two are equal."""
    return 0xA5000000 | offset << 12 | offset >> 2


@dataclass(frozen=True, slots=True)
class VirtualApicPage:
    """A virtual-APIC page: a fill, and 32-bit words by offset, sorted, each offset once.

    Word 080H keeps only bits 7:0 under every fill, since VM entry may clear 081H-083H
    (rule entry.may-clear-vtpr-upper-bytes).
    """

    fill: Fill = Fill.ZERO
    value: int = 0
    words: tuple[tuple[int, int], ...] = ()

    def to_bytes(self) -> bytes:
        """Return the 4096 bytes of the page."""
        page = bytearray(fill_bytes(self.fill, self.value))
        for offset, word in self.words:
            page[offset : offset + 4] = word.to_bytes(4, "little")
        return bytes(page)

    def word(self, offset: int) -> int:
        """Return the 32-bit word at *offset*."""
        for at, word in self.words:
            if at == offset:
                return word
        return int.from_bytes(fill_bytes(self.fill, self.value)[offset : offset + 4], "little")

    def qword(self, offset: int) -> int:
        """Return the 8 bytes at *offset*, which RDMSR gives as EDX:EAX."""
        return self.word(offset) | self.word(offset + 4) << 32


@lru_cache(maxsize=64)
def fill_bytes(fill: Fill, value: int = 0) -> bytes:
    """Return the 4096 bytes of a fill; word 080H keeps only bits 7:0."""
    constant = {Fill.ZERO: 0, Fill.ONES: 0xFFFFFFFF, Fill.VALUE: value}.get(fill)
    words = (tag(at) if constant is None else constant for at in range(0, PAGE_SIZE, 4))
    page = bytearray(b"".join(word.to_bytes(4, "little") for word in words))
    page[VTPR + 1 : VTPR + 4] = b"\0\0\0"
    return bytes(page)
