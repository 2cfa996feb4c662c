"""Which steps and expectations can stand where: what no schema sees because it takes two places to tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.judging.exit_mismatches import BETWEEN
from runner.judging.pages import happens_in_root
from runner.language.steps import Steps
from runner.language.values import entries
from runner.outcome import Fault, Stuck
from runner.program import (
    Action,
    Barrier,
    Cpuid,
    InitSipi,
    Level,
    MmioRead,
    Page,
    PageAddress,
    Plain,
    Post,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Setup,
    Step,
)
from runner.reading.nodes import Map, Mark, Notes
from runner.scenario import (
    Bits,
    EntryFails,
    Exit,
    OneOf,
    OutcomeExpected,
    Relative,
    StepExpected,
    Value,
)
from runner.vmx import ExitReason

RESUMED = frozenset(
    {
        ExitReason.EXTERNAL_INTERRUPT,
        ExitReason.INTERRUPT_WINDOW,
        ExitReason.CPUID,
        ExitReason.HLT,
        ExitReason.VMCALL,
        ExitReason.CONTROL_REGISTER_ACCESS,
        ExitReason.RDMSR,
        ExitReason.WRMSR,
        ExitReason.TPR_BELOW_THRESHOLD,
        ExitReason.VIRTUALIZED_EOI,
        ExitReason.APIC_WRITE,
    }
)
"""Exits after which the guest goes on; any other ends the case for its virtual processor."""

READS = (Rdmsr, ReadCr8, MmioRead)
GUEST_LEVEL_VALUES = (Relative.OWN_APIC_ID, Relative.LOGICAL_ID)
NOT_IN_HANDLERS = (Barrier, InitSipi, SetApicBase, Post)


def check_placement(
    level: Level, setups: Sequence[Setup], steps: Steps, expected: Sequence[StepExpected], notes: Notes
) -> None:
    """Note every step and expectation that cannot stand where it does."""
    previous: dict[int, int] = {}
    for index, (step, node, wanted) in enumerate(zip(steps.steps, steps.nodes, expected, strict=True)):
        before = previous.get(step.vcpu)
        _check_level(level, step, node, notes)
        _check_expectation(level, step, node, wanted.outcome, notes)
        _check_descriptor(setups, step, node, notes)
        if before is not None:
            _check_order(steps.steps[before], expected[before], step, node, notes)
        previous[step.vcpu] = index
    _check_barriers(steps, notes)
    _check_started(steps, notes)


def _check_started(steps: Steps, notes: Notes) -> None:
    """Note processors that are started again and have no HLT, or several, to go on behind."""
    for step, node in zip(steps.steps, steps.nodes, strict=True):
        if isinstance(step.action, InitSipi):
            to = step.action.to
            halts = sum(each.action is Plain.HLT and each.vcpu == to for each in steps.steps)
            if halts != 1 or to == step.vcpu:
                notes.add(node.mark, f"`init-sipi` to {to}; it starts another processor behind its one hlt")


def check_handler(steps: Steps, expected: Sequence[StepExpected], notes: Notes) -> None:
    """Note what an interrupt handler cannot do."""
    for step, each, wanted in zip(steps.steps, steps.nodes, expected, strict=True):
        if happens_in_root(step.action) or isinstance(step.action, NOT_IN_HANDLERS):
            notes.add(each.mark, f"`{_name(each)}` in a handler; a handler holds instructions of the guest")
        for key in {"vcpu", "label"} & each.nodes.keys():
            place = each.nodes[key]
            notes.add(place.key or place.mark, f"`{key}` in a handler; it runs on whoever takes the vector")
        _check_expectation(Level.VMX, step, each, wanted.outcome, notes)


def check_setup_pages(setup: Setup, count: int, mark: Mark, notes: Notes) -> None:
    """Note fields that are given the page of a virtual processor which the case does not have."""
    for _, value in setup.fields:
        if isinstance(value, PageAddress) and value.page is Page.OF_VCPU and value.vcpu >= count:
            highest = f"0 to {count - 1}" if count > 1 else "only 0"
            notes.add(mark, f"of-vcpu-{value.vcpu} in `fields`; `vcpus` lists {highest}")


def _name(node: Map) -> str:
    return next((name for name in node.nodes if name not in ("vcpu", "label", "cpl", "expect")), "step")


def _at(node: Map, key: str) -> Mark:
    """Return where a key of a step stands, else the step."""
    found = node.nodes.get(key)
    return found.key or found.mark if found else node.mark


def _check_level(level: Level, step: Step, node: Map, notes: Notes) -> None:
    name = _name(node)
    guest_only = isinstance(step.action, InitSipi | SetApicBase) or step.action is Plain.DUMP_AT_RESET
    if level is Level.VMX and guest_only:
        notes.add(_at(node, name), f"`{name}` belongs to level guest")
    if level is Level.GUEST and (happens_in_root(step.action) or step.action is Plain.VMCALL):
        notes.add(_at(node, name), f"`{name}` needs a VMM; at level guest there is none")
    if step.cpl and (happens_in_root(step.action) or isinstance(step.action, Barrier)):
        notes.add(_at(node, "cpl"), f"`cpl` beside `{name}`; only an instruction of the guest has a CPL")


def _check_expectation(level: Level, step: Step, node: Map, outcome: OutcomeExpected, notes: Notes) -> None:
    mark = _at(node, "expect")
    for each in _alternatives(outcome):
        for complaint in _complaints(level, step.action, each):
            notes.add(mark, f"`{_name(node)}` {complaint}")


def _alternatives(outcome: OutcomeExpected) -> Iterator[OutcomeExpected]:
    if isinstance(outcome, OneOf):
        for choice in outcome.choices:
            yield from _alternatives(choice.outcome)
    else:
        yield outcome


def _complaints(level: Level, action: Action, outcome: OutcomeExpected) -> Iterator[str]:
    """Say why a step of this kind cannot have this outcome."""
    root = happens_in_root(action)
    reads = isinstance(action, (*READS, Cpuid) if level is Level.GUEST else READS)
    if isinstance(outcome, Value | Bits) and not reads:
        yield "reads nothing; `value` and `bits` go with rdmsr, read-cr8 and mmio-read"
    if isinstance(outcome, Relative) and not isinstance(action, Rdmsr):
        yield f"cannot have the value {outcome.value}; only rdmsr can"
    if outcome in GUEST_LEVEL_VALUES and level is Level.VMX:
        yield "at level vmx has no APIC ID of its own to compare with; write the number"
    if outcome is Relative.FROM_PAGE and level is Level.GUEST:
        yield "at level guest has no virtual-APIC page to read"
    if outcome is Stuck.STAYS_HALTED and action is not Plain.HLT and not root:
        yield "cannot stay halted; only hlt can, and the guest that a VMM step enters in that state"
    if isinstance(outcome, EntryFails) and not root:
        yield "is no VMM step; `entry` goes with vmm, inject and raise"
    if root and not _allowed_in_root(outcome):
        yield "is a VMM step; it can only expect what comes before the next instruction of the guest"
    if isinstance(outcome, Exit) and level is Level.GUEST:
        yield "at level guest cannot cause a VM exit"


def _allowed_in_root(outcome: OutcomeExpected) -> bool:
    """Whether the VM entry after a VMM step can have this outcome, or the boundary that it leads to."""
    if isinstance(outcome, Exit):
        return outcome.reason in BETWEEN
    return not isinstance(outcome, Value | Bits | Relative | Fault)


def _check_descriptor(setups: Sequence[Setup], step: Step, node: Map, notes: Notes) -> None:
    if isinstance(step.action, Post) and setups[step.action.to].posted is None:
        mark = entries(node.nodes["post"])["to"].mark
        notes.add(mark, f"virtual processor {step.action.to} has no descriptor; give its setup `posted`")


def _check_order(before: Step, wanted: StepExpected, step: Step, node: Map, notes: Notes) -> None:
    exits = list(_alternatives(wanted.outcome))
    if all(_ends(each) for each in exits):
        notes.add(node.mark, "nothing runs here after the step before it; end the case there")
    elif happens_in_root(step.action) and not _reaches_root(before, exits):
        notes.add(node.mark, f"`{_name(node)}` needs a VM exit before it; put a vmcall between")


def _ends(outcome: OutcomeExpected) -> bool:
    """Whether the virtual processor does nothing more after this."""
    if isinstance(outcome, Exit):
        return outcome.reason not in RESUMED
    return isinstance(outcome, EntryFails | Stuck)


def _reaches_root(before: Step, exits: Sequence[OutcomeExpected]) -> bool:
    always = happens_in_root(before.action) or before.action is Plain.VMCALL
    return always or all(isinstance(each, Exit) for each in exits)


def _check_barriers(steps: Steps, notes: Notes) -> None:
    """Note barriers at which somebody waits for ever."""
    met: dict[int, list[str]] = {}
    first: dict[str, Map] = {}
    for step, node in zip(steps.steps, steps.nodes, strict=True):
        if isinstance(step.action, Barrier):
            name = step.action.name
            first.setdefault(name, node)
            if name in met.setdefault(step.vcpu, []):
                notes.add(node.mark, f"barrier `{name}` a second time on one virtual processor; rename it")
            met[step.vcpu].append(name)
    for name, node in first.items():
        if sum(name in names for names in met.values()) < 2:
            notes.add(node.mark, f"barrier `{name}` is met by one virtual processor only; nobody else comes")
    _check_barrier_order(met, first, notes)


def _check_barrier_order(met: Mapping[int, Sequence[str]], first: Mapping[str, Map], notes: Notes) -> None:
    pairs: set[tuple[str, str]] = set()
    for names in met.values():
        for place, name in enumerate(names):
            pairs.update((name, later) for later in names[place + 1 :])
    for one, other in sorted(pairs):
        if one < other and (other, one) in pairs:
            notes.add(
                first[other].mark, f"barriers `{one}` and `{other}` are met in both orders; nobody gets on"
            )
