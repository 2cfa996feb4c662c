"""What a scenario file says once it is read: frozen scenarios, cases and points.

A case is what a report counts; its points are what its ``vary`` expands to (one where there is none).
Each point holds a `Program`, which crosses to the subject, and an `Expected`, which never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runner.outcome import Entered, Entry, Fault, Rip, Stuck
from runner.program import Level, Program
from runner.vmx import Activity, Blocking


@dataclass(frozen=True, slots=True)
class Completes:
    """The step completes; a read may give any value."""


@dataclass(frozen=True, slots=True)
class Value:
    """The read gives exactly this value."""

    value: int


@dataclass(frozen=True, slots=True)
class Bits:
    """Each range of bits (high, low) of the read lies between two numbers, both included."""

    ranges: tuple[tuple[int, int, int, int], ...]


class Relative(Enum):
    """Values that the judge finds in the program or in the observation."""

    FROM_PAGE = "from-page"
    PHYSICAL = "physical"
    OWN_APIC_ID = "own-apic-id"
    LOGICAL_ID = "logical-id-of-own-apic-id"


@dataclass(frozen=True, slots=True)
class Exit:
    """A VM exit. ``None``: not judged, but for what `runner.judging.verdict` says of each field's silence."""

    reason: int
    qualification: int = 0
    rip: Rip | None = None
    interruption_information: int | None = None
    idt_vectoring: int | None = None
    instruction_length: int | None = None
    blocking: Blocking | None = None
    activity: Activity | None = None


@dataclass(frozen=True, slots=True)
class EntryFails:
    """The VM entry after this VMM step fails so."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of these; ``because`` says where the SDM leaves the choice."""

    choices: tuple[StepExpected, ...]
    because: str


OutcomeExpected = Completes | Value | Bits | Relative | Fault | Exit | Stuck | EntryFails | OneOf


@dataclass(frozen=True, slots=True)
class Delivers:
    """An interrupt the guest takes; ``at`` is the step the saved RIP points to, as `outcome.Delivery`.

    ``at`` is ``None`` where the file names only the vector: then it is the step that follows, and for
    ``spin`` and a barrier the step itself.
    """

    vector: int
    at: int | None = None


@dataclass(frozen=True, slots=True)
class StepExpected:
    """What one step does. Silence is strict: it completes and delivers nothing."""

    outcome: OutcomeExpected = Completes()
    delivers: tuple[Delivers, ...] = ()


class Keep(Enum):
    """What an ``after`` may say of a word instead of its value."""

    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class WordOneOf:
    """Any of these values (``Keep.UNCHANGED``: that of the setup) of a word."""

    choices: tuple[int | Keep, ...]
    because: str


WordExpected = int | Keep | WordOneOf


@dataclass(frozen=True, slots=True)
class PidExpected:
    """The posted-interrupt descriptor after the program; ``None`` means as set up."""

    outstanding: bool | None = None
    pir: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class After:
    """Final state of one virtual processor; ``None`` means as set up, or for the last two not judged.

    ``page`` maps word offsets, ``physical`` MSR numbers of the physical APIC. Words of the page that
    are not named are unchanged; VPPR has what the PPR virtualization of VM entry gives it.
    ``physical`` registers that are not named are not judged.
    """

    page: tuple[tuple[int, WordExpected], ...] = ()
    rvi: int | None = None
    svi: int | None = None
    pid: PidExpected | None = None
    physical: tuple[tuple[int, WordExpected], ...] = ()
    activity: Activity | None = None
    blocking: Blocking | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What one point must show: the first VM entry, each step, the handlers' steps, the end.

    ``steps`` is aligned with the program's steps, ``after`` with its virtual processors;
    ``handlers`` gives, for each virtual processor, the expectations of each named vector's steps.
    With ``from_model`` (sweeps) the reference model's observation stands in place of all of it.
    """

    entry: Entry = Entered()
    steps: tuple[StepExpected, ...] = ()
    after: tuple[After, ...] = ()
    handlers: tuple[tuple[tuple[int, tuple[StepExpected, ...]], ...], ...] = ()
    from_model: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of a case's ``vary``: its values by name, what to do, what to expect."""

    values: tuple[tuple[str, str], ...]
    program: Program
    expected: Expected

    @property
    def id(self) -> str:
        """``msr=0x802,mode=xapic``; empty for a case without ``vary``."""
        return ",".join(f"{name}={value}" for name, value in self.values)


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a file; ``rules[0]`` is the rule that it asks about."""

    id: str
    says: str
    rules: tuple[str, ...]
    line: int
    points: tuple[Point, ...]
    when: tuple[tuple[str, str], ...] = ()
    step_lines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file: ``path`` is relative to the project's root, with ``/``."""

    path: str
    title: str
    level: Level
    cases: tuple[Case, ...]

    def case_id(self, case: Case) -> str:
        """``specs/vmx/rdmsr/apic-id.yaml::own-page``."""
        return f"{self.path}::{case.id}"
