"""Checks on the control fields at VM entry. SDM: *VM-Execution Control Fields*.

A violation is a rule and what it means here. VM entry reports no more than error 7, in any order, so a
scenario has one violation at most; `violations` gives all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from backends.model.implementation import MODELLED, AllowedSettings, AllowedWords
from backends.model.memory import NotModelled
from backends.model.state import LogicalProcessor
from backends.model.tpr import class_and_threshold
from backends.model.vmcs import ControlWords, active_controls
from runner.vmx import (
    CONTROL_WORDS,
    Control,
    EntryControls,
    ExitControls,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
    name_of,
)

Violation = tuple[str, str]

_RESERVED_RULES: dict[type[Control], str] = {
    PinBasedControls: "entry.pin-based-reserved-bits",
    PrimaryControls: "entry.primary-reserved-bits",
    SecondaryControls: "entry.secondary-reserved-bits",
    TertiaryControls: "entry.tertiary-reserved-bits",
    ExitControls: "fields.vm-exit-and-vm-entry-controls",
    EntryControls: "fields.vm-exit-and-vm-entry-controls",
}


def violations(cpu: LogicalProcessor) -> Iterator[Violation]:
    """Yield every violation of the control fields' checks."""
    yield from _reserved_bits(cpu.words, cpu.implementation.allowed)
    if not cpu.active.use_tpr_shadow:
        yield from _without_tpr_shadow(cpu)
    yield from _combinations(cpu)
    yield from _addresses(cpu)
    if cpu.active.process_posted_interrupts:
        yield from _posted_interrupts(cpu)
    if cpu.active.ipi_virtualization:
        yield from _ipi_virtualization(cpu)
    if cpu.active.use_tpr_shadow:
        yield from _tpr_threshold(cpu)
    yield from _msr_areas(cpu)


def refuse_unmodelled(cpu: LogicalProcessor) -> None:
    """Raise `NotModelled` for an active control whose effect the model does not know."""
    names = _unmodelled(cpu.words, cpu.implementation.allowed)
    if names:
        raise NotModelled(f"the effect of {', '.join(names)}")


@lru_cache
def _unmodelled(words: ControlWords, allowed: AllowedWords) -> tuple[str, ...]:
    return tuple(
        name_of(control)
        for kind, word, settings in _in_force(words, allowed)
        for control in kind
        if control & word & ~settings.required & ~MODELLED[kind]
    )


@lru_cache
def _reserved_bits(words: ControlWords, allowed: AllowedWords) -> tuple[Violation, ...]:
    found: list[Violation] = []
    for kind, word, settings in _in_force(words, allowed):
        if word & ~settings.permitted:
            found.append((_RESERVED_RULES[kind], f"{kind.__name__} {word:X}H has bits that must be 0"))
        if settings.required & ~word:
            found.append((_RESERVED_RULES[kind], f"{kind.__name__} {word:X}H lacks bits that must be 1"))
    return tuple(found)


def _in_force(
    words: ControlWords, allowed: AllowedWords
) -> Iterator[tuple[type[Control], int, AllowedSettings]]:
    """Yield the control words that act; rules entry.secondary- and entry.tertiary-reserved-bits."""
    active = active_controls(words)
    for kind, word, settings in zip(CONTROL_WORDS, words, allowed, strict=True):
        if kind is SecondaryControls and not active.activate_secondary_controls:
            continue
        if kind is TertiaryControls and not active.activate_tertiary_controls:
            continue
        yield kind, word, settings


def _without_tpr_shadow(cpu: LogicalProcessor) -> Iterator[Violation]:
    active = cpu.active
    if active.virtualize_x2apic_mode:
        yield "entry.x2apic-needs-tpr-shadow", "virtualize x2APIC mode is 1 and use TPR shadow 0"
    if active.apic_register_virtualization:
        yield "entry.registers-need-tpr-shadow", "APIC-register virtualization is 1 and use TPR shadow 0"
    if active.virtual_interrupt_delivery:
        yield "entry.delivery-needs-tpr-shadow", "virtual-interrupt delivery is 1 and use TPR shadow 0"
    if active.ipi_virtualization:
        yield "entry.ipi-needs-tpr-shadow", "IPI virtualization is 1 and use TPR shadow 0"


def _combinations(cpu: LogicalProcessor) -> Iterator[Violation]:
    active = cpu.active
    if active.virtualize_x2apic_mode and active.virtualize_apic_accesses:
        yield (
            "entry.x2apic-excludes-apic-accesses",
            "virtualize x2APIC mode and virtualize APIC accesses are 1",
        )
    if active.virtual_interrupt_delivery and not active.external_interrupt_exiting:
        rule = "entry.delivery-needs-external-interrupt-exiting"
        yield rule, "virtual-interrupt delivery is 1 and external-interrupt exiting 0"
    if active.process_posted_interrupts and not active.virtual_interrupt_delivery:
        yield "entry.posted-needs-delivery", "process posted interrupts is 1 and virtual-interrupt delivery 0"
    if active.process_posted_interrupts and not active.acknowledge_interrupt_on_exit:
        rule = "entry.posted-needs-acknowledge-on-exit"
        yield rule, "process posted interrupts is 1 and acknowledge interrupt on exit 0"


