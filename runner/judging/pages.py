"""What a program itself puts into virtual-APIC pages, RVI and SVI.

The judge needs it twice: silence means that nothing but this has changed, and ``from-page`` means the
8 bytes that the page holds when the step runs. What delivery and EOI virtualization change is not
followed: a scenario names it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from runner.apic import (
    EOI,
    ICR,
    SELF_IPI,
    STALE,
    TPR,
    VPPR,
    VTPR,
    Fill,
    VirtualApicPage,
    page_offset,
    processor_priority,
)
from runner.outcome import Completed, Entered, Observation, Outcome, StepResult, VmExit
from runner.program import (
    VMM_ACTIONS,
    Action,
    Page,
    PageAddress,
    Post,
    Program,
    Setup,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.scenario import EntryFails, Expected
from runner.vmx import TRAP_LIKE, Control, Field, PrimaryControls, SecondaryControls, TertiaryControls

STALE_PAGE = VirtualApicPage(Fill.VALUE, STALE)

VIRTUALIZED_WRITES: dict[int, Control] = {
    TPR: SecondaryControls.VIRTUALIZE_X2APIC_MODE,
    EOI: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
    SELF_IPI: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
    ICR: TertiaryControls.IPI_VIRTUALIZATION,
}
"""WRMSRs that store EDX:EAX in the page under a control. SDM: *Virtualizing MSR-Based APIC Accesses*."""

PageKey = int | Page | None
"""Whose page: a virtual processor's index, ``Page.STALE``, or ``None`` for an address nobody knows."""


def happens_in_root(action: Action) -> bool:
    """Whether an action is the VMM's: no instruction of the guest, and no place for a saved RIP."""
    return isinstance(action, VMM_ACTIONS) or (isinstance(action, Post) and not action.by_guest)


def page_key(setup: Setup, vcpu: int) -> PageKey:
    """Return which page the virtual-APIC address of a virtual processor is that of."""
    for field, value in reversed(setup.fields):
        if field is Field.VIRTUAL_APIC_ADDRESS:
            return _named_page(value, vcpu) if isinstance(value, PageAddress) else None
    return vcpu


def _named_page(address: PageAddress, vcpu: int) -> PageKey:
    if address.add:
        return None
    match address.page:
        case Page.OWN:
            return vcpu
        case Page.OF_VCPU:
            return address.vcpu
        case Page.STALE:
            return Page.STALE
        case Page.APIC_ACCESS:
            return None


@dataclass(frozen=True, slots=True)
class Untouched:
    """State of a virtual processor whose guest changes nothing; ``words`` differ from the setup."""

    words: tuple[tuple[int, int], ...]
    rvi: int
    svi: int


def untouched(program: Program, expected: Expected, vcpu: int) -> Untouched:
    """Return what silence about the final state of a virtual processor means.

    VPPR has what PPR virtualization gives it at each VM entry with virtual-interrupt delivery.
    """
    replay = _Replay(program)
    enters = isinstance(expected.entry, Entered)
    for index, step in program.steps_of(vcpu):
        if enters or isinstance(step.action, Vmm):
            replay.before(step)
        if isinstance(expected.steps[index].outcome, EntryFails):
            replay.entry_due[vcpu] = False
    if enters:
        replay.enter(vcpu)
    setup, page = replay.setups[vcpu], program.vcpus[vcpu].page
    changed = replay.words.get(vcpu, {}).items()
    return Untouched(tuple((at, word) for at, word in changed if word != page.word(at)), setup.rvi, setup.svi)


def held(program: Program, observation: Observation, steps: int, vcpu: int, msr: int) -> int | None:
    """Return the 8 bytes that an RDMSR finds in a virtual processor's page after so many steps.

    ``None``: its virtual-APIC address is that of no page known here.
    """
    replay = _Replay(program)
    for step, result in zip(program.steps[:steps], observation.steps, strict=False):
        replay.before(step)
        replay.after(step, result)
    replay.enter(vcpu)
    return replay.qword(vcpu, page_offset(msr))


class _Replay:
    """Setups and pages as a program changes them; ``words`` are the changes by page and offset."""

    def __init__(self, program: Program) -> None:
        self.original = program.vcpus
        self.setups = list(program.vcpus)
        self.entry_due = [True] * len(program.vcpus)
        self.words: dict[PageKey, dict[int, int]] = {}

    def before(self, step: Step) -> None:
        """Do what the VMM does in this step, or the VM entry that it makes before a step of the guest."""
        if isinstance(step.action, Vmm):
            self._vmm(step.vcpu, step.action)
        elif not happens_in_root(step.action):
            self.enter(step.vcpu)

    def after(self, step: Step, result: StepResult) -> None:
        """Store what a virtualized write stores, if the step completed."""
        controls = self.setups[step.vcpu].controls
        if not any(isinstance(each, Completed) or _is_trap(each) for each in result.outcomes):
            return
        match step.action:
            case Wrmsr(msr, value) if msr in VIRTUALIZED_WRITES and controls.active(VIRTUALIZED_WRITES[msr]):
                self._store(step.vcpu, page_offset(msr), value & 0xFFFFFFFF)
                self._store(step.vcpu, page_offset(msr) + 4, value >> 32)
            case WriteCr8(value) if controls.active(PrimaryControls.USE_TPR_SHADOW):
                self._store(step.vcpu, VTPR, (value & 0xF) << 4)

    def enter(self, vcpu: int) -> None:
        """Virtualize PPR as VM entry does, if a VM entry is due."""
        setup = self.setups[vcpu]
        if self.entry_due[vcpu] and setup.controls.active(SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY):
            self._store(vcpu, VPPR, processor_priority(self._word(vcpu, VTPR), setup.svi))
        self.entry_due[vcpu] = False

    def qword(self, vcpu: int, offset: int) -> int | None:
        """Return the 8 bytes at *offset* of the page that the virtual processor uses."""
        known = page_key(self.setups[vcpu], vcpu) is not None
        return self._word(vcpu, offset) | self._word(vcpu, offset + 4) << 32 if known else None

    def _vmm(self, vcpu: int, vmm: Vmm) -> None:
        old = self.setups[vcpu]
        self.setups[vcpu] = replace(
            old,
            controls=old.controls if vmm.controls is None else vmm.controls,
            rvi=old.rvi if vmm.rvi is None else vmm.rvi,
            svi=old.svi if vmm.svi is None else vmm.svi,
            fields=(*old.fields, *vmm.fields),
        )
        self.words.setdefault(vcpu, {}).update(vmm.words)
        self.entry_due[vcpu] = True

    def _store(self, vcpu: int, offset: int, word: int) -> None:
        self.words.setdefault(page_key(self.setups[vcpu], vcpu), {})[offset] = word

    def _word(self, vcpu: int, offset: int) -> int:
        key = page_key(self.setups[vcpu], vcpu)
        changed = self.words.get(key, {}).get(offset)
        if changed is not None:
            return changed
        page = self.original[key].page if isinstance(key, int) else STALE_PAGE
        return page.word(offset)


def _is_trap(outcome: Outcome) -> bool:
    return isinstance(outcome, VmExit) and outcome.reason in TRAP_LIKE
