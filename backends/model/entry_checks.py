"""Checks on the control fields at VM entry. SDM: *VM-Execution Control Fields*.

A violation is a rule and what it means here. VM entry reports no more than error 7, in any order, so a
scenario has one violation at most; `violations` gives all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from backends.model import control_checks
from backends.model.control_checks import Violation
from backends.model.implementation import MODELLED, AllowedWords
from backends.model.memory import NotModelled
from backends.model.state import LogicalProcessor
from backends.model.tpr import class_and_threshold
from backends.model.vmcs import ControlWords
from runner.vmx import name_of


def violations(cpu: LogicalProcessor) -> Iterator[Violation]:
    """Yield every violation of the control fields' checks."""
    yield from control_checks.violations(cpu.words, cpu.implementation.allowed)
    yield from _addresses(cpu)
    if cpu.active.process_posted_interrupts:
        yield from _posted_interrupts(cpu)
    if cpu.active.ipi_virtualization:
        yield from _ipi_virtualization(cpu)
    if cpu.active.use_tpr_shadow:
        yield from _tpr_threshold(cpu)
    if cpu.vmcs.has_msr_lists:
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
        for kind, word, settings in control_checks.in_force(words, allowed)
        for control in kind
        if control & word & ~settings.required & ~MODELLED[kind]
    )


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
        if count and (address & 0xF or address + 16 * count > 1 << width):
            yield "fields.msr-areas", f"an MSR area of {count} entries cannot be at {address:X}H"
