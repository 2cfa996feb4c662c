"""RDMSR and WRMSR of the physical local APIC's registers, 800H-8FFH, and its memory-mapped reads.

SDM: *x2APIC Register Availability*, *Reserved Bit Checking*, *x2APIC Register Address Space*, and the
heading of each register.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.model.apic_base import IA32_APIC_BASE
from backends.model.local_apic import (
    BASELINE,
    ENABLED,
    ESR,
    INITIAL_COUNT,
    LVTS,
    MASKED,
    SVR,
    TIMER,
    TO_SELF,
    LocalApic,
)
from backends.model.memory import NotModelled
from backends.model.trace import SILENT, Trace
from runner.apic import (
    EOI,
    FIRST_MSR,
    ICR,
    OBSERVED_MSRS,
    REGISTERS_BY_MSR,
    REGISTERS_BY_NAME,
    SELF_IPI,
    VECTOR_SETS,
    ApicMode,
    ApicRegister,
)
from runner.outcome import GP0, Completed, Fault

COMPLETED = Completed()

APICID, PPR, LDR, CMCI, CURRENT_COUNT = (
    REGISTERS_BY_NAME[name].msr for name in ("APICID", "PPR", "LDR", "LVT_CMCI", "CURRENT_COUNT")
)
ISR, TMR, IRR = (FIRST_MSR + (offset >> 4) for offset in VECTOR_SETS.values())
READ_ONLY_BITS = 1 << 12 | 1 << 14
TIMER_MODE, TSC_DEADLINE_MODE, RESERVED_MODE = 0b11 << 17, 0b10 << 17, 0b11 << 17
_SHORTEST_COUNT = 0x1000
SUPPRESS_EOI_BROADCAST, FOCUS_PROCESSOR_CHECKING = 1 << 12, 1 << 9

WATCHED = tuple(sorted(OBSERVED_MSRS - {IA32_APIC_BASE}))
"""Registers of the final state: those that say something of what a guest did to them."""

_MODE_WORDS = {
    ApicMode.DISABLED: "globally disabled",
    ApicMode.XAPIC: "in xAPIC mode",
    ApicMode.X2APIC: "in x2APIC mode",
}
_MISSING = {0x80C: "apic.no-remote-read", 0x80E: "apic.no-dfr", 0x831: "apic.no-msr-831h"}
_RULES: Mapping[str, str] = MappingProxyType(
    {
        "APICID": "apic.id-32-bits-read-only",
        "VERSION": "apic.version-register",
        "TPR": "apic.tpr-reserved-bits",
        "PPR": "apic.ppr-read-only",
        "EOI": "apic.eoi-accepts-only-zero",
        "LDR": "apic.ldr-read-only",
        "SVR": "apic.svr-reserved-bits",
        "ISR": "apic.isr-words-read-only",
        "TMR": "apic.tmr-words-read-only",
        "IRR": "apic.irr-words-read-only",
        "ESR": "apic.esr-accepts-only-zero",
        "ICR": "apic.icr-reserved-bits",
        "LVT_TIMER": "apic.lvt-timer-layout",
        "INITIAL_COUNT": "apic.timer-counts",
        "CURRENT_COUNT": "apic.timer-counts",
        "DCR": "apic.divide-configuration-bits",
        "SELF_IPI": "apic.self-ipi-write-only",
    }
)
"""The rule that says which accesses a register allows; the other LVT entries share one."""


def rdmsr(apic: LocalApic, msr: int, trace: Trace = SILENT) -> Completed | Fault:
    """Return the value of a register, or #GP(0)."""
    if _unavailable(apic, msr, trace):
        return GP0
    register = REGISTERS_BY_MSR[msr]
    if not register.readable:
        trace.by(_rule(register), "MSR {:X}H is write-only: #GP(0)", msr)
        return GP0
    value = read(apic, msr)
    trace.by("apic.rdmsr-upper-half-zero", "the physical MSR {:X}H holds {:X}H", msr, value)
    return Completed(value)


def wrmsr(apic: LocalApic, msr: int, value: int, trace: Trace = SILENT) -> Completed | Fault:
    """Write a register, or return #GP(0)."""
    if _unavailable(apic, msr, trace):
        return GP0
    register = REGISTERS_BY_MSR[msr]
    if not register.writable:
        trace.by(_rule(register), "MSR {:X}H is read-only: #GP(0)", msr)
        return GP0
    rule = _reserved_bits_rule(apic, register, value)
    if rule:
        trace.by(rule, "{:X}H sets reserved bits of MSR {:X}H: #GP(0)", value, msr)
        return GP0
    trace.by(_rule(register), "{:X}H goes to the physical MSR {:X}H", value, msr)
    _write(apic, msr, value)
    return COMPLETED


