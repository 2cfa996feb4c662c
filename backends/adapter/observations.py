"""An adapter's observation, with the shape that its case wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from backends.adapter.reading import Json, WrongError, items, keys, number, offset, pair, u32, u64
from runner.outcome import (
    Completed,
    Delivery,
    Entered,
    Entry,
    EntryFailure,
    Fault,
    Final,
    Observation,
    Outcome,
    Rip,
    StepResult,
    Stuck,
    VmExit,
    VmfailInvalid,
    VmfailValid,
    VmxAbort,
)
from runner.program import Program, Setup, Step
from runner.vmx import Activity, Blocking

MOST_RESULTS, MOST_OUTCOMES, MOST_DELIVERED, MOST_WORDS, MOST_REGISTERS = 1024, 256, 1024, 1024, 256
LOWEST_INTERRUPT = 16
"""Vectors below it are exceptions to a guest's handlers, which perform no steps for them."""

_OBSERVATION = frozenset(("message", "seq", "entries", "steps", "finals"))
_RESULT = frozenset(("outcomes", "delivered", "physical"))
_DELIVERY = frozenset(("vector", "at", "steps"))
_FINAL = frozenset(("page", "rvi", "svi", "pid", "physical", "activity", "blocking"))
_VALUE = frozenset(("outcome", "value", "upper-clear"))
_FAULT = frozenset(("outcome", "vector", "error-code"))
_EXIT = frozenset(
    (
        "outcome",
        "reason",
        "qualification",
        "rip",
        "interruption-information",
        "idt-vectoring",
        "instruction-length",
        "blocking",
        "activity",
        "registers-kept",
    )
)
_RIPS = {rip.value: rip for rip in Rip}
_ACTIVITIES = tuple(Activity)
_BLOCKINGS = tuple(map(Blocking, range(16)))
_NO_DESCRIPTOR = (0,) * 8
_COUNT = (1 << 31) - 1


def observation(given: Json, program: Program) -> Observation:
    """Return what an adapter saw of *program*. Raises `WrongError`, or KeyError and the like."""
    keys(given, _OBSERVATION)
    vcpus, end = program.vcpus, len(program.steps)
    entries = _as_many(given, "entries", len(vcpus))
    steps = _as_many(given, "steps", end)
    finals = _as_many(given, "finals", len(vcpus))
    return Observation(
        tuple([_one_of(_ENTRIES, entry) for entry in entries]),
        tuple(
            [
                _result(result, vcpus[step.vcpu], end)
                for step, result in zip(program.steps, steps, strict=True)
            ]
        ),
        tuple([_final(final, setup) for setup, final in zip(vcpus, finals, strict=True)]),
    )


def _as_many(given: Json, key: str, wanted: int) -> list[Any]:
    found = given[key]
    if type(found) is not list or len(found) != wanted:
        many = len(found) if type(found) is list else "no array"
        raise WrongError(f"{key}: {many}, where the case has {wanted}")
    return found


def _result(given: Any, setup: Setup, end: int) -> StepResult:
    keys(given, _RESULT)
    outcomes = items(given["outcomes"], MOST_OUTCOMES)
    if not outcomes:
        raise WrongError("outcomes: none, where a step has at least one")
    delivered, physical = given["delivered"], given["physical"]
    return StepResult(
        tuple([_one_of(_OUTCOMES, outcome) for outcome in outcomes]),
        tuple([_delivery(each, setup, end) for each in items(delivered, MOST_DELIVERED)]),
        None if physical is None else _one_of(_PHYSICAL, physical),
    )


def _delivery(given: Any, setup: Setup, end: int) -> Delivery:
    keys(given, _DELIVERY)
    vector = number(given["vector"], 255)
    handler: tuple[Step, ...] = setup.handler(vector) if vector >= LOWEST_INTERRUPT else ()
    results = _as_many(given, "steps", len(handler))
    inner = tuple([_result(result, setup, len(handler)) for result in results])
    return Delivery(vector, number(given["at"], end), inner)


