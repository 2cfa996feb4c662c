"""Which of the subjects that come with the suite are here."""

from __future__ import annotations

from collections.abc import Iterator

from backends import Identity, subjects
from runner.judging import subject_file
from runner.outcome import BackendBroken, Unsupported
from runner.rulebook import catalogue

Presence = Identity | Unsupported | BackendBroken


def shipped() -> Iterator[tuple[str, Presence]]:
    """Yield each subject's name and who it is, or why it does not run here."""
    rules = catalogue.load()
    for name in subject_file.shipped():
        said = subject_file.load(subject_file.find(name), rules)
        yield name, subjects.backend(said.kind, name, said.start).identity()


def words(presence: Presence) -> str:
    """Say in one line whether a subject is here."""
    match presence:
        case Identity():
            return f"present: {presence.version}"
        case Unsupported():
            return f"absent: {presence.reason}"
        case BackendBroken():
            return f"broken: {presence.reason}"
