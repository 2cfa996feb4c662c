"""EOI virtualization. SDM: *EOI Virtualization*."""

from __future__ import annotations

from backends.model import evaluation, exits, ppr
from backends.model.state import LogicalProcessor
from runner.apic import VISR
from runner.outcome import Completed, VmExit
from runner.vmx import ExitReason

COMPLETED = Completed()


def virtualize(cpu: LogicalProcessor) -> Completed | VmExit:
    """Retire SVI; then a VM exit if the EOI-exit bitmap has its bit, else an evaluation."""
    vmcs, page, by = cpu.vmcs, cpu.virtual_apic_page, cpu.trace.by
    vector = vmcs.svi
    page.clear_vector(VISR, vector)
    by("eoi.clears-visr-of-svi", "SVI is {0:02X}H: VISR[{0:02X}H] := 0", vector)
    vmcs.svi = page.highest_vector(VISR)
    by("eoi.svi-becomes-highest-in-visr", "SVI := {:02X}H, the highest vector left in VISR", vmcs.svi)
    ppr.virtualize(cpu)
    if vmcs.eoi_exits(vector):
        by("eoi.exit-bitmap", "the EOI-exit bitmap has bit {:02X}H: VM exit 45", vector)
        return exits.trap_like(cpu, ExitReason.VIRTUALIZED_EOI, vector)
    by(
        "eoi.evaluates-without-exit",
        "EOI-exit bit {:02X}H is 0: pending virtual interrupts are evaluated",
        vector,
    )
    evaluation.evaluate(cpu)
    return COMPLETED
