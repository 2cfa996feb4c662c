"""Posted-interrupt processing. SDM: *Posted-Interrupt Processing*."""

from __future__ import annotations

from backends.model import evaluation
from backends.model.local_apic import highest
from backends.model.state import LogicalProcessor
from runner.apic import VIRR
from runner.descriptor import OUTSTANDING


def is_notification(cpu: LogicalProcessor, vector: int) -> bool:
    """Whether a physical vector, just acknowledged, is processed instead of causing a VM exit."""
    if not cpu.active.process_posted_interrupts:
        return False
    notification = cpu.vmcs.posted_interrupt_notification_vector & 0xFF
    if vector == notification:
        cpu.trace.by("posted.processing", "vector {:02X}H is the notification vector: no VM exit", vector)
        return True
    sentence = "vector {:02X}H is not the notification vector {:02X}H: VM exit 1"
    cpu.trace.by("posted.other-vector-exits", sentence, vector, notification)
    return False


def process(cpu: LogicalProcessor) -> None:
    """Merge the posted-interrupt requests into VIRR and RVI, and evaluate."""
    vmcs, by = cpu.vmcs, cpu.trace.by
    descriptor = cpu.memory.descriptor(vmcs.posted_interrupt_descriptor_address)
    descriptor.control &= ~OUTSTANDING
    by("posted.clears-on-atomically", "ON of the descriptor := 0")
    cpu.apic.end_of_interrupt()
    by("posted.writes-physical-eoi", "0 is written to the physical EOI register")
    requests, descriptor.pir = descriptor.pir, 0
    for vector in range(requests.bit_length()):
        if requests >> vector & 1:
            cpu.virtual_apic_page.set_vector(VIRR, vector)
            by("posted.merges-pir-into-virr", "VIRR[{:02X}H] := 1", vector)
    if requests:
        vmcs.rvi = max(vmcs.rvi, highest(requests))
        by("posted.rvi-becomes-larger", "RVI := {:02X}H", vmcs.rvi)
    else:
        by("posted.empty-pir", "PIR is empty: RVI stays {:02X}H", vmcs.rvi)
    evaluation.evaluate(cpu)
