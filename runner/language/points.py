"""From a case and one value for each ``$name`` to a frozen `Point`: a program, and what it must show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from runner.judging.pages import happens_in_root
from runner.language.expectations import after, entry, step_expected
from runner.language.layers import Layers
from runner.language.placement import check_handler, check_placement, check_setup_pages
from runner.language.setups import NamedSetups, setup
from runner.language.steps import Steps, read_handler, read_steps
from runner.language.values import entries
from runner.language.vary import Filling, Values, point_values
from runner.outcome import Entered, Entry
from runner.program import Handler, Level, Program, Setup
from runner.reading.nodes import Map, Node, Notes
from runner.scenario import After, Expected, Point, StepExpected

FILLED = ("setup", "vcpus", "steps", "after", "expect-entry")
"""The parts of a case in which ``$name`` stands for a value."""

Parts = Mapping[str, Node]
"""Parts of a case, with values in place of names."""

Read = TypeVar("Read")
HandlersExpected = tuple[tuple[int, tuple[StepExpected, ...]], ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the cases of a file share: its level, its setup, the named setups."""

    level: Level
    setup: Node | None
    named: NamedSetups


class PointReader:
    """Reads the points of one case; what stays the same from point to point is read, and kept, once."""

    def __init__(self, case: Map, around: Surroundings, notes: Notes) -> None:
        """Take a case that has passed the schema, and whose names all stand for something."""
        self.case = case
        self.around = around
        self.notes = notes
        self.step_lines: tuple[int, ...] = ()
        self._filling = Filling(notes)
        self._read: dict[tuple[object, ...], Any] = {}
        self._kept: dict[Any, Any] = {}

    def point(self, values: Values) -> Point:
        """Return one point."""
        read = self._once(values, self._setups, "setup", "vcpus")
        setups = tuple(setup for setup, _ in read)
        steps, expected = self._once(
            values, lambda each: self._steps(each, setups), "steps", "setup", "vcpus"
        )
        self.step_lines = tuple(node.mark.line for node in steps.nodes)
        return Point(
            values=tuple(map(self._keep, point_values(values))),
            program=Program(self.around.level, setups, steps.steps),
            expected=self._keep(
                Expected(
                    entry=self._once(values, lambda each: self._entry(each, setups, steps), "expect-entry"),
                    steps=expected,
                    after=self._once(values, lambda each: self._after(each, setups), "after"),
                    handlers=tuple(handlers for _, handlers in read),
                    from_model="expect" in self.case.nodes,
                )
            ),
        )

    def _once(self, values: Values, read: Callable[[Parts], Read], *names: str) -> Read:
        """Return what is read of these parts of the case; the same for the same values of what they use."""
        parts = [self.case.nodes[name] for name in names if name in self.case.nodes]
        used = {name: id(values[name]) for part in parts for name in self._filling.names(part)}
        if values and len(used) == len(values):  # no two points share it
            return read(self._parts(values, names))
        key = names, *sorted(used.items())
        if key not in self._read:
            self._read[key] = read(self._parts(values, names))
        found: Read = self._read[key]
        return found

    def _parts(self, values: Values, names: Iterable[str]) -> Parts:
        given = self.case.nodes
        return {name: self._filling(given[name], values) for name in names if name in given}

    def _keep(self, value: Read) -> Read:
        """Return an equal value read before, so that points share what they have in common."""
        kept: Read = self._kept.setdefault(value, value)
        return kept

    def _setups(self, parts: Parts) -> list[tuple[Setup, HandlersExpected]]:
        own = list(self._vcpus(parts["vcpus"])) if "vcpus" in parts else [None]
        result = []
        for each in own:
            layers = Layers.of([self.around.setup, parts.get("setup"), each])
            handlers, expected = self._handlers(layers.inner("handlers"))
            read = self._keep(setup(layers, self.around.named, handlers, self.notes))
            mark = layers.levels[-1].mark if layers.levels else self.case.mark
            check_setup_pages(read, len(own), mark, self.notes)
            result.append((read, expected))
        return result

    def _vcpus(self, node: Node) -> Iterator[Node | None]:
        given = entries(node)
        for index in range(len(given)):
            if str(index) not in given:
                self.notes.add(node.mark, f"no virtual processor {index}; number them from 0 without a gap")
            yield given.get(str(index))

    def _handlers(self, layers: Layers) -> tuple[tuple[Handler, ...], HandlersExpected]:
        nodes: dict[int, Node] = {}
        for level in layers.levels:
            nodes.update(self._vectors(level))
        steps: list[Handler] = []
        expected: list[tuple[int, tuple[StepExpected, ...]]] = []
        for vector, node in sorted(nodes.items()):
            read = read_handler(node, self.notes)
            outcomes = self._expectations(read.nodes, Steps())
            check_handler(read, outcomes, self.notes)
            steps.append((vector, read.steps))
            expected.append((vector, outcomes))
        return tuple(steps), tuple(expected)

    def _vectors(self, level: Map) -> dict[int, Node]:
        result: dict[int, Node] = {}
        for key, node in level.nodes.items():
            if key == "eoi":
                continue
            if int(key, 0) in result:
                self.notes.add(node.key or node.mark, f"a second handler for {int(key, 0):#x}; keep one")
            result[int(key, 0)] = node
        return result

    def _steps(self, parts: Parts, setups: tuple[Setup, ...]) -> tuple[Steps, tuple[StepExpected, ...]]:
        read = read_steps(parts.get("steps"), setups, self.notes)
        steps = replace(read, steps=tuple(map(self._keep, read.steps)))
        expected = tuple(map(self._keep, self._expectations(steps.nodes, steps)))
        check_placement(self.around.level, setups, steps, expected, self.notes)
        return steps, expected

    def _expectations(self, nodes: Sequence[Node], steps: Steps) -> tuple[StepExpected, ...]:
        return tuple(step_expected(entries(node).get("expect"), steps.label, self.notes) for node in nodes)

    def _entry(self, parts: Parts, setups: Sequence[Setup], steps: Steps) -> Entry:
        node = parts.get("expect-entry")
        if node is None:
            return Entered()
        if len(setups) > 1:
            self.notes.add(node.key or node.mark, "`expect-entry` with several virtual processors; take one")
        for step, place in zip(steps.steps, steps.nodes, strict=True):
            if not happens_in_root(step.action):
                self.notes.add(place.mark, "a step of a guest that is not entered; take it away")
        return entry(node)

    def _after(self, parts: Parts, setups: Sequence[Setup]) -> tuple[After, ...]:
        by_vcpu = self._after_nodes(parts.get("after"), len(setups))
        for index, each in by_vcpu.items():
            pid = entries(each).get("pid")
            if pid and setups[index].posted is None:
                self.notes.add(pid.key or pid.mark, "no descriptor here; give the setup `posted`")
        return tuple(after(by_vcpu.get(index), self.notes) for index in range(len(setups)))

    def _after_nodes(self, node: Node | None, count: int) -> dict[int, Node]:
        """Return the final states by virtual processor; with several, the file keys them by number."""
        given = entries(node)
        keyed = {int(key): each for key, each in given.items() if key.isdigit()}
        if node and len(keyed) != len(given) and (keyed or count > 1):
            self.notes.add(
                node.key or node.mark, "several virtual processors; key all of `after` by their number"
            )
        for index in [index for index in keyed if index >= count]:
            each = keyed.pop(index)
            self.notes.add(each.key or each.mark, f"no virtual processor {index} in this case")
        return keyed if keyed or not node else {0: node}
