"""The words of VMX: controls, VMCS fields, exit reasons, VM-instruction errors, MSR bitmaps.

One table per fact. The scenario language spells every name in kebab-case, `name_of` and the
``*_BY_NAME`` tables translate. Source: SDM, *Virtual-Machine Control Structures* and the appendix
*Field Encoding in VMCS*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, IntEnum, IntFlag
from functools import lru_cache
from types import MappingProxyType
from typing import Any


def name_of(member: Enum) -> str:
    """Spell an enumeration member as the scenario language does, ``virtualize-x2apic-mode``."""
    return member.name.lower().replace("_", "-")


class PinBasedControls(IntFlag):
    """Pin-Based VM-Execution Controls."""

    EXTERNAL_INTERRUPT_EXITING = 1 << 0
    NMI_EXITING = 1 << 3
    VIRTUAL_NMIS = 1 << 5
    ACTIVATE_VMX_PREEMPTION_TIMER = 1 << 6
    PROCESS_POSTED_INTERRUPTS = 1 << 7


class PrimaryControls(IntFlag):
    """Processor-Based VM-Execution Controls, primary."""

    INTERRUPT_WINDOW_EXITING = 1 << 2
    USE_TSC_OFFSETTING = 1 << 3
    HLT_EXITING = 1 << 7
    INVLPG_EXITING = 1 << 9
    MWAIT_EXITING = 1 << 10
    RDPMC_EXITING = 1 << 11
    RDTSC_EXITING = 1 << 12
    CR3_LOAD_EXITING = 1 << 15
    CR3_STORE_EXITING = 1 << 16
    ACTIVATE_TERTIARY_CONTROLS = 1 << 17
    CR8_LOAD_EXITING = 1 << 19
    CR8_STORE_EXITING = 1 << 20
    USE_TPR_SHADOW = 1 << 21
    NMI_WINDOW_EXITING = 1 << 22
    MOV_DR_EXITING = 1 << 23
    UNCONDITIONAL_IO_EXITING = 1 << 24
    USE_IO_BITMAPS = 1 << 25
    MONITOR_TRAP_FLAG = 1 << 27
    USE_MSR_BITMAPS = 1 << 28
    MONITOR_EXITING = 1 << 29
    PAUSE_EXITING = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


class SecondaryControls(IntFlag):
    """Processor-Based VM-Execution Controls, secondary."""

    VIRTUALIZE_APIC_ACCESSES = 1 << 0
    ENABLE_EPT = 1 << 1
    DESCRIPTOR_TABLE_EXITING = 1 << 2
    ENABLE_RDTSCP = 1 << 3
    VIRTUALIZE_X2APIC_MODE = 1 << 4
    ENABLE_VPID = 1 << 5
    WBINVD_EXITING = 1 << 6
    UNRESTRICTED_GUEST = 1 << 7
    APIC_REGISTER_VIRTUALIZATION = 1 << 8
    VIRTUAL_INTERRUPT_DELIVERY = 1 << 9
    PAUSE_LOOP_EXITING = 1 << 10
    RDRAND_EXITING = 1 << 11
    ENABLE_INVPCID = 1 << 12
    ENABLE_VM_FUNCTIONS = 1 << 13
    VMCS_SHADOWING = 1 << 14


class TertiaryControls(IntFlag):
    """Processor-Based VM-Execution Controls, tertiary."""

    LOADIWKEY_EXITING = 1 << 0
    IPI_VIRTUALIZATION = 1 << 4


class ExitControls(IntFlag):
    """VM-Exit Controls."""

    SAVE_DEBUG_CONTROLS = 1 << 2
    HOST_ADDRESS_SPACE_SIZE = 1 << 9
    LOAD_IA32_PERF_GLOBAL_CTRL = 1 << 12
    ACKNOWLEDGE_INTERRUPT_ON_EXIT = 1 << 15
    SAVE_IA32_PAT = 1 << 18
    LOAD_IA32_PAT = 1 << 19
    SAVE_IA32_EFER = 1 << 20
    LOAD_IA32_EFER = 1 << 21
    SAVE_VMX_PREEMPTION_TIMER_VALUE = 1 << 22


class EntryControls(IntFlag):
    """VM-Entry Controls."""

    LOAD_DEBUG_CONTROLS = 1 << 2
    IA_32E_MODE_GUEST = 1 << 9
    LOAD_IA32_PERF_GLOBAL_CTRL_ON_ENTRY = 1 << 13
    LOAD_IA32_PAT_ON_ENTRY = 1 << 14
    LOAD_IA32_EFER_ON_ENTRY = 1 << 15


Control = (
    PinBasedControls | PrimaryControls | SecondaryControls | TertiaryControls | ExitControls | EntryControls
)

CONTROL_WORDS: tuple[type[Control], ...] = (
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
    ExitControls,
    EntryControls,
)

CONTROLS_BY_NAME: Mapping[str, Control] = MappingProxyType(
    {name_of(control): control for word in CONTROL_WORDS for control in word}
)


@dataclass(frozen=True, slots=True)
class Controls:
    """The VMX controls that a setup makes 1, one value per control word.

    Reserved bits whose required value is 1 (*default1*) are not part of it.
    """

    pin: PinBasedControls = PinBasedControls(0)
    primary: PrimaryControls = PrimaryControls(0)
    secondary: SecondaryControls = SecondaryControls(0)
    tertiary: TertiaryControls = TertiaryControls(0)
    exit: ExitControls = ExitControls(0)
    entry: EntryControls = EntryControls(0)

    def word(self, kind: type[Control]) -> int:
        """Return the bits set in one control word, 32 bits (tertiary: 64 bits)."""
        return int(getattr(self, _ATTRIBUTE[kind]))

    def has(self, control: Control) -> bool:
        """Whether *control* is 1 in its field, effective or not."""
        return bool(self.word(type(control)) & int(control))

    def active(self, control: Control) -> bool:
        """Whether *control* takes effect.

        Secondary and tertiary controls act as 0 while the primary control that activates them is 0.
        SDM: *Processor-Based VM-Execution Controls*.
        """
        if isinstance(control, SecondaryControls):
            return bool(int(self.primary) & _SECONDARY and int(self.secondary) & int(control))
        if isinstance(control, TertiaryControls):
            return bool(int(self.primary) & _TERTIARY and int(self.tertiary) & int(control))
        return self.has(control)

    def plus(self, controls: Iterable[Control]) -> Controls:
        """Return the same controls with these made 1."""
        return self._changed(controls, to=True)

    def minus(self, controls: Iterable[Control]) -> Controls:
        """Return the same controls with these made 0."""
        return self._changed(controls, to=False)

    def _changed(self, controls: Iterable[Control], *, to: bool) -> Controls:
        result = self
        for control in controls:
            kind = type(control)
            old = result.word(kind)
            new = old | control if to else old & ~control
            changed: dict[str, Any] = {_ATTRIBUTE[kind]: kind(new)}
            result = replace(result, **changed)
        return result


# Plain numbers: an operation on IntFlag members costs 20 times as much, and every judged point asks.
_SECONDARY = int(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS)
_TERTIARY = int(PrimaryControls.ACTIVATE_TERTIARY_CONTROLS)
_ATTRIBUTE: Mapping[type[Control], str] = MappingProxyType(
    dict(zip(CONTROL_WORDS, ("pin", "primary", "secondary", "tertiary", "exit", "entry"), strict=True))
)


class Field(IntEnum):
    """VMCS fields by encoding; bits 14:13 of an encoding give the width.

    SDM: *Field Encoding in VMCS*.
    """

    POSTED_INTERRUPT_NOTIFICATION_VECTOR = 0x0002
    LAST_PID_POINTER_INDEX = 0x0008
    GUEST_INTERRUPT_STATUS = 0x0810
    MSR_BITMAP_ADDRESS = 0x2004
    VM_EXIT_MSR_STORE_ADDRESS = 0x2006
    VM_EXIT_MSR_LOAD_ADDRESS = 0x2008
    VM_ENTRY_MSR_LOAD_ADDRESS = 0x200A
    VIRTUAL_APIC_ADDRESS = 0x2012
    APIC_ACCESS_ADDRESS = 0x2014
    POSTED_INTERRUPT_DESCRIPTOR_ADDRESS = 0x2016
    EOI_EXIT_BITMAP_0 = 0x201C
    EOI_EXIT_BITMAP_1 = 0x201E
    EOI_EXIT_BITMAP_2 = 0x2020
    EOI_EXIT_BITMAP_3 = 0x2022
    TERTIARY_PROCESSOR_BASED_CONTROLS = 0x2034
    PID_POINTER_TABLE_ADDRESS = 0x2042
    IA32_DEBUGCTL = 0x2802
    PIN_BASED_CONTROLS = 0x4000
    PRIMARY_PROCESSOR_BASED_CONTROLS = 0x4002
    EXCEPTION_BITMAP = 0x4004
    VM_EXIT_CONTROLS = 0x400C
    VM_EXIT_MSR_STORE_COUNT = 0x400E
    VM_EXIT_MSR_LOAD_COUNT = 0x4010
    VM_ENTRY_CONTROLS = 0x4012
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014
    VM_ENTRY_INTERRUPTION_INFORMATION = 0x4016
    TPR_THRESHOLD = 0x401C
    SECONDARY_PROCESSOR_BASED_CONTROLS = 0x401E
    VM_INSTRUCTION_ERROR = 0x4400
    EXIT_REASON = 0x4402
    VM_EXIT_INTERRUPTION_INFORMATION = 0x4404
    VM_EXIT_INTERRUPTION_ERROR_CODE = 0x4406
    IDT_VECTORING_INFORMATION = 0x4408
    VM_EXIT_INSTRUCTION_LENGTH = 0x440C
    GUEST_INTERRUPTIBILITY_STATE = 0x4824
    GUEST_ACTIVITY_STATE = 0x4826
    EXIT_QUALIFICATION = 0x6400
    GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822

    @property
    def width(self) -> int:
        """Width in bits: 16, 64 or 32; natural width counts as 64."""
        return (16, 64, 32, 64)[self.value >> 13 & 3]


FIELDS_BY_NAME: Mapping[str, Field] = MappingProxyType({name_of(field): field for field in Field})

CONTROL_FIELDS: Mapping[type[Control], Field] = MappingProxyType(
    {
        PinBasedControls: Field.PIN_BASED_CONTROLS,
        PrimaryControls: Field.PRIMARY_PROCESSOR_BASED_CONTROLS,
        SecondaryControls: Field.SECONDARY_PROCESSOR_BASED_CONTROLS,
        TertiaryControls: Field.TERTIARY_PROCESSOR_BASED_CONTROLS,
        ExitControls: Field.VM_EXIT_CONTROLS,
        EntryControls: Field.VM_ENTRY_CONTROLS,
    }
)


class ExitReason(IntEnum):
    """Basic exit reasons. SDM: *VMX Basic Exit Reasons*."""

    EXCEPTION_OR_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    START_UP_IPI = 4
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    CPUID = 10
    HLT = 12
    VMCALL = 18
    CONTROL_REGISTER_ACCESS = 28
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILURE_GUEST_STATE = 33
    ENTRY_FAILURE_MSR_LOADING = 34
    MWAIT = 36
    MONITOR_TRAP_FLAG = 37
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    VIRTUALIZED_EOI = 45
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    VMX_PREEMPTION_TIMER_EXPIRED = 52
    APIC_WRITE = 56


EXIT_REASONS_BY_NAME: Mapping[str, ExitReason] = MappingProxyType(
    {name_of(reason): reason for reason in ExitReason}
)

TRAP_LIKE = frozenset({ExitReason.TPR_BELOW_THRESHOLD, ExitReason.VIRTUALIZED_EOI, ExitReason.APIC_WRITE})
"""Exits after which the saved RIP is the next instruction. SDM: *Architectural State Before a VM Exit*."""


class InstructionError(IntEnum):
    """VM-instruction errors. SDM: *VM Instruction Error Numbers*."""

    VMLAUNCH_WITH_NON_CLEAR_VMCS = 4
    VMRESUME_WITH_NON_LAUNCHED_VMCS = 5
    INVALID_CONTROL_FIELDS = 7
    INVALID_HOST_STATE_FIELDS = 8
    UNSUPPORTED_VMCS_COMPONENT = 12
    VM_ENTRY_WITH_EVENTS_BLOCKED_BY_MOV_SS = 26


class Activity(IntEnum):
    """Activity states. SDM: *Guest Non-Register State*."""

    ACTIVE = 0
    HLT = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3


class Blocking(IntFlag):
    """Interruptibility state. SDM: *Guest Non-Register State*."""

    STI = 1 << 0
    MOV_SS = 1 << 1
    SMI = 1 << 2
    NMI = 1 << 3


class Access(Enum):
    """Which instruction reaches an MSR."""

    READ = "read"
    WRITE = "write"


MsrRange = tuple[int, int]
"""First and last MSR number, both included."""

LOW_MSRS: MsrRange = (0x0, 0x1FFF)
HIGH_MSRS: MsrRange = (0xC0000000, 0xC0001FFF)


@dataclass(frozen=True, slots=True)
class MsrBitmap:
    """The MSRs whose bit in the MSR bitmap is 1, as ranges within `LOW_MSRS` and `HIGH_MSRS`.

    SDM: *MSR-Bitmap Address*.
    """

    reads: tuple[MsrRange, ...] = ()
    writes: tuple[MsrRange, ...] = ()

    def bit(self, msr: int, access: Access) -> bool:
        """Whether the bit of *msr* for *access* is 1."""
        ranges = self.reads if access is Access.READ else self.writes
        return any(first <= msr <= last for first, last in ranges)

    def exits(self, msr: int, access: Access) -> bool:
        """Whether an access exits: its bit is 1, or the bitmap has no bit for it."""
        covered = msr <= LOW_MSRS[1] or HIGH_MSRS[0] <= msr <= HIGH_MSRS[1]
        return not covered or self.bit(msr, access)

    @classmethod
    def from_bytes(cls, page: bytes) -> MsrBitmap:
        """Return the bitmap that a 4-KByte page holds."""
        return cls(_ranges(page[:0x800]), _ranges(page[0x800:]))

    def to_bytes(self) -> bytes:
        """Return the 4-KByte page: read low, read high, write low, write high, 1 KByte each."""
        return _bitmap_page(self)


@lru_cache(maxsize=64)
def _bitmap_page(bitmap: MsrBitmap) -> bytes:
    page = bytearray(4096)
    for base, ranges in ((0, bitmap.reads), (0x800, bitmap.writes)):
        for first, last in ranges:
            for msr in range(first, last + 1):
                half = 0x400 if msr >= HIGH_MSRS[0] else 0
                index = msr & 0x1FFF
                page[base + half + (index >> 3)] |= 1 << (index & 7)
    return bytes(page)


def _ranges(maps: bytes) -> tuple[MsrRange, ...]:
    """Return the MSRs whose bits are 1 in a low and a high map."""
    ranges: list[MsrRange] = []
    for start, half in ((LOW_MSRS[0], maps[:0x400]), (HIGH_MSRS[0], maps[0x400:])):
        for index in range(8 * len(half)):
            if half[index >> 3] >> (index & 7) & 1:
                msr = start + index
                if ranges and ranges[-1][1] == msr - 1:
                    ranges[-1] = ranges[-1][0], msr
                else:
                    ranges.append((msr, msr))
    return tuple(ranges)
