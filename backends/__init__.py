"""Subjects: they turn programs into observations, judge nothing and never see an expectation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program


@dataclass(frozen=True, slots=True)
class Identity:
    """What a report says of a subject; ``capabilities`` are IA32_VMX_* values by name and the like."""

    name: str
    version: str
    capabilities: Mapping[str, str]

    def with_facts(self, facts: Mapping[str, str]) -> Identity:
        """Return it with more that it reports, by name."""
        return replace(self, capabilities={**self.capabilities, **facts})


class Backend(Protocol):
    """A subject under test."""

    name: str

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return who the subject is, or why it cannot run here."""

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order; never raise for what the subject does."""
