"""PPR virtualization. SDM: *PPR Virtualization*."""

from __future__ import annotations

from backends.model.state import LogicalProcessor
from runner.apic import VPPR, VTPR, processor_priority


def virtualize(cpu: LogicalProcessor) -> None:
    """Store in VPPR the higher of VTPR and SVI's class; bytes 3:1 become 0."""
    page, svi = cpu.virtual_apic_page, cpu.vmcs.svi
    vtpr = page.word(VTPR)
    vppr = processor_priority(vtpr, svi)
    page.store(VPPR, vppr)
    cpu.trace.by(_rule(vtpr, svi), "VTPR is {:02X}H, SVI {:02X}H: VPPR := {:02X}H", vtpr & 0xFF, svi, vppr)


def _rule(vtpr: int, svi: int) -> str:
    vtpr_class, svi_class = vtpr & 0xF0, svi & 0xF0
    if vtpr_class == svi_class:
        return "ppr.equal-classes-take-vtpr"
    return "ppr.vtpr-when-class-not-lower" if vtpr_class > svi_class else "ppr.svi-class-when-vtpr-lower"
