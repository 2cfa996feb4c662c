"""``python -m runner coverage`` and the reasons why rules have no case."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from spoken import case

from reports import summary
from runner.commands import coverage
from runner.commands.coverage import Row, rows
from runner.language.loading import SPECS
from runner.program import Level
from runner.reading.problems import MalformedError
from runner.rulebook import catalogue, uncovered
from runner.rulebook.rules import Catalogue
from runner.scenario import Scenario

ALL = catalogue.load()
READ, STALE, CONSTRAINT = (
    "rdmsr.register-virtualization",
    "page.never-initialized",
    "entry.checks-in-any-order",
)
REASON = "Nobody can see what becomes of it."


def of_rules(*names: str) -> Catalogue:
    """Return the catalogue with these rules alone."""
    return replace(ALL, rules=MappingProxyType({name: ALL[name] for name in names}))


def scenario(*rules: Sequence[str]) -> Scenario:
    cases = [replace(case(), id=f"case-{n}", rules=tuple(each)) for n, each in enumerate(rules)]
    return Scenario("specs/vmx/x/y.yaml", "A title", Level.VMX, tuple(cases))


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    shutil.copy(SPECS / "uncovered.schema.json", tmp_path)
    (tmp_path / "uncovered.yaml").write_text("{}\n")
    return tmp_path


def found(
    specs: Path,
    rules: Sequence[str],
    cases: Sequence[Sequence[str]],
    ran: Mapping[str, Sequence[str]] = MappingProxyType({}),
    convicted: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[Row, ...]:
    return rows(of_rules(*rules), [scenario(*cases)], ran, convicted, specs)


def test_asking_and_resting_are_counted_apart(specs: Path) -> None:
    read, stale = found(specs, [READ, STALE], [[READ], [READ, STALE], [STALE, READ]])
    assert (read.asks, read.rests) == (2, 3)
    assert (stale.asks, stale.rests) == (1, 2)


def test_a_rule_without_case_and_reason_lacks(specs: Path) -> None:
    read, stale = found(specs, [READ, STALE], [[READ]])
    assert (read.lacks, stale.lacks) == (False, True)


def test_a_reason_stands_for_a_case(specs: Path) -> None:
    (specs / "uncovered.yaml").write_text(f"{STALE}: {REASON}\n")
    [stale] = found(specs, [STALE], [])
    assert (stale.lacks, stale.reason) == (False, REASON)


def test_a_constraint_needs_no_case(specs: Path) -> None:
    [row] = found(specs, [CONSTRAINT], [])
    assert (row.lacks, row.reason) == (False, coverage.CONSTRAINT)


def test_a_fact_needs_a_case(specs: Path) -> None:
    [row] = found(specs, ["fields.tpr-threshold"], [])
    assert row.rule.kind == "fact"
    assert row.lacks


def test_an_alias_counts_for_its_rule(specs: Path) -> None:
    alias, rule = next(iter(ALL.aliases.items()))
    few = replace(of_rules(rule), aliases=MappingProxyType({alias: rule}))
    [row] = rows(
        few, [scenario([alias])], {alias: ["bochs"], rule: ["model", "bochs"]}, {alias: ["K02"]}, specs
    )
    assert (row.asks, row.ran, row.convicted) == (1, ("bochs", "model"), ("K02",))


def wrong(text: str, covered: Sequence[str] = ()) -> list[str]:
    schema = uncovered.Schema(json.loads((SPECS / "uncovered.schema.json").read_text()))
    with pytest.raises(MalformedError) as malformed:
        uncovered.parse(text.encode(), schema, ALL, covered)
    return [str(problem) for problem in malformed.value.problems]


def test_a_reason_for_a_rule_with_a_case_is_refused() -> None:
    assert wrong(f"{READ}: {REASON}\n{STALE}: {REASON}", [STALE]) == [
        f"specs/uncovered.yaml:2:1: cases rest on `{STALE}`; remove it"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"rdmsr.register-virtualisation: {REASON}", "unknown rule `rdmsr.register-virtualisation`; did you"),
        (f"{next(iter(ALL.aliases))}: {REASON}", "is an alias; write `"),
        (f"{READ}: too short", "1:32: "),
        (f"{READ}: 7", "1:32: "),
        (f"{READ}: {REASON}\n{READ}: {REASON}", "a second time"),
        ("[]", "1:1: "),
        ("", "the file is empty"),
    ],
)
def test_a_mistake_among_the_reasons(text: str, message: str) -> None:
    [said] = wrong(text)
    assert message in said


def write_runs(folder: Path, *, rest_verdict: str = "conforms") -> list[str]:
    """Write what runs of subjects and known-bad subjects left, and return the options that name it."""
    verdicts = {
        "bochs": {READ: {"conforms": 2}, STALE: {"unsupported": 1}},
        "model": {READ: {rest_verdict: 1}},
    }
    subjects = {name: {"rules": each} for name, each in verdicts.items()}
    summary.write({"subjects": subjects}, folder / "summary.json")
    faults = {"K02": {"rule": READ, "by": "a::b"}, f"{READ}/2": {"rule": READ, "by": ""}}
    (folder / "convicted.json").write_text(json.dumps({"faults": faults}))
    return ["--summary", str(folder / "summary.json"), "--convicted", str(folder / "convicted.json")]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, specs: Path) -> Iterator[Path]:
    """Let the command see two rules, and one case."""
    monkeypatch.setattr(coverage, "rules", lambda: of_rules(READ, STALE))
    monkeypatch.setattr(coverage, "load_all", lambda _: (scenario([READ]),))
    monkeypatch.setattr(coverage, "SPECS", specs)
    monkeypatch.setattr(rows, "__defaults__", (specs,))
    return specs


def test_the_command(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage.main(write_runs(few)) == coverage.LACKING
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"  {READ} +1 +1 +1  bochs, model", said[2])
    assert f"  {STALE:{len(READ)}}  no case and NO REASON" in said
    assert said[-1] == "2 rules: 1 with cases, 0 with a reason, 1 with neither"


def test_who_is_broken_or_lacks_something_did_not_run(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coverage.main(write_runs(few, rest_verdict="broken"))
    assert capsys.readouterr().out.splitlines()[2].endswith(" bochs")


def test_with_a_reason_for_all_it_succeeds(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (few / "uncovered.yaml").write_text(f"{STALE}: {REASON}\n")
    assert coverage.main(write_runs(few)) == 0
    assert f"    {REASON}" in capsys.readouterr().out.splitlines()


def test_in_few_words(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert coverage.main(["-q", *write_runs(few)]) == coverage.LACKING
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{STALE}: neither a case nor a reason in specs/uncovered.yaml: ")
    assert len(said) == 2


def test_a_wrong_file_is_refused(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (few / "uncovered.yaml").write_text(f"{READ}: {REASON}\n")
    assert coverage.main(write_runs(few)) == coverage.REFUSED
    assert capsys.readouterr().out == f"specs/uncovered.yaml:1:1: cases rest on `{READ}`; remove it\n"


def test_what_was_not_run_is_said(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coverage.main(["--summary", str(few / "none.json"), "--convicted", str(few / "neither.json")])
    said = capsys.readouterr().out
    assert "nothing is known of runs on subjects: `python -m runner certify` notes them" in said
    assert "nothing is known of known-bad subjects: `python -m runner convict` notes them" in said
