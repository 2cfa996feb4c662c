"""From a case and one value for each ``$name`` to a frozen `Point`: a program, and what it must show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runner.expectations import after, entry, step_expected
from runner.layers import Layers
from runner.nodes import Map, Node, Notes
from runner.outcome import Entered, Entry
from runner.pages import happens_in_root
from runner.placement import check_handler, check_placement, check_setup_pages
from runner.program import Handler, Level, Program, Setup
from runner.scenario import After, Expected, Point, StepExpected
from runner.setups import NamedSetups, setup
from runner.steps import Steps, read_handler, read_steps
from runner.values import entries, items
from runner.vary import Filling, Values, point_values

FILLED = ("setup", "vcpus", "steps", "after", "expect-entry")
"""The parts of a case in which ``$name`` stands for a value."""

HandlersExpected = tuple[tuple[int, tuple[StepExpected, ...]], ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the cases of a file share: its level, its setup, the named setups."""

    level: Level
    setup: Node | None
    named: NamedSetups


class PointReader:
    """Reads the points of one case; what stays the same from point to point is read once."""

    def __init__(self, case: Map, around: Surroundings, notes: Notes) -> None:
        """Take a case that has passed the schema."""
        self.case = case
        self.around = around
        self.notes = notes
        self.from_model = "expect" in case.nodes
        self.step_lines: tuple[int, ...] = ()
        self._filling = Filling(notes)
        self._setups: dict[tuple[int, ...], tuple[Setup, HandlersExpected]] = {}
        self._steps: dict[tuple[int, ...], tuple[Steps, tuple[StepExpected, ...]]] = {}

    def point(self, values: Values) -> Point:
        """Return one point."""
        given = self.case.nodes
        parts = {name: self._filling(given[name], values) for name in FILLED if name in given}
        read = self._read_setups(parts)
        setups = tuple(each for each, _ in read)
        steps, expected = self._read_steps(parts.get("steps"), setups)
        self.step_lines = tuple(node.mark.line for node in steps.nodes)
        return Point(
            values=point_values(values),
            program=Program(self.around.level, setups, steps.steps),
            expected=Expected(
                entry=self._entry(parts.get("expect-entry"), setups, steps),
                steps=expected,
                after=self._after(parts.get("after"), setups),
                handlers=tuple(handlers for _, handlers in read),
                from_model=self.from_model,
            ),
        )

    def _read_setups(self, parts: Mapping[str, Node]) -> list[tuple[Setup, HandlersExpected]]:
        own = list(self._vcpus(parts["vcpus"])) if "vcpus" in parts else [None]
        result = []
        for each in own:
            layers = Layers.of([self.around.setup, parts.get("setup"), each])
            key = tuple(id(level) for level in layers.levels)
            if key not in self._setups:
                handlers, expected = self._handlers(layers.inner("handlers"))
                self._setups[key] = setup(layers, self.around.named, handlers, self.notes), expected
            result.append(self._setups[key])
            mark = layers.levels[-1].mark if layers.levels else self.case.mark
            check_setup_pages(result[-1][0], len(own), mark, self.notes)
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
            steps.append((vector, read_handler(node, self.notes)))
            expected.append((vector, self._expectations(items(node), Steps())))
            check_handler(steps[-1][1], node, expected[-1][1], self.notes)
        return tuple(steps), tuple(expected)

    def _vectors(self, level: Map) -> dict[int, Node]:
        result: dict[int, Node] = {}
        for key, node in level.nodes.items():
            if key == "eoi":
                continue
            if int(key, 16) in result:
                self.notes.add(node.key or node.mark, f"a second handler for {int(key, 16):#x}; keep one")
            result[int(key, 16)] = node
        return result

    def _read_steps(
        self, node: Node | None, setups: tuple[Setup, ...]
    ) -> tuple[Steps, tuple[StepExpected, ...]]:
        key = id(node), *(id(each) for each in setups)
        if key not in self._steps:
            steps = read_steps(node, setups, self.notes)
            expected = self._expectations(steps.nodes, steps)
            check_placement(self.around.level, setups, steps, expected, self.notes)
            self._steps[key] = steps, expected
        return self._steps[key]

    def _expectations(self, nodes: Sequence[Node], steps: Steps) -> tuple[StepExpected, ...]:
        return tuple(step_expected(entries(node).get("expect"), steps.label, self.notes) for node in nodes)

    def _entry(self, node: Node | None, setups: Sequence[Setup], steps: Steps) -> Entry:
        if node is None:
            return Entered()
        if len(setups) > 1:
            self.notes.add(node.key or node.mark, "`expect-entry` with several virtual processors; take one")
        for step, place in zip(steps.steps, steps.nodes, strict=True):
            if not happens_in_root(step.action):
                self.notes.add(place.mark, "a step of a guest that is not entered; take it away")
        return entry(node)

    def _after(self, node: Node | None, setups: Sequence[Setup]) -> tuple[After, ...]:
        by_vcpu = self._after_nodes(node, len(setups))
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
