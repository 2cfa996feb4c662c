"""Whether RDMSR and WRMSR exit.

SDM: *Instructions That Cause VM Exits Conditionally*, *MSR-Bitmap Address*.
"""

from __future__ import annotations

from backends.model import exits
from backends.model.state import LogicalProcessor
from runner.outcome import VmExit
from runner.vmx import Access, ExitReason

_LENGTH = 2


def exit_of(cpu: LogicalProcessor, msr: int, access: Access) -> VmExit | None:
    """Return the VM exit that an access to *msr* causes, or ``None`` where it does not exit."""
    bitmap, by = cpu.bitmap, cpu.trace.by
    if bitmap is None:
        by("bitmap.unused-exits-always", "use MSR bitmaps is 0: every RDMSR and WRMSR exits")
    elif not bitmap.exits(msr, access):
        by("bitmap.set-bit-exits", "the {} bit of MSR {:X}H is 0: no VM exit", access.value, msr)
        return None
    elif bitmap.bit(msr, access):
        by("bitmap.set-bit-exits", "the {} bit of MSR {:X}H is 1: VM exit", access.value, msr)
    else:
        by("bitmap.outside-both-ranges-exits", "the bitmaps have no bit for MSR {:X}H: VM exit", msr)
    by("bitmap.exits-are-fault-like", "the instruction is not executed: RIP and registers stay")
    return exits.fault_like(cpu, ExitReason.RDMSR if access is Access.READ else ExitReason.WRMSR, _LENGTH)
