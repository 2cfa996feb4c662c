"""``python -m runner convict [FAULT…]``: whether the scenarios notice each known-bad subject.

A fault is convicted by a case that cites the broken rule, expects what the SDM says, and differs on the
model with the fault where it does not on the model itself.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context

from backends import Backend, Identity
from backends.faulty import named
from backends.faulty.faults import Fault, MisplacedError, fault, faults
from backends.model import Model
from runner.judging.batch import Bench
from runner.judging.verdict import CaseResult, Verdict
from runner.language.loading import ROOT, load_all, rules, scenario_files
from runner.reading.problems import MalformedError
from runner.scenario import Case

NOTED = ROOT / "reports" / "convicted.json"
"""What a complete run writes."""

REFUSED = 2
"""Exit status where a fault is unknown."""

NOTICED = frozenset({Verdict.DOES_NOT_CONFORM, Verdict.UNSETTLED})
"""Verdicts of a case that has seen a difference."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one fault.

    ``by`` is the case that convicts it, empty where none does; ``elsewhere`` one that notices it and does
    not cite the rule; ``reason`` why the subject cannot be tried.
    """

    fault: Fault
    by: str = ""
    elsewhere: str = ""
    reason: str = ""

    @property
    def survives(self) -> bool:
        """Whether what became of it is not what its file says."""
        return bool(self.by) == bool(self.fault.equivalent)

    def words(self) -> str:
        """Return one line of the report."""
        name = self.fault.id
        if self.by:
            unexpected = ", although its file calls it equivalent" if self.fault.equivalent else ""
            return f"{name}: convicted by {self.by}{unexpected}"
        if self.fault.equivalent:
            return f"{name}: cannot be convicted: {self.fault.equivalent}"
        if self.reason:
            return f"{name}: SURVIVES: {self.reason}"
        noticed = f"; noticed by {self.elsewhere}, which does not cite {self.fault.rule}"
        return f"{name}: SURVIVES: {self.fault.wrong}{noticed if self.elsewhere else ''}"


def main(arguments: Sequence[str]) -> int:
    """Try every fault, or those named; return 1 where one survives, 2 where there is no such fault."""
    parser = argparse.ArgumentParser(prog="python -m runner convict", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="RULE-ID, RULE-ID/2 or a known bug, K02")
    parser.add_argument("-q", "--quiet", action="store_true", help="print survivors and counts alone")
    options = parser.parse_args(arguments)
    try:
        asked = [fault(name).id for name in options.faults] or list(faults())
    except MalformedError as unknown:
        print(unknown)
        return REFUSED
    started, tried = time.monotonic(), []
    for trial in trials(asked):
        tried.append(trial)
        if trial.survives or not options.quiet:
            print(trial.words(), flush=True)
    if not options.faults:
        _note(tried)
        for line in _without_fault():
            print(line)
    survivors = sum(trial.survives for trial in tried)
    print(f"{len(tried)} faults, {survivors} survive; {time.monotonic() - started:.0f} s")
    return 1 if survivors else 0


def _note(tried: Iterable[Trial]) -> None:
    """Write what became of every fault, for ``runner coverage``."""
    found = {trial.fault.id: {"rule": trial.fault.rule, "by": trial.by} for trial in tried}
    NOTED.parent.mkdir(exist_ok=True)
    NOTED.write_text(json.dumps({"faults": found}, indent=1) + "\n", encoding="utf-8")


def trials(names: Sequence[str]) -> Iterator[Trial]:
    """Yield what became of each fault, in order; a process on each processor works on them."""
    docket()  # what the workers inherit
    workers = min(len(os.sched_getaffinity(0)), len(names))
    if workers < 2:
        yield from map(trial_of, names)
        return
    with ProcessPoolExecutor(workers, get_context("fork")) as pool:
        yield from pool.map(trial_of, names, chunksize=4)


def trial_of(name: str) -> Trial:
    """Try one fault: on the cases that cite its rule, and where they see nothing on all others."""
    wrong = fault(name)
    try:
        subject = named(name)
    except (MisplacedError, SyntaxError) as error:
        return Trial(wrong, reason=str(error))
    citing = docket().get(rules().resolve(wrong.rule), {})
    by = _noticing(subject, citing)
    if by or wrong.equivalent:
        return Trial(wrong, by)
    every = {place: case for cases in docket().values() for place, case in cases.items()}
    return Trial(wrong, elsewhere=_noticing(subject, every))


@cache
def docket() -> Mapping[str, Mapping[str, Case]]:
    """Return the cases that cite each rule, by id; without those whose expectation is the model's."""
    found: dict[str, dict[str, Case]] = {rule.id: {} for rule in rules()}
    for scenario in load_all(scenario_files()):
        for case in scenario.cases:
            if not any(point.expected.from_model for point in case.points):
                for rule in case.rules:
                    found[rules().resolve(rule)][scenario.case_id(case)] = case
    return found


def _noticing(subject: Backend, cases: Mapping[str, Case]) -> str:
    """Return the first case that differs on the subject and does not on the model."""
    results = _judged(subject, cases.values())
    for (place, case), result in zip(cases.items(), results, strict=True):
        if result.verdict in NOTICED and not _differs_on_the_model(case):
            return place
    return ""


def _judged(subject: Backend, cases: Iterable[Case]) -> Iterator[CaseResult]:
    who = subject.identity()
    bench = Bench(subject.run, None, rules(), (), who.capabilities if isinstance(who, Identity) else None)
    for case in cases:
        yield from bench.results([case])


def _differs_on_the_model(case: Case) -> bool:
    return next(_judged(Model(), [case])).verdict in NOTICED


def _without_fault() -> Iterator[str]:
    """Yield a line for each rule of behaviour that no fault breaks."""
    broken = {rules().resolve(each.rule) for each in faults().values()}
    for rule in rules():
        if rule.kind == "behaviour" and rule.id not in broken:
            cases = len(docket()[rule.id])
            yield f"{rule.id}: no fault{'' if cases else ' and no case'}"
