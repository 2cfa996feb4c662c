"""TPR virtualization. SDM: *TPR Virtualization*."""

from __future__ import annotations

from backends.model import evaluation, exits, ppr
from backends.model.state import LogicalProcessor
from runner.apic import VTPR
from runner.outcome import Completed, VmExit
from runner.vmx import ExitReason

COMPLETED = Completed()


def virtualize(cpu: LogicalProcessor) -> Completed | VmExit:
    """Compare with the TPR threshold, or with virtual-interrupt delivery renew VPPR and evaluate."""
    by = cpu.trace.by
    if cpu.active.virtual_interrupt_delivery:
        by(
            "tpr.delivery-evaluates-instead",
            "virtual-interrupt delivery is 1: the TPR threshold plays no part",
        )
        ppr.virtualize(cpu)
        evaluation.evaluate(cpu)
        return COMPLETED
    vtpr_class, threshold = class_and_threshold(cpu)
    if vtpr_class >= threshold:
        by(
            "threshold.strictly-below",
            "VTPR[7:4] {:X}H is not below threshold {:X}H: no VM exit",
            vtpr_class,
            threshold,
        )
        return COMPLETED
    by(
        "tpr.below-threshold-exits",
        "VTPR[7:4] {:X}H is below threshold {:X}H: VM exit 43",
        vtpr_class,
        threshold,
    )
    return exits.trap_like(cpu, ExitReason.TPR_BELOW_THRESHOLD)


def class_and_threshold(cpu: LogicalProcessor) -> tuple[int, int]:
    """Return VTPR[7:4] and bits 3:0 of the TPR threshold (rule fields.tpr-threshold-compares-four-bits)."""
    return cpu.virtual_apic_page.word(VTPR) >> 4 & 0xF, cpu.vmcs.tpr_threshold & 0xF
