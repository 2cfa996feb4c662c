"""IPI virtualization. SDM: *IPI Virtualization*."""

from __future__ import annotations

from backends.model import exits
from backends.model.memory import PostedInterruptDescriptor
from backends.model.state import LogicalProcessor
from runner.apic import VICR, ApicMode
from runner.descriptor import OUTSTANDING, SUPPRESS
from runner.outcome import Completed, VmExit
from runner.vmx import ExitReason

COMPLETED = Completed()

_UNSUITABLE = 0b11 << 18 | 1 << 15 | 1 << 11 | 0b111 << 8
"""Shorthand, trigger mode, destination mode and delivery mode, all of which must be 0, as bit 12 must."""


def virtualize(cpu: LogicalProcessor, command: int) -> Completed | VmExit:
    """Post the vector of an ICR value and notify; or return the APIC-write exit if that cannot be done."""
    by, vector, target = cpu.trace.by, command & 0xFF, command >> 32
    obstacle = _obstacle(cpu, command) or _invalid(cpu, target)
    if obstacle:
        rule, sentence = obstacle
        by(rule, "{}: VM exit 56", sentence)
        return exits.trap_like(cpu, ExitReason.APIC_WRITE, VICR)
    descriptor = cpu.memory.descriptor(_pid_pointer(cpu, target) & ~0x3F)
    descriptor.pir |= 1 << vector
    by("ipi.sets-pir-atomically", "PIR[{:02X}H] of the descriptor of {:X}H := 1", vector, target)
    _notify(cpu, descriptor)
    return COMPLETED


def _obstacle(cpu: LogicalProcessor, command: int) -> tuple[str, str] | None:
    if command & 1 << 12:
        return "ipi.bit-12-exits", f"bit 12 of {command:X}H is 1"
    if command & _UNSUITABLE:
        sentence = f"{command:X}H is no fixed, edge-triggered IPI to one physical destination"
        return "ipi.suitable-icr-values", sentence
    if command & 0xFF < 16:
        return "ipi.vector-below-16-exits", f"the vector of {command:X}H is below 16"
    last = cpu.vmcs.last_pid_pointer_index
    if command >> 32 > last:
        sentence = f"the target of {command:X}H is above the last PID-pointer index {last:X}H"
        return "ipi.target-above-last-index-exits", sentence
    return None


def _pid_pointer(cpu: LogicalProcessor, target: int) -> int:
    return cpu.memory.pid_pointer(cpu.vmcs.pid_pointer_table_address + 8 * target)


def _invalid(cpu: LogicalProcessor, target: int) -> tuple[str, str] | None:
    """Return why an entry of the PID-pointer table leads to no descriptor."""
    entry = _pid_pointer(cpu, target)
    if entry & 0x3F == 1 and not entry >> cpu.implementation.physical_address_width:
        return None
    return "ipi.pid-pointer-table-entry", f"the table's entry for {target:X}H, {entry:X}H, is not valid"


def _notify(cpu: LogicalProcessor, descriptor: PostedInterruptDescriptor) -> None:
    control, by = descriptor.control, cpu.trace.by
    if control & (OUTSTANDING | SUPPRESS):
        by("ipi.notifies-unless-on-or-sn", "ON is {}, SN {}: no notification", control & 1, control >> 1 & 1)
        return
    descriptor.control |= OUTSTANDING
    by("ipi.notifies-unless-on-or-sn", "ON := 1")
    vector, destination = control >> 16 & 0xFF, control >> 32
    if cpu.apic.mode is not ApicMode.X2APIC:
        destination = destination >> 8 & 0xFF
    by("ipi.notification-from-nv-and-ndst", "vector {:02X}H is sent to APIC ID {:X}H", vector, destination)
    for apic in cpu.apic.bus:
        if apic.answers_to(destination, logical=False):
            apic.accept(vector)
