"""A pytest plugin for copies of the project: subjects of kind `bochs` are the model with a fault.

`start: {model: FAULT}` chooses the fault. Every run of a batch leaves a line in `batches.log`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backends import Identity, subjects
from backends.model import Model
from runner.outcome import Answer, BackendBroken, Completed, Observation, StepResult, Unsupported
from runner.program import Program

LACKS = Unsupported("process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0")


def with_reads(answer: Answer, mask: int) -> Answer:
    """The same with only these bits of every value that was read."""
    if not isinstance(answer, Observation):
        return answer
    return replace(answer, steps=tuple(_masked(step, mask) for step in answer.steps))


def _masked(step: StepResult, mask: int) -> StepResult:
    (outcome,) = step.outcomes
    if not isinstance(outcome, Completed) or outcome.value is None:
        return step
    return replace(step, outcomes=(Completed(outcome.value & mask),))


class Misbehaving:
    def __init__(self, name: str, fault: str) -> None:
        self.name, self.fault = name, fault

    def identity(self) -> Identity | Unsupported:
        if self.fault == "absent":
            return Unsupported("the machine is not installed")
        return Identity(self.name, "2.7", {"lvt-entries": "6"})

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        with Path("batches.log").open("a", encoding="utf-8") as log:
            log.write(f"{self.name} {len(programs)}\n")
        for index, answer in enumerate(Model().run(programs)):
            yield self._answer(index, answer)

    def _answer(self, index: int, answer: Answer) -> Answer:
        match self.fault:
            case "reads-zero":
                return with_reads(answer, 0)
            case "upper-half-zero":
                return with_reads(answer, 0xFFFFFFFF)
            case "lacks":
                return LACKS
            case "lacks-the-second":
                return LACKS if index == 1 else answer
            case "broken":
                return BackendBroken("no end record", "machine: 3rd exception\nmachine: halted")
            case "raises" if index == 1:
                raise RuntimeError("wires crossed")
            case "kills" if index == 1:
                os._exit(3)
            case _:
                return answer


def _create(name: str, start: Mapping[str, Any]) -> Misbehaving:
    return Misbehaving(name, start.get("model", ""))


subjects.KINDS = MappingProxyType({**subjects.KINDS, "bochs": _create})
