"""What a VM exit records. SDM: *Recording VM-Exit Information and Updating VM-Entry Control Fields*."""

from __future__ import annotations

from backends.model.state import LogicalProcessor
from backends.model.vmcs import BLOCKED, SINGLE_STEP, VALID
from runner.outcome import Rip, VmExit
from runner.vmx import Activity, Blocking, ExitReason

_HARDWARE_EXCEPTION, _ERROR_CODE_VALID = 3 << 8, 1 << 11


def fault_like(cpu: LogicalProcessor, reason: ExitReason, length: int, qualification: int = 0) -> VmExit:
    """Return the exit of an instruction that is not executed: the saved RIP is its own.

    SDM: *Architectural State Before a VM Exit* (rule exit.trap-like-and-fault-like).
    """
    return VmExit(int(reason), qualification, instruction_length=length, blocking=blocking_of(cpu))


def trap_like(cpu: LogicalProcessor, reason: ExitReason, qualification: int = 0) -> VmExit:
    """Return the exit that follows a completed instruction.

    Blocking by STI and MOV SS that was in force before the instruction is gone (rule
    exit.trap-like-ends-blocking); a single-step trap stays pending (rule threshold.pending-single-step).
    """
    vmcs, by = cpu.vmcs, cpu.trace.by
    by("exit.trap-like-and-fault-like", "the saved RIP is that of the next instruction")
    if vmcs.guest_interruptibility_state & BLOCKED:
        by("exit.trap-like-ends-blocking", "blocking by STI and MOV SS ends with the instruction")
    vmcs.guest_interruptibility_state &= ~BLOCKED
    if vmcs.trap_flag:
        by("threshold.pending-single-step", "RFLAGS.TF is 1: the pending debug exceptions have bit 14")
        vmcs.guest_pending_debug_exceptions = SINGLE_STEP
    return VmExit(int(reason), qualification, Rip.NEXT, blocking=blocking_of(cpu))


def before_instruction(cpu: LogicalProcessor, reason: ExitReason, rip: Rip, information: int = 0) -> VmExit:
    """Return the exit of an event between two instructions.

    The activity state is saved as it was (rule exit.activity-state-after-hlt).
    """
    return VmExit(
        int(reason),
        rip=rip,
        interruption_information=information,
        blocking=blocking_of(cpu),
        activity=activity_of(cpu),
    )


def exception(
    cpu: LogicalProcessor, vector: int, rip: Rip, *, error_code: bool, qualification: int = 0
) -> VmExit:
    """Return the exit of an exception whose bit in the exception bitmap is 1.

    SDM: *Information for VM Exits Due to Vectored Events*.
    """
    information = VALID | _HARDWARE_EXCEPTION | _ERROR_CODE_VALID * error_code | vector
    return VmExit(
        int(ExitReason.EXCEPTION_OR_NMI),
        qualification,
        rip,
        interruption_information=information,
        blocking=blocking_of(cpu),
    )


def blocking_of(cpu: LogicalProcessor) -> Blocking:
    """Return the interruptibility state that the exit saves."""
    return Blocking(cpu.vmcs.guest_interruptibility_state & 0xF)


def activity_of(cpu: LogicalProcessor) -> Activity:
    """Return the activity state."""
    return Activity(cpu.vmcs.guest_activity_state & 3)
