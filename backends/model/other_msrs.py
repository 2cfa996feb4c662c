"""RDMSR and WRMSR of MSRs outside 800H-8FFH, as far as programs reach them without an exit."""

from __future__ import annotations

from backends.model import apic_base, apic_registers
from backends.model.apic_base import IA32_APIC_BASE
from backends.model.apic_registers import in_tsc_deadline_mode
from backends.model.local_apic import MASKED, TIMER, TSC_DEADLINE
from backends.model.memory import NotModelled
from backends.model.state import LogicalProcessor
from runner.apic import is_x2apic
from runner.outcome import GP0, Completed, Fault

COMPLETED = Completed()
_LOWEST_ABSENT, _FIRST_HIGH, _LAST_HIGH = 0x900, 0xC0000000, 0xC00001FF
_CAPABILITIES = range(0x480, 0x493)


def rdmsr(cpu: LogicalProcessor, msr: int) -> Completed | Fault:
    """Return the value of an MSR of the processor, or #GP(0)."""
    by = cpu.trace.by
    if msr == IA32_APIC_BASE:
        by("mode.apic-base-never-virtualized", "IA32_APIC_BASE is the physical APIC's")
        return Completed(apic_base.read(cpu.apic))
    if msr == TSC_DEADLINE:
        by("rdmsr.tsc-deadline-and-apic-base-outside", "IA32_TSC_DEADLINE is the physical APIC's")
        return Completed(cpu.apic.registers[TSC_DEADLINE])
    if _is_absent(msr):
        by("rdmsr.7ffh-and-900h-outside-range", "MSR {:X}H is outside 800H-8FFH: #GP(0)", msr)
        return GP0
    if msr not in cpu.msrs:
        raise NotModelled(f"RDMSR {msr:X}H: the model does not know this MSR")
    return Completed(cpu.msrs[msr])


def in_root(cpu: LogicalProcessor, msr: int) -> Completed | Fault | None:
    """Return what RDMSR gives in root operation; ``None`` where it has nothing to do with the guest."""
    if is_x2apic(msr):
        return apic_registers.rdmsr(cpu.apic, msr)
    if msr == IA32_APIC_BASE:
        return Completed(apic_base.read(cpu.apic))
    if _is_absent(msr):
        return GP0
    return Completed(cpu.apic.registers[msr]) if msr == TSC_DEADLINE else None


def wrmsr(cpu: LogicalProcessor, msr: int, value: int) -> Completed | Fault:
    """Write an MSR of the processor, or return #GP(0)."""
    by = cpu.trace.by
    if msr == IA32_APIC_BASE:
        by("mode.apic-base-never-virtualized", "IA32_APIC_BASE is the physical APIC's")
        return apic_base.write(cpu.apic, value, cpu.trace)
    if msr == TSC_DEADLINE:
        by("rdmsr.tsc-deadline-and-apic-base-outside", "IA32_TSC_DEADLINE is the physical APIC's")
        return _arm(cpu, value)
    if _is_absent(msr):
        by("rdmsr.7ffh-and-900h-outside-range", "MSR {:X}H is outside 800H-8FFH: #GP(0)", msr)
        return GP0
    if msr in _CAPABILITIES:
        by("capability.msrs-read-only", "MSR {:X}H is a VMX capability MSR: #GP(0)", msr)
        return GP0
    if msr not in cpu.msrs or msr not in cpu.implementation.storage_msrs:
        raise NotModelled(f"WRMSR {msr:X}H: the model does not know what that does")
    cpu.msrs = {**cpu.msrs, msr: value}
    return COMPLETED


def _is_absent(msr: int) -> bool:
    """Whether this implementation has no MSR at a number: 7FFH, 900H and up, C0000200H and up."""
    return msr == 0x7FF or _LOWEST_ABSENT <= msr < _FIRST_HIGH or msr > _LAST_HIGH


def _arm(cpu: LogicalProcessor, value: int) -> Completed:
    registers = cpu.apic.registers
    if not in_tsc_deadline_mode(cpu.apic):
        return COMPLETED
    if value and not registers[TIMER] & MASKED:
        raise NotModelled("an armed TSC deadline: there is no time in this model")
    registers[TSC_DEADLINE] = value
    return COMPLETED
