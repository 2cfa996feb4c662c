"""What a subject answers: outcomes of steps, compared with ``==``, and the final state.

SDM words throughout; nothing here knows what was expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from runner.vmx import Activity, Blocking


class Rip(Enum):
    """Which instruction a saved RIP points to."""

    SAME = "same"
    NEXT = "next"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class Completed:
    """The instruction completed; a read with this value (64 bits: EDX:EAX, or the register).

    ``upper_clear`` is false if RDMSR left a bit of RAX[63:32] or RDX[63:32] set.
    """

    value: int | None = None
    upper_clear: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """The instruction caused an exception that the guest's own handler took."""

    vector: int
    error_code: int | None = 0


GP0 = Fault(13, 0)


@dataclass(frozen=True, slots=True)
class VmExit:
    """The step caused a VM exit. Fields as the VMCS holds them; ``reason`` has all 32 bits.

    ``interruption_information`` and ``idt_vectoring`` are 0 where their valid bit is 0.
    ``registers_kept`` is false if RAX, RCX or RDX differ from what the step had loaded.
    """

    reason: int
    qualification: int = 0
    rip: Rip = Rip.SAME
    interruption_information: int = 0
    idt_vectoring: int = 0
    instruction_length: int = 0
    blocking: Blocking = Blocking(0)
    activity: Activity = Activity.ACTIVE
    registers_kept: bool = True


@dataclass(frozen=True, slots=True)
class VmfailValid:
    """VM entry failed, RFLAGS.ZF = 1, with this VM-instruction error."""

    error: int


@dataclass(frozen=True, slots=True)
class VmfailInvalid:
    """VM entry failed, RFLAGS.CF = 1."""


@dataclass(frozen=True, slots=True)
class EntryFailure:
    """VM entry failed during or after loading guest state: an exit with bit 31 of the reason set.

    ``reason`` is the basic exit reason, 33 or 34.
    """

    reason: int
    qualification: int = 0


@dataclass(frozen=True, slots=True)
class VmxAbort:
    """The processor is in VMX abort with this indicator."""

    indicator: int


@dataclass(frozen=True, slots=True)
class Entered:
    """VM entry succeeded."""


Entry = Entered | VmfailValid | VmfailInvalid | EntryFailure | VmxAbort


class Stuck(Enum):
    """Steps that did not complete and caused nothing."""

    NOT_REACHED = "not reached"
    DID_NOT_RETURN = "did not return"
    STAYS_HALTED = "stays halted"


Outcome = Completed | Fault | VmExit | VmfailValid | VmfailInvalid | EntryFailure | VmxAbort | Stuck


BETWEEN_STEPS = -1
"""`Delivery.at` where the saved RIP is that of no step: what loads operands, or what a handler adds."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An interrupt that a guest handler took.

    ``at`` is the index, in the program's steps, of the step that the saved RIP points to: the one that
    runs after IRET; it is the number of steps where the RIP is that of the end of the program. Inside
    ``spin`` and a barrier it is that step itself; `BETWEEN_STEPS` where the subject's own code was
    interrupted. ``steps`` are the handler's own steps.
    """

    vector: int
    at: int
    steps: tuple[StepResult, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What happened from the start of one step to the start of the next on the same processor.

    ``outcomes`` are in order: usually one, but an external interrupt's exit before an instruction is
    followed by what the instruction itself did after VM entry. ``delivered`` are the interrupts taken
    from the end of the instruction on; those taken by the first VM entry belong to the first step.
    ``physical`` is what the same RDMSR gave in root operation before the first VM entry.
    """

    outcomes: tuple[Outcome, ...]
    delivered: tuple[Delivery, ...] = ()
    physical: Completed | Fault | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """State of one virtual processor at the last VM exit.

    ``page`` are the words of its own virtual-APIC page that differ from the setup, by offset;
    ``physical`` the registers of the physical APIC that differ from before the first VM entry, by MSR
    number (after a ``dump-at-reset`` all of them, as they were then); ``pid`` the descriptor's eight
    64-bit words (all 0 without one). ``rvi`` and ``svi`` are 0 on a subject without virtual-interrupt
    delivery.
    """

    page: tuple[tuple[int, int], ...] = ()
    rvi: int = 0
    svi: int = 0
    pid: tuple[int, ...] = (0,) * 8
    physical: tuple[tuple[int, int], ...] = ()
    activity: Activity = Activity.ACTIVE
    blocking: Blocking = Blocking(0)


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a subject did with one program. Entries and finals: one a virtual processor."""

    entries: tuple[Entry, ...]
    steps: tuple[StepResult, ...]
    finals: tuple[Final, ...]


@dataclass(frozen=True, slots=True)
class Unsupported:
    """The subject lacks a capability that the program needs; ``reason`` names it and its evidence."""

    reason: str


@dataclass(frozen=True, slots=True)
class BackendBroken:
    """The kit, the machine or the environment failed: nothing is known about conformance.

    ``log`` is what the machine printed.
    """

    reason: str
    log: str = ""


Answer = Observation | Unsupported | BackendBroken
