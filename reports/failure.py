"""What a reader of a failure needs: where, asked, expected, observed, the rule, how to run it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from textwrap import wrap

from reports.judged import Judged, tally
from runner.judging.verdict import PointResult, Verdict
from runner.outcome import BackendBroken
from runner.rulebook.rules import Catalogue
from runner.scenario import Case

MOST_POINTS = 3
"""Points of a case that are shown in full."""

WIDTH = 100

Reasons = Iterable[tuple[str, str, str]]
"""How the reference model comes to its answer: where in the program, a sentence, the rule it rests on."""


def explained(judged: Judged, catalogue: Catalogue, reasons: Reasons = ()) -> str:
    """Return the text of a failure: of what does not conform, or of what is broken."""
    case, result = judged.case, judged.result
    shown = [point for point in result.points if point.verdict is result.verdict]
    place = f"{judged.scenario.path}:{case.line}"
    lines = [f"{place}: {case.id} on {judged.subject}: {result.verdict.value}{tally(judged)}"]
    lines += [f"  {case.says}"]
    for point in shown[:MOST_POINTS]:
        lines += _point(case, point)
    if len(shown) > MOST_POINTS:
        lines += [f"  and {len(shown) - MOST_POINTS} more points: {', '.join(_few(shown[MOST_POINTS:]))}"]
    if result.verdict is not Verdict.BROKEN:
        lines += (line for words in rule_words(case, catalogue) for line in _wrapped(words))
        lines += _reasoning(reasons)
    return "\n".join([*lines, f"  run again: {judged.command}"])


def _point(case: Case, point: PointResult) -> Iterator[str]:
    if point.point:
        yield f"  at {point.point}"
    for each in point.differences:
        line = case.step_lines[each.step] if each.step is not None and each.step < len(case.step_lines) else 0
        yield f"  {each.where}{f' (line {line})' if line else ''}"
        yield f"    expected  {each.expected}"
        yield f"    observed  {each.observed}"
    if not point.differences:
        yield from _wrapped(point.reason)
    if isinstance(point.answer, BackendBroken) and point.answer.log:
        yield "  the machine said:"
        yield from (f"    {line}" for line in point.answer.log.splitlines()[-20:])


def rule_words(case: Case, catalogue: Catalogue) -> Iterator[str]:
    """Yield each rule of a case in words, with the SDM headings it comes from."""
    for name in case.rules:
        rule = catalogue[name]
        yield f"rule {name}: {' '.join(rule.says.split())} [SDM: {'; '.join(rule.section)}]"


def _reasoning(reasons: Reasons) -> Iterator[str]:
    for place, said in groupby(reasons, key=lambda reason: reason[0]):
        yield f"  the reference model, {place}:"
        for _, sentence, rule in said:
            yield from (f"  {line}" for line in _wrapped(f"{sentence} ({rule})"))


def _wrapped(text: str) -> Iterator[str]:
    yield from wrap(" ".join(text.split()), WIDTH, initial_indent="  ", subsequent_indent="    ")


def _few(points: Iterable[PointResult]) -> list[str]:
    names = [point.point for point in points]
    return [*names[:10], *(["…"] if len(names) > 10 else [])]