def _unavailable(apic: LocalApic, msr: int, trace: Trace) -> bool:
    if apic.mode is not ApicMode.X2APIC:
        trace.by("apic.msrs-need-x2apic-mode", "the physical APIC is {}: #GP(0)", _MODE_WORDS[apic.mode])
    elif msr not in REGISTERS_BY_MSR:
        trace.by(_MISSING.get(msr, "apic.msrs-without-register"), "MSR {:X}H is no register: #GP(0)", msr)
    elif msr == CMCI and apic.implementation.lvt_entries < 7:
        entries = apic.implementation.lvt_entries
        trace.by("apic.lvt-cmci-needs-seventh-entry", "there are {} LVT entries: #GP(0)", entries)
    else:
        return False
    return True


def _rule(register: ApicRegister) -> str:
    return _RULES.get(register.name.rstrip("01234567"), "apic.other-lvt-layouts")


def _reserved_bits_rule(apic: LocalApic, register: ApicRegister, value: int) -> str | None:
    """Return the rule that makes WRMSR of a value fault, or ``None``."""
    if value & register.reserved:
        return "apic.wrmsr-upper-half-faults" if value >> 32 and register.msr != ICR else _rule(register)
    if register.msr == TIMER and value & TIMER_MODE == RESERVED_MODE:
        return _rule(register)
    if register.msr == SVR and value & SUPPRESS_EOI_BROADCAST and not apic.implementation.directed_eoi:
        return "apic.svr-eoi-suppression-needs-support"
    if register.msr == SVR and value & FOCUS_PROCESSOR_CHECKING and not apic.implementation.svr_bit_9:
        return "apic.svr-bit-9-reserved"
    return None


def read(apic: LocalApic, msr: int) -> int:
    """Return what a readable register holds."""
    stored = apic.registers.get(msr)
    if stored is not None:
        return stored
    bits = {ISR: apic.isr, TMR: 0, IRR: apic.irr}.get(msr & ~7)
    if bits is not None:
        return bits >> 32 * (msr & 7) & 0xFFFFFFFF
    if msr == APICID:
        return apic.identity
    if msr == PPR:
        return apic.ppr
    if msr == LDR:
        return apic.logical_identity
    if msr == CURRENT_COUNT:
        return apic.registers[INITIAL_COUNT] if apic.counting else 0
    choices = apic.implementation
    return choices.apic_version | choices.lvt_entries - 1 << 16 | choices.directed_eoi << 24


_DESTINATION_FORMAT = 0xE0
"""Offset of the DFR, which holds ones after reset and has no MSR. SDM: *Local APIC State After Reset*."""


def load(apic: LocalApic, offset: int) -> int:
    """Return what a 32-bit load from the APIC's page gives; without an APIC there all bits are 1."""
    if apic.mode is not ApicMode.XAPIC:
        return 0xFFFFFFFF
    if offset == _DESTINATION_FORMAT:
        return 0xFFFFFFFF
    register = REGISTERS_BY_MSR.get(FIRST_MSR + (offset >> 4))
    if offset & 0xF or register is None or not register.readable:
        raise NotModelled(f"a load from offset {offset:X}H of the APIC's page, where no register is")
    value = read(apic, register.msr)
    return (value << 24 if register.msr == APICID else value) & 0xFFFFFFFF


def changes(apic: LocalApic) -> tuple[tuple[int, int], ...]:
    """Return the watched registers that differ from the baseline, by MSR number; LDR follows the mode."""
    return tuple(
        (msr, read(apic, msr)) for msr in WATCHED if msr != LDR and read(apic, msr) != BASELINE.get(msr, 0)
    )


def _write(apic: LocalApic, msr: int, value: int) -> None:
    registers = apic.registers
    if msr == EOI:
        apic.end_of_interrupt()
    elif msr == SELF_IPI:
        apic.send(TO_SELF << 18 | value)
    elif msr == ICR:
        registers[ICR] = value
        apic.send(value)
    elif msr == ESR:
        registers[ESR], apic.errors = apic.errors, 0
    elif msr in LVTS:
        software_disabled = not registers[SVR] & ENABLED
        registers[msr] = value & ~READ_ONLY_BITS | MASKED * software_disabled
    elif msr == INITIAL_COUNT:
        _start_timer(apic, value)
    else:
        registers[msr] = value
        if msr == SVR and not value & ENABLED:
            registers.update((lvt, registers[lvt] | MASKED) for lvt in LVTS)


def _start_timer(apic: LocalApic, count: int) -> None:
    """Start or stop the timer; in TSC-deadline mode the write is ignored. SDM: *APIC Timer*."""
    if in_tsc_deadline_mode(apic):
        return
    if 0 < count < _SHORTEST_COUNT and not apic.registers[TIMER] & MASKED:
        raise NotModelled(f"a timer count of {count:X}H: what else happens in so short a time")
    apic.registers[INITIAL_COUNT] = count
    apic.counting = bool(count)


def in_tsc_deadline_mode(apic: LocalApic) -> bool:
    """Whether the LVT timer entry selects TSC-deadline mode. SDM: *TSC-Deadline Mode*."""
    return apic.registers[TIMER] & TIMER_MODE == TSC_DEADLINE_MODE
