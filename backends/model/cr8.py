"""MOV to and from CR8. SDM: *Virtualizing CR8-Based TPR Accesses*, *Task Priority in IA-32e Mode*."""

from __future__ import annotations

from backends.model import exits, tpr
from backends.model.state import LogicalProcessor
from runner.apic import TPR, VTPR
from runner.outcome import GP0, Completed, Fault, VmExit
from runner.vmx import ExitReason

COMPLETED = Completed()
_LENGTH, _CR8, _FROM = 4, 8, 1 << 4


def read(cpu: LogicalProcessor) -> Completed | VmExit:
    """Execute MOV from CR8 at CPL 0."""
    by, active = cpu.trace.by, cpu.active
    if active.cr8_store_exiting:
        by("cr8.exiting-before-tpr-shadow", "CR8-store exiting is 1: VM exit 28")
        return exits.fault_like(cpu, ExitReason.CONTROL_REGISTER_ACCESS, _LENGTH, _FROM | _CR8)
    if active.use_tpr_shadow:
        vtpr = cpu.virtual_apic_page.word(VTPR)
        by("cr8.read-gives-vtpr-class", "VTPR is {:02X}H: the value is {:X}H", vtpr & 0xFF, vtpr >> 4 & 0xF)
        return Completed(vtpr >> 4 & 0xF)
    value = cpu.apic.registers[TPR] >> 4
    by(
        "cr8.physical-without-tpr-shadow",
        "use TPR shadow is 0: the class of the physical TPR is {:X}H",
        value,
    )
    return Completed(value)


def write(cpu: LogicalProcessor, value: int) -> Completed | Fault | VmExit:
    """Execute MOV to CR8 at CPL 0."""
    by, active = cpu.trace.by, cpu.active
    if active.cr8_load_exiting:
        by("cr8.exiting-before-tpr-shadow", "CR8-load exiting is 1: VM exit 28")
        return exits.fault_like(cpu, ExitReason.CONTROL_REGISTER_ACCESS, _LENGTH, _CR8)
    if value >> 4:
        by("cr8.reserved-bit-fault-before-store", "{:X}H sets bits 63:4: #GP(0)", value)
        return GP0
    if active.use_tpr_shadow:
        cpu.virtual_apic_page.store(VTPR, value << 4)
        by("cr8.write-stores-vtpr-class", "VTPR[7:4] := {:X}H, its other bits := 0", value)
        return tpr.virtualize(cpu)
    cpu.apic.registers[TPR] = value << 4
    by("cr8.physical-without-tpr-shadow", "use TPR shadow is 0: the physical TPR := {:02X}H", value << 4)
    return COMPLETED
