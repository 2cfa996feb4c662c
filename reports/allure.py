"""How one case on one subject appears in Allure: the only module that knows Allure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache

import allure

from reports.failure import rule_words
from runner import host
from runner.judging.verdict import CaseResult, PointResult, Verdict
from runner.outcome import BackendBroken
from runner.rulebook.rules import Catalogue
from runner.scenario import Case, Scenario

MOST_STEPS = 20
"""Points that differ and are shown as failed steps."""


MOST_ROWS = 200
"""Points that a case's table has; sweeps of thousands would fill a page."""

HERE = cache(host.here)


def describe(scenario: Scenario, case: Case, subject: str, catalogue: Catalogue) -> None:
    """Label the running test with its scenario, its rules and its subject."""
    rule = catalogue[case.rules[0]]
    allure.dynamic.title(case.says)
    # Without parameters all subjects and hosts of a case share one history, and all but one result vanish.
    allure.dynamic.parameter("backend", subject)
    allure.dynamic.parameter("host", HERE().name)
    for name, fact in HERE().facts().items():
        allure.dynamic.label(name, fact)
    allure.dynamic.label("backend", subject)
    allure.dynamic.parent_suite(subject)
    allure.dynamic.suite(scenario.path)
    allure.dynamic.epic(catalogue.areas[rule.area])
    allure.dynamic.feature(scenario.title)
    allure.dynamic.story(rule.id)
    allure.dynamic.description("\n\n".join(rule_words(case, catalogue)))
    for name in case.rules:
        allure.dynamic.label("rule", name)
        allure.dynamic.link(f"specs/rules.yaml#L{catalogue[name].line}", name=name)


def show(result: CaseResult, capabilities: Mapping[str, str]) -> None:
    """Attach the verdict: its label, the points of a `vary`, what differs, what the machine said.

    *capabilities* are the subject's; their hash tells its VMX from another's.
    """
    allure.dynamic.label("vmx", host.vmx_hash(capabilities) or host.UNKNOWN)
    allure.dynamic.label("verdict", result.verdict.value)
    allure.dynamic.tag(result.verdict.value)
    for deviation in result.deviations:
        allure.dynamic.issue(deviation.link, deviation.why)
    if len(result.points) > 1:
        allure.attach(points_table(result.points), "points", allure.attachment_type.CSV)
    differing = [point for point in result.points if point.differences]
    for point in differing[:MOST_STEPS]:
        _show_point(point)
    for log in dict.fromkeys(_logs(result.points)):
        allure.attach(log, "machine log", allure.attachment_type.TEXT)


def points_table(points: Sequence[PointResult]) -> str:
    """Return a case's points as CSV; of very many those that do not conform first, and how many more."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("point", "verdict", "reason", "where", "expected", "observed"))
    shown = points
    if len(points) > MOST_ROWS:
        shown = sorted(points, key=lambda point: point.verdict is Verdict.CONFORMS)[:MOST_ROWS]
    for point in shown:
        first = point.differences[0] if point.differences else None
        more = (first.where, first.expected, first.observed) if first else ("", "", "")
        rows.writerow((point.point, point.verdict.value, point.reason, *more))
    if len(points) > len(shown):
        rows.writerow((f"and {len(points) - len(shown)} more",))
    return text.getvalue()


def _show_point(point: PointResult) -> None:
    """Add one step for a point and one inside for each difference, failed if nothing excuses them."""
    with suppress(_FailedStepError), allure.step(point.point or "differences"):
        for each in point.differences:
            with allure.step(f"{each.where}: expected {each.expected}, observed {each.observed}"):
                pass
        if point.verdict is Verdict.DOES_NOT_CONFORM:
            raise _FailedStepError


class _FailedStepError(AssertionError):
    """Marks a step failed; Allure has no other way."""


def _logs(points: Iterable[PointResult]) -> Iterable[str]:
    return (p.answer.log for p in points if isinstance(p.answer, BackendBroken) and p.answer.log)