def _addresses(cpu: LogicalProcessor) -> Iterator[Violation]:
    active, vmcs, width = cpu.active, cpu.vmcs, cpu.implementation.physical_address_width
    if active.use_msr_bitmaps:
        address = vmcs.msr_bitmap_address
        if address & 0xFFF:
            yield (
                "entry.msr-bitmap-address-aligned",
                f"the MSR-bitmap address {address:X}H is not 4-KByte aligned",
            )
        if address >> width:
            yield (
                "entry.msr-bitmap-address-width",
                f"the MSR-bitmap address {address:X}H exceeds {width} bits",
            )
    if active.use_tpr_shadow:
        address = vmcs.virtual_apic_address
        if address & 0xFFF:
            rule = "entry.virtual-apic-address-aligned"
            yield rule, f"the virtual-APIC address {address:X}H is not 4-KByte aligned"
        if address >> width:
            yield (
                "entry.virtual-apic-address-width",
                f"the virtual-APIC address {address:X}H exceeds {width} bits",
            )
    if active.virtualize_apic_accesses:
        address = vmcs.apic_access_address
        if address & 0xFFF or address >> width:
            yield "entry.apic-access-address", f"the APIC-access address {address:X}H is not that of a page"


def _posted_interrupts(cpu: LogicalProcessor) -> Iterator[Violation]:
    vmcs, width = cpu.vmcs, cpu.implementation.physical_address_width
    vector, address = vmcs.posted_interrupt_notification_vector, vmcs.posted_interrupt_descriptor_address
    if vector > 0xFF:
        yield "entry.notification-vector-below-256", f"the notification vector {vector:X}H is above FFH"
    if address & 0x3F:
        yield (
            "entry.descriptor-address-aligned",
            f"the descriptor address {address:X}H is not 64-byte aligned",
        )
    if address >> width:
        yield "entry.descriptor-address-width", f"the descriptor address {address:X}H exceeds {width} bits"


def _ipi_virtualization(cpu: LogicalProcessor) -> Iterator[Violation]:
    vmcs, width = cpu.vmcs, cpu.implementation.physical_address_width
    table, last = vmcs.pid_pointer_table_address, vmcs.last_pid_pointer_index
    if table & 0x7:
        yield "entry.pid-pointer-table-aligned", f"the PID-pointer table {table:X}H is not 8-byte aligned"
    if table >> width or table + 8 * last >> width:
        rule = "entry.pid-pointer-table-width"
        yield rule, f"the PID-pointer table {table:X}H, last index {last:X}H, exceeds {width} bits"


def _tpr_threshold(cpu: LogicalProcessor) -> Iterator[Violation]:
    active, threshold, by = cpu.active, cpu.vmcs.tpr_threshold, cpu.trace.by
    if not threshold:
        return
    if active.virtual_interrupt_delivery:
        by("entry.threshold-unchecked-with-delivery", "TPR threshold {:X}H is not examined", threshold)
        return
    if threshold >> 4:
        yield "entry.tpr-threshold-reserved-bits", f"TPR threshold {threshold:X}H has bits above 3:0"
    if active.virtualize_apic_accesses:
        by("entry.threshold-unchecked-with-apic-accesses", "VTPR is not compared with the TPR threshold")
        return
    if cpu.page is None:  # its address is a violation
        return
    vtpr_class, low = class_and_threshold(cpu)
    if low > vtpr_class:
        rule = "entry.tpr-threshold-above-vtpr-fails"
        yield rule, f"TPR threshold {low:X}H is above VTPR[7:4] {vtpr_class:X}H"


def _msr_areas(cpu: LogicalProcessor) -> Iterator[Violation]:
    """Check the areas of lists with entries. SDM: *VM-Exit Control Fields*, *VM-Entry Control Fields*."""
    vmcs, width = cpu.vmcs, cpu.implementation.physical_address_width
    for count, address in (
        (vmcs.vm_entry_msr_load_count, vmcs.vm_entry_msr_load_address),
        (vmcs.vm_exit_msr_store_count, vmcs.vm_exit_msr_store_address),
        (vmcs.vm_exit_msr_load_count, vmcs.vm_exit_msr_load_address),
    ):
        if count and (address & 0xF or address + 16 * count - 1 >> width):
            yield "fields.msr-areas", f"an MSR area of {count} entries cannot be at {address:X}H"
