"""Whether a pending virtual interrupt is recognized. SDM: *Evaluation of Pending Virtual Interrupts*."""

from __future__ import annotations

from backends.model.state import LogicalProcessor
from runner.apic import VPPR


def evaluate(cpu: LogicalProcessor) -> None:
    """Recognize a pending virtual interrupt or not; the result replaces the former one."""
    by, rvi = cpu.trace.by, cpu.vmcs.rvi
    if cpu.active.interrupt_window_exiting:
        cpu.recognized = False
        by("evaluation.window-exiting-prevents", "interrupt-window exiting is 1: nothing is recognized")
        return
    vppr = cpu.virtual_apic_page.word(VPPR)
    cpu.recognized = rvi & 0xF0 > vppr & 0xF0
    if cpu.recognized:
        by(
            "evaluation.rvi-class-above-vppr",
            "RVI {:02X}H is above the class of VPPR {:02X}H: recognized",
            rvi,
            vppr,
        )
    elif rvi:
        by(
            "evaluation.rvi-class-above-vppr",
            "RVI {:02X}H is not above the class of VPPR {:02X}H: held",
            rvi,
            vppr,
        )
    else:
        by("evaluation.rvi-class-above-vppr", "RVI is 0: no virtual interrupt is pending")
