"""The ledger: every case that was asked for is in the summary, whatever became of its process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import judged as j
import pytest

from reports.judged import Judged
from reports.ledger import Ledger, announces_in_vain, packed
from runner.judging.deviations import Deviation, Instead
from runner.judging.subject_file import SubjectFile
from runner.judging.verdict import judge
from runner.program import Level
from runner.scenario import Scenario

CASE = j.case(j.READ)
SCENARIO = Scenario("specs/vmx/a/b.yaml", "A title", Level.VMX, (CASE,))
KNOWN = Deviation((j.RULE,), Instead(), "reads zero", "link", versions="<3", name="x.yaml:7")


def subject(name: str, *deviations: Deviation) -> SubjectFile:
    return SubjectFile(name, Path(f"{name}.yaml"), f"Subject {name}", "bochs", {}, deviations)


def node(name: str) -> str:
    return f"specs/vmx/a/b.yaml::asked[{name}]"


def right(name: str) -> Judged:
    return Judged(SCENARIO, CASE, name, judge(CASE, [j.READ_SEEN], j.Catalogue()))


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger([subject("one", KNOWN), subject("two")], [SCENARIO])
    made.asked.update({node("one"), node("two")})
    return made


def verdicts(ledger: Ledger) -> dict[str, list[str]]:
    found = ledger.summary()["subjects"]
    return {name: [verdict for verdict, n in each["verdicts"].items() if n] for name, each in found.items()}


def test_what_was_sent_is_in_the_summary(ledger: Ledger) -> None:
    ledger.take(node("one"), packed(right("one"), {"version": "3.0"}))
    ledger.take(node("two"), packed(right("two"), {}))
    assert verdicts(ledger) == {"one": ["conforms"], "two": ["conforms"]}
    assert ledger.summary()["subjects"]["one"]["version"] == "3.0"
    assert ledger.summary()["subjects"]["two"]["says"] == "Subject two"


def test_what_left_no_record_is_broken(ledger: Ledger) -> None:
    ledger.take(node("one"), packed(right("one"), {}))
    assert verdicts(ledger) == {"one": ["conforms"], "two": ["broken"]}


def test_what_was_broken_once_stays_broken(ledger: Ledger) -> None:
    ledger.lose(node("one"), "its process died")
    ledger.take(node("one"), packed(right("one"), {}))
    assert verdicts(ledger)["one"] == ["broken"]


@pytest.mark.parametrize(("version", "missed"), [("2.7", True), ("3.0", False)])
def test_deviations_in_vain_are_those_of_the_version(ledger: Ledger, version: str, *, missed: bool) -> None:
    for name in ("one", "two"):
        ledger.take(node(name), packed(right(name), {"version": version}))
    found = ledger.summary()
    assert announces_in_vain(found) is missed
    assert bool(found["subjects"]["one"]["announced in vain"]) is missed
    assert not found["subjects"]["two"]["announced in vain"]


@pytest.mark.parametrize(("nested", "missed"), [("true", True), ("false", False)])
def test_deviations_in_vain_are_those_of_what_is_reported(
    ledger: Ledger, nested: str, *, missed: bool
) -> None:
    ledger.subjects = [subject("one", replace(KNOWN, where=(("nested", frozenset({"true"})),)))]
    ledger.take(node("one"), packed(right("one"), {"version": "2.7", "capabilities": {"nested": nested}}))
    assert bool(ledger.summary()["subjects"]["one"]["announced in vain"]) is missed


def test_a_deviation_that_shows_only_sometimes_is_not_missed(ledger: Ledger) -> None:
    ledger.subjects = [subject("one", replace(KNOWN, sometimes=True))]
    ledger.take(node("one"), packed(right("one"), {"version": "2.7"}))
    assert not ledger.summary()["subjects"]["one"]["announced in vain"]


def test_a_deviation_is_not_missed_because_another_subject_conforms(ledger: Ledger) -> None:
    ledger.take(node("two"), packed(right("two"), {"version": "2.7"}))
    assert not announces_in_vain(ledger.summary())
