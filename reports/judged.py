"""What all reports speak of: one case on one subject, judged."""

from __future__ import annotations

from dataclasses import dataclass

from runner.judging.verdict import CaseResult
from runner.scenario import Case, Scenario


@dataclass(frozen=True, slots=True)
class Judged:
    """A case of a scenario, the name of a subject, and the result.

    ``file`` is that of a subject which does not come with the suite.
    """

    scenario: Scenario
    case: Case
    subject: str
    result: CaseResult
    file: str = ""

    @property
    def id(self) -> str:
        """``specs/vmx/rdmsr/apic-id.yaml::own-page``."""
        return self.scenario.case_id(self.case)

    @property
    def command(self) -> str:
        """The command that runs just this case on this subject."""
        return f"pytest '{self.id}[{self.subject}]' --backend {self.file or self.subject}"


def tally(judged: Judged) -> str:
    """Return `` (256 points: 3 unsupported, 253 conforms)`` where a case has several."""
    counts = judged.result.counts
    if sum(counts.values()) < 2:
        return ""
    said = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    return f" ({sum(counts.values())} points: {said})"
