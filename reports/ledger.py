"""What a run found, gathered from all its processes: a record for every case that was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports import summary
from reports.judged import Judged
from runner.judging.subject_file import SubjectFile
from runner.language.loading import ROOT
from runner.scenario import Scenario


def packed(judged: Judged, known: summary.Record) -> str:
    """Return what a process sends of one case; *known* is new about the subject, perhaps nothing."""
    return json.dumps({**summary.record(judged), "known": known})


class Ledger:
    """Records by test id, ``FILE::case[subject]``; a case that was asked for and left none is broken."""

    def __init__(self, subjects: Sequence[SubjectFile], scenarios: Sequence[Scenario]) -> None:
        """Take all subjects of the run and all scenarios there are."""
        self.subjects, self.scenarios = subjects, scenarios
        self.asked: set[str] = set()
        self._records: dict[str, summary.Record] = {}
        self._known: dict[str, summary.Record] = {each.name: _said(each) for each in subjects}

    def take(self, node: str, sent: str) -> None:
        """Note what a process sent; of a case that was broken before, nothing."""
        record = json.loads(sent)
        self._known[record["subject"]].update(record.pop("known"))
        self._records.setdefault(node, record)

    def lose(self, node: str, reason: str) -> None:
        """Note that a case is broken: its process died."""
        self._records[node] = summary.without_record(node, reason, self.scenarios)

    def summary(self) -> summary.Summary:
        """Sum up: count verdicts, and say which deviations are announced in vain."""
        for node in sorted(self.asked - self._records.keys()):
            self.lose(node, "the run ended before this case")
        for subject in self.subjects:
            known = self._known[subject.name]
            known["announced in vain"] = self._in_vain(subject, known)
        return summary.of_this_run() | summary.summarize(self._records.values(), self._known)

    def _in_vain(self, subject: SubjectFile, known: Mapping[str, Any]) -> Iterable[str]:
        own = [record for record in self._records.values() if record["subject"] == subject.name]
        speaking = subject.deviations_of(known.get("version", ""), known.get("capabilities", {}))
        return summary.in_vain(speaking, self.scenarios, own)


def announces_in_vain(found: summary.Summary) -> bool:
    """Whether some subject announces a deviation that no case shows."""
    return any(subject["announced in vain"] for subject in found["subjects"].values())


def _said(subject: SubjectFile) -> summary.Record:
    """Return what is known of a subject before it is asked; with the text of a file that is the user's."""
    if subject.is_shipped:
        return {"says": subject.says, "file": subject.path.relative_to(ROOT).as_posix()}
    return {"says": subject.says, "file": str(subject.path), "source": subject.text}
