"""Known-bad subjects: their data, the private copies of the model, and that cases convict them."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import copied
import pytest

import backends.model
from backends import Identity, faulty
from backends.faulty import faults as data
from backends.faulty import private
from backends.faulty.faults import Change, Fault, MisplacedError, faults, known_bugs
from backends.model import Model
from runner.commands import convict
from runner.judging import subject_file
from runner.language.loading import load_all, scenario_files
from runner.outcome import BackendBroken, Completed, Observation, VmExit
from runner.program import Level, Program, Setup, Step, Wrmsr
from runner.reading.problems import MalformedError
from runner.rulebook import catalogue, uncovered
from runner.rulebook.citations import citations
from runner.vmx import CONTROLS_BY_NAME, Controls

RULES = catalogue.load()
QUICK = (
    *(
        "rdmsr.register-virtualization/2",
        "wrmsr.stores-eight-bytes",
        "bitmap.four-maps",
        "ppr.zeroes-upper-bytes",
    ),
    *(
        "eoi.exit-bitmap/3",
        "self-ipi.compares-with-rvi-only",
        "evaluation.what-triggers-it/4",
        "delivery.vector-is-rvi",
    ),
    *(
        "cr8.write-keeps-084h",
        "threshold.strictly-below",
        "entry.descriptor-address-aligned",
        "posted.empty-pir/3",
    ),
    *("ipi.bit-12-exits", "many.one-page-per-vcpu", "mode.xapic-to-disabled/2", "apic.ldr-derived-from-id/2"),
    *("K14", "X17", "B09", "A05"),
)
"""A fault or two of many areas; `tox -e convict` tries all of them."""

DELIVERY = Controls().plus(
    CONTROLS_BY_NAME[name]
    for name in (
        "use-tpr-shadow",
        "use-msr-bitmaps",
        "activate-secondary-controls",
        "virtualize-x2apic-mode",
        "virtual-interrupt-delivery",
        "external-interrupt-exiting",
    )
)


def eoi() -> Program:
    return Program(
        Level.VMX, (Setup(DELIVERY, svi=0x61, eoi_exit_bitmap=frozenset({0x61})),), (Step(Wrmsr(0x80B, 0)),)
    )


def outcome(subject: Model | faulty.Faulty) -> object:
    (seen,) = subject.run([eoi()])
    assert isinstance(seen, Observation), seen
    return seen.steps[0].outcomes[0]


def fault(*changes: Change) -> Fault:
    return Fault("made-up", "eoi.exit-bitmap", "is wrong", changes)


# Data


@pytest.mark.parametrize("name", faults())
def test_a_fault_stands_in_the_model(name: str) -> None:
    for module, text in faults()[name].sources().items():
        compile(text, module, "exec")


def test_faults_break_rules_of_behaviour() -> None:
    wrong = {name: each.rule for name, each in faults().items() if each.rule not in RULES}
    assert wrong == {}
    constraints = {name for name, each in faults().items() if RULES[each.rule].kind == "constraint"}
    assert constraints == set()


def test_no_two_faults_say_the_same_of_a_rule() -> None:
    said = Counter((each.rule, each.wrong) for name, each in faults().items() if "." in name)
    assert [each for each, count in said.items() if count > 1] == []
    made = Counter((each.rule, each.changes) for name, each in faults().items() if "." in name)
    assert [each for each, count in made.items() if count > 1] == []


def test_what_a_fault_says_is_short_prose() -> None:
    says = {name: each.wrong for name, each in faults().items() if "." in name}
    bad = {name for name, wrong in says.items() if len(wrong) > 110 or wrong.endswith(".")}
    assert bad == set()


def test_every_rule_of_behaviour_with_a_case_has_a_fault() -> None:
    cited = citations(RULES, load_all(scenario_files()))
    broken = {RULES.resolve(each.rule) for each in faults().values()}
    without = [
        rule.id for rule in RULES if rule.kind == "behaviour" and cited[rule.id] and rule.id not in broken
    ]
    assert without == []


def test_a_rule_with_neither_case_nor_fault_has_a_reason() -> None:
    cited = citations(RULES, load_all(scenario_files()))
    reasons = uncovered.load(RULES, {rule for rule, cases in cited.items() if cases})
    broken = {RULES.resolve(each.rule) for each in faults().values()}
    neither = [
        rule.id
        for rule in RULES
        if rule.kind == "behaviour"
        and not cited[rule.id]
        and rule.id not in broken
        and rule.id not in reasons
    ]
    assert neither == []


def test_a_known_bug_has_a_fault_or_a_reason() -> None:
    assert len(known_bugs()) == 72
    assert [bug.id for bug in known_bugs() if bool(bug.fault) == bool(bug.not_shown)] == []


def test_second_faults_of_a_rule_are_numbered() -> None:
    assert faults()["eoi.exit-bitmap/2"].rule == "eoi.exit-bitmap"
    for name in faults():
        rule, _, number = name.partition("/")
        assert not number or f"{rule}/{int(number) - 1}" in faults() or number == "2"


# Changes


def test_a_change_takes_over_the_indentation() -> None:
    change = Change("x.py", "a()\nb()", "if c:\n    a()")
    assert (
        change.made_in("def f():\n    a()\n    b()\n    a()\n")
        == "def f():\n    if c:\n        a()\n    a()\n"
    )


@pytest.mark.parametrize("text", ["", "a()\n  b()", "a()\nb()\na()\nb()"])
def test_a_change_stands_once(text: str) -> None:
    with pytest.raises(MisplacedError, match=r"x\.py"):
        Change("x.py", "a()\nb()", "").made_in(text)


def test_changes_of_one_module_follow_each_other() -> None:
    first, second = Change("eoi.py", "VISR, vector", "VISR, 1"), Change("eoi.py", "VISR, 1", "VISR, 2")
    assert "VISR, 2" in fault(first, second).sources()["eoi.py"]


# Copies


def test_a_copy_without_a_change_does_what_the_model_does() -> None:
    copy = private.package({}).Model()
    assert type(copy) is not Model
    assert list(copy.run([eoi()])) == list(Model().run([eoi()]))


def test_a_fault_shows_and_the_model_stays() -> None:
    before = dict(sys.modules)
    wrong = faulty.named("eoi.exit-qualification-is-vector/2")
    assert outcome(wrong) == VmExit(45, 0x80000061, outcome(Model()).rip)  # type: ignore[attr-defined] - a VmExit
    assert outcome(Model()).qualification == 0x61  # type: ignore[attr-defined] - a VmExit
    assert sys.modules == before
    assert backends.model.Model is Model


def test_two_faults_stand_side_by_side() -> None:
    one, other = faulty.named("eoi.exit-bitmap"), faulty.named("eoi.exit-qualification-is-vector")
    assert (outcome(one), outcome(other).qualification) == (Completed(), 0)  # type: ignore[attr-defined] - a VmExit


def test_what_a_fault_makes_impossible_is_broken() -> None:
    (seen,) = faulty.Faulty(fault(Change("eoi.py", "vector = vmcs.svi", "vector = None"))).run([eoi()])
    assert isinstance(seen, BackendBroken)


def test_a_fault_that_comes_to_no_end_is_broken() -> None:
    endless = Change(
        "events.py", "if vmcs.guest_activity_state > Activity.HLT", "return Event.DEBUG_TRAP\nif vmcs"
    )
    (seen,) = faulty.Faulty(fault(endless)).run([eoi()])
    assert isinstance(seen, BackendBroken)


def test_a_faulty_subject_says_what_is_wrong() -> None:
    who = faulty.named("K14").identity()
    assert isinstance(who, Identity)
    assert who.name == "faulty:K14"
    assert who.capabilities["fault"] == known("K14").wrong


def known(name: str) -> data.KnownBug:
    return next(bug for bug in known_bugs() if bug.id == name)


# Names


def test_the_nearest_fault_is_named() -> None:
    with pytest.raises(MalformedError, match=r"no fault `eoi\.exit-bitmpa`; did you mean 'eoi\.exit-bitmap'"):
        faulty.named("eoi.exit-bitmpa")


def test_a_faulty_subject_is_shipped() -> None:
    subject = subject_file.named("faulty:K14", RULES)
    assert (subject.name, subject.kind, subject.start, subject.is_shipped) == (
        "faulty:K14",
        "faulty",
        {"fault": "K14"},
        True,
    )


def test_faulty_alone_says_how_to_choose() -> None:
    with pytest.raises(MalformedError, match="faulty:RULE-ID"):
        subject_file.named("faulty", RULES)


def test_pytest_takes_a_faulty_subject(tmp_path: Path) -> None:
    project = copied.Project(tmp_path)
    shutil.copytree(data.HERE, tmp_path / "backends" / "faulty", dirs_exist_ok=True)
    project.scenario("first/asked", copied.ONE, copied.TWO)
    ran = project.pytest("specs", "--backend", "faulty:rdmsr.upper-half-from-page")
    assert ran.status == 1
    assert "specs/vmx/first/asked.yaml::two[faulty:rdmsr.upper-half-from-page]" in ran.text
    unknown = project.pytest("specs", "--backend", "faulty:rdmsr.uper-half-from-page")
    assert unknown.status == 2
    assert "did you mean 'rdmsr.upper-half-from-page'" in unknown.text


# Convictions


@pytest.mark.parametrize("name", QUICK)
def test_a_known_bad_subject_is_convicted(name: str) -> None:
    trial = convict.trial_of(name)
    assert trial.by, trial.words()


def test_a_survivor_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    harmless = Fault(
        "made-up",
        "eoi.exit-bitmap",
        "is right",
        (Change("eoi.py", "COMPLETED = Completed()", "COMPLETED = Completed( )"),),
    )
    monkeypatch.setattr(convict, "fault", {"made-up": harmless}.__getitem__)
    monkeypatch.setattr(convict, "named", lambda _: faulty.Faulty(harmless))
    monkeypatch.setattr(convict, "docket", lambda: {"eoi.exit-bitmap": {}})
    assert convict.main(["made-up"]) == 1
    assert "made-up: SURVIVES: is right" in capsys.readouterr().out


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert convict.main(["K014"]) == convict.REFUSED
    assert "did you mean 'K14'" in capsys.readouterr().out