def _final(given: Any, setup: Setup) -> Final:
    keys(given, _FINAL)
    pid = items(given["pid"], 8)
    if pid and len(pid) != 8:
        raise WrongError(f"pid: {len(pid)} words, where a descriptor has 8")
    return Final(
        page=_page(given["page"], setup),
        rvi=number(given["rvi"], 255),
        svi=number(given["svi"], 255),
        pid=tuple([u64(word) for word in pid]) if pid else _NO_DESCRIPTOR,
        physical=_registers(given["physical"]),
        activity=_ACTIVITIES[number(given["activity"], 3)],
        blocking=_BLOCKINGS[number(given["blocking"], 15)],
    )


def _page(given: Any, setup: Setup) -> tuple[tuple[int, int], ...]:
    """Return the words that differ from the setup; an adapter may list others, too."""
    found: dict[int, int] = {}
    for each in items(given, MOST_WORDS):
        at, word = pair(each)
        found[offset(at)] = u32(word)
    if len(found) != len(given):
        raise WrongError("page: an offset stands there twice")
    page = setup.page
    return tuple([(at, word) for at, word in sorted(found.items()) if word != page.word(at)])


def _registers(given: Any) -> tuple[tuple[int, int], ...]:
    found: dict[int, int] = {}
    for each in items(given, MOST_REGISTERS):
        msr, value = pair(each)
        found[u32(msr)] = u64(value)
    if len(found) != len(given):
        raise WrongError("physical: an MSR stands there twice")
    return tuple(sorted(found.items()))


def _value(given: Json) -> Completed:
    keys(given, _VALUE)
    return Completed(u64(given["value"]), number(given["upper-clear"], 1) == 1)


def _fault(given: Json) -> Fault:
    keys(given, _FAULT)
    error_code = given["error-code"]
    return Fault(number(given["vector"], 255), None if error_code is None else number(error_code, 0xFFFF))


def _exit(given: Json) -> VmExit:
    keys(given, _EXIT)
    return VmExit(
        reason=u32(given["reason"]),
        qualification=u64(given["qualification"]),
        rip=_RIPS[given["rip"]],
        interruption_information=u32(given["interruption-information"]),
        idt_vectoring=u32(given["idt-vectoring"]),
        instruction_length=number(given["instruction-length"], 15),
        blocking=_BLOCKINGS[number(given["blocking"], 15)],
        activity=_ACTIVITIES[number(given["activity"], 3)],
        registers_kept=number(given["registers-kept"], 1) == 1,
    )


def _vmfail_valid(given: Json) -> VmfailValid:
    keys(given, frozenset(("outcome", "error")))
    return VmfailValid(number(given["error"], _COUNT))


def _entry_failure(given: Json) -> EntryFailure:
    keys(given, frozenset(("outcome", "reason", "qualification")))
    return EntryFailure(u32(given["reason"]), u64(given["qualification"]))


def _vmx_abort(given: Json) -> VmxAbort:
    keys(given, frozenset(("outcome", "indicator")))
    return VmxAbort(number(given["indicator"], _COUNT))


_Readers = Mapping[Any, Callable[[Json], Any]]


def _constant(outcome: Outcome | Entry) -> Callable[[Json], Outcome | Entry]:
    def read(given: Json) -> Outcome | Entry:
        if len(given) != 1:
            raise WrongError(f"{given['outcome']}: no key but `outcome`")
        return outcome

    return read


_PHYSICAL: _Readers = MappingProxyType({"value": _value, "fault": _fault})
_FAILED: _Readers = MappingProxyType(
    {
        "vmfail-valid": _vmfail_valid,
        "vmfail-invalid": _constant(VmfailInvalid()),
        "entry-failure": _entry_failure,
        "vmx-abort": _vmx_abort,
    }
)
_ENTRIES: _Readers = MappingProxyType({"entered": _constant(Entered()), **_FAILED})
_OUTCOMES: _Readers = MappingProxyType(
    {
        "completed": _constant(Completed()),
        "exit": _exit,
        **_PHYSICAL,
        **_FAILED,
        **{stuck.value.replace(" ", "-"): _constant(stuck) for stuck in Stuck},
    }
)


def _one_of(readers: _Readers, given: Any) -> Any:
    if type(given) is not dict:
        raise WrongError("no object with the key `outcome`")
    return readers[given["outcome"]](given)
