"""From the steps of a file to frozen `Step`s: what each virtual processor, and the VMM between, does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from runner.language.layers import Layers
from runner.language.setups import activity, controls, fields, msr_bitmap, words
from runner.language.values import (
    blocking,
    entries,
    flag,
    items,
    msr,
    msr_of_key,
    number,
    vectors,
    word,
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
    Setup,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.reading.nodes import Map, Node, Notes, Scalar
from runner.vmx import Controls, MsrBitmap

Read = TypeVar("Read")

ASIDE = frozenset({"vcpu", "label", "cpl", "upper", "expect"})
"""Keys of a step beside its action."""

APIC_BASE_MODES: Mapping[str, int] = {"disabled": 0, "xapic": 0x800, "x2apic": 0xC00}
"""IA32_APIC_BASE bits 11:10, EN and EXTD. SDM: *Detecting and Enabling x2APIC Mode*."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a case in file order, the node each comes from, and the labels."""

    steps: tuple[Step, ...] = ()
    nodes: tuple[Map, ...] = ()
    labels: Mapping[str, int] | None = None

    def label(self, name: str) -> int | None:
        """Return the index of the step with a label."""
        return (self.labels or {}).get(name)


def read_steps(node: Node | None, setups: Sequence[Setup], notes: Notes) -> Steps:
    """Return the steps of a case for these virtual processors."""
    reader = _StepReader(setups, notes)
    steps: list[Step] = []
    nodes: list[Map] = []
    labels: dict[str, int] = {}
    for each in items(node):
        if isinstance(each, Map):
            _note_label(each, len(steps), labels, notes)
            for step in reader.steps(each):
                steps.append(step)
                nodes.append(each)
    return Steps(tuple(steps), tuple(nodes), labels)


def read_handler(node: Node, notes: Notes) -> Steps:
    """Return the steps of an interrupt handler, which runs on whichever processor takes the vector."""
    return read_steps(node, [Setup()], notes)


def _note_label(step: Map, index: int, labels: dict[str, int], notes: Notes) -> None:
    label = step.nodes.get("label")
    if label is None:
        return
    if word(label) in labels:
        notes.add(label.mark, f"label `{word(label)}` a second time; every label once")
    labels[word(label)] = index


