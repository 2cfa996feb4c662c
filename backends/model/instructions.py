"""One instruction of the guest: its faults, its exits, what it does. SDM: *VMX Non-Root Operation*."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from backends.model import apic_base, apic_registers, cr8, exits, msr_bitmap, registers
from backends.model.memory import NotModelled, structures_of
from backends.model.state import LogicalProcessor
from backends.model.vmcs import BLOCKED
from runner.apic import ICR, ApicMode
from runner.descriptor import OUTSTANDING
from runner.outcome import GP0, Completed, Fault, Rip, VmExit
from runner.program import Action, Cpuid, MmioRead, Plain, Post, Rdmsr, ReadCr8, WriteCr8, Wrmsr
from runner.vmx import Access, Activity, Blocking, ExitReason

COMPLETED = Completed()
Result = Completed | Fault | VmExit
_VMCALL_LENGTH, _CPUID_LENGTH, _HLT_LENGTH = 3, 2, 1


def perform(cpu: LogicalProcessor, action: Action) -> Result:
    """Execute one instruction; SPIN and barriers, which wait, are no instructions."""
    performs = _PERFORMS.get(type(action))
    if performs is None:
        raise NotModelled(f"the step {action!r}")
    return performs(cpu, action)


def _rdmsr(cpu: LogicalProcessor, action: Rdmsr) -> Result:
    if cpu.cpl:
        return _privileged_msr(cpu)
    exit_ = msr_bitmap.exit_of(cpu, action.msr, Access.READ)
    return registers.rdmsr(cpu, action.msr) if exit_ is None else exit_


def _wrmsr(cpu: LogicalProcessor, action: Wrmsr) -> Result:
    return _write_msr(cpu, action.msr, action.value)


def _write_msr(cpu: LogicalProcessor, msr: int, value: int) -> Result:
    if cpu.cpl:
        return _privileged_msr(cpu)
    exit_ = msr_bitmap.exit_of(cpu, msr, Access.WRITE)
    return registers.wrmsr(cpu, msr, value) if exit_ is None else exit_


def _privileged_msr(cpu: LogicalProcessor) -> Fault:
    cpu.trace.by("priority.cpl-fault-before-exit", "CPL is {}: #GP(0) before any VM exit", cpu.cpl)
    cpu.trace.by("priority.cpl-fault-leaves-page", "the virtual-APIC page is neither read nor written")
    return GP0


def _read_cr8(cpu: LogicalProcessor, _: ReadCr8) -> Result:
    return _privileged_cr8(cpu) if cpu.cpl else cr8.read(cpu)


def _write_cr8(cpu: LogicalProcessor, action: WriteCr8) -> Result:
    return _privileged_cr8(cpu) if cpu.cpl else cr8.write(cpu, action.value)


def _privileged_cr8(cpu: LogicalProcessor) -> Fault:
    cpu.trace.by(
        "priority.cr8-cpl-fault-first", "CPL is {}: #GP(0) before VTPR and before any VM exit", cpu.cpl
    )
    return GP0


def _cpuid(cpu: LogicalProcessor, _: Cpuid) -> VmExit:
    return exits.fault_like(cpu, ExitReason.CPUID, _CPUID_LENGTH)


def _mmio_read(cpu: LogicalProcessor, action: MmioRead) -> Result:
    """Load from the APIC's page; the model knows no APIC-access page there."""
    base = apic_base.read(cpu.apic) & ~0xFFF
    if cpu.active.virtualize_apic_accesses and cpu.vmcs.apic_access_address == base:
        raise NotModelled("memory-mapped accesses to the APIC-access page")
    if cpu.apic.mode is not ApicMode.XAPIC:
        cpu.trace.by("apic.no-mmio-in-x2apic-mode", "the load does not reach the APIC")
    return Completed(apic_registers.load(cpu.apic, action.offset))


def _post(cpu: LogicalProcessor, action: Post) -> Result:
    """Set PIR bits, then send the notification through a passed-through ICR: an instruction each."""
    post(cpu, action)
    posts = action.vectors or action.outstanding
    if posts:
        cpu.vmcs.guest_interruptibility_state &= ~BLOCKED
    if action.notify is None:
        return COMPLETED
    outcome = _write_msr(cpu, ICR, action.to << 32 | action.notify)
    if posts and isinstance(outcome, VmExit) and outcome.rip is Rip.SAME:
        return replace(outcome, rip=Rip.ELSEWHERE)  # that of WRMSR, within the step
    return outcome


def post(cpu: LogicalProcessor, action: Post) -> None:
    """Set PIR bits, and ON, of a virtual processor's descriptor."""
    address = structures_of(action.to).descriptor
    descriptor = cpu.memory.descriptor(address)
    for vector in action.vectors:
        descriptor.pir |= 1 << vector
    descriptor.control |= OUTSTANDING * action.outstanding


def _plain(cpu: LogicalProcessor, action: Plain) -> Result:
    return _PLAIN[action](cpu)


def _sti(cpu: LogicalProcessor) -> Result:
    if cpu.cpl:
        return GP0
    if not cpu.vmcs.interrupt_flag:
        cpu.vmcs.interrupt_flag = True
        _block(cpu, Blocking.STI, "delivery.sti-holds-one-instruction")
    return COMPLETED


def _block(cpu: LogicalProcessor, blocking: Blocking, rule: str) -> None:
    """Block interrupts for one instruction; the second of two such may not."""
    if cpu.implementation.blocking_repeats or not cpu.vmcs.guest_interruptibility_state & BLOCKED:
        cpu.starts_blocking = int(blocking)
        cpu.trace.by(rule, "interrupts are held for one instruction")


def _cli(cpu: LogicalProcessor) -> Result:
    if cpu.cpl:
        return GP0
    cpu.vmcs.interrupt_flag = False
    return COMPLETED


def _nop(_: LogicalProcessor) -> Result:
    return COMPLETED


def _mov_ss(cpu: LogicalProcessor) -> Result:
    if cpu.cpl:
        raise NotModelled("MOV SS at CPL 3")
    _block(cpu, Blocking.MOV_SS, "delivery.mov-ss-holds-one-instruction")
    return COMPLETED


def _hlt(cpu: LogicalProcessor) -> Result:
    if cpu.cpl:
        return GP0
    if cpu.active.hlt_exiting:
        cpu.trace.by("controls.hlt-exiting", "HLT exiting is 1: VM exit 12")
        return exits.fault_like(cpu, ExitReason.HLT, _HLT_LENGTH)
    cpu.vmcs.guest_activity_state = int(Activity.HLT)
    return COMPLETED


def _vmcall(cpu: LogicalProcessor) -> VmExit:
    return exits.fault_like(cpu, ExitReason.VMCALL, _VMCALL_LENGTH)


_PLAIN: Mapping[Plain, Callable[[LogicalProcessor], Result]] = MappingProxyType(
    {
        Plain.STI: _sti,
        Plain.CLI: _cli,
        Plain.NOP: _nop,
        Plain.MOV_SS: _mov_ss,
        Plain.HLT: _hlt,
        Plain.VMCALL: _vmcall,
    }
)
_PERFORMS: Mapping[type[Any], Callable[[LogicalProcessor, Any], Result]] = MappingProxyType(
    {
        Rdmsr: _rdmsr,
        Wrmsr: _wrmsr,
        ReadCr8: _read_cr8,
        WriteCr8: _write_cr8,
        Cpuid: _cpuid,
        MmioRead: _mmio_read,
        Post: _post,
        Plain: _plain,
    }
)
