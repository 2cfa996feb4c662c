"""From the cases of a file to frozen `Case`s, with every point of their ``vary``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.language.points import FILLED, PointReader, Surroundings
from runner.language.values import entries, items, word
from runner.language.vary import combinations_of, names_in, variations
from runner.program import Level
from runner.reading.nodes import Map, Mark, Node, Notes
from runner.reading.schema import Schema
from runner.scenario import Case, Point

GUEST_LEVEL_SETUP = frozenset({"apic-mode", "guest", "handlers"})
"""What a setup can say of a guest that is the whole platform."""


def read_case(node: Map, around: Surroundings, schema: Schema, notes: Notes) -> Case | None:
    """Return a case that has passed the schema; ``None`` where something is noted."""
    before = len(notes.problems)
    given = node.nodes
    values = variations(given.get("vary"), notes)
    if len(notes.problems) > before:
        return None
    _check_names(node, values, notes)
    _check_model(node, notes)
    _check_guest_level(node, around.level, notes)
    if values and len(notes.problems) == before:
        schema.check(node, notes, "#/$defs/case", values)
    reader = PointReader(node, around, notes)
    points: list[Point] = []
    for each in combinations_of(values):
        if len(notes.problems) > before:
            return None
        points.append(reader.point(each))
    if len(notes.problems) > before:
        return None
    return Case(
        id=word(given["id"]),
        says=word(given["says"]),
        rules=tuple(word(rule) for rule in items(given["rules"])),
        line=node.mark.line,
        points=tuple(points),
        when=tuple((name, word(value)) for name, value in entries(given.get("when")).items()),
        step_lines=reader.step_lines,
    )


def check_file_setup(node: Node | None, level: Level, notes: Notes) -> bool:
    """Note what the setup that all cases share cannot say; return whether it says nothing of that."""
    before = len(notes.problems)
    for name, mark in names_in(node).items():
        notes.add(mark, f"`{name}` in the setup of the file; use it in the setup of the case that varies it")
    if level is Level.GUEST:
        _check_guest_setup(node, notes)
    return len(notes.problems) == before


def _check_guest_setup(node: Node | None, notes: Notes) -> None:
    """Note what a setup at level guest cannot say: there is no VMCS."""
    for key, each in entries(node).items():
        if key not in GUEST_LEVEL_SETUP:
            known = ", ".join(sorted(GUEST_LEVEL_SETUP))
            notes.add(
                each.key or each.mark, f"`{key}` at level guest, which has no VMCS; a setup has {known}"
            )


def _check_names(node: Map, values: Mapping[str, Sequence[Node]], notes: Notes) -> None:
    """Note names that stand for nothing, and values that nothing uses."""
    used: dict[str, Mark] = {}
    for part in FILLED:
        used = names_in(node.nodes.get(part)) | used
    for name, mark in used.items():
        if name not in values:
            listed = ", ".join(known[1:] for known in values) or "no names"
            notes.add(mark, f"`{name}` stands for nothing; the case's `vary` has {listed}")
    for name, varied in entries(node.nodes.get("vary")).items():
        if f"${name}" not in used:
            notes.add(varied.key or varied.mark, f"`{name}` is not used; write ${name} where it is meant")


def _check_model(node: Map, notes: Notes) -> None:
    """Note expectations in a case whose expectation is the model's."""
    if "expect" not in node.nodes:
        return
    steps = [entries(step).get("expect") for step in items(node.nodes.get("steps"))]
    for each in (*steps, node.nodes.get("after"), node.nodes.get("expect-entry")):
        if each:
            notes.add(each.key or each.mark, "an expectation beside `expect: model`; keep one of them")


def _check_guest_level(node: Map, level: Level, notes: Notes) -> None:
    if level is not Level.GUEST:
        return
    _check_guest_setup(node.nodes.get("setup"), notes)
    for each in entries(node.nodes.get("vcpus")).values():
        _check_guest_setup(each, notes)
    entry = node.nodes.get("expect-entry")
    if entry:
        notes.add(entry.key or entry.mark, "`expect-entry` at level guest, which has no VM entry")
    final = entries(node.nodes.get("after"))
    for state in (final, *(entries(each) for key, each in final.items() if key.isdigit())):
        for key, each in state.items():
            if not key.isdigit() and key != "physical":
                notes.add(each.key or each.mark, f"`{key}` at level guest; only `physical` can be seen there")
