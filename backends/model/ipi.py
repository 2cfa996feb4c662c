"""IPI virtualization, as far as it ends in a VM exit. SDM: *IPI Virtualization*."""

from __future__ import annotations

from backends.model import exits
from backends.model.memory import NotModelled
from backends.model.state import LogicalProcessor
from runner.apic import VICR
from runner.outcome import VmExit
from runner.vmx import ExitReason

_UNSUITABLE = 0b11 << 18 | 1 << 15 | 1 << 12 | 1 << 11 | 0b111 << 8
"""Shorthand, trigger mode, bit 12, destination mode and delivery mode, all of which must be 0."""


def virtualize(cpu: LogicalProcessor, command: int) -> VmExit:
    """Return the APIC-write exit of an ICR value that cannot be virtualized."""
    rule, sentence = _obstacle(cpu, command)
    if not rule:
        raise NotModelled("IPI virtualization into a posted-interrupt descriptor")
    cpu.trace.by(rule, sentence + ": VM exit 56", command)
    return exits.trap_like(cpu, ExitReason.APIC_WRITE, VICR)


def _obstacle(cpu: LogicalProcessor, command: int) -> tuple[str, str]:
    if command & 1 << 12:
        return "ipi.bit-12-exits", "bit 12 of {:X}H is 1"
    if command & _UNSUITABLE:
        return "ipi.suitable-icr-values", "{:X}H is no fixed, edge-triggered IPI to one physical destination"
    if command & 0xFF < 16:
        return "ipi.vector-below-16-exits", "the vector of {:X}H is below 16"
    if command >> 32 > cpu.vmcs.last_pid_pointer_index:
        return "ipi.target-above-last-index-exits", "the target of {:X}H is above the last PID-pointer index"
    return "", ""
