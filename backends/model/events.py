"""What happens between two instructions. SDM: *Priority Among Concurrent Events*, *Event Blocking*."""

from __future__ import annotations

from enum import Enum

from backends.model import delivery
from backends.model.state import LogicalProcessor
from backends.model.vmcs import BLOCKED, SINGLE_STEP
from runner.vmx import Activity, Blocking


class Event(Enum):
    """Events at an instruction boundary, highest priority first."""

    THRESHOLD_EXIT = "the exit induced by the TPR threshold"
    DEBUG_TRAP = "the single-step trap of the instruction before"
    WINDOW_EXIT = "the interrupt-window exit"
    VIRTUAL_INTERRUPT = "the delivery of a virtual interrupt"
    EXTERNAL_INTERRUPT = "an external interrupt"


def due(cpu: LogicalProcessor) -> Event | None:
    """Return the event that comes now, or ``None`` where the next instruction does."""
    vmcs = cpu.vmcs
    if vmcs.guest_activity_state > Activity.HLT:
        return None
    if cpu.threshold_exit_due:
        return Event.THRESHOLD_EXIT
    blocking = vmcs.guest_interruptibility_state
    if vmcs.guest_pending_debug_exceptions & SINGLE_STEP and not blocking & Blocking.MOV_SS:
        return Event.DEBUG_TRAP
    if cpu.active.interrupt_window_exiting and cpu.interruptible:
        return Event.WINDOW_EXIT
    if delivery.is_due(cpu):
        return Event.VIRTUAL_INTERRUPT
    if cpu.apic.irr and _external_interrupt_comes(cpu):
        return Event.EXTERNAL_INTERRUPT
    return None


def _external_interrupt_comes(cpu: LogicalProcessor) -> bool:
    """Rules controls.external-interrupt-exiting and posted.blocking-may-delay-notification."""
    if not cpu.apic.pending():
        return False
    if not cpu.active.external_interrupt_exiting:
        return cpu.interruptible
    blocked = cpu.vmcs.guest_interruptibility_state & BLOCKED
    return not (blocked and cpu.implementation.external_interrupts_wait_for_blocking)
