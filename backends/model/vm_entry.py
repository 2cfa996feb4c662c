"""VM entry: checks, guest state, then what virtual-interrupt delivery adds. SDM: *VM Entries*."""

from __future__ import annotations

from backends.model import entry_checks, evaluation, guest_state_checks, msr_lists, ppr
from backends.model.memory import STALE_PAGE, NotModelled, structures_of
from backends.model.state import LogicalProcessor
from backends.model.tpr import class_and_threshold
from backends.model.vmcs import active_controls
from runner.outcome import Entered, Entry, EntryFailure, VmfailValid
from runner.program import MsrLists
from runner.vmx import Activity, ExitReason, InstructionError

ENTERED = Entered()


def enter(cpu: LogicalProcessor, lists: MsrLists) -> Entry:
    """Attempt VM entry; event injection and what is pending then come at the first boundary."""
    by = cpu.trace.by
    locate_structures(cpu)
    for rule, sentence in entry_checks.violations(cpu):
        by(rule, "{}", sentence)
        by("entry.control-error-is-vmfail-7", "VM entry fails: VMfailValid(7)")
        by("entry.vmfail-changes-nothing", "no guest state is loaded, nothing is virtualized")
        return VmfailValid(int(InstructionError.INVALID_CONTROL_FIELDS))
    _refuse_unknown_memory(cpu)
    entry_checks.refuse_unmodelled(cpu)
    failure = _late_failure(cpu, lists)
    if failure is not None:
        by("entry.late-failure-keeps-interrupt-status", "VM entry fails: the guest-state area stays as it is")
        return failure
    by("entry.control-error-is-vmfail-7", "no check of the control fields fails: VM entry goes on")
    _say_whose_page(cpu)
    if cpu.vmcs.guest_activity_state == Activity.WAIT_FOR_SIPI:
        raise NotModelled("the wait-for-SIPI activity state")
    cpu.threshold_exit_due = _induces_threshold_exit(cpu)
    if cpu.active.virtual_interrupt_delivery:
        by("entry.loads-rvi-svi-then-evaluates", "RVI is {:02X}H, SVI {:02X}H", cpu.vmcs.rvi, cpu.vmcs.svi)
        ppr.virtualize(cpu)
        evaluation.evaluate(cpu)
    return ENTERED


def locate_structures(cpu: LogicalProcessor) -> None:
    """Find what the VMCS points to, as far as its addresses are legal and lead to known memory."""
    vmcs, memory = cpu.vmcs, cpu.memory
    cpu.words = vmcs.control_words()
    cpu.active = active = active_controls(cpu.words)
    cpu.page = cpu.bitmap = None
    if active.use_tpr_shadow and _is_page(cpu, vmcs.virtual_apic_address):
        cpu.page = memory.page(vmcs.virtual_apic_address)
    if active.use_msr_bitmaps and _is_page(cpu, vmcs.msr_bitmap_address):
        cpu.bitmap = memory.bitmap(vmcs.msr_bitmap_address)


def _refuse_unknown_memory(cpu: LogicalProcessor) -> None:
    active, vmcs = cpu.active, cpu.vmcs
    if active.use_tpr_shadow and cpu.page is None:
        raise NotModelled(f"the virtual-APIC page at {vmcs.virtual_apic_address:X}H: what lies there")
    if active.use_msr_bitmaps and cpu.bitmap is None:
        raise NotModelled(f"the MSR bitmap at {vmcs.msr_bitmap_address:X}H: what lies there")


def _is_page(cpu: LogicalProcessor, address: int) -> bool:
    return not address & 0xFFF and not address >> cpu.implementation.physical_address_width


def _late_failure(cpu: LogicalProcessor, lists: MsrLists) -> EntryFailure | None:
    by = cpu.trace.by
    for rule, sentence in guest_state_checks.violations(cpu):
        by(rule, "{}", sentence)
        return EntryFailure(int(ExitReason.ENTRY_FAILURE_GUEST_STATE))
    return msr_lists.load_at_entry(cpu, lists) if cpu.vmcs.has_msr_lists else None


def _say_whose_page(cpu: LogicalProcessor) -> None:
    by = cpu.trace.by
    if cpu.page is None:
        return
    address = cpu.vmcs.virtual_apic_address
    by("page.at-virtual-apic-address", "VMCS field 2012H: the virtual-APIC page is at {:X}H", address)
    if address == STALE_PAGE:
        by("page.never-initialized", "nobody has prepared that page, and the processor never initializes it")
        by(
            "many.virtual-apic-address-in-every-vmcs",
            "field 2012H must be set in each virtual processor's VMCS",
        )
        by("many.one-page-per-vcpu", "each virtual processor needs a page of its own")
    elif address != structures_of(cpu.index).virtual_apic_page:
        by("many.shared-page-same-registers", "that page is another virtual processor's")
        by("many.one-page-per-vcpu", "each virtual processor needs a page of its own")


def _induces_threshold_exit(cpu: LogicalProcessor) -> bool:
    """Whether the TPR threshold induces an exit. SDM: *VM Exits Induced by the TPR Threshold*."""
    active = cpu.active
    if not active.use_tpr_shadow or not active.virtualize_apic_accesses or active.virtual_interrupt_delivery:
        return False
    vtpr_class, threshold = class_and_threshold(cpu)
    return vtpr_class < threshold
