"""What the model tells a reader and no scenario asks for: its reasons, and all violations at VM entry."""

from __future__ import annotations

from collections.abc import Iterator

from backends.model import Model, entry_checks, guest_state_checks, vm_entry
from backends.model.control_checks import Violation
from backends.model.implementation import Implementation
from backends.model.machine import Machine
from backends.model.state import LogicalProcessor
from backends.model.trace import SILENT, Reason, Trace
from runner.outcome import Answer
from runner.program import Program


def run_traced(
    program: Program, implementation: Implementation | None = None
) -> tuple[Answer, tuple[Reason, ...]]:
    """Return the model's answer, and the reasons for it up to where the model stopped."""
    trace = Trace()
    return Model(implementation).answer(program, trace), tuple(trace.reasons)


def violations(program: Program, implementation: Implementation | None = None) -> tuple[Violation, ...]:
    """Return every rule that the first VM entry of a virtual processor violates, with a sentence."""
    processors = Machine(program, implementation or Implementation(), SILENT).processors
    return tuple(violation for processor in processors for violation in _violations(processor.cpu))


def _violations(cpu: LogicalProcessor) -> Iterator[Violation]:
    """Yield everything for which VM entry would fail with error 7 or exit reason 33."""
    vm_entry.locate_structures(cpu)
    yield from entry_checks.violations(cpu)
    yield from guest_state_checks.violations(cpu)
