"""One logical processor that runs one virtual processor: what every module of the model works on."""

from __future__ import annotations

from collections.abc import Mapping

from backends.model.implementation import Implementation
from backends.model.local_apic import LocalApic
from backends.model.memory import Memory, MemoryPage
from backends.model.trace import Trace
from backends.model.vmcs import BLOCKED, NOTHING_ACTIVE, ActiveControls, ControlWords, Vmcs
from runner.vmx import Activity, MsrBitmap


class LogicalProcessor:
    """A logical processor with its VMCS, its local APIC and what VM entry has made of them.

    As of the latest VM entry are ``words`` (the control words), ``active`` (what they make active),
    ``page`` (the virtual-APIC page, if *use TPR shadow* is 1) and ``bitmap`` (the MSR bitmap, if used).
    ``recognized``: a pending virtual interrupt is recognized. ``cpl`` is that of the instruction at
    hand, ``starts_blocking`` the blocking that it starts. ``threshold_exit_due``: VM entry induces an
    exit by the TPR threshold.
    """

    __slots__ = (
        "active",
        "apic",
        "bitmap",
        "cpl",
        "implementation",
        "index",
        "memory",
        "msrs",
        "page",
        "recognized",
        "starts_blocking",
        "threshold_exit_due",
        "trace",
        "vmcs",
        "words",
    )

    def __init__(
        self,
        index: int,
        vmcs: Vmcs,
        apic: LocalApic,
        memory: Memory,
        trace: Trace,
    ) -> None:
        self.index = index
        self.vmcs = vmcs
        self.apic = apic
        self.memory = memory
        self.trace = trace
        self.implementation: Implementation = apic.implementation
        self.words: ControlWords = (0, 0, 0, 0, 0, 0)
        self.active: ActiveControls = NOTHING_ACTIVE
        self.page: MemoryPage | None = None
        self.bitmap: MsrBitmap | None = None
        self.msrs: Mapping[int, int] = apic.implementation.other_msrs
        self.recognized = False
        self.cpl = 0
        self.starts_blocking = 0
        self.threshold_exit_due = False

    @property
    def virtual_apic_page(self) -> MemoryPage:
        """The virtual-APIC page of a processor whose *use TPR shadow* is 1."""
        assert self.page is not None  # noqa: S101 -- VM entry sees to it
        return self.page

    @property
    def interruptible(self) -> bool:
        """Whether RFLAGS.IF is 1 and neither STI nor MOV SS blocks."""
        vmcs = self.vmcs
        return vmcs.interrupt_flag and not vmcs.guest_interruptibility_state & BLOCKED

    @property
    def halted(self) -> bool:
        """Whether the activity state is HLT."""
        return self.vmcs.guest_activity_state == Activity.HLT
