"""IA32_APIC_BASE: the modes of the local APIC. SDM: *x2APIC State Transitions*."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.model.local_apic import LocalApic
from backends.model.trace import SILENT, Trace
from runner.apic import ApicMode
from runner.outcome import GP0, Completed, Fault

IA32_APIC_BASE = 0x1B
EXTD, EN = 1 << 10, 1 << 11
_RESERVED = 0xFF | 1 << 9
_STATES = {0: ApicMode.DISABLED, EN: ApicMode.XAPIC, EN | EXTD: ApicMode.X2APIC}
_BITS = {mode: bits for bits, mode in _STATES.items()}

Transition = tuple[ApicMode, ApicMode | None]
"""From a mode to another; ``None`` is EXTD without EN."""

_LEGAL: Mapping[Transition, str] = MappingProxyType(
    {
        **{(mode, mode): "mode.same-state-accepted" for mode in ApicMode},
        (ApicMode.DISABLED, ApicMode.XAPIC): "mode.disabled-to-xapic",
        (ApicMode.XAPIC, ApicMode.X2APIC): "mode.xapic-to-x2apic",
        (ApicMode.XAPIC, ApicMode.DISABLED): "mode.xapic-to-disabled",
        (ApicMode.X2APIC, ApicMode.DISABLED): "mode.x2apic-to-disabled",
    }
)
_ILLEGAL: Mapping[Transition, str] = MappingProxyType(
    {
        (ApicMode.DISABLED, ApicMode.X2APIC): "mode.disabled-to-x2apic-faults",
        (ApicMode.DISABLED, None): "mode.disabled-to-invalid-faults",
        (ApicMode.XAPIC, None): "mode.xapic-to-invalid-faults",
        (ApicMode.X2APIC, ApicMode.XAPIC): "mode.x2apic-to-xapic-faults",
        (ApicMode.X2APIC, None): "mode.x2apic-to-invalid-faults",
    }
)


def read(apic: LocalApic) -> int:
    """Return IA32_APIC_BASE (rule mode.state-from-en-and-extd)."""
    return apic.base | _BITS[apic.mode]


def write(apic: LocalApic, value: int, trace: Trace = SILENT) -> Completed | Fault:
    """Write IA32_APIC_BASE, or return #GP(0)."""
    if value & _RESERVED or value >> apic.implementation.physical_address_width:
        trace.by("mode.reserved-bits-fault", "{:X}H sets reserved bits of IA32_APIC_BASE: #GP(0)", value)
        return GP0
    old, new = apic.mode, _STATES.get(value & (EN | EXTD))
    if new is None or (old, new) in _ILLEGAL:
        trace.by(_ILLEGAL[old, new], "IA32_APIC_BASE {:X}H: #GP(0)", value)
        return GP0
    trace.by(_LEGAL[old, new], "IA32_APIC_BASE {:X}H: the write completes", value)
    apic.base, apic.mode = value & ~(EN | EXTD), new
    if new is ApicMode.DISABLED:
        apic.reset()
    return Completed()
