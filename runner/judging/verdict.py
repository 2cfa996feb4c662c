"""The judgement: what a subject answered, against what a case expects.

A case claims something of all its points, so one counter-example refutes it whatever became of the
others: *does not conform* outranks *broken*, and both are named. Next come what hides an answer (*broken*,
*unsupported*), then what is an answer but counts neither way (*unsettled*, *known deviation*). Only a
case all of whose points were observed and are as expected *conforms*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, repeat
from typing import Protocol

from runner.judging import swept
from runner.judging.deviations import Deviation, excuse
from runner.judging.differences import Difference, differences, disagreements
from runner.judging.reentry import Below, explain
from runner.judging.step_mismatches import NothingToCompareError
from runner.outcome import Answer, BackendBroken, Observation, Unsupported
from runner.scenario import Case, Point


class Verdict(Enum):
    """The six words of a report, the weightiest first."""

    DOES_NOT_CONFORM = "does not conform"
    BROKEN = "broken"
    UNSUPPORTED = "unsupported"
    UNSETTLED = "unsettled"
    KNOWN_DEVIATION = "known deviation"
    CONFORMS = "conforms"


class Rule(Protocol):
    """What the judge needs of a rule: whether a subject that differs does not conform."""

    @property
    def settled(self) -> bool:
        """False where certainty is below high, or an open point only reports or records."""


class Catalogue(Protocol):
    """The rules by id."""

    def __getitem__(self, rule: str, /) -> Rule:
        """Return the rule with this id."""


@dataclass(frozen=True, slots=True)
class PointResult:
    """The verdict on one point, and what it rests on; what conforms keeps no answer, a sweep has many."""

    point: str
    verdict: Verdict
    answer: Answer | None = None
    reason: str = ""
    differences: tuple[Difference, ...] = ()
    deviations: tuple[Deviation, ...] = ()


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The verdict on a case with its first reason, and the results of its points in order."""

    verdict: Verdict
    reason: str
    points: tuple[PointResult, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All differences of all points."""
        return tuple(difference for point in self.points for difference in point.differences)

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """The announced deviations that points show, each once."""
        return tuple(dict.fromkeys(deviation for point in self.points for deviation in point.deviations))

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many points have each verdict that occurs, the weightiest first."""
        found = Counter(point.verdict for point in self.points)
        return {verdict: found[verdict] for verdict in Verdict if found[verdict]}


def judge(  # noqa: PLR0913 - the last is for few subjects
    case: Case,
    answers: Iterable[Answer],
    catalogue: Catalogue,
    deviations: Sequence[Deviation] = (),
    oracle: Iterable[Answer] = (),
    *,
    below: Below | None = None,
) -> CaseResult:
    """Judge the answers to a case's points, in order; a point without an answer is broken.

    *oracle* gives the expectations of a sweep: the reference model's answers to the same points. *below* is
    for a subject on which another hypervisor runs below the one that is asked about.
    """
    bench = _Bench(case, deviations, catalogue[case.rules[0]].settled, below)
    return _summed_up(
        tuple(
            bench.judge(point, answer, wanted)
            for point, answer, wanted in zip(
                case.points, chain(answers, repeat(NO_ANSWER)), chain(oracle, repeat(NO_ORACLE)), strict=False
            )
        )
    )


NO_ANSWER = BackendBroken("no answer: the run ended before this point")
NO_ORACLE = Unsupported("it did not run")


@dataclass(frozen=True, slots=True)
class _Bench:
    """What the points of one case are judged with."""

    case: Case
    known: Sequence[Deviation]
    settled: bool
    below: Below | None

    def judge(self, point: Point, answer: Answer, wanted: Answer) -> PointResult:
        """Judge one point; *wanted* is the reference model's answer, for a sweep."""
        match answer:
            case Unsupported(reason):
                return PointResult(point.id, Verdict.UNSUPPORTED, answer, reason)
            case BackendBroken(reason):
                return PointResult(point.id, Verdict.BROKEN, answer, reason)
        if wrong := _misshapen(point, answer):
            return PointResult(point.id, Verdict.BROKEN, answer, wrong)
        if point.expected.from_model:
            return self._swept(point, answer, wanted)
        try:
            found = differences(point.program, point.expected, answer)
        except NothingToCompareError as unknown:
            return PointResult(point.id, Verdict.BROKEN, answer, str(unknown))
        if not found:
            return _conforming(point)
        return self._explained(point, answer, found, excuse(self.case, point, answer, found, self.known))

    def _swept(self, point: Point, answer: Observation, wanted: Answer) -> PointResult:
        if not isinstance(wanted, Observation):
            verdict = Verdict.UNSUPPORTED if isinstance(wanted, Unsupported) else Verdict.BROKEN
            return PointResult(point.id, verdict, answer, f"the reference model: {wanted.reason}")
        found = disagreements(point.program, wanted, answer)
        if not found:
            return _conforming(point)
        speaking = [each for each in self.known if each.speaks_of(self.case, point)]
        announced = swept.excuse(point.program, wanted, answer, speaking)
        return self._explained(point, answer, found, announced)

    def _explained(
        self,
        point: Point,
        answer: Observation,
        found: tuple[Difference, ...],
        announced: tuple[Deviation, ...],
    ) -> PointResult:
        """Say what differences mean: announced, unsettled, or not conforming."""
        found = tuple(replace(difference, point=point.id) for difference in found)
        if announced:
            why = "; ".join(dict.fromkeys(deviation.why for deviation in announced))
            return PointResult(point.id, Verdict.KNOWN_DEVIATION, answer, why, found, announced)
        speaking = [each for each in self.known if each.speaks_of(self.case, point)]
        if explained := explain(point, answer, self.below, speaking):
            return PointResult(point.id, Verdict.KNOWN_DEVIATION, answer, explained[0], found, explained[1])
        verdict = Verdict.DOES_NOT_CONFORM if self.settled else Verdict.UNSETTLED
        return PointResult(point.id, verdict, answer, _one_line(found[0]), found)


def weightiest(runs: Sequence[CaseResult]) -> CaseResult:
    """Return the result of a case that ran several times: of each point the weightiest verdict."""
    points = zip(*(run.points for run in runs), strict=True)
    return _summed_up(tuple(min(each, key=lambda point: _WEIGHT[point.verdict]) for each in points))


def _conforming(point: Point) -> PointResult:
    return PointResult(point.id, Verdict.CONFORMS)


def _misshapen(point: Point, seen: Observation) -> str:
    """Return what an observation lacks that every subject can give; that is the kit's fault."""
    program = point.program
    wanted = (len(program.vcpus), len(program.steps), len(program.vcpus))
    got = (len(seen.entries), len(seen.steps), len(seen.finals))
    if wanted == got:
        return ""
    return f"an observation of {got} entries, steps and final states instead of {wanted}"


def _one_line(difference: Difference) -> str:
    return f"{difference.where}: expected {difference.expected}, observed {difference.observed}"


def _summed_up(points: tuple[PointResult, ...]) -> CaseResult:
    if not points:
        return CaseResult(Verdict.BROKEN, "the case has no points", points)
    first = min(points, key=lambda point: _WEIGHT[point.verdict])
    return CaseResult(first.verdict, first.reason, points)


_WEIGHT = {verdict: place for place, verdict in enumerate(Verdict)}
"""How far down `Verdict` a word stands: the least weighs most."""
