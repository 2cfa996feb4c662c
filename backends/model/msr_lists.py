"""The MSR lists of VM entry and VM exit. SDM: *Loading MSRs*, *Saving MSRs*."""

from __future__ import annotations

from backends.model.memory import NotModelled, structures_of
from backends.model.state import LogicalProcessor
from runner.apic import is_x2apic
from runner.outcome import EntryFailure, VmxAbort
from runner.program import MsrEntry, MsrLists
from runner.vmx import ExitReason

_SAVING_FAILED, _LOADING_FAILED = 1, 4


def load_at_entry(cpu: LogicalProcessor, lists: MsrLists) -> EntryFailure | None:
    """Return the VM-entry failure that the VM-entry MSR-load list causes."""
    vmcs, own = cpu.vmcs, structures_of(cpu.index)
    if not vmcs.vm_entry_msr_load_count:
        return None
    area = vmcs.vm_entry_msr_load_address, own.entry_load_area
    number = _first_forbidden(lists.entry_load, vmcs.vm_entry_msr_load_count, area)
    if number is None:
        return None
    cpu.trace.by("msr-lists.entry-load-of-apic-msr-fails", "entry {} names an MSR of 800H-8FFH", number)
    return EntryFailure(int(ExitReason.ENTRY_FAILURE_MSR_LOADING), number)


def at_exit(cpu: LogicalProcessor, lists: MsrLists) -> VmxAbort | None:
    """Return the VMX abort that the VM-exit lists cause at the first VM exit."""
    vmcs, own = cpu.vmcs, structures_of(cpu.index)
    if vmcs.vm_exit_msr_store_count:
        area = vmcs.vm_exit_msr_store_address, own.exit_store_area
        if _first_forbidden(lists.exit_store, vmcs.vm_exit_msr_store_count, area):
            cpu.trace.by(
                "msr-lists.exit-store-of-apic-msr-aborts", "an MSR of 800H-8FFH is stored: VMX abort"
            )
            return VmxAbort(_SAVING_FAILED)
    if vmcs.vm_exit_msr_load_count:
        area = vmcs.vm_exit_msr_load_address, own.exit_load_area
        if _first_forbidden(lists.exit_load, vmcs.vm_exit_msr_load_count, area):
            cpu.trace.by("msr-lists.exit-load-of-apic-msr-aborts", "an MSR of 800H-8FFH is loaded: VMX abort")
            return VmxAbort(_LOADING_FAILED)
    return None


def _first_forbidden(entries: tuple[MsrEntry, ...], count: int, area: tuple[int, int]) -> int | None:
    """Return the 1-based number of the first entry naming 800H-8FFH."""
    address, own = area
    if address != own or count != len(entries):
        raise NotModelled(f"an MSR area of {count} entries at {address:X}H: nothing is known of that memory")
    for number, entry in enumerate(entries, 1):
        if is_x2apic(entry.msr):
            return number
        raise NotModelled(f"MSR {entry.msr:X}H in an MSR list")
    return None
