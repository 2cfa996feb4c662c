"""What a subject is asked to do: setups and steps, complete and without any expectation.

A `Program` is all that crosses to a backend. Everything is frozen and resolved: no names to look up,
no ``$variables``, no defaults to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runner.apic import ApicMode, VirtualApicPage
from runner.vmx import Activity, Blocking, Controls, Field, MsrBitmap


class Level(Enum):
    """What the subject is: the VMX implementation, or the whole platform as a guest sees it."""

    VMX = "vmx"
    GUEST = "guest"


class Page(Enum):
    """Pages whose physical address a VMCS field can be given."""

    OWN = "own"
    OF_VCPU = "of-vcpu"
    STALE = "stale"
    APIC_ACCESS = "apic-access"


@dataclass(frozen=True, slots=True)
class Number:
    """A plain value for a VMCS field."""

    value: int


@dataclass(frozen=True, slots=True)
class Flip:
    """The value that the setup gives the field, with one bit inverted."""

    bit: int


@dataclass(frozen=True, slots=True)
class PageAddress:
    """The physical address of a page, plus a number of bytes.

    ``OWN`` is the page that belongs into the field on this virtual processor, ``OF_VCPU`` the one
    that belongs there on virtual processor ``vcpu``.
    """

    page: Page
    vcpu: int = 0
    add: int = 0


@dataclass(frozen=True, slots=True)
class BeyondWidth:
    """The field's own address with the first bit beyond the physical-address width set."""


FieldValue = Number | Flip | PageAddress | BeyondWidth


@dataclass(frozen=True, slots=True)
class PostedInterrupts:
    """The posted-interrupt descriptor at VM entry, and the notification vector in the VMCS.

    ``words`` are 32-bit words of the descriptor from byte 32 on, by offset; ON and SN stand apart. Where
    they do not name it, NV is the notification vector and NDST the processor's own APIC ID.
    ``pid_pointer_flip`` is a bit to invert in the descriptor's entry of the PID-pointer table.
    """

    notification_vector: int = 0xF2
    pir: frozenset[int] = frozenset()
    outstanding: bool = False
    suppress: bool = False
    words: tuple[tuple[int, int], ...] = ()
    pid_pointer_flip: int | None = None


@dataclass(frozen=True, slots=True)
class MsrEntry:
    """One entry of a VM-entry or VM-exit MSR area."""

    msr: int
    value: int


