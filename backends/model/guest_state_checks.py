"""Checks on the guest-state area at VM entry, as far as scenarios vary it.

SDM: *Checks on Guest RIP and RFLAGS*, *Checks on Guest Non-Register State*.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.model.control_checks import Violation
from backends.model.state import LogicalProcessor
from backends.model.vmcs import BLOCKED, SINGLE_STEP, VALID
from runner.vmx import Activity, Blocking

_RESERVED_BLOCKING = ~0xF | int(Blocking.SMI)
"""Reserved bits, and blocking by SMI, which is for system-management mode alone."""

_RESERVED_PENDING = ~0x1500F
"""Reserved bits of the pending debug exceptions: 11:4, 13, 15, and those above 16."""

_RULE = "fields.guest-non-register-state"


def violations(cpu: LogicalProcessor) -> Iterator[Violation]:
    """Yield every violation of the guest-state checks."""
    vmcs = cpu.vmcs
    blocking = vmcs.guest_interruptibility_state
    if vmcs.vm_entry_interruption_information & VALID:
        yield from _injection(cpu)
    if vmcs.guest_activity_state:
        yield from _activity(cpu)
    if blocking:
        yield from _blocking(cpu)
    debug = vmcs.guest_pending_debug_exceptions
    if debug & _RESERVED_PENDING:
        yield _RULE, f"the pending debug exceptions {debug:X}H have bits that must be 0"
    if blocking & BLOCKED or vmcs.guest_activity_state == Activity.HLT:
        pending = bool(debug & SINGLE_STEP)
        if pending != vmcs.trap_flag:
            yield (
                _RULE,
                f"bit 14 of the pending debug exceptions is {pending:d}, RFLAGS.TF {vmcs.trap_flag:d}",
            )


def _blocking(cpu: LogicalProcessor) -> Iterator[Violation]:
    blocking = cpu.vmcs.guest_interruptibility_state
    if blocking & _RESERVED_BLOCKING:
        yield _RULE, f"the interruptibility state {blocking:X}H has bits that must be 0"
    if blocking & BLOCKED == BLOCKED:
        yield _RULE, "the guest is blocked both by STI and by MOV SS"
    if blocking & Blocking.STI and not cpu.vmcs.interrupt_flag:
        yield _RULE, "the guest is blocked by STI and RFLAGS.IF is 0"


def _injection(cpu: LogicalProcessor) -> Iterator[Violation]:
    rule, vmcs = "entry.injection-needs-interruptible-guest", cpu.vmcs
    if not vmcs.interrupt_flag:
        yield rule, "an external interrupt is injected and RFLAGS.IF is 0"
    if vmcs.guest_interruptibility_state & BLOCKED:
        yield rule, "an external interrupt is injected and the guest is blocked by STI or MOV SS"
    if vmcs.guest_activity_state > Activity.HLT:
        yield rule, "an external interrupt is injected into an activity state that does not take it"


def _activity(cpu: LogicalProcessor) -> Iterator[Violation]:
    rule, vmcs, choices = "entry.hlt-activity-state", cpu.vmcs, cpu.implementation
    activity = vmcs.guest_activity_state
    unsupported = (activity == Activity.HLT and not choices.hlt_activity_state) or (
        activity == Activity.SHUTDOWN and not choices.shutdown_activity_state
    )
    if activity > Activity.WAIT_FOR_SIPI or unsupported:
        yield rule, f"activity state {activity} is not supported"
    if activity == Activity.HLT and vmcs.cpl:
        yield rule, "the activity state is HLT and the DPL of SS is not 0"
    if vmcs.guest_interruptibility_state & BLOCKED:
        yield rule, "the guest is not active and blocked by STI or MOV SS"
