"""One batch: cases that a subject runs together, judged one after the other as the answers come.

Whatever goes wrong on the way leaves *broken* for the cases without an answer, never a verdict.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

from runner.judging.deviations import Deviation, plainly
from runner.judging.reentry import Below
from runner.judging.verdict import CaseResult, Catalogue, judge, weightiest
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program
from runner.scenario import Case, Scenario

Run = Callable[[Sequence[Program]], Iterator[Answer]]
"""Yields one answer a program, in order."""

POINTS = 2500
"""Points of a batch, about: a boot costs as much as hundreds of them, and several processes share a run."""

TIMES = 3
"""How often a case runs of which a hypervisor below may show something else: each time it must be allowed."""

NO_ORACLE_FOR_ITSELF = Unsupported("not run: the reference model is the oracle and cannot confirm itself")


def together(scenarios: Iterable[Scenario]) -> dict[str, int]:
    """Return the number of the batch that each file belongs to, by its path; files come in order."""
    batch, room, found = 0, POINTS, dict[str, int]()
    for scenario in scenarios:
        points = sum(len(case.points) for case in scenario.cases)
        if points > room and room < POINTS:
            batch, room = batch + 1, POINTS
        room -= points
        found[scenario.path] = batch
    return found


@dataclass(frozen=True, slots=True)
class Bench:
    """What a subject is judged with.

    ``capabilities`` are its own, for what a case supposes (``when``); ``None``: it does not run here.
    ``below`` says what else may be observed on a subject with another hypervisor below it.
    """

    run: Run
    oracle: Run | None
    catalogue: Catalogue
    deviations: Sequence[Deviation]
    capabilities: Mapping[str, str] | None
    below: Below | None = None

    def results(self, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """Yield the result of each case, in order, from one run of the subject.

        Without an ``oracle`` the subject is the reference model itself.
        """
        hindrances = [self._hindrance(case) for case in cases]
        times = [
            0 if hindrance else self._times(case) for case, hindrance in zip(cases, hindrances, strict=True)
        ]
        programs = [
            point.program
            for case, count in zip(cases, times, strict=True)
            for _ in range(count)
            for point in case.points
        ]
        answers = _answers(self.run, programs)
        for case, hindrance, count in zip(cases, hindrances, times, strict=True):
            if hindrance is not None:
                yield self._judged(case, repeat(hindrance), iter(()))
            else:
                yield weightiest([self._once(case, answers) for _ in range(count)])

    def _times(self, case: Case) -> int:
        may_show = self.below.may_show if self.below else None
        return TIMES if may_show and any(may_show(point.program) for point in case.points) else 1

    def _once(self, case: Case, answers: Iterator[Answer]) -> CaseResult:
        return self._judged(case, islice(answers, len(case.points)), self._expected(case))

    def _judged(self, case: Case, answers: Iterable[Answer], oracle: Iterable[Answer]) -> CaseResult:
        return judge(case, answers, self.catalogue, self.deviations, oracle, below=self.below)

    def _hindrance(self, case: Case) -> Unsupported | None:
        """Return why a case does not run: it supposes something else, or it asks the oracle about itself."""
        known = self.capabilities
        for name, wanted in case.when:
            if known is None:
                break
            found = known.get(name)
            if found is None:
                return Unsupported(f"{name}: the subject does not say what it has")
            if plainly(found) != plainly(wanted):
                return Unsupported(f"{name}: the case supposes {wanted}, the subject has {found}")
        swept = any(point.expected.from_model for point in case.points)
        return NO_ORACLE_FOR_ITSELF if swept and self.oracle is None else None

    def _expected(self, case: Case) -> Iterator[Answer]:
        if self.oracle is None or not any(point.expected.from_model for point in case.points):
            return iter(())
        return _answers(self.oracle, [point.program for point in case.points])


def _answers(run: Run, programs: Sequence[Program]) -> Iterator[Answer]:
    """Yield an answer a program; those that a failing backend leaves out are broken."""
    given = 0
    failure = BackendBroken("the backend gave no more answers")
    try:
        for answer in islice(run(programs), len(programs)) if programs else ():
            given += 1
            yield answer
    except Exception as error:  # noqa: BLE001 - whatever it is, it says nothing about conformance
        failure = BackendBroken(f"the backend failed: {error!r}", traceback.format_exc())
    yield from repeat(failure, len(programs) - given)
