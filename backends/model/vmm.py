"""What the VMM does in root operation: by reason alone at a VM exit, and as VMM steps ask."""

from __future__ import annotations

from backends.model.instructions import post
from backends.model.local_apic import LocalApic
from backends.model.memory import structures_of
from backends.model.state import LogicalProcessor
from backends.model.vmcs import BLOCKED, VALID
from runner.outcome import VmExit
from runner.program import Action, Inject, Post, Raise, Vmm
from runner.vmx import ExitReason, PrimaryControls

_PAST_THE_INSTRUCTION = frozenset(
    int(reason)
    for reason in (
        ExitReason.CPUID,
        ExitReason.HLT,
        ExitReason.VMCALL,
        ExitReason.CONTROL_REGISTER_ACCESS,
        ExitReason.RDMSR,
        ExitReason.WRMSR,
    )
)


def react(cpu: LogicalProcessor, exit_: VmExit) -> bool:
    """Prepare the VM entry that follows an exit; false where the program ends there."""
    vmcs, reason = cpu.vmcs, exit_.reason
    if reason in _PAST_THE_INSTRUCTION:
        vmcs.guest_interruptibility_state &= ~BLOCKED
    elif reason == ExitReason.TPR_BELOW_THRESHOLD:
        vmcs.tpr_threshold = 0
    elif reason == ExitReason.INTERRUPT_WINDOW:
        vmcs.primary_processor_based_controls &= ~int(PrimaryControls.INTERRUPT_WINDOW_EXITING)
    elif reason == ExitReason.EXTERNAL_INTERRUPT:
        _take_external_interrupts(cpu.apic, acknowledged=cpu.active.acknowledge_interrupt_on_exit)
    else:
        return reason in (ExitReason.VIRTUALIZED_EOI, ExitReason.APIC_WRITE)
    return True


def _take_external_interrupts(apic: LocalApic, *, acknowledged: bool) -> None:
    if acknowledged:
        apic.end_of_interrupt()
        return
    for _ in range(256):
        vector = apic.pending()
        if not vector:
            return
        apic.acknowledge(vector)
        apic.end_of_interrupt()


def perform(cpu: LogicalProcessor, action: Action) -> None:
    """Do what a VMM step says."""
    match action:
        case Vmm():
            _change(cpu, action)
        case Inject(vector):
            cpu.vmcs.vm_entry_interruption_information = VALID | vector
        case Raise(vector):
            cpu.apic.accept(vector)
        case Post():
            post(cpu, action)
            if action.notify is not None:
                cpu.apic.bus[action.to].accept(action.notify)


def _change(cpu: LogicalProcessor, vmm: Vmm) -> None:
    vmcs, memory, index = cpu.vmcs, cpu.memory, cpu.index
    own = memory.pages[structures_of(index).virtual_apic_page]
    for offset, word in vmm.words:
        own.store(offset, word)
    if vmm.controls is not None:
        vmcs.set_controls(vmm.controls, cpu.implementation)
    if vmm.msr_bitmap is not None:
        memory.bitmaps[structures_of(index).msr_bitmap] = vmm.msr_bitmap
    if vmm.eoi_exit_bitmap is not None:
        vmcs.set_eoi_exit_bitmap(vmm.eoi_exit_bitmap)
    for name, value in (
        ("tpr_threshold", vmm.tpr_threshold),
        ("rvi", vmm.rvi),
        ("svi", vmm.svi),
        ("interrupt_flag", vmm.interrupt_flag),
        ("guest_interruptibility_state", None if vmm.blocking is None else int(vmm.blocking)),
        ("guest_activity_state", None if vmm.activity is None else int(vmm.activity)),
    ):
        if value is not None:
            setattr(vmcs, name, value)
    for field, to in vmm.fields:
        vmcs.override(field, to, index, cpu.implementation)
