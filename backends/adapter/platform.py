"""What an adapter's machine is like, as its `capabilities` message says, and where structures lie in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from backends.capabilities import Processor
from runner.program import Level, Program
from runner.vmx import CONTROL_FIELDS, CONTROL_WORDS, Control, EntryControls, ExitControls, Field

STRIDE = 0x10000
"""Bytes from one virtual processor's structures to the next one's; the shared ones come first."""

OWN_STRUCTURES: Mapping[Field, int] = MappingProxyType(
    {
        Field.VIRTUAL_APIC_ADDRESS: 0x0000,
        Field.MSR_BITMAP_ADDRESS: 0x1000,
        Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: 0x2000,
        Field.VM_ENTRY_MSR_LOAD_ADDRESS: 0x3000,
        Field.VM_EXIT_MSR_STORE_ADDRESS: 0x4000,
        Field.VM_EXIT_MSR_LOAD_ADDRESS: 0x5000,
    }
)
"""Where a virtual processor's structures lie, from its first byte on, by the field that points there."""

SHARED_STRUCTURES: Mapping[Field, int] = MappingProxyType(
    {Field.PID_POINTER_TABLE_ADDRESS: 0x0000, Field.APIC_ACCESS_ADDRESS: 0x1000}
)
STALE_PAGE = 0x2000
MOST_VCPUS = 8
MEMORY_BYTES = 1 << 20

_ALWAYS: Mapping[type[Control], int] = MappingProxyType(
    {
        ExitControls: int(ExitControls.HOST_ADDRESS_SPACE_SIZE),
        EntryControls: int(EntryControls.IA_32E_MODE_GUEST),
    }
)
"""Controls that a host and a guest in 64-bit mode need."""


@dataclass(frozen=True)
class Platform:
    """An adapter's machine: its processor, what it can run, and 1 MByte at the address ``memory``."""

    processor: Processor
    levels: frozenset[Level]
    most_vcpus: int
    memory: int

    def lacks(self, program: Program) -> str | None:
        """Return what the program needs and the adapter has not, or ``None``."""
        if program.level not in self.levels:
            return f"level {program.level.value}: its capabilities do not list it"
        if len(program.vcpus) > self.most_vcpus:
            return f"{len(program.vcpus)} virtual processors: it has at most {self.most_vcpus}"
        return self.processor.lacks(program)

    @property
    def stale_page(self) -> int:
        """The physical address of the page that nobody set."""
        return self.memory + STALE_PAGE

    def address(self, field: Field, vcpu: int) -> int | None:
        """Return the physical address of what belongs into *field* of a virtual processor, if anything."""
        return self.addresses[vcpu].get(field)

    @cached_property
    def addresses(self) -> tuple[Mapping[Field, int], ...]:
        """The address in each field that points to a structure, by virtual processor."""
        return tuple(
            {field: self.memory + at for field, at in SHARED_STRUCTURES.items()}
            | {field: self.memory + STRIDE * (vcpu + 1) + at for field, at in OWN_STRUCTURES.items()}
            for vcpu in range(MOST_VCPUS)
        )

    @cached_property
    def required(self) -> Mapping[type[Control], int]:
        """The bits of each control word that are 1 whatever a case says."""
        return {kind: self.processor.required(kind) | _ALWAYS.get(kind, 0) for kind in CONTROL_WORDS}

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The VMCS fields that exist and can be written."""
        return tuple(field for field in Field if _is_writable(field) and self.processor.has_field(field))


CONTROL_WORD_OF: Mapping[Field, type[Control]] = MappingProxyType(
    {field: kind for kind, field in CONTROL_FIELDS.items()}
)


def _is_writable(field: Field) -> bool:
    """Whether it is none of the read-only data fields. SDM: *Field Encoding in VMCS*."""
    return field >> 10 & 3 != 1
