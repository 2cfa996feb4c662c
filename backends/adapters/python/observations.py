"""What the reference model observed, in the words of the adapter protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runner.outcome import (
    Completed,
    Entered,
    Entry,
    EntryFailure,
    Fault,
    Final,
    Observation,
    Outcome,
    StepResult,
    Stuck,
    VmExit,
    VmfailInvalid,
    VmfailValid,
    VmxAbort,
)

Json = dict[str, Any]


def observation_json(seen: Observation) -> Json:
    """Return an observation, without the seq that it answers."""
    return {
        "entries": [_entry(entry) for entry in seen.entries],
        "steps": [_result(step) for step in seen.steps],
        "finals": [_final(final) for final in seen.finals],
    }


def _result(result: StepResult) -> Json:
    return {
        "outcomes": [_outcome(outcome) for outcome in result.outcomes],
        "delivered": [
            {"vector": each.vector, "at": each.at, "steps": [_result(step) for step in each.steps]}
            for each in result.delivered
        ],
        "physical": None if result.physical is None else _outcome(result.physical),
    }


def _outcome(outcome: Outcome | Entry) -> Json:
    match outcome:
        case Completed(None):
            return {"outcome": "completed"}
        case Completed(int(value), upper_clear):
            return {"outcome": "value", "value": hex(value), "upper-clear": int(upper_clear)}
        case Fault(vector, error_code):
            return {"outcome": "fault", "vector": vector, "error-code": error_code}
        case VmExit():
            return _exit(outcome)
        case Stuck():
            return {"outcome": outcome.value.replace(" ", "-")}
        case entry:
            return _entry(entry)


def _entry(entry: Entry | Completed) -> Json:
    match entry:
        case Entered():
            return {"outcome": "entered"}
        case VmfailValid(error):
            return {"outcome": "vmfail-valid", "error": error}
        case VmfailInvalid():
            return {"outcome": "vmfail-invalid"}
        case EntryFailure(reason, qualification):
            return {"outcome": "entry-failure", "reason": hex(reason), "qualification": hex(qualification)}
        case VmxAbort(indicator):
            return {"outcome": "vmx-abort", "indicator": indicator}
    raise TypeError(f"no outcome: {entry!r}")


def _exit(exit_: VmExit) -> Json:
    return {
        "outcome": "exit",
        "reason": hex(exit_.reason),
        "qualification": hex(exit_.qualification),
        "rip": exit_.rip.value,
        "interruption-information": hex(exit_.interruption_information),
        "idt-vectoring": hex(exit_.idt_vectoring),
        "instruction-length": exit_.instruction_length,
        "blocking": int(exit_.blocking),
        "activity": int(exit_.activity),
        "registers-kept": int(exit_.registers_kept),
    }


def _final(final: Final) -> Json:
    return {
        "page": _pairs(final.page),
        "rvi": final.rvi,
        "svi": final.svi,
        "pid": [hex(word) for word in final.pid] if any(final.pid) else [],
        "physical": _pairs(final.physical),
        "activity": int(final.activity),
        "blocking": int(final.blocking),
    }


def _pairs(some: Iterable[tuple[int, int]]) -> list[list[str]]:
    return [[hex(one), hex(other)] for one, other in some]
