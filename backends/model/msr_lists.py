"""The MSR lists of VM entry and VM exit. SDM: *Loading MSRs*, *Saving MSRs*."""

from __future__ import annotations

from backends.model import other_msrs
from backends.model.apic_base import IA32_APIC_BASE
from backends.model.memory import NotModelled, structures_of
from backends.model.state import LogicalProcessor
from runner.apic import is_x2apic
from runner.outcome import EntryFailure, Fault, VmxAbort
from runner.program import MsrEntry, MsrLists
from runner.vmx import ExitReason

_SAVING_FAILED, _LOADING_FAILED = 1, 4


def load_at_entry(cpu: LogicalProcessor, lists: MsrLists) -> EntryFailure | None:
    """Load the MSRs of the VM-entry MSR-load list, or return the VM-entry failure that an entry causes."""
    vmcs, own = cpu.vmcs, structures_of(cpu.index)
    area = vmcs.vm_entry_msr_load_address, own.entry_load_area
    for number, entry in enumerate(_entries(lists.entry_load, vmcs.vm_entry_msr_load_count, area), 1):
        if not _load(cpu, entry):
            return EntryFailure(int(ExitReason.ENTRY_FAILURE_MSR_LOADING), number)
    return None


def _load(cpu: LogicalProcessor, entry: MsrEntry) -> bool:
    """Load one MSR; false where VM entry fails for it."""
    by, msr = cpu.trace.by, entry.msr
    if is_x2apic(msr):
        by("msr-lists.entry-load-of-apic-msr-fails", "an entry names MSR {:X}H", msr)
        by("msr-lists.whatever-mode-and-controls", "that fails in every APIC mode, under all controls")
        return False
    if msr == IA32_APIC_BASE:
        by("msr-lists.apic-base-not-forbidden", "an entry loads IA32_APIC_BASE")
    else:
        _refuse_unknown(cpu, msr)
    return not isinstance(other_msrs.wrmsr(cpu, msr, entry.value), Fault)


def at_exit(cpu: LogicalProcessor, lists: MsrLists) -> VmxAbort | None:
    """Return the VMX abort that the VM-exit lists cause at the first VM exit."""
    vmcs, own = cpu.vmcs, structures_of(cpu.index)
    area = vmcs.vm_exit_msr_store_address, own.exit_store_area
    if _names_apic_msr(cpu, _entries(lists.exit_store, vmcs.vm_exit_msr_store_count, area)):
        cpu.trace.by("msr-lists.exit-store-of-apic-msr-aborts", "an MSR of 800H-8FFH is stored: VMX abort")
        return VmxAbort(_SAVING_FAILED)
    area = vmcs.vm_exit_msr_load_address, own.exit_load_area
    if _names_apic_msr(cpu, _entries(lists.exit_load, vmcs.vm_exit_msr_load_count, area)):
        cpu.trace.by("msr-lists.exit-load-of-apic-msr-aborts", "an MSR of 800H-8FFH is loaded: VMX abort")
        return VmxAbort(_LOADING_FAILED)
    return None


def _names_apic_msr(cpu: LogicalProcessor, entries: tuple[MsrEntry, ...]) -> bool:
    """Whether a VM-exit list names an MSR of 800H-8FFH; what it does to others no guest can see."""
    for entry in entries:
        if is_x2apic(entry.msr):
            return True
        _refuse_unknown(cpu, entry.msr)
    return False


def _entries(listed: tuple[MsrEntry, ...], count: int, area: tuple[int, int]) -> tuple[MsrEntry, ...]:
    """Return the entries that a count and an address name."""
    address, own = area
    if not count:
        return ()
    if address != own or count > len(listed):
        raise NotModelled(f"an MSR area of {count} entries at {address:X}H: nothing is known of that memory")
    return listed[:count]


def _refuse_unknown(cpu: LogicalProcessor, msr: int) -> None:
    if msr not in cpu.implementation.storage_msrs:
        raise NotModelled(f"MSR {msr:X}H in an MSR list")
