"""IA32_APIC_BASE: the modes of the local APIC. SDM: *x2APIC State Transitions*."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.model.local_apic import LocalApic
from backends.model.trace import SILENT, Trace
from runner.apic import ICR, ApicMode
from runner.outcome import GP0, Completed, Fault

IA32_APIC_BASE = 0x1B
EXTD, EN = 1 << 10, 1 << 11
_RESERVED = 0xFF | 1 << 9
_STATES = {0: ApicMode.DISABLED, EN: ApicMode.XAPIC, EN | EXTD: ApicMode.X2APIC}
_BITS = {mode: bits for bits, mode in _STATES.items()}

_TRANSITIONS: Mapping[tuple[ApicMode, ApicMode | None], tuple[str, bool]] = MappingProxyType(
    {
        (ApicMode.DISABLED, ApicMode.XAPIC): ("mode.disabled-to-xapic", True),
        (ApicMode.DISABLED, ApicMode.X2APIC): ("mode.disabled-to-x2apic-faults", False),
        (ApicMode.DISABLED, None): ("mode.disabled-to-invalid-faults", False),
        (ApicMode.XAPIC, ApicMode.X2APIC): ("mode.xapic-to-x2apic", True),
        (ApicMode.XAPIC, ApicMode.DISABLED): ("mode.xapic-to-disabled", True),
        (ApicMode.XAPIC, None): ("mode.xapic-to-invalid-faults", False),
        (ApicMode.X2APIC, ApicMode.DISABLED): ("mode.x2apic-to-disabled", True),
        (ApicMode.X2APIC, ApicMode.XAPIC): ("mode.x2apic-to-xapic-faults", False),
        (ApicMode.X2APIC, None): ("mode.x2apic-to-invalid-faults", False),
    }
)
"""From a mode to another (``None``: EXTD without EN): the rule, and whether WRMSR may do it."""


def read(apic: LocalApic) -> int:
    """Return IA32_APIC_BASE (rule mode.state-from-en-and-extd)."""
    return apic.base | _BITS[apic.mode]


def write(apic: LocalApic, value: int, trace: Trace = SILENT) -> Completed | Fault:
    """Write IA32_APIC_BASE, or return #GP(0)."""
    if value & _RESERVED or value >> apic.implementation.physical_address_width:
        trace.by("mode.reserved-bits-fault", "{:X}H sets reserved bits of IA32_APIC_BASE: #GP(0)", value)
        return GP0
    old, new = apic.mode, _STATES.get(value & (EN | EXTD))
    rule, legal = ("mode.same-state-accepted", True) if new is old else _TRANSITIONS[old, new]
    trace.by(rule, "IA32_APIC_BASE {:X}H: {}", value, "the write completes" if legal else "#GP(0)")
    if new is None or not legal:
        return GP0
    apic.base, apic.mode = value & ~(EN | EXTD), new
    if new is ApicMode.X2APIC and old is ApicMode.XAPIC:
        apic.registers[ICR] &= 0xFFFFFFFF
    if new is ApicMode.DISABLED:
        apic.reset()
    return Completed()
