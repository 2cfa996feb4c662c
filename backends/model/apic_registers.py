"""RDMSR and WRMSR of the physical local APIC's registers, 800H-8FFH, and its memory-mapped reads.

SDM: *x2APIC Register Availability*, *Reserved Bit Checking*, *x2APIC Register Address Space*, and the
heading of each register.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backends.model.local_apic import (
    ENABLED,
    ESR,
    INITIAL_COUNT,
    LVTS,
    MASKED,
    SEND_ILLEGAL_VECTOR,
    SVR,
    TIMER,
    LocalApic,
)
from backends.model.memory import NotModelled
from backends.model.trace import SILENT, Trace
from runner.apic import (
    EOI,
    ICR,
    REGISTERS_BY_MSR,
    REGISTERS_BY_NAME,
    SELF_IPI,
    ApicMode,
    ApicRegister,
    register_name,
)
from runner.outcome import GP0, Completed, Fault

COMPLETED = Completed()

CMCI = REGISTERS_BY_NAME["LVT_CMCI"].msr
READ_ONLY_BITS = 1 << 12 | 1 << 14
TIMER_MODE, TSC_DEADLINE_MODE, RESERVED_MODE = 0b11 << 17, 0b10 << 17, 0b11 << 17
SUPPRESS_EOI_BROADCAST, FOCUS_PROCESSOR_CHECKING = 1 << 12, 1 << 9
DELIVERY_STATUS = 1 << 12
VECTOR_SETS = (("isr", 0x810), ("tmr", 0x818), ("irr", 0x820))

_MISSING = {0x80C: "apic.no-remote-read", 0x80E: "apic.no-dfr", 0x831: "apic.no-msr-831h"}
_FAULTS: Mapping[str, str] = MappingProxyType(
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
        "CURRENT_COUNT": "apic.timer-counts",
        "DCR": "apic.divide-configuration-bits",
        "SELF_IPI": "apic.self-ipi-write-only",
    }
)
"""The rule by which an access to a register faults, but for what holds for all of them."""


def rdmsr(apic: LocalApic, msr: int, trace: Trace = SILENT) -> Completed | Fault:
    """Return the value of a register, or #GP(0)."""
    if _unavailable(apic, msr, trace):
        return GP0
    register = REGISTERS_BY_MSR[msr]
    if not register.readable:
        trace.by(_fault_rule(register), "{} is write-only: #GP(0)", register_name(msr))
        return GP0
    value = read(apic, msr)
    trace.by("apic.rdmsr-upper-half-zero", "the physical {} holds {:X}H", register_name(msr), value)
    return Completed(value)


def wrmsr(apic: LocalApic, msr: int, value: int, trace: Trace = SILENT) -> Completed | Fault:
    """Write a register, or return #GP(0)."""
    if _unavailable(apic, msr, trace):
        return GP0
    register = REGISTERS_BY_MSR[msr]
    if not register.writable:
        trace.by(_fault_rule(register), "{} is read-only: #GP(0)", register_name(msr))
        return GP0
    if value & reserved_bits(apic, register, value):
        rule = "apic.wrmsr-upper-half-faults" if value >> 32 and msr != ICR else _fault_rule(register)
        trace.by(rule, "{:X}H sets reserved bits of {}: #GP(0)", value, register_name(msr))
        return GP0
    trace.by(_WRITE_RULES.get(msr, "apic.reserved-msr-range"), "{:X}H goes to the physical {}", value, register_name(msr))
    _write(apic, msr, value)
    return COMPLETED


def _unavailable(apic: LocalApic, msr: int, trace: Trace) -> bool:
    if apic.mode is not ApicMode.X2APIC:
        trace.by("apic.msrs-need-x2apic-mode", "the physical APIC's mode is {}: #GP(0)", apic.mode.value)
    elif msr not in REGISTERS_BY_MSR:
        rule = _MISSING.get(msr, "apic.msrs-without-register")
        trace.by(rule, "MSR {:X}H is no register: #GP(0)", msr)
    elif msr == CMCI and apic.implementation.lvt_entries < 7:
        trace.by("apic.lvt-cmci-needs-seventh-entry", "there are {} LVT entries: #GP(0)", apic.implementation.lvt_entries)
    else:
        return False
    return True


def _fault_rule(register: ApicRegister) -> str:
    return _FAULTS.get(register.name.rstrip("01234567"), "apic.other-lvt-layouts")
