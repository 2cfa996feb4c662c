"""How pytest collects, refuses, selects and ends runs of scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import copied
import pytest

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["one process", "two workers"])

DEVIATION: dict[str, Any] = {
    "rules": ["rdmsr.upper-half-from-page"],
    "instead": {"value": 3},
    "why": "the upper half is zero",
    "link": "https://example.org/1",
}


@pytest.fixture
def project(tmp_path: Path) -> copied.Project:
    made = copied.Project(tmp_path)
    made.scenario("first/asked", copied.ONE, copied.TWO)
    return made


@WORKERS
def test_wrong_files_run_nothing(project: copied.Project, workers: tuple[str, ...]) -> None:
    project.scenario("wrong/one", copied.ONE.replace("expect", "expekt"))
    project.scenario("wrong/two", copied.ONE.replace("rdmsr.register", "rdmsr.registre"))
    ran = project.pytest("specs/vmx/first", *workers)
    assert ran.status == 2
    assert "specs/vmx/wrong/one.yaml:8:" in ran.text
    assert "specs/vmx/wrong/two.yaml:7:" in ran.text
    assert "did you mean" in ran.text
    assert "Traceback" not in ran.text
    assert not ran.batches
    assert not ran.summary
    assert not ran.allure


@WORKERS
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"fault": "right", "deviations": [{**DEVIATION, "rules": ["rdmsr.uper-half"]}]}, "unknown rule"),
        ({"fault": "right", "kind": "boch"}, "did you mean 'bochs'?"),
    ],
)
def test_a_wrong_subject_runs_nothing(
    project: copied.Project, workers: tuple[str, ...], said: dict[str, Any], message: str
) -> None:
    project.subject("right", **said)
    if "kind" in said:
        project.write("backends/subjects/right.yaml", "says: Wrong\nkind: boch\n")
    ran = project.pytest("specs", "--backend", "right", *workers)
    assert ran.status == 2
    assert "backends/subjects/right.yaml:" in ran.text
    assert message in ran.text
    assert not ran.batches


def test_an_unknown_subject_names_the_known_ones(project: copied.Project) -> None:
    ran = project.pytest("specs", "--backend", "modle")
    assert ran.status == 2
    assert "no subject `modle`; did you mean 'model'?" in ran.text


def test_a_misplaced_scenario_is_refused(project: copied.Project) -> None:
    project.write("specs/vmx/misplaced.yaml", "title: Nobody collects this\n")
    ran = project.pytest("specs", "--backend", "model")
    assert ran.status == 2
    assert "specs/vmx/misplaced.yaml:1:1: no scenario file stands here" in ran.text


def test_a_subject_may_be_any_file(project: copied.Project) -> None:
    project.write("mine/own.yaml", "says: Mine\nkind: bochs\nstart: {model: reads-zero}\n")
    ran = project.pytest("specs", "--backend", "mine/own.yaml")
    assert ran.verdicts("own") == {"does not conform": 2}
    again = "run again: pytest 'specs/vmx/first/asked.yaml::two[own]' --backend mine/own.yaml"
    assert again in ran.text


def test_a_sweep_of_the_night_runs_where_it_is_named(project: copied.Project) -> None:
    project.subject("right", fault="right")
    sweep = "specs/sweeps/nightly/big.yaml"
    project.write(sweep, copied.SWEEP)
    assert project.pytest("specs", "--backend", "right").batches == ("right 2",)
    for named in ("specs/sweeps/nightly", sweep, f"{sweep}::swept[right]"):
        assert project.pytest(named, "--backend", "right").batches == ("right 6",)
    both = project.pytest("specs", "specs/sweeps/nightly", "--backend", "right", "-n2")
    assert both.batches == ("right 8",)
    project.write(sweep, copied.SWEEP.replace("rdmsr:", "rdmzr:"))
    assert project.pytest("specs", "--backend", "right").status == 0
    assert project.pytest("specs", "specs/sweeps/nightly", "--backend", "right").status == 2


def test_scenarios_elsewhere_and_other_tests_are_none_of_ours(project: copied.Project) -> None:
    project.write("specs/elsewhere/wrong.yaml", "nothing: at all\n")
    project.write("tests/test_other.py", "def test_other(): pass\n")
    project.scenario("wrong/one", "  - nonsense\n")
    assert project.pytest("tests").status == 0
    (project.home / "specs/vmx/wrong/one.yaml").unlink()
    assert project.pytest("specs").status == 0


@WORKERS
def test_one_case_runs_alone(project: copied.Project, workers: tuple[str, ...]) -> None:
    project.subject("right", fault="right")
    project.scenario("second/asked", copied.ONE, copied.MANY)
    ran = project.pytest("specs/vmx/second/asked.yaml::many[right]", "--backend", "right", *workers)
    assert ran.status == 0
    assert ran.batches == ("right 6",)


def test_deselected_cases_do_not_run(project: copied.Project) -> None:
    project.subject("right", fault="right")
    assert project.pytest("specs", "--backend", "right", "-k", "two").batches == ("right 1",)


def test_collecting_runs_nothing(project: copied.Project) -> None:
    project.subject("right", fault="right")
    ran = project.pytest("specs", "--backend", "right", "--collect-only")
    assert "specs/vmx/first/asked.yaml::two[right]" in ran.text
    assert not ran.batches


def test_a_skipped_case_says_where_it_stands(project: copied.Project) -> None:
    project.subject("lacks", fault="lacks")
    ran = project.pytest("specs", "--backend", "lacks", "-rs")
    assert ran.status == 0
    assert "specs/vmx/first/asked.yaml:5: unsupported: process-posted-interrupts" in ran.text


@WORKERS
def test_a_deviation_that_nothing_shows_fails_the_run(
    project: copied.Project, workers: tuple[str, ...]
) -> None:
    project.subject("right", fault="right", deviations=[DEVIATION])
    ran = project.pytest("specs", "--backend", "right", *workers)
    assert ran.status == 1
    assert "right.yaml:" in ran.text
    assert "no case shows this deviation any more, remove it: the upper half is zero" in ran.text
    assert ran.summary["subjects"]["right"]["announced in vain"]


def test_a_deviation_is_not_missed_where_its_cases_did_not_run(project: copied.Project) -> None:
    project.subject("right", fault="right", deviations=[DEVIATION])
    assert project.pytest("specs", "--backend", "right", "-k", "one").status == 0


def test_a_deviation_of_other_versions_is_not_missed(project: copied.Project) -> None:
    project.subject("right", fault="right", deviations=[{**DEVIATION, "versions": ">=3"}])
    assert project.pytest("specs", "--backend", "right").status == 0
    project.subject("upper", fault="upper-half-zero", deviations=[{**DEVIATION, "versions": ">=3"}])
    assert project.pytest("specs", "--backend", "upper").verdicts("upper") == {"does not conform": 2}


def test_a_deviation_is_missed_no_more_than_it_can_show(project: copied.Project) -> None:
    project.subject("lacks", fault="lacks", deviations=[DEVIATION])
    assert project.pytest("specs", "--backend", "lacks").status == 0


def test_known_deviations_leave_the_run_in_peace(project: copied.Project) -> None:
    both = {**DEVIATION, "rules": ["rdmsr.register-virtualization"]}
    project.subject("upper", fault="upper-half-zero", deviations=[both])
    ran = project.pytest("specs", "--backend", "upper")
    assert ran.status == 0
    assert ran.verdicts("upper") == {"known deviation": 2}


def test_the_cases_of_a_process_that_died_are_broken(project: copied.Project) -> None:
    project.subject("kills", fault="kills")
    project.subject("right", fault="right")
    workers = ("-n2", "--max-worker-restart=1")
    ran = project.pytest("specs", "--backend", "kills", "--backend", "right", *workers)
    assert ran.status == 1
    assert ran.verdicts("kills") == {"broken": 2}
    assert sum(ran.verdicts("right").values()) == 2, "none is forgotten"


@WORKERS
def test_a_run_that_ends_early_leaves_broken(project: copied.Project, workers: tuple[str, ...]) -> None:
    project.subject("zero", fault="reads-zero")
    ran = project.pytest("specs", "--backend", "zero", "-x", *workers)
    assert ran.status != 0
    assert ran.verdicts("zero") == {"does not conform": 1, "broken": 1}
    assert "the run ended before this case" in ran.text


@pytest.mark.parametrize(
    ("supposed", "verdict"),
    [("lvt-entries: 6", "conforms"), ("lvt-entries: 7", "unsupported"), ("x2apic: true", "unsupported")],
)
def test_what_a_case_supposes(project: copied.Project, supposed: str, verdict: str) -> None:
    project.subject("right", fault="right")
    case = copied.ONE.replace("    steps", f"    when: {{{supposed}}}\n    steps")
    project.scenario("first/asked", case)
    assert project.pytest("specs", "--backend", "right").verdicts("right") == {verdict: 1}
