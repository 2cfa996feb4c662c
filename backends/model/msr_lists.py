"""The MSR lists of VM entry and VM exit. SDM: *Loading MSRs*, *Saving MSRs*."""

from __future__ import annotations

from backends.model.memory import NotModelled
from backends.model.trace import Trace
from runner.apic import is_x2apic
from runner.outcome import EntryFailure, VmxAbort
from runner.program import MsrEntry, MsrLists
from runner.vmx import ExitReason

_SAVING_FAILED, _LOADING_FAILED = 1, 4


def load_at_entry(lists: MsrLists, trace: Trace) -> EntryFailure | None:
    """Return the VM-entry failure that an entry of the VM-entry MSR-load list causes."""
    number = _first_forbidden(lists.entry_load)
    if number is None:
        return None
    trace.by("msr-lists.entry-load-of-apic-msr-fails", "entry {} names an MSR of 800H-8FFH", number)
    return EntryFailure(int(ExitReason.ENTRY_FAILURE_MSR_LOADING), number)


def at_exit(lists: MsrLists, trace: Trace) -> VmxAbort | None:
    """Return the VMX abort that an entry of the VM-exit lists causes."""
    if _first_forbidden(lists.exit_store) is not None:
        trace.by("msr-lists.exit-store-of-apic-msr-aborts", "an MSR of 800H-8FFH is to be stored: VMX abort")
        return VmxAbort(_SAVING_FAILED)
    if _first_forbidden(lists.exit_load) is not None:
        trace.by("msr-lists.exit-load-of-apic-msr-aborts", "an MSR of 800H-8FFH is to be loaded: VMX abort")
        return VmxAbort(_LOADING_FAILED)
    return None


def _first_forbidden(entries: tuple[MsrEntry, ...]) -> int | None:
    """Return the 1-based number of the first entry naming 800H-8FFH."""
    for number, entry in enumerate(entries, 1):
        if is_x2apic(entry.msr):
            return number
        raise NotModelled(f"MSR {entry.msr:X}H in an MSR list")
    return None
