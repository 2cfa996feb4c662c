"""A virtual processor at work: its program from VM entry to its end."""

from __future__ import annotations

from backends.model import events, exits, instructions, other_msrs
from backends.model.boundary import Boundary
from backends.model.state import LogicalProcessor
from backends.model.stream import COMPLETED, Record, Stream
from backends.model.vmcs import BLOCKED, SINGLE_STEP
from backends.model.waiting import Barriers, Ended, Run, Wait, Waiting
from runner.outcome import Entered, Entry, Fault, Rip, Stuck, VmExit
from runner.program import Action, Barrier, Plain, Program, Rdmsr, Step, is_vmm
from runner.vmx import Blocking


class Processor(Boundary):
    """One virtual processor, on a logical processor of its own; ``entry`` is its first VM entry."""

    def __init__(self, cpu: LogicalProcessor, program: Program, barriers: Barriers) -> None:
        own = program.steps_of(cpu.index)
        stream = Stream([index for index, _ in own], [step for _, step in own], len(program.steps))
        super().__init__(cpu, program.vcpus[cpu.index], stream)
        self.barriers = barriers
        self.entry: Entry = Entered()

    def run(self) -> Run:
        """Perform the program's steps on this virtual processor, to its end."""
        self._note_physical_values()
        self.vmm_steps()
        self.entry = self.enter()
        if isinstance(self.entry, Entered):
            yield from self.begin()
            yield from self.perform()

    def _note_physical_values(self) -> None:
        """Note what each RDMSR gives in root operation."""
        for step, record in zip(self.program.steps, self.program.records, strict=True):
            if isinstance(step.action, Rdmsr):
                record.physical = other_msrs.in_root(self.cpu, step.action.msr)

    def perform(self) -> Run:
        """Perform the steps of the current stream to its end; a VMM step without an exit is passed over."""
        stream, trace = self.stream, self.cpu.trace
        while not stream.at_end:
            action = stream.step.action
            trace.at_step(self.cpu.index, action, stream.rip, in_handler=stream is not self.program)
            if is_vmm(action):
                stream.next += 1
            elif action is Plain.SPIN or isinstance(action, Barrier):
                yield from self._wait(action)
            else:
                yield from self._instruction(stream.step)

    def _instruction(self, step: Step) -> Run:
        cpu, vmcs, stream = self.cpu, self.cpu.vmcs, self.stream
        record, single_step = stream.record, vmcs.trap_flag
        cpu.cpl = step.cpl or (vmcs.cpl if stream is self.program else 0)
        cpu.starts_blocking = 0
        outcome = self.execute(step.action)
        stream.next += 1
        if isinstance(outcome, VmExit):
            yield from self.exit(record, outcome)
            return
        if isinstance(outcome, Fault):
            yield from self._fault(record, outcome)
        elif single_step and cpu.starts_blocking != Blocking.MOV_SS:
            vmcs.guest_pending_debug_exceptions = SINGLE_STEP
        record.add(outcome)
        state = vmcs.guest_interruptibility_state
        vmcs.guest_interruptibility_state = state & ~BLOCKED | cpu.starts_blocking
        if not self.goes_on:
            yield from self.pass_boundary()

    def execute(self, action: Action) -> instructions.Result:
        """Execute one instruction."""
        return instructions.perform(self.cpu, action)

    def _fault(self, record: Record, fault: Fault) -> Run:
        """Exit where the exception bitmap says so; else the guest's handler skips the instruction by IRET."""
        cpu, vector = self.cpu, fault.vector
        if cpu.vmcs.exception_bitmap >> vector & 1:
            rule = "priority.fault-follows-exception-bitmap"
            cpu.trace.by(rule, "bit {} of the exception bitmap is 1: VM exit 0", vector)
            error_code = fault.error_code is not None
            yield from self.exit(record, exits.exception(cpu, vector, Rip.SAME, error_code=error_code))
        yield from self.handle_fault()
        self.unblock_nmis()

    def handle_fault(self) -> Run:
        """Let the guest's handler of an exception run, which takes no time here."""
        yield from ()

    def _wait(self, action: Plain | Barrier) -> Run:
        """Wait within a step: some time for an interrupt, or for other virtual processors."""
        cpu, stream = self.cpu, self.stream
        cpu.vmcs.guest_interruptibility_state &= ~BLOCKED
        stream.inside = True
        if isinstance(action, Barrier):
            yield from self._wait_at(action.name)
        while action is Plain.SPIN and not stream.record.delivered:
            if (yield Wait(lambda: events.due(cpu) is not None, Waiting.SPIN)):
                break
            yield from self.pass_boundary()
        stream.inside = False
        stream.record.add(COMPLETED)
        stream.next += 1
        if isinstance(action, Barrier):
            yield Wait(lambda: True, Waiting.TURN)

    def _wait_at(self, barrier: str) -> Run:
        cpu, barriers = self.cpu, self.barriers
        barriers.arrive(barrier, cpu.index)
        while not barriers.is_open(barrier):
            ready = Wait(lambda: barriers.is_open(barrier) or events.due(cpu) is not None)
            if (yield ready):
                self.stream.record.add(Stuck.DID_NOT_RETURN)
                raise Ended
            yield from self.pass_boundary()
        yield from self.pass_boundary()
