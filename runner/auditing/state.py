"""What a dump says of each virtual processor. What it does not say is ``None``, or stands in no mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from runner.apic import PAGE_SIZE, ApicMode, Fill, VirtualApicPage
from runner.program import MsrLists
from runner.vmx import CONTROL_FIELDS, Control, Field, MsrBitmap, PrimaryControls, SecondaryControls


@dataclass(frozen=True, slots=True)
class Read:
    """What RDMSR gave the guest: ``value`` is EDX:EAX, or EAX alone."""

    msr: int
    value: int


@dataclass(frozen=True, slots=True)
class KnownPage:
    """The words of a virtual-APIC page that are known: those named, all others if there is a ``fill``."""

    words: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    fill: tuple[Fill, int] | None = None

    def word(self, offset: int) -> int | None:
        """Return the 32-bit word at *offset*, ``None`` where it is not known."""
        if offset in self.words or self.fill is None:
            return self.words.get(offset)
        return VirtualApicPage(*self.fill).word(offset)

    @property
    def is_whole(self) -> bool:
        """Whether every word is known."""
        return self.fill is not None or len(self.words) == PAGE_SIZE // 4

    def completed(self, fill: Fill) -> VirtualApicPage:
        """Return a page with the known words, and *fill* in place of the others."""
        return VirtualApicPage(*(self.fill or (fill, 0)), tuple(sorted(self.words.items())))


@dataclass(frozen=True, slots=True)
class VcpuState:
    """What is known of one virtual processor.

    ``fields`` are VMCS fields with their values, control words among them; ``never_set`` are those that
    nobody has written. ``interrupt_flag``, ``trap_flag`` and ``cpl`` are the guest's at VM entry. Of control
    words in ``listed`` only the named controls are known, not the reserved bits. ``capabilities`` are the VMX
    capability MSRs of the processor, by the control word that they are about.
    """

    name: str
    line: int
    fields: Mapping[Field, int] = field(default_factory=lambda: MappingProxyType({}))
    never_set: frozenset[Field] = frozenset()
    msr_bitmap: MsrBitmap | None = None
    page: KnownPage = KnownPage()
    apic_id: int | None = None
    apic_mode: ApicMode | None = None
    interrupt_flag: bool | None = None
    trap_flag: bool | None = None
    cpl: int | None = None
    reads: tuple[Read, ...] = ()
    msr_lists: MsrLists = MsrLists()
    listed: frozenset[Field] = frozenset()
    capabilities: Mapping[type[Control], int] = field(default_factory=lambda: MappingProxyType({}))

    def word(self, kind: type[Control]) -> int | None:
        """Return a control word, ``None`` where it is not known."""
        return self.fields.get(CONTROL_FIELDS[kind])

    def is_1(self, control: Control) -> bool | None:
        """Whether a control takes effect; ``None`` where that is not known."""
        word = self.word(type(control))
        is_set = None if word is None else bool(word & int(control))
        if not isinstance(control, SecondaryControls) or is_set is False:
            return is_set
        active = self.is_1(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS)
        return is_set and active if active is not None else None

    def lacks_address(self, of: Field) -> bool:
        """Whether nobody has set an address: it was never written, or is still 0."""
        return of in self.never_set or self.fields.get(of) == 0


@dataclass(frozen=True, slots=True)
class Dump:
    """All that a file says: ``form`` is what it was taken for, ``remarks`` say how it was read."""

    file: str
    form: str
    vcpus: tuple[VcpuState, ...]
    remarks: tuple[str, ...] = ()
    physical_address_width: int | None = None
