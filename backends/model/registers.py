"""RDMSR and WRMSR in VMX non-root operation. SDM: *Virtualizing MSR-Based APIC Accesses*.

The instruction runs at CPL 0 and does not exit by the MSR bitmaps; that was decided before.
"""

from __future__ import annotations

from backends.model import apic_registers, eoi, exits, ipi, other_msrs, self_ipi, tpr
from backends.model.state import LogicalProcessor
from runner.apic import (
    EOI,
    ICR,
    REGISTERS_BY_MSR,
    SELF_IPI,
    TPR,
    VSELF_IPI,
    is_x2apic,
    page_offset,
)
from runner.outcome import GP0, Completed, Fault, VmExit
from runner.vmx import ExitReason

COMPLETED = Completed()
_FIRST_LEGAL_VECTOR = 16
_RESERVED_RULES = {
    TPR: "wrmsr.tpr-reserved-bits-fault",
    EOI: "eoi.nonzero-faults",
    SELF_IPI: "self-ipi.reserved-bits-fault",
    ICR: "ipi.reserved-bits-fault",
}


def rdmsr(cpu: LogicalProcessor, msr: int) -> Completed | Fault:
    """Return the 8 bytes of the virtual-APIC page, or what the physical register gives."""
    active, by = cpu.active, cpu.trace.by
    if not is_x2apic(msr):
        return other_msrs.rdmsr(cpu, msr)
    if not active.virtualize_x2apic_mode:
        rule = "rdmsr.physical-without-x2apic-virtualization"
        by(rule, "virtualize x2APIC mode is 0: MSR {:X}H is the physical APIC's", msr)
    elif active.apic_register_virtualization:
        return _from_page(
            cpu,
            msr,
            "rdmsr.register-virtualization",
            "virtualize x2APIC mode and APIC-register virtualization are 1",
        )
    elif msr == TPR:
        return _from_page(cpu, msr, "rdmsr.tpr-from-page", "virtualize x2APIC mode is 1")
    else:
        rule = "rdmsr.others-physical-without-registers"
        by(rule, "APIC-register virtualization is 0: MSR {:X}H is the physical APIC's", msr)
    return apic_registers.rdmsr(cpu.apic, msr, cpu.trace)


def _from_page(cpu: LogicalProcessor, msr: int, rule: str, why: str) -> Completed:
    page, offset = cpu.virtual_apic_page, page_offset(msr)
    value = page.qword(offset)
    sentence = (
        "{}: RDMSR {:X}H gives the 8 bytes at offset {:03X}H of the page whose physical address is in"
        " VMCS field 2012H (here {:X}H): EAX {:X}H ({}), EDX {:X}H"
    )
    low, high = value & 0xFFFFFFFF, value >> 32
    cpu.trace.by(rule, sentence, why, msr, offset, cpu.vmcs.virtual_apic_address, low, low, high)
    return Completed(value)


def wrmsr(cpu: LogicalProcessor, msr: int, value: int) -> Completed | Fault | VmExit:
    """Store in the virtual-APIC page and virtualize, or write the physical register."""
    by = cpu.trace.by
    if not is_x2apic(msr):
        return other_msrs.wrmsr(cpu, msr, value)
    if not cpu.active.virtualize_x2apic_mode:
        rule = "wrmsr.physical-without-x2apic-virtualization"
        by(rule, "virtualize x2APIC mode is 0: MSR {:X}H is the physical APIC's", msr)
        return apic_registers.wrmsr(cpu.apic, msr, value, cpu.trace)
    if not _is_virtualized(cpu, msr):
        return apic_registers.wrmsr(cpu.apic, msr, value, cpu.trace)
    if value & REGISTERS_BY_MSR[msr].reserved:
        by(_RESERVED_RULES[msr], "{:X}H sets reserved bits of MSR {:X}H: #GP(0)", value, msr)
        return GP0
    offset = page_offset(msr)
    cpu.virtual_apic_page.store_qword(offset, value)
    by("wrmsr.stores-eight-bytes", "bytes {:03X}H-{:03X}H of the page := {:X}H", offset, offset + 7, value)
    return _effect(cpu, msr, value)


def _is_virtualized(cpu: LogicalProcessor, msr: int) -> bool:
    active, by = cpu.active, cpu.trace.by
    if msr == TPR:
        by("wrmsr.tpr-always-virtualized", "virtualize x2APIC mode is 1: WRMSR of TPR is virtualized")
        return True
    if msr in (EOI, SELF_IPI):
        virtualized = active.virtual_interrupt_delivery
        yes, no = (
            ("self-ipi.virtualized-with-delivery", "self-ipi.physical-without-delivery")
            if msr == SELF_IPI
            else ("eoi.stores-eight-bytes", "eoi.physical-without-delivery")
        )
        by(yes if virtualized else no, "virtual-interrupt delivery is {}", int(virtualized))
        return virtualized
    if msr == ICR:
        virtualized = active.ipi_virtualization
        rule = "ipi.icr-write-virtualized" if virtualized else "ipi.icr-physical-without-ipi-virtualization"
        by(rule, "IPI virtualization is {}", int(virtualized))
        return virtualized
    by("wrmsr.others-never-virtualized", "WRMSR of {:X}H is never virtualized", msr)
    return False


def _effect(cpu: LogicalProcessor, msr: int, value: int) -> Completed | VmExit:
    if msr == TPR:
        return tpr.virtualize(cpu)
    if msr == EOI:
        return eoi.virtualize(cpu)
    if msr == ICR:
        return ipi.virtualize(cpu, value)
    if value < _FIRST_LEGAL_VECTOR:
        cpu.trace.by("self-ipi.vector-below-16-exits", "vector {:02X}H is below 16: VM exit 56", value)
        return exits.trap_like(cpu, ExitReason.APIC_WRITE, VSELF_IPI)
    self_ipi.virtualize(cpu, value)
    return COMPLETED
