"""Scenario files: from YAML to frozen `Scenario`s, or everything that is wrong with them at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from runner.language import compiled
from runner.language.cases import check_file_setup, read_case
from runner.language.points import Surroundings
from runner.language.prose import check_prose
from runner.language.setups import NamedSetups
from runner.language.values import items, word
from runner.program import Level
from runner.reading.nodes import Map, Mark, Node, Notes, read
from runner.reading.problems import MalformedError, Problem
from runner.reading.schema import Schema
from runner.rulebook import catalogue
from runner.rulebook.rules import Catalogue
from runner.scenario import Case, Scenario

ROOT = Path(__file__).resolve().parents[2]
SPECS = ROOT / "specs"

NIGHTLY = SPECS / "sweeps" / "nightly"
"""Sweeps too large for every run: collected only where a path names this folder or a file in it."""

COLLECTED = ("vmx/*/*.yaml", "guest/*/*.yaml", "sweeps/*.yaml", "found/*.yaml")
"""Where scenario files stand, under specs."""

SWEEPS = "specs/sweeps/"
"""Where the reference model says what is right, and nowhere else under specs."""


class InvalidScenario(MalformedError):  # noqa: N818 - what the file is, not what went wrong here
    """Files that run nothing; ``problems`` has file, line, column and message of each mistake."""

    @property
    def messages(self) -> tuple[str, ...]:
        """``specs/vmx/rdmsr/x.yaml:12:3: unknown key `exitt` in an expectation``, in file order."""
        return tuple(str(problem) for problem in self.problems)


def scenario_files(paths: Iterable[Path] = (SPECS,)) -> list[Path]:
    """Return the scenario files under *paths*, each once; a path that is a file is itself."""
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(sorted(_collected(path)) if path.is_dir() else [path]))
    return list(found)


def _collected(folder: Path) -> Iterator[Path]:
    """Yield a folder's scenario files: under specs those of the four places, elsewhere every YAML file."""
    if not folder.resolve().is_relative_to(SPECS) and not SPECS.is_relative_to(folder.resolve()):
        yield from folder.glob("**/*.yaml")
    named = (*COLLECTED, "sweeps/nightly/*.yaml") if folder.resolve() == NIGHTLY else COLLECTED
    for pattern in named:
        yield from (path for path in SPECS.glob(pattern) if path.is_relative_to(folder.resolve()))


def leads_to_specs(path: Path) -> bool:
    """Whether an absolute path lies under specs, or above."""
    return path.is_relative_to(SPECS) or SPECS.is_relative_to(path)


def is_nightly(path: Path) -> bool:
    """Whether an absolute path names the sweeps of the night, or one of their files."""
    return path.is_relative_to(NIGHTLY)


def stray_files(paths: Iterable[Path]) -> list[Path]:
    """Return the YAML files under *paths* that look like scenario files and stand where none is collected."""
    folders = [path.resolve() for path in paths if path.is_dir()]
    collected = {path for pattern in COLLECTED for path in SPECS.glob(pattern)} | {*NIGHTLY.glob("*.yaml")}
    kept = {folder.partition("/")[0] for folder in COLLECTED}
    suspects = sorted(path for folder in kept for path in (SPECS / folder).glob("**/*.y*ml"))
    return [
        path.relative_to(ROOT)
        for path in suspects
        if path not in collected and any(path.is_relative_to(folder) for folder in folders)
    ]


def load_all(paths: Iterable[Path]) -> tuple[Scenario, ...]:
    """Return the scenarios of these files; `InvalidScenario` has the mistakes of all of them."""
    scenarios: list[Scenario] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            scenarios.append(load(path))
        except InvalidScenario as invalid:
            problems += invalid.problems
    if problems:
        raise InvalidScenario(problems)
    return tuple(scenarios)