@dataclass(frozen=True, slots=True)
class MsrLists:
    """The three MSR areas. SDM: *VM-Exit Controls for MSRs*, *VM-Entry Controls for MSRs*."""

    entry_load: tuple[MsrEntry, ...] = ()
    exit_store: tuple[MsrEntry, ...] = ()
    exit_load: tuple[MsrEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class GuestState:
    """Guest state at VM entry, as far as scenarios vary it."""

    interrupt_flag: bool = False
    trap_flag: bool = False
    cpl: int = 0
    blocking: Blocking = Blocking(0)
    activity: Activity = Activity.ACTIVE
    exception_bitmap: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Rdmsr:
    """RDMSR; with ``garbage`` the upper halves of RAX, RCX and RDX hold ones before it."""

    msr: int
    garbage: bool = False


@dataclass(frozen=True, slots=True)
class Wrmsr:
    """WRMSR of a 64-bit value (EDX:EAX); ``garbage`` as for `Rdmsr`."""

    msr: int
    value: int
    garbage: bool = False


@dataclass(frozen=True, slots=True)
class ReadCr8:
    """MOV from CR8."""


@dataclass(frozen=True, slots=True)
class WriteCr8:
    """MOV to CR8 of a 64-bit value."""

    value: int


class Plain(Enum):
    """Instructions and waits without operands."""

    STI = "sti"
    CLI = "cli"
    NOP = "nop"
    MOV_SS = "mov-ss"
    HLT = "hlt"
    SPIN = "spin"
    VMCALL = "vmcall"
    DUMP_AT_RESET = "dump-at-reset"


@dataclass(frozen=True, slots=True)
class Cpuid:
    """CPUID of one leaf, subleaf 0. At level guest its value is EDX:ECX, the feature words."""

    leaf: int


@dataclass(frozen=True, slots=True)
class MmioRead:
    """A 32-bit load from the APIC base page at this offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class SetApicBase:
    """WRMSR of IA32_APIC_BASE (level guest): bits 11:10 over the others as they are, or all 64 bits."""

    value: int


@dataclass(frozen=True, slots=True)
class Vmm:
    """What the VMM changes between a VM exit and the next VM entry; ``None`` leaves a thing alone."""

    words: tuple[tuple[int, int], ...] = ()
    controls: Controls | None = None
    msr_bitmap: MsrBitmap | None = None
    tpr_threshold: int | None = None
    rvi: int | None = None
    svi: int | None = None
    eoi_exit_bitmap: frozenset[int] | None = None
    fields: tuple[tuple[Field, FieldValue], ...] = ()
    interrupt_flag: bool | None = None
    blocking: Blocking | None = None
    activity: Activity | None = None


@dataclass(frozen=True, slots=True)
class Inject:
    """The next VM entry injects this vector as an external interrupt."""

    vector: int


@dataclass(frozen=True, slots=True)
class Raise:
    """A physical interrupt with this vector is pending at the next VM entry."""

    vector: int


@dataclass(frozen=True, slots=True)
class Post:
    """PIR bits set in a virtual processor's descriptor, and perhaps a notification sent to it."""

    to: int
    vectors: frozenset[int]
    notify: int | None
    outstanding: bool = True
    by_guest: bool = True


@dataclass(frozen=True, slots=True)
class Barrier:
    """All virtual processors that name it wait here, in the guest, for each other."""

    name: str


@dataclass(frozen=True, slots=True)
class InitSipi:
    """INIT and two SIPIs to another processor, which goes on behind its HLT (level guest)."""

    to: int


Action = (
    Rdmsr
    | Wrmsr
    | ReadCr8
    | WriteCr8
    | Plain
    | Cpuid
    | MmioRead
    | SetApicBase
    | Vmm
    | Inject
    | Raise
    | Post
    | Barrier
    | InitSipi
)

VMM_ACTIONS = (Vmm, Inject, Raise)
"""Actions that happen in root operation: at the VM exit of the step before, or before the first entry."""


def is_vmm(action: Action) -> bool:
    """Whether an action happens in root operation; a `Post` does unless the guest makes it."""
    return isinstance(action, VMM_ACTIONS) or (isinstance(action, Post) and not action.by_guest)


@dataclass(frozen=True, slots=True)
class Step:
    """One action of one virtual processor; ``cpl`` 3 runs that instruction at CPL 3."""

    action: Action
    vcpu: int = 0
    cpl: int = 0


Handler = tuple[int, tuple[Step, ...]]
"""A vector, and the steps its handler performs before IRET."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The state of one virtual processor at its first VM entry.

    ``handlers`` holds one entry a vector; every other vector's handler returns at once, after an EOI
    (WRMSR 80BH, 0) if ``eoi`` is true.
    """

    controls: Controls = Controls()
    msr_bitmap: MsrBitmap = MsrBitmap()
    apic_mode: ApicMode = ApicMode.X2APIC
    page: VirtualApicPage = VirtualApicPage()
    tpr_threshold: int = 0
    rvi: int = 0
    svi: int = 0
    eoi_exit_bitmap: frozenset[int] = frozenset()
    posted: PostedInterrupts | None = None
    fields: tuple[tuple[Field, FieldValue], ...] = ()
    msr_lists: MsrLists = MsrLists()
    guest: GuestState = GuestState()
    handlers: tuple[Handler, ...] = ()
    eoi: bool = False

    def handler(self, vector: int) -> tuple[Step, ...]:
        """Return the steps of a vector's handler, without its IRET."""
        for number, steps in self.handlers:
            if number == vector:
                return steps
        return EOI_HANDLER if self.eoi else ()


EOI_HANDLER: tuple[Step, ...] = (Step(Wrmsr(0x80B, 0)),)


@dataclass(frozen=True, slots=True)
class Program:
    """One point of a case, as a subject gets it: a setup for each virtual processor, and the steps.

    ``steps`` are in file order; within one virtual processor that order binds, between two only
    barriers order.
    """

    level: Level
    vcpus: tuple[Setup, ...]
    steps: tuple[Step, ...]

    def steps_of(self, vcpu: int) -> tuple[tuple[int, Step], ...]:
        """Return the steps of one virtual processor with their indices in ``steps``."""
        return tuple((index, step) for index, step in enumerate(self.steps) if step.vcpu == vcpu)
