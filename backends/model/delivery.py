"""Delivery of virtual interrupts. SDM: *Virtual-Interrupt Delivery*."""

from __future__ import annotations

from backends.model.state import LogicalProcessor
from runner.apic import VIRR, VISR, VPPR


def is_due(cpu: LogicalProcessor) -> bool:
    """Whether a virtual interrupt is delivered at this instruction boundary, which may end HLT.

    With *interrupt-window exiting* 1 none is recognized.
    """
    return cpu.recognized and cpu.interruptible


def deliver(cpu: LogicalProcessor) -> int:
    """Move RVI into service, and return the vector that goes through the guest's IDT."""
    vmcs, page, by = cpu.vmcs, cpu.virtual_apic_page, cpu.trace.by
    vector = vmcs.rvi
    page.set_vector(VISR, vector)
    page.clear_vector(VIRR, vector)
    by("delivery.sets-visr-clears-virr", "VISR[{0:02X}H] := 1, VIRR[{0:02X}H] := 0", vector)
    vmcs.svi = vector
    by("delivery.svi-becomes-vector", "SVI := {:02X}H", vector)
    page.store(VPPR, vector & 0xF0)
    by("ppr.delivery-writes-vppr", "VPPR := {:02X}H", vector & 0xF0)
    vmcs.rvi = page.highest_vector(VIRR)
    by("delivery.rvi-becomes-highest-in-virr", "RVI := {:02X}H, the highest vector left in VIRR", vmcs.rvi)
    cpu.recognized = False
    by("evaluation.delivery-ends-recognition", "nothing is recognized until the next evaluation")
    by("delivery.through-guest-idt-without-exit", "vector {:02X}H goes through the guest's IDT", vector)
    return vector
