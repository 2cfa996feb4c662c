"""A virtual processor between two instructions: events, VM exits and the VM entries after them.

SDM: *VM Entries*, *VM Exits*, *Other Causes of VM Exits*, *Virtual-Interrupt Delivery*.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from backends.model import delivery, events, exits, msr_lists, posted, vm_entry, vmm
from backends.model.events import Event
from backends.model.memory import NotModelled
from backends.model.state import LogicalProcessor
from backends.model.stream import COMPLETED, Record, Stream
from backends.model.vmcs import BLOCKED, SINGLE_STEP, VALID
from backends.model.waiting import MOST_EVENTS, Ended, EndlessError, Run, Wait
from runner.outcome import Entered, Entry, Rip, Stuck, VmExit
from runner.program import Setup, Step, is_vmm
from runner.vmx import Activity, Blocking, ExitReason, PinBasedControls

_DEBUG_EXCEPTION = 1
_INTERRUPTION_TYPE = 0b111 << 8
_FIRST_INTERRUPT_VECTOR = 16


class Boundary(ABC):
    """What happens to a virtual processor other than by its instructions.

    ``program`` are its own steps, ``stream`` those that RIP is in, a handler's for instance.
    """

    def __init__(self, cpu: LogicalProcessor, setup: Setup, program: Stream) -> None:
        self.cpu = cpu
        self.setup = setup
        self.program = self.stream = program
        self.events = iter(range(MOST_EVENTS))

    @abstractmethod
    def perform(self) -> Run:
        """Perform the steps of the current stream to its end."""

    # Root operation

    def enter(self) -> Entry:
        """Attempt VM entry."""
        cpu, lists = self.cpu, self.setup.msr_lists
        cpu.trace.at_entry(cpu.index)
        entry = vm_entry.enter(cpu, lists)
        if cpu.vmcs.has_msr_lists and isinstance(entry, Entered):
            return msr_lists.at_exit(cpu, lists) or entry
        return entry

    def vmm_steps(self) -> Record | None:
        """Perform the VMM steps that come next, and return the record of the last."""
        stream, last = self.program, None
        while not stream.at_end and is_vmm(stream.step.action):
            self.cpu.trace.at_step(self.cpu.index, stream.step.action, stream.rip)
            vmm.perform(self.cpu, stream.step.action)
            last = stream.record
            last.add(COMPLETED)
            stream.next += 1
        return last

    def exit(self, record: Record, exit_: VmExit) -> Run:
        """Note a VM exit, let the VMM react and perform its steps, and enter again."""
        cpu, stream = self.cpu, self.stream
        record.add(exit_)
        cpu.recognized = False
        in_program = stream is self.program and not stream.inside
        if (in_program and stream.at_end) or not vmm.react(cpu, exit_):
            raise Ended
        last = self.vmm_steps() or record  # in a handler none comes: they stand behind exits
        entry = self.enter()
        if not isinstance(entry, Entered):
            last.add(entry)
            raise Ended
        yield from self.begin()

    def begin(self) -> Run:
        """Do what comes after VM entry and before the next instruction."""
        vmcs = self.cpu.vmcs
        information = vmcs.vm_entry_interruption_information
        if information & VALID:
            if information & _INTERRUPTION_TYPE or information & 0xFF < _FIRST_INTERRUPT_VECTOR:
                raise NotModelled(f"event injection with interruption information {information:X}H")
            vmcs.vm_entry_interruption_information ^= VALID
            vector = information & 0xFF
            self.cpu.trace.by("delivery.injection-is-not-delivery", "vector {:02X}H is injected", vector)
            yield from self._interrupt(vector)
        if not self.goes_on:
            yield from self.pass_boundary()

    # Non-root operation

    @property
    def goes_on(self) -> bool:
        """Whether the next instruction comes at once."""
        return events.due(self.cpu) is None and self.cpu.vmcs.guest_activity_state == Activity.ACTIVE

    def pass_boundary(self) -> Run:
        """Do all that comes before the next instruction."""
        cpu = self.cpu
        while True:
            event = events.due(cpu)
            if event is not None:
                yield from self._handle(event)
            elif cpu.vmcs.guest_activity_state == Activity.ACTIVE:
                return
            elif (yield Wait(lambda: events.due(cpu) is not None or self.goes_on)):
                rule = (
                    "delivery.wakes-from-hlt" if cpu.halted else "delivery.not-in-shutdown-or-wait-for-sipi"
                )
                cpu.trace.by(rule, "nothing comes that ends the inactive state")
                self._owner().get_stuck(Stuck.STAYS_HALTED if cpu.halted else Stuck.DID_NOT_RETURN)
                raise Ended

    def _handle(self, event: Event) -> Run:
        if next(self.events, None) is None:
            raise EndlessError(f"more than {MOST_EVENTS} events, the last is {event.value}")
        match event:
            case Event.THRESHOLD_EXIT:
                return self._threshold_exit()
            case Event.DEBUG_TRAP:
                return self._debug_trap()
            case Event.WINDOW_EXIT:
                return self._window_exit()
            case Event.VIRTUAL_INTERRUPT:
                return self._interrupt(delivery.deliver(self.cpu))
            case Event.EXTERNAL_INTERRUPT:
                return self._external_interrupt()

    def _threshold_exit(self) -> Run:
        self.cpu.trace.by(
            "threshold.exit-right-after-entry", "VTPR[7:4] is below the TPR threshold: VM exit 43"
        )
        yield from self._exit_here(ExitReason.TPR_BELOW_THRESHOLD)

    def _debug_trap(self) -> Run:
        cpu, vmcs = self.cpu, self.cpu.vmcs
        vmcs.guest_pending_debug_exceptions ^= SINGLE_STEP
        cpu.trace.by("delivery.after-debug-trap", "the single-step trap comes before interrupts")
        if vmcs.exception_bitmap >> _DEBUG_EXCEPTION & 1:
            record, rip = self._exit_place()
            yield from self.exit(
                record,
                exits.exception(cpu, _DEBUG_EXCEPTION, rip, error_code=False, qualification=SINGLE_STEP),
            )
        yield from self._take(_DEBUG_EXCEPTION, ())
        vmcs.trap_flag = False

    def _window_exit(self) -> Run:
        self.cpu.trace.by("controls.interrupt-window-exiting", "IF is 1 and nothing blocks: VM exit 7")
        yield from self._exit_here(ExitReason.INTERRUPT_WINDOW)

    def _external_interrupt(self) -> Run:
        cpu, by = self.cpu, self.cpu.trace.by
        vector, information = cpu.apic.pending(), 0
        if not cpu.active.external_interrupt_exiting:
            by(
                "controls.external-interrupt-exiting",
                "physical vector {:02X}H goes through the guest's IDT",
                vector,
            )
            cpu.apic.acknowledge(vector)
            yield from self._interrupt(vector)
            return
        if cpu.active.acknowledge_interrupt_on_exit:
            by("controls.acknowledge-interrupt-on-exit", "the physical APIC gives vector {:02X}H", vector)
            cpu.apic.acknowledge(vector)
            information = VALID | vector
        if posted.is_notification(cpu, vector):
            posted.process(cpu)
            return
        by("controls.external-interrupt-exiting", "physical vector {:02X}H: VM exit 1", vector)
        yield from self._exit_here(ExitReason.EXTERNAL_INTERRUPT, information)

    def _exit_here(self, reason: ExitReason, information: int = 0) -> Run:
        record, rip = self._exit_place()
        yield from self.exit(record, exits.before_instruction(self.cpu, reason, rip, information))

    def _interrupt(self, vector: int) -> Run:
        return self._take(vector, self.setup.handler(vector))

    def _take(self, vector: int, steps: tuple[Step, ...]) -> Run:
        """Go through the guest's IDT: an interrupt gate, the handler's steps, and IRET."""
        vmcs, outer, owner = self.cpu.vmcs, self.stream, self._owner()
        flags = vmcs.interrupt_flag, vmcs.trap_flag
        vmcs.interrupt_flag = vmcs.trap_flag = False
        vmcs.guest_interruptibility_state &= ~BLOCKED
        vmcs.guest_activity_state = int(Activity.ACTIVE)
        handler = Stream(range(len(steps)), steps, len(steps), owner)
        owner.delivered.append((vector, self.saved_rip(), handler))
        self.stream = handler
        yield from self.pass_boundary()
        yield from self.perform()
        self.stream = outer
        vmcs.interrupt_flag, vmcs.trap_flag = flags
        vmcs.guest_interruptibility_state &= ~BLOCKED  # that of an STI right before IRET
        self.unblock_nmis()

    def saved_rip(self) -> int:
        """Return what `Delivery.at` is of an interrupt that is taken here."""
        return self.stream.rip

    def unblock_nmis(self) -> None:
        """End blocking by NMI, as IRET does unless *NMI exiting* is 1.

        SDM: *Changes to Instruction Behavior in VMX Non-Root Operation*.
        """
        if not self.cpu.words[0] & PinBasedControls.NMI_EXITING:
            self.cpu.vmcs.guest_interruptibility_state &= ~Blocking.NMI

    def _owner(self) -> Record:
        """Return the record of the step that what happens at this boundary belongs to."""
        stream = self.stream
        if stream.interrupted is not None and stream.next == 0:
            return stream.interrupted
        if not stream.records:  # only the VM entry is asked about
            return Record()
        return stream.records[stream.next if stream.inside else max(stream.next - 1, 0)]

    def _exit_place(self) -> tuple[Record, Rip]:
        """Return whose a VM exit at this boundary is, and where its saved RIP points."""
        stream = self.stream
        if stream.inside or (stream.interrupted is not None and stream.next == 0):
            return self._owner(), Rip.ELSEWHERE
        return self._owner(), Rip.NEXT if stream.next else Rip.SAME
