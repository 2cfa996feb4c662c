"""The reference model asked about a dump: which entry checks fail, what each access of the guest does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from backends.model import explaining
from backends.model.control_checks import Violation
from backends.model.implementation import Implementation
from backends.model.trace import Reason
from runner.auditing.completions import access_controls, accesses, control_checks, guest_checks
from runner.auditing.effects import MSRS, Accesses, Effect, Effects, Reach, merged
from runner.auditing.finding import Audited
from runner.auditing.reserved import reserved_bits
from runner.auditing.state import Dump, VcpuState
from runner.outcome import Completed, Fault, Observation, StepResult, VmExit
from runner.program import Action, Level, Program, Rdmsr, Setup, Step, Wrmsr
from runner.vmx import ExitReason, MsrBitmap

WIDEST = 52
"""Bits of a physical address that no processor exceeds; what one dump does not say is taken so."""

_FROM_PAGE = frozenset({"rdmsr.register-virtualization", "rdmsr.tpr-from-page"})
_TO_PAGE = "wrmsr.stores-eight-bytes"
_READS: tuple[Action, ...] = tuple(map(Rdmsr, MSRS))
_WRITES: tuple[Action, ...] = tuple(Wrmsr(msr, 0) for msr in MSRS)


def all_audited(dump: Dump) -> Iterator[Audited]:
    """Yield what the model says of each virtual processor; those that are set alike are asked about once."""
    known: list[tuple[VcpuState, Audited]] = []
    for state in dump.vcpus:
        alike = replace(state, name="", line=0, apic_id=None, reads=())
        answer = next((answer for other, answer in known if other == alike), None)
        if answer is None:
            answer = audited(state, dump.physical_address_width)
            known.append((alike, answer))
        yield replace(answer, state=state)


def audited(state: VcpuState, physical_address_width: int | None) -> Audited:
    """Return what the model says of one virtual processor."""
    choices = Implementation(physical_address_width=physical_address_width or WIDEST)
    certain, possible = _control_violations(choices, state)
    for each in _agreed([_violations(choices, (setup,)) for setup in guest_checks(state)]):
        certain.setdefault(*each)
    given = state.msr_bitmap
    if any(reserved_bits(state)):
        through = actual = Accesses({}, {})
    else:
        through = _accesses(choices, state, MsrBitmap())
        actual = through if given is None else _accesses(choices, state, given)
    return Audited(state, tuple(certain.items()), tuple(possible - certain.keys()), actual, through)


def _control_violations(choices: Implementation, state: VcpuState) -> tuple[dict[str, str], set[str]]:
    """Return the rules broken for certain, with a sentence each, and all that may be."""
    each = [_violations(choices, setups) for setups in control_checks(state)]
    return dict(_agreed(each)), {rule for found in each for rule in found}


def _violations(choices: Implementation, setups: Iterable[Setup]) -> dict[str, str]:
    found: dict[str, str] = {}
    for setup in setups:
        violations: Sequence[Violation] = explaining.violations(Program(Level.VMX, (setup,), ()), choices)
        found.update(violations)
    return found


def _agreed(each: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Return the violations that all have."""
    return [(rule, says) for rule, says in each[0].items() if all(rule in other for other in each)]


def _accesses(choices: Implementation, state: VcpuState, bitmap: MsrBitmap) -> Accesses:
    reads: dict[int, list[Effect]] = {msr: [] for msr in MSRS}
    writes: dict[int, list[Effect]] = {msr: [] for msr in MSRS}
    for alike in access_controls(state):
        chosen = next((each for each in alike if not _violations(choices, (Setup(each),))), None)
        for setup in () if chosen is None else accesses(state, chosen, bitmap):
            for found, actions in ((reads, _READS), (writes, _WRITES)):
                for msr, effect in zip(MSRS, _effects(choices, setup, actions), strict=True):
                    found[msr].append(effect)
    if not any(reads.values()):
        return Accesses({}, {})
    return Accesses(_merged(reads), _merged(writes))


def _merged(found: dict[int, list[Effect]]) -> dict[int, Effects]:
    return {msr: merged(effects) for msr, effects in found.items()}


def _effects(choices: Implementation, setup: Setup, actions: Sequence[Action]) -> list[Effect]:
    """Return the effect of each action."""
    steps = tuple(map(Step, actions))
    answer, reasons = explaining.run_traced(Program(Level.VMX, (setup,), steps), choices)
    if not isinstance(answer, Observation):
        raise TypeError(f"the model knows what an audit asks: {answer}")
    rules: list[set[str]] = [set() for _ in steps]
    for reason in reasons:
        _note(reason, rules)
    return [_effect(result, each) for result, each in zip(answer.steps, rules, strict=True)]


def _note(reason: Reason, rules: list[set[str]]) -> None:
    if reason.place.action is not None:
        rules[reason.place.index].add(reason.rule)


def _effect(result: StepResult, rules: set[str]) -> Effect:
    match result.outcomes[0]:
        case VmExit(ExitReason.RDMSR | ExitReason.WRMSR):
            return Effect(Reach.EXIT)
        case Fault():
            return Effect(Reach.FAULT)
        case Completed(int(value)) if rules & _FROM_PAGE:
            return Effect.of_page(value)
    return Effect(Reach.PAGE if _TO_PAGE in rules else Reach.PHYSICAL)
