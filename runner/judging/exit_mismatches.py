"""Where the fields of a VM exit are not the expected ones.

A field that the expectation does not name means what the class of the exit gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.outcome import Rip, VmExit
from runner.scenario import Exit
from runner.vmx import ExitReason, name_of
from runner.words import blocking_words, hexadecimal

Mismatch = tuple[str, str, str]
"""What is not as expected (empty: the outcome as a whole), the expectation, the observation."""

VALID = 1 << 31
"""The valid bit of VM-exit interruption information and IDT-vectoring information."""

INSTRUCTION_LENGTHS: dict[int, int] = {
    ExitReason.RDMSR: 2,
    ExitReason.WRMSR: 2,
    ExitReason.CONTROL_REGISTER_ACCESS: 4,
}
"""VM-exit instruction length where silence judges it: 0F 32, 0F 30, and MOV CR8 with its REX prefix."""


BETWEEN = (
    ExitReason.EXTERNAL_INTERRUPT,
    ExitReason.INTERRUPT_WINDOW,
    ExitReason.TPR_BELOW_THRESHOLD,
)


def is_between(wanted: Exit) -> bool:
    """Whether an exit can come between two instructions: the step's own completes before it, or after it.

    An exception can where the expectation says so, *rip: next*: then it is a trap. Else it is a fault.
    """
    is_trap = wanted.reason == ExitReason.EXCEPTION_OR_NMI and wanted.rip is Rip.NEXT
    return wanted.reason in BETWEEN or is_trap


def exit_mismatches(wanted: Exit, silent_rip: Rip, seen: VmExit) -> Iterator[Mismatch]:
    """Yield each field of an exit with the expected reason that is not as expected."""
    if seen.qualification != wanted.qualification:
        yield "exit qualification", hexadecimal(wanted.qualification), hexadecimal(seen.qualification)
    rip = wanted.rip or silent_rip
    if seen.rip is not rip:
        yield "saved RIP", f"{rip.value} instruction", f"{seen.rip.value} instruction"
    yield from _event_mismatch(
        "VM-exit interruption information", wanted.interruption_information, seen.interruption_information
    )
    yield from _event_mismatch("IDT-vectoring information", wanted.idt_vectoring, seen.idt_vectoring)
    length = wanted.instruction_length or INSTRUCTION_LENGTHS.get(wanted.reason)
    if length is not None and seen.instruction_length != length:
        yield "VM-exit instruction length", str(length), str(seen.instruction_length)
    if wanted.blocking is not None and seen.blocking != wanted.blocking:
        yield "interruptibility state", blocking_words(wanted.blocking), blocking_words(seen.blocking)
    if wanted.activity is not None and seen.activity is not wanted.activity:
        yield "activity state", name_of(wanted.activity), name_of(seen.activity)
    if not seen.registers_kept and wanted.reason in INSTRUCTION_LENGTHS:
        yield "RAX, RCX and RDX", "as before the instruction", "changed"


def _event_mismatch(name: str, wanted: int | None, seen: int) -> Iterator[Mismatch]:
    if wanted is None and seen & VALID:
        yield name, "valid bit 0", hexadecimal(seen)
    elif wanted is not None and seen != wanted:
        yield name, hexadecimal(wanted), hexadecimal(seen)
