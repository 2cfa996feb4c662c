"""The subjects of a run, who they are, and what judges each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from backends import Identity, subjects
from backends.model import Model
from backends.reentered import Below
from runner.judging import subject_file
from runner.judging.batch import Bench
from runner.judging.subject_file import SubjectFile
from runner.rulebook.rules import Catalogue


class Benches:
    """Subjects by name or file, each once; `InvalidSubject` where a name or a file is wrong.

    ``identities`` has version and capabilities of those that have been asked, by name.
    """

    def __init__(self, asked: Iterable[str], rules: Catalogue) -> None:
        said = [subject_file.named(name, rules) for name in asked]
        self.subjects = subject_file.distinct(said)
        self.identities: dict[str, dict[str, Any]] = {}
        self._rules = rules
        self._backends = {
            each.name: subjects.backend(each.kind, each.name, each.start, each.needs, each.levels)
            for each in self.subjects
        }
        self._benches: dict[str, Bench] = {}

    def bench(self, subject: SubjectFile) -> Bench:
        """Return what judges a subject; it is asked who it is at the first time."""
        if subject.name not in self._benches:
            self._benches[subject.name] = self._new_bench(subject)
        return self._benches[subject.name]

    def _new_bench(self, subject: SubjectFile) -> Bench:
        backend = self._backends[subject.name]
        oracle = None if subject.kind == "model" else Model().run
        who = backend.identity()
        if not isinstance(who, Identity):
            return Bench(lambda programs: repeat(who, len(programs)), oracle, self._rules, (), None)
        known = {"version": who.version, "capabilities": dict(who.capabilities)}
        self.identities[subject.name] = known
        deviations = subject.may_show(who.version, who.capabilities)
        below = Below(subject.delivers_with_if_0) if subject.re_enters else None
        return Bench(backend.run, oracle, self._rules, deviations, who.capabilities, below)
