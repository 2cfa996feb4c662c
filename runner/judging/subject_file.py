"""Subject files, `backends/subjects/*.yaml`: what a subject is, how it is started, where it deviates.

Strict YAML and a schema of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from runner.judging.deviation_words import deviations
from runner.judging.deviations import Deviation
from runner.language.loading import ROOT, SPECS
from runner.language.vary import names_in
from runner.reading.nodes import Map, Notes, plain, read
from runner.reading.problems import MalformedError, Problem, did_you_mean
from runner.reading.schema import Schema, borrowing
from runner.rulebook.rules import Catalogue

SHIPPED = ROOT / "backends" / "subjects"
FAULTY = ROOT / "backends" / "faulty" / "subject.yaml"
SCHEMA = ROOT / "backends" / "subject.schema.json"
LANGUAGE = SPECS / "scenario.schema.json"
OWN_AREAS = ("apic", "mode")
"""Areas of rules about the local APIC, which is a hypervisor's own: nothing below it shows there."""


class InvalidSubject(MalformedError):  # noqa: N818 - what the file is, not what went wrong here
    """A subject that cannot be tested, with everything that is wrong with its file."""


@dataclass(frozen=True, slots=True)
class SubjectFile:
    """What one file says, and its ``text``; ``levels`` is empty where all are meant."""

    name: str
    path: Path
    says: str
    kind: str
    start: Mapping[str, Any]
    deviations: tuple[Deviation, ...]
    text: str = ""
    needs: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    below: tuple[Deviation, ...] = ()
    boot_is_dear: bool = False
    re_enters: bool = False
    delivers_with_if_0: bool = False

    @property
    def is_shipped(self) -> bool:
        """Whether the subject comes with the suite, and can be asked for by its name."""
        return self.path.parent == SHIPPED or self.path == FAULTY

    def deviations_of(self, version: str, capabilities: Mapping[str, str]) -> tuple[Deviation, ...]:
        """Return the entries that speak of this version of the subject, with what it reports of itself."""
        return tuple(each for each in self.deviations if each.is_of(version, capabilities))

    def may_show(self, version: str, capabilities: Mapping[str, str]) -> tuple[Deviation, ...]:
        """Return those, and the entries of what runs below, by the version that *version* names of it."""
        below = (each for each in self.below if each.is_of(version, capabilities))
        return (*self.deviations_of(version, capabilities), *below)


def shipped() -> tuple[str, ...]:
    """Return the names of the subjects that come with the suite."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.yaml")))


def find(name: str) -> Path:
    """Return the file of a shipped subject, or the file that *name* itself is."""
    path = Path(name)
    if path.suffix == ".yaml" or path.name != name:
        return path
    known_files = {each.stem: each for each in SHIPPED.glob("**/*.yaml")}
    if name not in known_files:
        known = f"{did_you_mean(name, shipped())}; known are {', '.join(shipped())}"
        raise InvalidSubject([Problem("--backend", 1, 1, f"no subject `{name}`{known}")])
    return known_files[name]


def named(name: str, catalogue: Catalogue) -> SubjectFile:
    """Return the shipped subject of this name, the subject of a file, or a known-bad one, ``faulty:K02``."""
    kind, _, fault = name.partition(":")
    if kind != FAULTY.parent.name:
        return load(find(name), catalogue)
    if not fault:
        said = "`faulty` needs a fault: write faulty:RULE-ID, or faulty:K02 for a known bug"
        raise InvalidSubject([Problem("--backend", 1, 1, said)])
    return replace(load(FAULTY, catalogue), name=name, start={"fault": fault})


def distinct(subjects: Iterable[SubjectFile]) -> tuple[SubjectFile, ...]:
    """Return each subject once; `InvalidSubject` where two of them have one name."""
    found: dict[str, SubjectFile] = {}
    for each in subjects:
        other = found.setdefault(each.name, each)
        if other.path.resolve() != each.path.resolve():
            said = (
                f"two subjects are called `{each.name}`: {other.path} and this; give one a `name` of its own"
            )
            raise InvalidSubject([Problem(str(each.path), 1, 1, said)])
    return tuple(found.values())


def is_subject(path: Path) -> bool:
    """Whether a file says what kind of subject it is, as no scenario does."""
    try:
        return re.search(rb"^kind\s*:", path.read_bytes(), re.MULTILINE) is not None
    except OSError:
        return False


def load(path: Path, catalogue: Catalogue) -> SubjectFile:
    """Read one file; `InvalidSubject` has everything that is wrong with it."""
    file = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidSubject([Problem(file, 1, 1, f"cannot be read: {error.strerror}")]) from error
    notes = Notes(file)
    top = read(data, notes)
    if top is not None and not notes.problems:
        _schema().check(top, notes)
        for name, mark in names_in(top).items():
            notes.add(mark, f"`{name}`: nothing varies in a subject file")
    known = () if notes.problems else tuple(deviations(top, catalogue, notes))
    if notes.problems or not isinstance(top, Map):
        raise InvalidSubject(notes.problems)
    said: dict[str, Any] = plain(top)
    if "deviations-of" in said:
        known += load(find(said["deviations-of"]), catalogue).deviations
    return SubjectFile(
        said.get("name", path.stem),
        path,
        said["says"],
        said["kind"],
        {key: _beside(each, path.parent) for key, each in said.get("start", {}).items()},
        known,
        text=data.decode("utf-8"),
        needs=tuple(_beside(said.get("needs", []), path.parent)),
        levels=tuple(said.get("levels", [])),
        below=tuple(_showing_through(said, catalogue)),
        boot_is_dear=said.get("boot") == "dear",
        re_enters=said.get("re-enters-anywhere", False),
        delivers_with_if_0=said.get("delivers-with-if-0", False),
    )


def _showing_through(said: Mapping[str, Any], catalogue: Catalogue) -> Iterator[Deviation]:
    below = load(find(said["below"]), catalogue).deviations if "below" in said else ()
    for each in below:
        if any(rule.partition(".")[0] not in OWN_AREAS for rule in each.rules):
            yield each


def _beside(said: Any, folder: Path) -> Any:
    """Return the words of a list as they are meant: paths that begin with a dot stand beside the file."""
    if not isinstance(said, list):
        return said
    here = str(folder.resolve())
    words = [str(word).replace("{here}", here) for word in said]
    return [str(Path(here, word)) if word.startswith(("./", "../")) else word for word in words]


@cache
def _schema() -> Schema:
    """Return the schema with the definitions of the scenario language that it refers to."""
    return borrowing(SCHEMA, LANGUAGE)
