"""From the layers of a setup to the frozen `Setup`: base, file, case, virtual processor."""

from __future__ import annotations

from collections.abc import Mapping

from runner.apic import ApicMode, Fill, VirtualApicPage
from runner.descriptor import CONTROL, OUTSTANDING, SUPPRESS
from runner.language.layers import Layers
from runner.language.values import (
    blocking,
    entries,
    flag,
    items,
    msr,
    msr_ranges,
    number,
    numbers_at,
    page_words,
    vectors,
    word,
)
from runner.program import (
    BeyondWidth,
    FieldValue,
    Flip,
    GuestState,
    Handler,
    MsrEntry,
    MsrLists,
    Number,
    Page,
    PageAddress,
    PostedInterrupts,
    Setup,
)
from runner.reading.nodes import Map, Node, Notes, Scalar
from runner.vmx import CONTROLS_BY_NAME, FIELDS_BY_NAME, Activity, Control, Controls, Field, MsrBitmap

ADDED_UP = frozenset({"base", "set", "clear", "says"})
"""Keys of a named setup that no layer shows: its controls are added up, from setup to setup."""


class NamedSetups:
    """The named setups of specs/setups.yaml."""

    def __init__(self, nodes: Mapping[str, Map]) -> None:
        """Take the setups by name, each after the one it builds on."""
        self.controls: dict[str, Controls] = {}
        self.layers: dict[str, tuple[Map, ...]] = {}
        for name, node in nodes.items():
            base = word(node.nodes["base"]) if "base" in node.nodes else None
            plus, minus = (controls(node.nodes.get(key)) for key in ("set", "clear"))
            self.controls[name] = (self.controls[base] if base else Controls()).plus(plus).minus(minus)
            shown = {key: value for key, value in node.nodes.items() if key not in ADDED_UP}
            self.layers[name] = (*(self.layers[base] if base else ()), node._replace(nodes=shown))


def controls(node: Node | None) -> tuple[Control, ...]:
    """Return the controls of a list of names."""
    return tuple(CONTROLS_BY_NAME[word(item)] for item in items(node))


def setup(layers: Layers, named: NamedSetups, handlers: tuple[Handler, ...], notes: Notes) -> Setup:
    """Return the setup of one virtual processor; *layers* are the file's, the case's and its own."""
    base = layers.last("base")
    own = controls(layers.last("set")), controls(layers.last("clear"))
    if base is not None:
        layers = Layers((*named.layers[word(base)], *layers.levels))
    start = named.controls[word(base)] if base is not None else Controls()
    return Setup(
        controls=start.plus(own[0]).minus(own[1]),
        msr_bitmap=msr_bitmap(layers.inner("msr-bitmap"), notes),
        apic_mode=_apic_mode(layers.last("apic-mode")),
        page=_page(layers.inner("virtual-apic-page"), notes),
        tpr_threshold=_number(layers, "tpr-threshold", 0),
        rvi=_number(layers, "rvi", 0),
        svi=_number(layers, "svi", 0),
        eoi_exit_bitmap=vectors(layers.last("eoi-exit-bitmap"), notes),
        posted=_posted(layers, notes),
        fields=fields(layers.inner("fields"), notes),
        msr_lists=msr_lists(layers.inner("msr-lists")),
        guest=_guest(layers.inner("guest"), notes),
        handlers=handlers,
        eoi=_flag(layers.inner("handlers"), "eoi"),
    )


def msr_bitmap(layers: Layers, notes: Notes, before: MsrBitmap | None = None) -> MsrBitmap:
    """Return the MSR bitmap; an access that no layer names keeps what it had *before*."""
    had = before or MsrBitmap()
    read, write = layers.last("read"), layers.last("write")
    return MsrBitmap(
        reads=msr_ranges(read, notes) if read else had.reads,
        writes=msr_ranges(write, notes) if write else had.writes,
    )


def words(layers: Layers, notes: Notes) -> tuple[tuple[int, int], ...]:
    """Return the words that the layers of a page name; a word of a higher layer replaces a lower one's."""
    result: dict[int, int] = {}
    for level in layers.levels:
        result.update(page_words(level, notes, lambda key, node: numbers_at(key, node, notes)))
    return tuple(sorted(result.items()))


