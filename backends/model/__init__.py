"""The reference model: the SDM's text as straight-line Python, one module per SDM heading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends import Identity
from backends.model.implementation import Implementation
from backends.model.machine import Machine
from backends.model.memory import NotModelled
from backends.model.trace import SILENT, Trace
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
            yield self.answer(program)

    def answer(self, program: Program, trace: Trace = SILENT) -> Answer:
        """Return the answer to one program; *trace* collects the reasons for it."""
        try:
            return Machine(program, self.implementation, trace).run()
        except NotModelled as construct:
            return Unsupported(f"the model does not know {construct}")
        except (EndlessError, RecursionError) as error:
            return BackendBroken(f"the model comes to no end: {error}")
