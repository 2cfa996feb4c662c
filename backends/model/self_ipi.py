"""Self-IPI virtualization. SDM: *Self-IPI Virtualization*."""

from __future__ import annotations

from backends.model import evaluation
from backends.model.state import LogicalProcessor
from runner.apic import VIRR


def virtualize(cpu: LogicalProcessor, vector: int) -> None:
    """Request a virtual interrupt of this virtual processor, and evaluate."""
    vmcs, by = cpu.vmcs, cpu.trace.by
    cpu.virtual_apic_page.set_vector(VIRR, vector)
    by("self-ipi.sets-virr", "VIRR[{:02X}H] := 1", vector)
    vmcs.rvi = max(vmcs.rvi, vector)
    by("self-ipi.rvi-becomes-larger", "RVI := {:02X}H, the larger of RVI and {:02X}H", vmcs.rvi, vector)
    evaluation.evaluate(cpu)