class _StepReader:
    """Follows, along the steps, what the VMM has made of each virtual processor's controls and bitmap."""

    def __init__(self, setups: Sequence[Setup], notes: Notes) -> None:
        self.notes = notes
        self.controls: list[Controls] = [setup.controls for setup in setups]
        self.bitmaps: list[MsrBitmap] = [setup.msr_bitmap for setup in setups]

    def steps(self, step: Map) -> Iterator[Step]:
        """Yield the step; a barrier without ``vcpu`` is a step of every virtual processor."""
        name = self.action_name(step)
        if name is None:
            return
        if name == "barrier" and "vcpu" not in step.nodes:
            for vcpu in range(len(self.controls)):
                yield Step(Barrier(word(step.nodes[name])), vcpu)
            return
        vcpu = self.vcpu(step.nodes.get("vcpu"))
        cpl = step.nodes.get("cpl")
        yield Step(self.action(name, step, vcpu), vcpu, number(cpl) if cpl else 0)

    def action_name(self, step: Map) -> str | None:
        names = [name for name in step.nodes if name not in ASIDE]
        if len(names) == 1:
            return names[0]
        if names:
            second = step.nodes[names[1]]
            self.notes.add(
                second.key or second.mark,
                f"`{names[1]}` beside `{names[0]}`; a step does one thing, make it two",
            )
        else:
            self.notes.add(step.mark, f"a step without an action; one of {', '.join(ACTIONS)}")
        return None

    def vcpu(self, node: Node | None) -> int:
        """Return the number of a virtual processor that the case has."""
        vcpu = number(node) if node else 0
        if node and vcpu >= len(self.controls):
            self.notes.add(
                node.mark, f"no virtual processor {vcpu} in this case; `vcpus` lists {self.listed()}"
            )
            return 0
        return vcpu

    def listed(self) -> str:
        last = len(self.controls) - 1
        return f"0 to {last}" if last else "only 0"

    def action(self, name: str, step: Map, vcpu: int) -> Action:
        node = step.nodes[name]
        garbage = "upper" in step.nodes
        if garbage and name not in ("rdmsr", "wrmsr"):
            upper = step.nodes["upper"]
            self.notes.add(upper.key or upper.mark, f"`upper` beside `{name}`; only rdmsr and wrmsr have it")
        match name:
            case "rdmsr":
                return Rdmsr(msr(node), garbage)
            case "wrmsr":
                [(register, value)] = entries(node).items()
                return Wrmsr(msr_of_key(register), number(value), garbage)
            case "vmm":
                return self.vmm(node, vcpu)
            case "post":
                return self.post(entries(node))
            case "init-sipi":
                return InitSipi(self.vcpu(entries(node)["to"]))
            case _:
                return ACTIONS[name](node)

    def vmm(self, node: Node, vcpu: int) -> Vmm:
        layers = Layers.of([node])
        if "set" in entries(node) or "clear" in entries(node):
            plus, minus = controls(layers.last("set")), controls(layers.last("clear"))
            self.controls[vcpu] = changed = self.controls[vcpu].plus(plus).minus(minus)
        else:
            changed = None
        bitmap = None
        if layers.last("msr-bitmap"):
            bitmap = msr_bitmap(layers.inner("msr-bitmap"), self.notes, self.bitmaps[vcpu])
            self.bitmaps[vcpu] = bitmap
        guest = layers.inner("guest")
        return Vmm(
            words=words(layers.inner("virtual-apic-page"), self.notes),
            controls=changed,
            msr_bitmap=bitmap,
            tpr_threshold=_optional(layers.last("tpr-threshold"), number),
            rvi=_optional(layers.last("rvi"), number),
            svi=_optional(layers.last("svi"), number),
            eoi_exit_bitmap=_optional(layers.last("eoi-exit-bitmap"), lambda each: vectors(each, self.notes)),
            fields=fields(layers.inner("fields"), self.notes),
            interrupt_flag=_optional(guest.last("if"), flag),
            blocking=_optional(guest.last("blocking"), blocking),
            activity=_optional(guest.last("activity"), activity),
        )

    def post(self, given: Mapping[str, Node]) -> Post:
        notify = given["notify"]
        return Post(
            to=self.vcpu(given["to"]),
            vectors=vectors(given["vectors"], self.notes),
            notify=None if word(notify) == "none" else number(notify),
            outstanding=flag(given["outstanding"]) if "outstanding" in given else True,
            by_guest="by" not in given or word(given["by"]) == "guest",
        )


def _optional(node: Node | None, read: Callable[[Node], Read]) -> Read | None:
    return None if node is None else read(node)


def _apic_base(node: Node) -> SetApicBase:
    mode = node.value if isinstance(node, Scalar) else None
    return SetApicBase(APIC_BASE_MODES[mode] if isinstance(mode, str) else number(node))


def _plain(action: Plain) -> Callable[[Node], Action]:
    return lambda _: action


ACTIONS: Mapping[str, Callable[[Node], Action]] = {
    "read-cr8": lambda _: ReadCr8(),
    "write-cr8": lambda node: WriteCr8(number(node)),
    "cpuid": lambda node: Cpuid(number(node)),
    "mmio-read": lambda node: MmioRead(number(node)),
    "inject": lambda node: Inject(number(node)),
    "raise": lambda node: Raise(number(node)),
    "barrier": lambda node: Barrier(word(node)),
    "set-apic-base": _apic_base,
    **{plain.value: _plain(plain) for plain in Plain},
}
"""Actions that are made of their value alone."""
