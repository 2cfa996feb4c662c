"""What happens, in SDM words, for people: actions, VM entries, outcomes."""

from __future__ import annotations

from collections.abc import Iterable

from runner.apic import register_name
from runner.outcome import (
    BETWEEN_STEPS,
    Completed,
    Entered,
    Entry,
    EntryFailure,
    Fault,
    Outcome,
    StepResult,
    Stuck,
    VmExit,
    VmfailInvalid,
    VmfailValid,
    VmxAbort,
)
from runner.program import (
    Action,
    Barrier,
    Cpuid,
    InitSipi,
    Inject,
    MmioRead,
    Plain,
    Post,
    Raise,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Activity, Blocking, ExitReason, InstructionError, name_of

_MNEMONICS = ("DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "CSO", "TS", "NP", "SS", "GP", "PF")


def hexadecimal(value: int) -> str:
    """Spell a number as the SDM does, ``51H``; above 32 bits in halves, ``ABCD0001_00000003H``."""
    return f"{value >> 32:X}_{value & 0xFFFFFFFF:08X}H" if value >> 32 else f"{value:X}H"


def action_words(action: Action) -> str:
    """Return ``WRMSR EOI (80BH), 0H`` and the like."""
    match action:
        case Rdmsr(msr):
            return f"RDMSR {register_name(msr)}"
        case Wrmsr(msr, value):
            return f"WRMSR {register_name(msr)}, {hexadecimal(value)}"
        case ReadCr8():
            return "MOV from CR8"
        case WriteCr8(value):
            return f"MOV to CR8, {hexadecimal(value)}"
        case Plain():
            return action.value.upper()
        case Cpuid(leaf):
            return f"CPUID {hexadecimal(leaf)}"
        case MmioRead(offset):
            return f"load from the APIC page at {hexadecimal(offset)}"
        case SetApicBase(value):
            return f"WRMSR IA32_APIC_BASE, {hexadecimal(value)}"
        case _:
            return _kit_words(action)


def _kit_words(action: Vmm | Inject | Raise | Post | Barrier | InitSipi) -> str:
    match action:
        case Vmm():
            return "the VMM changes the VMCS or the page"
        case Inject(vector):
            return f"the VMM injects interrupt {hexadecimal(vector)}"
        case Raise(vector):
            return f"physical interrupt {hexadecimal(vector)} becomes pending"
        case Post(to, vectors):
            return f"post {vectors_words(vectors)} to virtual processor {to}"
        case Barrier(name):
            return f"barrier {name}"
        case InitSipi(to):
            return f"INIT and SIPI to processor {to}"


def vectors_words(vectors: Iterable[int]) -> str:
    """Return ``31H, 51H``, or ``none``."""
    return ", ".join(hexadecimal(vector) for vector in sorted(vectors)) or "none"


def reason_words(reason: int) -> str:
    """Return ``virtualized-eoi (45)``; a number that is no basic exit reason in hexadecimal."""
    known = reason in ExitReason.__members__.values()
    return f"{name_of(ExitReason(reason))} ({reason})" if known else hexadecimal(reason)


def entry_words(entry: Entry) -> str:
    """Say what a VM entry did."""
    match entry:
        case Entered():
            return "VM entry succeeds"
        case VmfailValid(error):
            known = error in InstructionError.__members__.values()
            return f"VMfailValid({error}{', ' + name_of(InstructionError(error)) if known else ''})"
        case VmfailInvalid():
            return "VMfailInvalid"
        case EntryFailure(reason, qualification):
            more = f", qualification {hexadecimal(qualification)}" if qualification else ""
            return f"VM-entry failure with exit {reason_words(reason)}{more}"
        case VmxAbort(indicator):
            return f"VMX abort {indicator}"


def fault_words(fault: Fault) -> str:
    """Return ``#GP(0)``, ``#UD``, and ``exception 30`` where the SDM has no mnemonic."""
    name = f"#{_MNEMONICS[fault.vector]}" if fault.vector < len(_MNEMONICS) else f"exception {fault.vector}"
    return name if fault.error_code is None else f"{name}({fault.error_code:X})"


def blocking_words(blocking: Blocking) -> str:
    """Return ``sti``, ``mov-ss and nmi``, ``none``."""
    return " and ".join(name_of(bit) for bit in Blocking if bit & blocking) or "none"


def outcome_words(outcome: Outcome | Entry) -> str:
    """Say what a step did."""
    match outcome:
        case Completed(None):
            return "completes"
        case Completed(value, upper_clear):
            more = "" if upper_clear else ", bits set in RAX[63:32] or RDX[63:32]"
            return f"value {hexadecimal(value or 0)}{more}"
        case Fault():
            return fault_words(outcome)
        case VmExit():
            return _exit_words(outcome)
        case Stuck():
            return outcome.value
        case _:
            return entry_words(outcome)


def _exit_words(outcome: VmExit) -> str:
    parts = [f"VM exit {reason_words(outcome.reason)}"]
    parts += [f"qualification {hexadecimal(outcome.qualification)}"] if outcome.qualification else []
    parts += [f"RIP {outcome.rip.value}"]
    information, vectoring = outcome.interruption_information, outcome.idt_vectoring
    parts += [f"interruption information {hexadecimal(information)}"] if information else []
    parts += [f"IDT-vectoring information {hexadecimal(vectoring)}"] if vectoring else []
    parts += [f"blocking by {blocking_words(outcome.blocking)}"] if outcome.blocking else []
    parts += [f"activity {name_of(outcome.activity)}"] if outcome.activity is not Activity.ACTIVE else []
    return ", ".join(parts)


def outcomes_words(outcomes: Iterable[Outcome | Entry]) -> str:
    """Say what a step did, one thing after the other."""
    return "; then ".join(outcome_words(outcome) for outcome in outcomes) or "nothing"


def deliveries_words(delivered: Iterable[tuple[int, int | None]]) -> str:
    """Return ``71H at step 3`` for vectors with the index of the step that the saved RIP points to."""
    return ", ".join(f"{hexadecimal(vector)}{_place(at)}" for vector, at in delivered) or "none"


def _place(at: int | None) -> str:
    if at is None:
        return ""
    return " between two steps" if at == BETWEEN_STEPS else f" at step {at + 1}"


def result_words(result: StepResult) -> str:
    """Say what a step did and which interrupts were delivered after it."""
    taken = deliveries_words((each.vector, each.at) for each in result.delivered)
    return outcomes_words(result.outcomes) + (f", delivering {taken}" if result.delivered else "")
