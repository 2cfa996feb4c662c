"""The reference model: the SDM's text as straight-line Python, one module per SDM heading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends import Identity
from backends.model import vm_entry
from backends.model.control_checks import Violation
from backends.model.implementation import Implementation
from backends.model.machine import Machine
from backends.model.memory import NotModelled
from backends.model.trace import SILENT, Reason, Trace
from backends.model.waiting import EndlessError
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program


class Model:
    """The subject that does what the SDM says."""

    name = "model"

    def __init__(self, implementation: Implementation | None = None) -> None:
        self.implementation = implementation or Implementation()

    def identity(self) -> Identity:
        """Return the model's version and the capabilities of its implementation."""
        return Identity(self.name, "1", self.implementation.capabilities())

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order."""
        for program in programs:
            yield self._answer(program, SILENT)

    def run_traced(self, program: Program) -> tuple[Answer, tuple[Reason, ...]]:
        """Return the answer, and the reasons for it up to where the model stopped."""
        trace = Trace()
        return self._answer(program, trace), tuple(trace.reasons)

    def violations(self, program: Program) -> tuple[Violation, ...]:
        """Return every rule that the first VM entry of a virtual processor violates, with a sentence."""
        machine = Machine(program, self.implementation, SILENT)
        return tuple(
            violation for processor in machine.processors for violation in vm_entry.violations(processor.cpu)
        )

    def _answer(self, program: Program, trace: Trace) -> Answer:
        try:
            return Machine(program, self.implementation, trace).run()
        except NotModelled as construct:
            return Unsupported(f"the model does not know {construct}")
        except (EndlessError, RecursionError) as error:
            return BackendBroken(f"the model comes to no end: {error}")
