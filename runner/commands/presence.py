"""Which of the subjects that come with the suite are here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backends import Backend, Identity, subjects
from runner.judging import subject_file
from runner.judging.subject_file import SubjectFile
from runner.outcome import BackendBroken, Unsupported
from runner.rulebook import catalogue

Presence = Identity | Unsupported | BackendBroken


def shipped() -> Iterator[tuple[str, Presence]]:
    """Yield each subject's name and who it is, or why it does not run here."""
    return of(subject_file.shipped())


def cheap() -> Iterator[tuple[str, Presence]]:
    """Yield those of them that need not be named, since their boot is not dear."""
    names = subject_file.shipped()
    return of(name for name in names if name not in dear(names))


def dear(names: Iterable[str]) -> frozenset[str]:
    """Return which of these subjects have a dear boot."""
    rules = catalogue.load()
    return frozenset(name for name in names if subject_file.named(name, rules).boot_is_dear)


def of(names: Iterable[str]) -> Iterator[tuple[str, Presence]]:
    """Yield each of these subjects, by name or by file, and who it is, or why it does not run here.

    All files are read before any subject is asked; `MalformedError` where one is wrong.
    """
    rules = catalogue.load()
    files = [(name, subject_file.named(name, rules)) for name in names]
    for name, said in files:
        yield name, backend_of(said).identity()


def backend_of(said: SubjectFile) -> Backend:
    """Return the backend of a subject file."""
    return subjects.backend(said.kind, said.name, said.start, said.needs, said.levels)


def words(presence: Presence) -> str:
    """Say in one line whether a subject is here."""
    match presence:
        case Identity():
            return f"present: {presence.version}"
        case Unsupported():
            return f"absent: {presence.reason}"
        case BackendBroken():
            return f"broken: {presence.reason}"
