"""A machine for one program: memory, local APICs, virtual processors, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from backends.model import apic_base, apic_registers, exits
from backends.model.apic_base import IA32_APIC_BASE
from backends.model.implementation import Implementation
from backends.model.local_apic import BASELINE, LocalApic
from backends.model.memory import Memory, MemoryPage, structures_of
from backends.model.native import NativeProcessor
from backends.model.processor import Processor
from backends.model.state import LogicalProcessor
from backends.model.trace import Trace
from backends.model.vmcs import vmcs_of
from backends.model.waiting import Barriers, Ended, Run, Wait, Waiting
from runner.apic import ApicMode
from runner.outcome import Final, Observation, StepResult
from runner.program import Level, Program


class Machine:
    """Everything that one program needs, fresh."""

    def __init__(
        self,
        program: Program,
        implementation: Implementation,
        trace: Trace,
        processors: Callable[[LogicalProcessor, Program, Barriers], Processor] | None = None,
    ) -> None:
        barriers, memory = Barriers(program), Memory()
        kind = processors or (NativeProcessor if program.level is Level.GUEST else Processor)
        self.program = program
        self.bus: list[LocalApic] = []
        self.processors: list[Processor] = []
        for index, setup in enumerate(program.vcpus):
            own = structures_of(index)
            memory.pages[own.virtual_apic_page] = MemoryPage(setup.page)
            memory.bitmaps[own.msr_bitmap] = setup.msr_bitmap
            if setup.posted is not None:
                destination = index if setup.apic_mode is ApicMode.X2APIC else index << 8
                memory.add_descriptor(index, setup.posted, destination)
            vmcs = vmcs_of(setup, index, len(program.vcpus), implementation)
            self.bus.append(LocalApic(index, setup.apic_mode, implementation, self.bus))
            cpu = LogicalProcessor(index, vmcs, self.bus[index], memory, trace)
            processor = kind(cpu, program, barriers)
            if isinstance(processor, NativeProcessor):
                processor.peers = self.processors
            self.processors.append(processor)

    def run(self) -> Observation:
        """Run the program to its end on every virtual processor."""
        take_turns([processor.run() for processor in self.processors], self.bus)
        results: dict[int, StepResult] = {}
        for stream in (processor.program for processor in self.processors):
            results.update(zip(stream.indices, (record.result() for record in stream.records), strict=True))
        observation = Observation(
            tuple(processor.entry for processor in self.processors),
            tuple(results[index] for index in range(len(self.program.steps))),
            tuple(_final(processor) for processor in self.processors),
        )
        self.processors.clear()
        self.bus.clear()  # no cycle is left to the garbage collector
        return observation


def _final(processor: Processor) -> Final:
    if isinstance(processor, NativeProcessor):
        registers = processor.at_reset or _physical_changes(processor.cpu.apic, processor)
        return Final(physical=registers)
    cpu, own = processor.cpu, structures_of(processor.cpu.index)
    descriptor = cpu.memory.descriptors.get(own.descriptor)
    final = Final(
        cpu.memory.pages[own.virtual_apic_page].changed(),
        cpu.vmcs.rvi,
        cpu.vmcs.svi,
        physical=_physical_changes(cpu.apic, processor),
        activity=exits.activity_of(cpu),
        blocking=exits.blocking_of(cpu),
    )
    return replace(final, pid=descriptor.words()) if descriptor else final


def _physical_changes(apic: LocalApic, processor: Processor) -> tuple[tuple[int, int], ...]:
    """Return what a program has changed in the physical APIC; a new mode hides the rest."""
    if apic.mode is not processor.setup.apic_mode:
        return ((IA32_APIC_BASE, apic_base.read(apic)),)
    if not apic.irr and not apic.isr and apic.registers == BASELINE:
        return ()
    return apic_registers.changes(apic)


def take_turns(runs: list[Run], apics: list[LocalApic]) -> None:
    """Run each virtual processor until it waits; then whichever can go on, lowest index first.

    Where none can, time passes. Where that helps none, a wait for an interrupt is over, or else all
    waits are in vain.
    """
    waiting = [(run, wait) for run in runs for wait in _go_on(run)]
    while waiting:
        waits = [wait for _, wait in waiting]
        turn, in_vain = _ready(waits), False
        if turn is None:
            for apic in apics:
                apic.let_time_pass()
            turn = _ready(waits)
        if turn is None:
            turn, in_vain = next((i for i, wait in enumerate(waits) if wait.why is Waiting.SPIN), 0), True
        run, _ = waiting[turn]
        waiting[turn : turn + 1] = [(run, wait) for wait in _go_on(run, in_vain=in_vain)]


def _go_on(run: Run, *, in_vain: bool | None = None) -> tuple[Wait, ...]:
    """Let a virtual processor go on, and return what it waits for then, or nothing where it ends."""
    try:
        return (run.send(in_vain),)
    except (StopIteration, Ended):
        return ()


def _ready(waits: list[Wait]) -> int | None:
    """Return whose turn it is: who only lets others pass comes last."""
    ready = [index for index, wait in enumerate(waits) if wait.ready()]
    return min(ready, key=lambda index: (waits[index].why is Waiting.TURN, index), default=None)
