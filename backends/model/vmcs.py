"""A VMCS: the fields that programs can reach, and what a setup puts into them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from backends.model.implementation import Implementation
from backends.model.memory import (
    APIC_ACCESS_PAGE,
    PID_POINTER_TABLE,
    NotModelled,
    address_of,
    own_address,
    structures_of,
)
from runner.program import BeyondWidth, FieldValue, Flip, Number, PageAddress, PostedInterrupts, Setup
from runner.vmx import (
    CONTROLS_BY_NAME,
    Controls,
    EntryControls,
    ExitControls,
    Field,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
)

VALID = 1 << 31
"""The valid bit of interruption information."""

BLOCKED = 0b11
"""Blocking by STI and by MOV SS in the interruptibility state."""

SINGLE_STEP = 1 << 14
"""BS in the pending debug exceptions. SDM: *Guest Non-Register State*."""

_NO_POSTING = PostedInterrupts()
_ALWAYS_EXIT = int(ExitControls.HOST_ADDRESS_SPACE_SIZE)
_ALWAYS_ENTRY = int(EntryControls.IA_32E_MODE_GUEST)
_QWORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class ActiveControls:
    """The controls that the model asks about, as they take effect."""

    external_interrupt_exiting: bool
    process_posted_interrupts: bool
    interrupt_window_exiting: bool
    hlt_exiting: bool
    activate_secondary_controls: bool
    activate_tertiary_controls: bool
    cr8_load_exiting: bool
    cr8_store_exiting: bool
    use_tpr_shadow: bool
    use_msr_bitmaps: bool
    virtualize_apic_accesses: bool
    virtualize_x2apic_mode: bool
    apic_register_virtualization: bool
    virtual_interrupt_delivery: bool
    ipi_virtualization: bool
    acknowledge_interrupt_on_exit: bool


ControlWords = tuple[int, int, int, int, int, int]
"""Control words in the order of `CONTROL_WORDS`."""


@lru_cache(maxsize=4096)
def active_controls(words: ControlWords) -> ActiveControls:
    """Return what six control words make active."""
    pin, primary, secondary, tertiary, exit_, entry = words
    controls = Controls(
        PinBasedControls(pin),
        PrimaryControls(primary),
        SecondaryControls(secondary),
        TertiaryControls(tertiary),
        ExitControls(exit_),
        EntryControls(entry),
    )
    names = (field.name for field in fields(ActiveControls))
    return ActiveControls(
        **{name: controls.active(CONTROLS_BY_NAME[name.replace("_", "-")]) for name in names}
    )


NOTHING_ACTIVE = active_controls((0, 0, 0, 0, 0, 0))


@dataclass(slots=True)
class Vmcs:
    """One VMCS; a field's attribute is its name in `Field`, in lower case.

    RVI and SVI are the bytes of the guest interrupt status. Of RFLAGS there are IF and TF, of the
    access rights of SS the DPL. Non-root operation works on this state in place: no program can look
    at guest state between two VM exits.
    """

    pin_based_controls: int
    primary_processor_based_controls: int
    secondary_processor_based_controls: int
    tertiary_processor_based_controls: int
    vm_exit_controls: int
    vm_entry_controls: int
    tpr_threshold: int
    virtual_apic_address: int
    msr_bitmap_address: int
    apic_access_address: int
    posted_interrupt_descriptor_address: int
    posted_interrupt_notification_vector: int
    pid_pointer_table_address: int
    last_pid_pointer_index: int
    vm_entry_msr_load_address: int
    vm_entry_msr_load_count: int
    vm_exit_msr_store_address: int
    vm_exit_msr_store_count: int
    vm_exit_msr_load_address: int
    vm_exit_msr_load_count: int
    exception_bitmap: int
    eoi_exit_bitmap_0: int
    eoi_exit_bitmap_1: int
    eoi_exit_bitmap_2: int
    eoi_exit_bitmap_3: int
    vm_entry_interruption_information: int
    rvi: int
    svi: int
    interrupt_flag: bool
    trap_flag: bool
    cpl: int
    guest_interruptibility_state: int
    guest_activity_state: int
    guest_pending_debug_exceptions: int

    @property
    def guest_interrupt_status(self) -> int:
        """RVI in bits 7:0, SVI in bits 15:8. SDM: *Guest Non-Register State*."""
        return self.rvi | self.svi << 8

    @guest_interrupt_status.setter
    def guest_interrupt_status(self, value: int) -> None:
        self.rvi, self.svi = value & 0xFF, value >> 8 & 0xFF

    @property
    def has_msr_lists(self) -> bool:
        """Whether an MSR list has entries."""
        return bool(
            self.vm_entry_msr_load_count or self.vm_exit_msr_store_count or self.vm_exit_msr_load_count
        )

    def control_words(self) -> ControlWords:
        """Return the control words in the order of `CONTROL_WORDS`."""
        return (
            self.pin_based_controls,
            self.primary_processor_based_controls,
            self.secondary_processor_based_controls,
            self.tertiary_processor_based_controls,
            self.vm_exit_controls,
            self.vm_entry_controls,
        )

    def set_controls(self, controls: Controls, implementation: Implementation) -> None:
        """Write the control words: these controls, and the bits that must be 1."""
        pin, primary, secondary, tertiary, exit_, entry = implementation.allowed
        self.pin_based_controls = int(controls.pin) | pin.required
        self.primary_processor_based_controls = int(controls.primary) | primary.required
        self.secondary_processor_based_controls = int(controls.secondary) | secondary.required
        self.tertiary_processor_based_controls = int(controls.tertiary) | tertiary.required
        self.vm_exit_controls = int(controls.exit) | exit_.required | _ALWAYS_EXIT
        self.vm_entry_controls = int(controls.entry) | entry.required | _ALWAYS_ENTRY

    def set_eoi_exit_bitmap(self, vectors: frozenset[int]) -> None:
        """Write the four EOI-exit bitmaps. SDM: *Controls for APIC Virtualization*."""
        bits = sum(1 << vector for vector in vectors)
        self.eoi_exit_bitmap_0 = bits & _QWORD
        self.eoi_exit_bitmap_1 = bits >> 64 & _QWORD
        self.eoi_exit_bitmap_2 = bits >> 128 & _QWORD
        self.eoi_exit_bitmap_3 = bits >> 192

    def eoi_exits(self, vector: int) -> bool:
        """Whether the EOI-exit bitmaps have the bit of *vector*."""
        words = (
            self.eoi_exit_bitmap_0,
            self.eoi_exit_bitmap_1,
            self.eoi_exit_bitmap_2,
            self.eoi_exit_bitmap_3,
        )
        return bool(words[vector >> 6] >> (vector & 63) & 1)

    def override(self, field: Field, value: FieldValue, vcpu: int, implementation: Implementation) -> None:
        """Write one field as a scenario names it."""
        name = field.name.lower()
        if not hasattr(self, name):
            raise NotModelled(f"VMCS field {field.name} ({field.value:X}H): the model does not look at it")
        match value:
            case Number(number):
                new = number
            case Flip(bit):
                new = getattr(self, name) ^ 1 << bit
            case PageAddress():
                new = address_of(value, field, vcpu)
            case BeyondWidth():
                new = own_address(field, vcpu) | 1 << implementation.physical_address_width
        setattr(self, name, new)


def vmcs_of(setup: Setup, vcpu: int, vcpus: int, implementation: Implementation) -> Vmcs:
    """Return the VMCS of one virtual processor as its setup describes it."""
    own, lists = structures_of(vcpu), setup.msr_lists
    posted, guest = setup.posted or _NO_POSTING, setup.guest
    vmcs = Vmcs(
        *(0, 0, 0, 0, 0, 0),
        tpr_threshold=setup.tpr_threshold,
        virtual_apic_address=own.virtual_apic_page,
        msr_bitmap_address=own.msr_bitmap,
        apic_access_address=APIC_ACCESS_PAGE,
        posted_interrupt_descriptor_address=own.descriptor,
        posted_interrupt_notification_vector=posted.notification_vector,
        pid_pointer_table_address=PID_POINTER_TABLE,
        last_pid_pointer_index=vcpus - 1,
        vm_entry_msr_load_address=own.entry_load_area,
        vm_entry_msr_load_count=len(lists.entry_load),
        vm_exit_msr_store_address=own.exit_store_area,
        vm_exit_msr_store_count=len(lists.exit_store),
        vm_exit_msr_load_address=own.exit_load_area,
        vm_exit_msr_load_count=len(lists.exit_load),
        exception_bitmap=sum(1 << vector for vector in guest.exception_bitmap),
        eoi_exit_bitmap_0=0,
        eoi_exit_bitmap_1=0,
        eoi_exit_bitmap_2=0,
        eoi_exit_bitmap_3=0,
        vm_entry_interruption_information=0,
        rvi=setup.rvi,
        svi=setup.svi,
        interrupt_flag=guest.interrupt_flag,
        trap_flag=guest.trap_flag,
        cpl=guest.cpl,
        guest_interruptibility_state=int(guest.blocking),
        guest_activity_state=int(guest.activity),
        guest_pending_debug_exceptions=0,
    )
    vmcs.set_controls(setup.controls, implementation)
    if setup.eoi_exit_bitmap:
        vmcs.set_eoi_exit_bitmap(setup.eoi_exit_bitmap)
    for field, value in setup.fields:
        vmcs.override(field, value, vcpu, implementation)
    return vmcs