def fields(layers: Layers, notes: Notes) -> tuple[tuple[Field, FieldValue], ...]:
    """Return the raw VMCS fields; a field's value is replaced whole."""
    result: dict[Field, FieldValue] = {}
    for level in layers.levels:
        for name, node in level.nodes.items():
            field = FIELDS_BY_NAME[name]
            result[field] = _field_value(field, node, notes)
    return tuple(sorted(result.items()))


def activity(node: Node) -> Activity:
    """Return an activity state."""
    return Activity[word(node).upper().replace("-", "_")]


def _field_value(field: Field, node: Node, notes: Notes) -> FieldValue:
    if isinstance(node, Scalar):
        return BeyondWidth() if node.text == "beyond-physical-address-width" else Number(number(node))
    given = entries(node)
    if "flip" in given:
        if "page" in given:
            notes.add(given["page"].key or node.mark, "`page` beside `flip`; a field has one value, keep one")
        return Flip(_bit(field, given["flip"], notes))
    page = word(given["page"])
    add = number(given["add"]) if "add" in given else 0
    if page.startswith("of-vcpu-"):
        return PageAddress(Page.OF_VCPU, int(page[-1]), add)
    return PageAddress(Page(page), 0, add)


def _bit(field: Field, node: Node, notes: Notes) -> int:
    bit = number(node)
    if bit >= field.width:
        notes.add(
            node.mark, f"bit {bit} does not fit; the field has {field.width} bits, 0 to {field.width - 1}"
        )
    return bit


def _page(layers: Layers, notes: Notes) -> VirtualApicPage:
    fill, value = _fill(layers.last("fill"))
    return VirtualApicPage(fill, value, words(layers, notes))


def _fill(node: Node | None) -> tuple[Fill, int]:
    if isinstance(node, Scalar) and isinstance(node.value, int):
        return Fill.VALUE, node.value
    return (Fill(word(node)) if node else Fill.ZERO), 0


def _apic_mode(node: Node | None) -> ApicMode:
    return ApicMode(word(node)) if node else ApicMode.X2APIC


def _posted(layers: Layers, notes: Notes) -> PostedInterrupts | None:
    if layers.last("posted") is None:
        return None
    posted = layers.inner("posted")
    pid_pointer = posted.inner("pid-pointer").last("flip")
    return PostedInterrupts(
        notification_vector=_number(posted, "notification-vector", 0xF2),
        pir=vectors(posted.last("pir"), notes),
        outstanding=_flag(posted, "outstanding"),
        suppress=_flag(posted, "suppress"),
        words=_descriptor_words(posted.inner("words"), notes),
        pid_pointer_flip=number(pid_pointer) if pid_pointer else None,
    )


def _descriptor_words(layers: Layers, notes: Notes) -> tuple[tuple[int, int], ...]:
    result: dict[int, int] = {}
    for level in layers.levels:
        result.update(page_words(level, notes, lambda key, node: {int(key, 0): number(node)}))
        for key, node in level.nodes.items():
            if int(key, 0) == CONTROL and number(node) & (OUTSTANDING | SUPPRESS):
                notes.add(node.mark, "bits 1:0 of 0x20 are ON and SN; write `outstanding` and `suppress`")
    return tuple(sorted(result.items()))


def msr_lists(layers: Layers) -> MsrLists:
    """Return the three MSR areas."""
    return MsrLists(
        entry_load=_msr_list(layers.last("vm-entry-load")),
        exit_store=_msr_list(layers.last("vm-exit-store")),
        exit_load=_msr_list(layers.last("vm-exit-load")),
    )


def _msr_list(node: Node | None) -> tuple[MsrEntry, ...]:
    listed = [entries(item) for item in items(node)]
    return tuple(
        MsrEntry(msr(each["msr"]), number(each["value"]) if "value" in each else 0) for each in listed
    )


def _guest(layers: Layers, notes: Notes) -> GuestState:
    state = layers.last("activity")
    return GuestState(
        interrupt_flag=_flag(layers, "if"),
        trap_flag=_flag(layers, "tf"),
        cpl=_number(layers, "cpl", 0),
        blocking=blocking(layers.last("blocking")),
        activity=activity(state) if state else Activity.ACTIVE,
        exception_bitmap=vectors(layers.last("exception-bitmap"), notes),
    )


def _number(layers: Layers, key: str, default: int) -> int:
    node = layers.last(key)
    return number(node) if node else default


def _flag(layers: Layers, key: str) -> bool:
    node = layers.last(key)
    return flag(node) if node else False