def load(path: Path) -> Scenario:
    """Return the scenario of one file; `InvalidScenario` has everything that is wrong with it."""
    name = _name(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidScenario([Problem(name, 1, 1, f"cannot be read: {error.strerror}")]) from error
    scenario = compiled.fetch(name, data)
    if scenario is None:
        scenario = parse(data, name)
        compiled.store(name, data, scenario)
    return scenario


def parse(data: bytes, name: str) -> Scenario:
    """Return the scenario in *data*; *name* is the path that messages give."""
    notes = Notes(name)
    top = read(data, notes)
    if top is not None:
        scenario_schema().check(top, notes)
    scenario = _scenario(top, notes) if isinstance(top, Map) else None
    if scenario is None or notes.problems:
        raise InvalidScenario(notes.problems)
    return scenario


def _scenario(top: Map, notes: Notes) -> Scenario | None:
    """Return the scenario; parts without a mistake so far are read on, to find all mistakes at once."""
    parts = list(_parts(top))
    broken = [_part_of(Mark(each.line, each.column), parts) for each in notes.problems]
    nodes = [node for node in items(top.nodes.get("cases")) if isinstance(node, Map) and node not in broken]
    if any(part not in items(top.nodes.get("cases")) for part in broken):
        return None
    title, level, setup = top.nodes["title"], Level(word(top.nodes["level"])), top.nodes.get("setup")
    _check_folder(top.nodes["level"], notes)
    check_prose(title, nodes, notes)
    if not check_file_setup(setup, level, notes):
        return None
    around = Surroundings(level, setup, named_setups())
    cases = [_case(node, around, notes) for node in nodes]
    return Scenario(notes.file, word(title), level, tuple(case for case in cases if case))


def _check_folder(level: Node, notes: Notes) -> None:
    """Note a level other than that of the folder in which the file stands."""
    for other in Level:
        if notes.file.startswith(f"specs/{other.value}/") and word(level) != other.value:
            notes.add(
                level.mark, f"level {word(level)} in specs/{other.value}; move the file, or change the level"
            )


def _parts(top: Map) -> Iterator[Node]:
    """Yield the values of a file's keys in file order, and each case in place of all cases."""
    for key, node in top.nodes.items():
        yield from items(node) if key == "cases" else [node]


def _part_of(mark: Mark, parts: Sequence[Node]) -> Node | None:
    """Return the part in which a position lies."""
    before = [part for part in parts if (part.key or part.mark) <= mark]
    return max(before, key=lambda part: part.key or part.mark, default=None)


def _case(node: Map, around: Surroundings, notes: Notes) -> Case | None:
    """Return a case; ``None`` where something is noted."""
    before = len(notes.problems)
    for rule in items(node.nodes["rules"]):
        if word(rule) not in rules():
            notes.add(rule.mark, rules().unknown(word(rule)))
    model = node.nodes.get("expect")
    if notes.file.startswith(SWEEPS) and model is None:
        notes.add(node.mark, "a sweep without `expect: model`; write it, or put the file into specs/vmx")
    if notes.file.startswith("specs/") and not notes.file.startswith(SWEEPS) and model:
        notes.add(model.key or model.mark, "`expect: model` outside specs/sweeps; say what the SDM says")
    case = read_case(node, around, scenario_schema(), notes)
    return case if len(notes.problems) == before else None


def _name(path: Path) -> str:
    """Return the path as reports print it: from the project's root where it lies there."""
    whole = path.resolve()
    return (whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else path).as_posix()


@cache
def scenario_schema() -> Schema:
    """Return the compiled specs/scenario.schema.json."""
    return Schema(json.loads((SPECS / "scenario.schema.json").read_text(encoding="utf-8")))


@cache
def named_setups() -> NamedSetups:
    """Return specs/setups.yaml; `MalformedError` has everything that is wrong with it."""
    notes = Notes("specs/setups.yaml")
    top = read((SPECS / "setups.yaml").read_bytes(), notes)
    if top is not None:
        scenario_schema().check(top, notes, "#/$defs/setups")
    if notes.problems or not isinstance(top, Map):
        raise MalformedError(notes.problems)
    return NamedSetups({name: node for name, node in top.nodes.items() if isinstance(node, Map)})


@cache
def rules() -> Catalogue:
    """Return the catalogue of rules."""
    return catalogue.load(SPECS)
