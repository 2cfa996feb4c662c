"""Level *guest*: programs on the local APIC itself, without VMX, as far as the model goes."""

from __future__ import annotations

from backends.model import apic_base, apic_registers
from backends.model.apic_base import IA32_APIC_BASE
from backends.model.implementation import Implementation
from backends.model.local_apic import LocalApic
from backends.model.memory import NotModelled
from backends.model.trace import Trace
from runner.apic import is_x2apic
from runner.outcome import Completed, Entered, Fault, Final, Observation, StepResult
from runner.program import Action, Plain, Program, Rdmsr, SetApicBase, Wrmsr


def run(program: Program, implementation: Implementation, trace: Trace) -> Observation:
    """Run RDMSR, WRMSR and NOP on local APICs; raises `NotModelled` for other steps."""
    bus: list[LocalApic] = []
    for index, setup in enumerate(program.vcpus):
        if setup.guest.interrupt_flag or setup.handlers:
            raise NotModelled("interrupts at level guest")
        bus.append(LocalApic(index, setup.apic_mode, implementation, bus))
    results = []
    for index, step in enumerate(program.steps):
        trace.at_step(step.vcpu, step.action, index)
        if step.cpl:
            raise NotModelled("CPL 3 at level guest")
        results.append(StepResult((_perform(bus[step.vcpu], step.action, trace),)))
    entered, finals = tuple(Entered() for _ in bus), tuple(Final() for _ in bus)
    bus.clear()  # no cycle is left to the garbage collector
    return Observation(entered, tuple(results), finals)


def _perform(apic: LocalApic, action: Action, trace: Trace) -> Completed | Fault:
    match action:
        case Rdmsr(msr) if is_x2apic(msr):
            return apic_registers.rdmsr(apic, msr, trace)
        case Rdmsr(msr) if msr == IA32_APIC_BASE:
            return Completed(apic_base.read(apic))
        case Wrmsr(msr, value) if is_x2apic(msr):
            return apic_registers.wrmsr(apic, msr, value, trace)
        case SetApicBase(value) | Wrmsr(0x1B, value):
            return apic_base.write(apic, value, trace)
        case Plain.NOP:
            return Completed()
        case _:
            raise NotModelled(f"at level guest, the step {action!r}")
