"""From the expectations of a file to frozen values: of steps, of the first VM entry, of the final state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from runner.apic import OBSERVED_MSRS, REGISTERS_BY_NAME, VECTOR_SETS, register_name, vectors_to_words
from runner.language.setups import activity
from runner.language.values import (
    blocking,
    entries,
    flag,
    items,
    msr_of_offset,
    number,
    offset_of,
    page_words,
    span,
    vectors,
    word,
)
from runner.outcome import Entry, EntryFailure, Fault, Rip, Stuck, VmfailInvalid, VmfailValid, VmxAbort
from runner.reading.nodes import Map, Node, Notes, Scalar
from runner.scenario import (
    After,
    Bits,
    Completes,
    Delivers,
    EntryFails,
    Exit,
    Keep,
    OneOf,
    OutcomeExpected,
    PidExpected,
    Relative,
    StepExpected,
    Value,
    WordExpected,
    WordOneOf,
)
from runner.vmx import EXIT_REASONS_BY_NAME

FAULTS: Mapping[str, Fault] = {
    "#DB": Fault(1, None),
    "#UD": Fault(6, None),
    "#NM": Fault(7, None),
    "#DF(0)": Fault(8, 0),
    "#TS(0)": Fault(10, 0),
    "#NP(0)": Fault(11, 0),
    "#SS(0)": Fault(12, 0),
    "#GP(0)": Fault(13, 0),
    "#PF(0)": Fault(14, 0),
    "#AC(0)": Fault(17, 0),
}
"""Exceptions by the name the SDM gives them. SDM: *Exceptions and Interrupts*."""

STUCK: Mapping[str, Stuck] = {
    "stays-halted": Stuck.STAYS_HALTED,
    "did-not-return": Stuck.DID_NOT_RETURN,
    "not-reached": Stuck.NOT_REACHED,
}

FindLabel = Callable[[str], int | None]
"""Gives the index of the step with a label, or ``None``."""

OUTCOMES = ("completes", "value", "bits", "fault", "exit", "entry", *STUCK)
"""Keys of an expectation of which it has at most one."""


def step_expected(node: Node | None, find_label: FindLabel, notes: Notes) -> StepExpected:
    """Return what a step does; without a word about it, it completes and delivers nothing."""
    given = entries(node)
    if "one-of" not in given:
        return StepExpected(outcome(given, notes) or Completes(), delivers(given, find_label, notes))
    for name in OUTCOMES:
        if name in given:
            _beside(given[name], name, "one-of", "make it one of the alternatives", notes)
    choices = tuple(step_expected(each, find_label, notes) for each in items(given["one-of"]))
    return StepExpected(OneOf(choices, word(given["because"])), delivers(given, find_label, notes))


def outcome(given: Mapping[str, Node], notes: Notes) -> OutcomeExpected | None:
    """Return the outcome that an expectation names, ``None`` where it names none."""
    names = [name for name in given if name in OUTCOMES]
    for name in names[1:]:
        _beside(given[name], name, names[0], "a step has one outcome; keep one, or use one-of", notes)
    return _outcome(names[0], given[names[0]], notes) if names else None


def _beside(node: Node, name: str, other: str, advice: str, notes: Notes) -> None:
    notes.add(node.key or node.mark, f"`{name}` beside `{other}`; {advice}")


def _outcome(name: str, node: Node, notes: Notes) -> OutcomeExpected:
    match name:
        case "value":
            return _value(node)
        case "bits":
            return Bits(tuple(_bit_range(key, each, notes) for key, each in entries(node).items()))
        case "fault":
            return FAULTS[word(node)]
        case "exit":
            return Exit(**exit_fields(node))
        case "entry":
            return EntryFails(entry(node))
        case "completes":
            return Completes()
        case _:
            return STUCK[name]


def _value(node: Node) -> OutcomeExpected:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return Relative(node.value)
    return Value(number(node))


def _bit_range(key: str, node: Node, notes: Notes) -> tuple[int, int, int, int]:
    high, low = (int(bit) for bit in key.split(":"))
    first, last = span(node, notes)
    if high < low or high > 63:
        notes.add(node.key or node.mark, f"`{key}`: bits are HIGH:LOW, between 63:0 and 0:0")
    elif last >> (high - low + 1):
        notes.add(
            node.mark, f"`{word(node)}` does not fit; bits {key} hold at most {(1 << high - low + 1) - 1:#x}"
        )
    return high, low, first, last


def exit_fields(node: Node) -> dict[str, Any]:
    """Return the fields of `Exit` that a mapping names."""
    return {
        name.replace("-", "_"): EXIT_FIELDS.get(name, number)(each) for name, each in entries(node).items()
    }


EXIT_FIELDS: Mapping[str, Callable[[Node], Any]] = {
    "reason": lambda node: int(EXIT_REASONS_BY_NAME[word(node)]),
    "rip": lambda node: Rip(word(node)),
    "blocking": blocking,
    "activity": activity,
}


def entry(node: Node) -> Entry:
    """Return the outcome of a VM entry that does not succeed."""
    [(name, value)] = entries(node).items()
    match name:
        case "vmfail-valid":
            return VmfailValid(number(value))
        case "vmfail-invalid":
            return VmfailInvalid()
        case "vmx-abort":
            return VmxAbort(number(value))
        case _:
            return EntryFailure(**exit_fields(value))


def delivers(given: Mapping[str, Node], find_label: FindLabel, notes: Notes) -> tuple[Delivers, ...]:
    """Return the interrupts that the guest takes, in order."""
    return tuple(_delivery(each, find_label, notes) for each in items(given.get("delivers")))


def _delivery(node: Node, find_label: FindLabel, notes: Notes) -> Delivers:
    if isinstance(node, Scalar):
        return Delivers(number(node))
    given = entries(node)
    at = given.get("at")
    index = find_label(word(at)) if at else None
    if at and index is None:
        notes.add(at.mark, f"no step has the label `{word(at)}`; write `label: {word(at)}` on the step meant")
    return Delivers(number(given["vector"]), index)


def after(node: Node | None, notes: Notes) -> After:
    """Return the final state of one virtual processor."""
    return After(**after_fields(node, notes))


def after_fields(node: Node | None, notes: Notes) -> dict[str, Any]:
    """Return the fields of `After` that a mapping names."""
    read: Mapping[str, Callable[[Node], Any]] = {
        "page": lambda each: words_expected(each, notes),
        "rvi": number,
        "svi": number,
        "pid": lambda each: _pid(each, notes),
        "physical": lambda each: _physical(each, notes),
        "activity": activity,
        "blocking": blocking,
    }
    return {name: read[name](each) for name, each in entries(node).items() if name in read}


def words_expected(node: Node, notes: Notes) -> tuple[tuple[int, WordExpected], ...]:
    """Return the words of a page that an ``after`` names, by offset."""
    words = page_words(node, notes, lambda key, each: _expected_at(key, each, notes))
    return tuple(sorted(words.items()))


def _physical(node: Node, notes: Notes) -> tuple[tuple[int, WordExpected], ...]:
    """Return the registers of the physical APIC, by MSR: one value each, where a page has a word."""

    def expand(key: str, each: Node) -> Mapping[int, WordExpected]:
        if key in VECTOR_SETS:
            return {msr_of_offset(at): value for at, value in _expected_at(key, each, notes).items()}
        number_of = REGISTERS_BY_NAME[key].msr if key in REGISTERS_BY_NAME else int(key, 0)
        if number_of not in OBSERVED_MSRS:
            notes.add(each.mark, f"{register_name(number_of)} is not observed afterwards: read it in a step")
        return {number_of: _word(each)}

    return tuple(sorted(page_words(node, notes, expand).items()))


def _expected_at(key: str, node: Node, notes: Notes) -> Mapping[int, WordExpected]:
    unchanged = isinstance(node, Scalar) and node.text == Keep.UNCHANGED.value
    if key in VECTOR_SETS:
        words = vectors_to_words(VECTOR_SETS[key], vectors(node, notes))
        return {at: Keep.UNCHANGED if unchanged else value for at, value in words.items()}
    if key == "ICR":
        low, high = (Keep.UNCHANGED,) * 2 if unchanged else _halves(number(node))
        return {offset_of(key): low, offset_of(key) + 4: high}
    return {offset_of(key): _word(node)}


def _halves(value: int) -> tuple[int, int]:
    return value & 0xFFFFFFFF, value >> 32


def _word(node: Node) -> WordExpected:
    match node:
        case Map():
            given = node.nodes
            choices = tuple(_plain_word(each) for each in items(given["one-of"]))
            return WordOneOf(choices, word(given["because"]))
        case _:
            return _plain_word(node)


def _plain_word(node: Node) -> int | Keep:
    return Keep.UNCHANGED if word(node) == Keep.UNCHANGED.value else number(node)


def _pid(node: Node, notes: Notes) -> PidExpected:
    given = entries(node)
    return PidExpected(
        outstanding=flag(given["outstanding"]) if "outstanding" in given else None,
        pir=vectors(given["pir"], notes) if "pir" in given else None,
    )
