"""``python -m runner coverage``: the rules by area, who tests them, and why some are not tested.

Of each rule: how many cases ask about it, how many rest on it, the subjects that ran them, and how many
known-bad subjects its cases convict. A rule of behaviour, or a fact, with neither a case nor a written
reason is an error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from reports import summary
from runner.judging.verdict import Verdict
from runner.language.loading import ROOT, SPECS, load_all, rules, scenario_files
from runner.reading.problems import MalformedError
from runner.rulebook import uncovered
from runner.rulebook.citations import citations
from runner.rulebook.rules import Catalogue, Rule
from runner.scenario import Scenario

LACKING, REFUSED = 1, 2
"""Exit statuses: a rule has neither case nor reason; a file is wrong."""

RAN = frozenset(each.value for each in Verdict) - {Verdict.UNSUPPORTED.value, Verdict.BROKEN.value}
CONSTRAINT = "a constraint on those who write scenarios; no subject shows it"


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one rule; ``ran`` are names of subjects, ``convicted`` ids of faults."""

    rule: Rule
    asks: int
    rests: int
    ran: tuple[str, ...]
    convicted: tuple[str, ...]
    reason: str

    @property
    def lacks(self) -> bool:
        """Whether the rule has neither a case nor a reason, and needs one."""
        return not self.rests and not self.reason


def main(arguments: Sequence[str]) -> int:
    """Print the rules, and return 1 where one has neither a case nor a reason."""
    parser = argparse.ArgumentParser(prog="python -m runner coverage", description=__doc__)
    parser.add_argument("-q", "--quiet", action="store_true", help="print what lacks and the counts alone")
    parser.add_argument("--summary", type=Path, default=ROOT / "reports" / "summary.json", metavar="FILE")
    parser.add_argument("--convicted", type=Path, default=ROOT / "reports" / "convicted.json", metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        scenarios = load_all(scenario_files())
        found = rows(rules(), scenarios, _ran(options.summary), _convicted(options.convicted))
    except MalformedError as malformed:
        print(malformed)
        return REFUSED
    if not options.quiet:
        print(*_table(found, rules()), sep="\n")
        for unknown in _absent(options.summary, options.convicted):
            print(unknown)
    print(*_lacking(found), _counts(found), sep="\n")
    return LACKING if any(row.lacks for row in found) else 0


def rows(
    catalogue: Catalogue,
    scenarios: Sequence[Scenario],
    ran: Mapping[str, Sequence[str]],
    convicted: Mapping[str, Sequence[str]],
    specs: Path = SPECS,
) -> tuple[Row, ...]:
    """Return a row for each rule in reading order; *ran* and *convicted* are by rule, or alias of one."""
    cited = citations(catalogue, scenarios)
    reasons = uncovered.load(catalogue, {rule for rule, cases in cited.items() if cases}, specs)
    subjects, faults = _resolved(ran, catalogue), _resolved(convicted, catalogue)
    return tuple(
        Row(
            rule,
            asks=sum(each.asks for each in cited[rule.id]),
            rests=len(cited[rule.id]),
            ran=subjects.get(rule.id, ()),
            convicted=faults.get(rule.id, ()),
            reason=reasons.get(rule.id, CONSTRAINT if rule.kind == "constraint" else ""),
        )
        for rule in catalogue
    )


def _resolved(names: Mapping[str, Sequence[str]], catalogue: Catalogue) -> Mapping[str, tuple[str, ...]]:
    """Return the same by rule, where some are by an alias."""
    found: dict[str, tuple[str, ...]] = {}
    for rule, each in names.items():
        known = catalogue.resolve(rule)
        found[known] = tuple(dict.fromkeys((*found.get(known, ()), *each)))
    return found


def _ran(path: Path) -> Mapping[str, Sequence[str]]:
    """Return the subjects that ran cases of each rule in the run that this summary sums up."""
    found: dict[str, list[str]] = {}
    if path.exists():
        for subject, said in summary.load(path)["subjects"].items():
            for rule, verdicts in said.get("rules", {}).items():
                if RAN & verdicts.keys():
                    found.setdefault(rule, []).append(subject)
    return found


def _convicted(path: Path) -> Mapping[str, Sequence[str]]:
    """Return the known-bad subjects of each rule that a case convicts, as ``runner convict`` wrote them."""
    found: dict[str, list[str]] = {}
    if path.exists():
        for name, said in json.loads(path.read_text(encoding="utf-8"))["faults"].items():
            if said["by"]:
                found.setdefault(said["rule"], []).append(name)
    return found


def _table(found: Sequence[Row], catalogue: Catalogue) -> Iterator[str]:
    width = max(len(row.rule.id) for row in found)
    for area, own in groupby(found, key=lambda row: row.rule.area):
        yield f"{area}: {catalogue.areas[area]}"
        yield f"  {'rule':{width}}  asks  rests  known-bad  subjects"
        for row in own:
            yield from _line(row, width)
        yield ""


def _line(row: Row, width: int) -> Iterator[str]:
    if row.rests:
        ran = ", ".join(row.ran) or "-"
        yield f"  {row.rule.id:{width}}  {row.asks:4}  {row.rests:5}  {len(row.convicted):9}  {ran}"
    else:
        yield f"  {row.rule.id:{width}}  no case{'' if row.reason else ' and NO REASON'}"
        yield from wrap(row.reason, 108, initial_indent="    ", subsequent_indent="    ")


def _absent(summarized: Path, convicted: Path) -> Iterator[str]:
    if not summarized.exists():
        yield "nothing is known of runs on subjects: `python -m runner certify` notes them"
    if not convicted.exists():
        yield "nothing is known of known-bad subjects: `python -m runner convict` notes them"


def _lacking(found: Sequence[Row]) -> Iterator[str]:
    for row in found:
        if row.lacks:
            yield f"{row.rule.id}: neither a case nor a reason in {uncovered.FILE}: {row.rule.says}"


def _counts(found: Sequence[Row]) -> str:
    with_cases = sum(row.rests > 0 for row in found)
    explained = sum(not row.rests and not row.lacks for row in found)
    lacking = sum(row.lacks for row in found)
    return f"{len(found)} rules: {with_cases} with cases, {explained} with a reason, {lacking} with neither"
