"""A dump in YAML, in the words of the scenario language; ``dump.schema.json`` says what can stand there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

from runner.apic import PAGE_SIZE, REGISTERS_BY_NAME, ApicMode, Fill
from runner.auditing.state import Dump, KnownPage, Read, VcpuState
from runner.language.layers import Layers
from runner.language.loading import SPECS
from runner.language.setups import msr_bitmap, msr_lists, words
from runner.language.values import entries, flag, items, msr_of_key, number, word
from runner.language.vary import names_in
from runner.reading.nodes import Items, Map, Node, Notes, Scalar
from runner.reading.problems import did_you_mean
from runner.reading.schema import Schema, borrowing
from runner.vmx import (
    CONTROL_FIELDS,
    CONTROL_WORDS,
    CONTROLS_BY_NAME,
    FIELDS_BY_NAME,
    Control,
    Field,
    MsrBitmap,
)

LANGUAGE = SPECS / "scenario.schema.json"
SCHEMA = Path(__file__).with_name("dump.schema.json")
NOT_SET = "not-set"

_NAMES = ("pin-based", "primary", "secondary", "tertiary", "vm-exit", "vm-entry")
WORDS: Mapping[str, type[Control]] = MappingProxyType(dict(zip(_NAMES, CONTROL_WORDS, strict=True)))
"""The control words as a dump calls them."""


def parse(top: Node, notes: Notes) -> Dump | None:
    """Return what a dump says; ``None`` where something is wrong, which is noted."""
    _schema().check(top, notes)
    for name, mark in names_in(top).items():
        notes.add(mark, f"`{name}`: nothing varies in a dump")
    if notes.problems or not isinstance(top, Map):
        return None
    width = top.nodes.get("physical-address-width")
    capabilities = {WORDS[key]: number(node) for key, node in entries(top.nodes.get("capabilities")).items()}
    states = [
        replace(
            _state(name, node, Layers.of((top.nodes.get("all"), node)), notes),
            capabilities=MappingProxyType(capabilities),
        )
        for name, node in entries(top.nodes["vcpus"]).items()
    ]
    return Dump(
        notes.file, "YAML", tuple(states), physical_address_width=number(width) if width is not None else None
    )


def _state(name: str, node: Node, layers: Layers, notes: Notes) -> VcpuState:
    found = dict(_fields(layers.inner("fields")))
    found.update(_control_words(layers.inner("controls"), notes))
    mode, apic_id, guest = layers.last("apic-mode"), layers.last("apic-id"), layers.inner("guest")
    interrupt_flag, trap_flag, cpl = (guest.last(key) for key in ("if", "tf", "cpl"))
    return VcpuState(
        name,
        (node.key or node.mark).line,
        MappingProxyType({field: value for field, value in found.items() if value is not None}),
        frozenset(field for field, value in found.items() if value is None),
        _msr_bitmap(layers, notes),
        _page(layers, notes),
        number(apic_id) if apic_id else None,
        ApicMode(word(mode)) if mode else None,
        None if interrupt_flag is None else flag(interrupt_flag),
        None if trap_flag is None else flag(trap_flag),
        None if cpl is None else number(cpl),
        tuple(_reads(layers.inner("reads"), notes)),
        msr_lists(layers.inner("msr-lists")),
        frozenset(
            CONTROL_FIELDS[kind]
            for key, kind in WORDS.items()
            if isinstance(layers.inner("controls").last(key), Items)
        ),
    )


def _fields(layers: Layers) -> Iterator[tuple[Field, int | None]]:
    """Yield each field with its value, ``None`` where nobody has set it."""
    for level in layers.levels:
        for name, node in level.nodes.items():
            unset = isinstance(node, Scalar) and node.text == NOT_SET
            yield FIELDS_BY_NAME[name], None if unset else number(node)


def _control_words(layers: Layers, notes: Notes) -> Iterator[tuple[Field, int]]:
    for key, kind in WORDS.items():
        node = layers.last(key)
        if node is None:
            continue
        if not isinstance(node, Items):
            yield CONTROL_FIELDS[kind], number(node)
            continue
        value = 0
        for item in items(node):
            control = CONTROLS_BY_NAME[word(item)]
            if not isinstance(control, kind):
                near = next(name for name, each in WORDS.items() if isinstance(control, each))
                notes.add(item.mark, f"`{word(item)}` is no {key} control; it stands in `{near}`")
            value |= int(control)
        yield CONTROL_FIELDS[kind], value


def _msr_bitmap(layers: Layers, notes: Notes) -> MsrBitmap | None:
    """Return the bitmap that the highest layer with one lists, or has in a file."""
    for level in reversed(layers.levels):
        file = level.nodes.get("msr-bitmap-file")
        if file is not None:
            if "msr-bitmap" in level.nodes:
                notes.add(file.key or file.mark, "`msr-bitmap-file` beside `msr-bitmap`; keep one")
            return MsrBitmap.from_bytes(_bytes(file, notes))
        if "msr-bitmap" in level.nodes:
            return msr_bitmap(layers.inner("msr-bitmap"), notes)
    return None


def _page(layers: Layers, notes: Notes) -> KnownPage:
    file, named = layers.last("virtual-apic-page-file"), layers.inner("virtual-apic-page")
    fill, known = named.last("fill"), dict(words(named, notes))
    if file is not None:
        data = _bytes(file, notes)
        held = {at: int.from_bytes(data[at : at + 4], "little") for at in range(0, PAGE_SIZE, 4)}
        return KnownPage(MappingProxyType({**held, **known}))
    if fill is None:
        given = None
    elif isinstance(fill, Scalar) and isinstance(fill.value, int):
        given = Fill.VALUE, int(fill.value)
    else:
        given = Fill(word(fill)), 0
    return KnownPage(MappingProxyType(known), given)


def _bytes(file: Node, notes: Notes) -> bytes:
    """Return the 4096 bytes of a file beside the dump; what is wrong with it is noted."""
    path = Path(notes.file).parent / word(file)
    try:
        with path.open("rb") as opened:
            data = opened.read(PAGE_SIZE + 1)
    except OSError as error:
        notes.add(file.mark, f"`{word(file)}` cannot be read: {error.strerror}")
        return bytes(PAGE_SIZE)
    if len(data) != PAGE_SIZE:
        size = "more" if len(data) > PAGE_SIZE else str(len(data))
        notes.add(file.mark, f"`{word(file)}` has {size} bytes; a page has {PAGE_SIZE}")
    return data[:PAGE_SIZE].ljust(PAGE_SIZE, b"\0")


def _reads(layers: Layers, notes: Notes) -> Iterator[Read]:
    values: dict[int, int] = {}
    for level in layers.levels:
        spelled: dict[int, str] = {}
        for key, node in level.nodes.items():
            if key[0].isalpha() and key not in REGISTERS_BY_NAME:
                near = did_you_mean(key, REGISTERS_BY_NAME)
                notes.add(node.key or node.mark, f"`{key}` is no x2APIC register{near}")
                continue
            msr = msr_of_key(key)
            if msr in spelled:
                notes.add(node.key or node.mark, f"`{key}` and `{spelled[msr]}` are one MSR; keep one")
            values[msr], spelled[msr] = number(node), key
    return (Read(msr, value) for msr, value in values.items())


@cache
def _schema() -> Schema:
    """Return the schema with the definitions of the scenario language that it refers to."""
    return borrowing(SCHEMA, LANGUAGE)
