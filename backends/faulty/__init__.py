"""Known-bad subjects: the reference model with one decision made wrong, ``faulty:RULE-ID``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backends import Identity
from backends.faulty import private
from backends.faulty.faults import Fault, fault
from runner.outcome import Answer, BackendBroken
from runner.program import Program


class Faulty:
    """A private copy of the reference model with one fault; the model itself stays as it is."""

    def __init__(self, wrong: Fault) -> None:
        self.name = f"faulty:{wrong.id}"
        self.fault = wrong
        self._model = private.package(wrong.sources()).Model()

    def identity(self) -> Identity:
        """Return what is wrong, and the capabilities of the model."""
        capabilities = self._model.identity().capabilities
        return Identity(self.name, "1", {**capabilities, "fault": self.fault.wrong})

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program; what the fault makes impossible is broken."""
        for program in programs:
            yield self._answer(program)

    def _answer(self, program: Program) -> Answer:
        try:
            answer: Answer = next(self._model.run([program]))
        except Exception as error:  # noqa: BLE001 - a fault may break whatever the model rests on
            return BackendBroken(f"the fault breaks the model: {error!r}")
        return answer


def named(name: str) -> Faulty:
    """Return the subject with the fault of this id; `MalformedError` names the nearest for an unknown one."""
    return Faulty(fault(name))
