"""All verdicts in one run of pytest, with and without worker processes, as pytest and Allure show them."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import copied
import pytest

from backends.model import Model
from runner import host

DEVIATION = {
    "rules": ["rdmsr.upper-half-from-page"],
    "instead": {"value": 3},
    "versions": "<3",
    "why": "the upper half is zero",
    "link": "https://example.org/1",
}
SUBJECTS = (
    "right", "reads-zero", "upper-half-zero", "lacks", "lacks-the-second", "broken", "raises", "absent"
)  # fmt: skip


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["one process", "two workers"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> copied.Ran:
    project = copied.Project(tmp_path_factory.mktemp("project"))
    project.scenario("first/asked", copied.ONE, copied.TWO, copied.MANY, copied.UNSETTLED)
    project.scenario("second/asked", copied.ONE)
    project.write("specs/sweeps/swept.yaml", copied.SWEEP)
    for name in SUBJECTS:
        known = [DEVIATION] if name == "upper-half-zero" else []
        project.subject(name, fault=name, deviations=known)
    chosen = [f"--backend={name}" for name in ("model", *SUBJECTS)]
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv(host.NAME, "a-lab-host")
        return project.pytest("specs", *chosen, *request.param)


CONFORMS, FAILS, BROKEN = "conforms", "does not conform", "broken"
UNSUPPORTED, UNSETTLED, KNOWN = "unsupported", "unsettled", "known deviation"


@pytest.mark.parametrize(
    ("subject", "verdicts"),
    [
        ("model", {CONFORMS: 5, UNSUPPORTED: 1}),
        ("right", {CONFORMS: 6}),
        ("reads-zero", {FAILS: 5, UNSETTLED: 1}),
        ("upper-half-zero", {FAILS: 4, UNSETTLED: 1, KNOWN: 1}),
        ("lacks", {UNSUPPORTED: 6}),
        ("lacks-the-second", {CONFORMS: 5, UNSUPPORTED: 1}),
        ("broken", {BROKEN: 6}),
        ("raises", {BROKEN: 6}),
        ("absent", {UNSUPPORTED: 6}),
    ],
)
def test_verdicts(ran: copied.Ran, subject: str, verdicts: dict[str, int]) -> None:
    assert ran.verdicts(subject) == verdicts


def test_the_run_fails(ran: copied.Ran) -> None:
    assert ran.status == 1


def test_small_files_are_one_batch_on_each_subject(ran: copied.Ran) -> None:
    assert Counter(ran.batches)["right 16"] == 1
    assert not [line for line in ran.batches if line.startswith("absent")]


def test_the_summary_names_what_does_not_conform(ran: copied.Ran) -> None:
    (case,) = [
        each for each in ran.summary["subjects"]["upper-half-zero"]["cases"] if each["verdict"] == KNOWN
    ]
    assert case["id"] == "specs/vmx/first/asked.yaml::two"
    assert case["reason"] == "the upper half is zero"
    assert case["differences"] == [
        {
            "point": "",
            "where": "step 1, RDMSR APICID (802H)",
            "expected": "value ABCD0001_00000003H",
            "observed": "value 3H",
        }
    ]


def test_the_summary_says_where_and_of_what_the_run_was(ran: copied.Ran) -> None:
    assert ran.summary["suite"].keys() == {"version", "scenarios", "code"}
    assert ran.summary["host"] == {"name": "a-lab-host", **host.here().facts()}
    assert datetime.fromisoformat(ran.summary["finished"]).tzinfo


def test_every_case_is_in_the_summary(ran: copied.Ran) -> None:
    for subject in ran.summary["subjects"].values():
        names = [case["id"] for case in subject["cases"]]
        names += [f"{file}::{case}" for file, cases in subject["conforming"].items() for case in cases]
        assert len(names) == len(set(names)) == sum(subject["verdicts"].values())


def test_every_allure_result_carries_the_host(ran: copied.Ran) -> None:
    vmx = {"model": host.vmx_hash(Model().identity().capabilities)}
    for result in ran.allure:
        labels = {label["name"]: label["value"] for label in result["labels"]}
        wanted = {**host.here().facts(), "vmx": vmx.get(labels["backend"], "unknown")}
        assert {"name": "host", "value": "'a-lab-host'"} in result["parameters"]
        assert labels.items() >= wanted.items()


def test_the_summary_says_who_the_subjects_are(ran: copied.Ran) -> None:
    subject = ran.summary["subjects"]["right"]
    assert (subject["says"], subject["version"]) == ("Subject right", "2.7")
    assert subject["capabilities"] == {"lvt-entries": "6"}


def test_the_table(ran: copied.Ran) -> None:
    lines = [line.split() for line in ran.text.splitlines()]
    header = next(line for line in lines if line[:1] == ["rules"])
    assert header[:5] == ["rules", "model", "1", "right", "2.7"]
    assert any(line[:1] == ["rdmsr"] for line in lines)
    assert "absent: unsupported: the machine is not installed" in ran.text
    assert "raises: broken: the backend failed: RuntimeError('wires crossed')" in ran.text


FAILURE = """\
specs/vmx/second/asked.yaml:5: one on reads-zero: does not conform
  The first case reads the page
  step 1, RDMSR APICID (802H) (line 8)
    expected  value ABCD0001_00000003H
    observed  value 0H
  rule rdmsr.register-virtualization: """


def test_a_failure_says_everything(ran: copied.Ran) -> None:
    text = ran.text.replace("\r", "")
    start = text.index(FAILURE)
    shown = text[start : start + 3000]
    assert "[SDM: " in shown
    assert "  the reference model, step 1: RDMSR APICID (802H):\n" in shown
    assert "  run again: pytest 'specs/vmx/second/asked.yaml::one[reads-zero]' --backend reads-zero" in shown
    assert "conftest.py" not in shown[: shown.index("run again")]


def test_a_broken_case_shows_the_log(ran: copied.Ran) -> None:
    assert "one on broken: broken\n" in ran.text
    assert "machine: 3rd exception" in ran.text


# Allure


def result_of(ran: copied.Ran, case: str, subject: str) -> dict[str, Any]:
    (result,) = [
        each
        for each in ran.allure
        if each["fullName"] == f"specs.vmx.first.asked#{case}" and labels(each, "backend") == [subject]
    ]
    return result


def labels(result: dict[str, Any], name: str) -> list[str]:
    return [label["value"] for label in result["labels"] if label["name"] == name]


def test_allure_has_a_result_for_every_item(ran: copied.Ran) -> None:
    assert len(ran.allure) == 9 * 6
    assert len({each["historyId"] for each in ran.allure}) == 9 * 6


@pytest.mark.parametrize(
    ("case", "subject", "status", "verdict"),
    [
        ("two", "right", "passed", CONFORMS),
        ("two", "reads-zero", "failed", FAILS),
        ("two", "upper-half-zero", "skipped", KNOWN),
        ("two", "lacks", "skipped", UNSUPPORTED),
        ("two", "broken", "broken", BROKEN),
        ("unsettled", "reads-zero", "skipped", UNSETTLED),
    ],
)
def test_verdicts_in_allure(ran: copied.Ran, case: str, subject: str, status: str, verdict: str) -> None:
    result = result_of(ran, case, subject)
    assert result["status"] == status
    assert labels(result, "verdict") == [verdict]
    assert {"name": "backend", "value": f"'{subject}'"} in [
        {"name": each["name"], "value": each["value"]} for each in result["parameters"]
    ]


def test_allure_says_what_was_asked(ran: copied.Ran) -> None:
    result = result_of(ran, "two", "right")
    assert result["name"] == "The upper half comes from the page"
    assert labels(result, "rule") == ["rdmsr.upper-half-from-page", "rdmsr.register-virtualization"]
    assert labels(result, "story") == ["rdmsr.upper-half-from-page"]


def test_allure_says_why_a_case_does_not_count(ran: copied.Ran) -> None:
    message = result_of(ran, "two", "upper-half-zero")["statusDetails"]["message"]
    assert "known deviation: the upper half is zero" in message
    (issue,) = [each for each in result_of(ran, "two", "upper-half-zero")["links"] if each["type"] == "issue"]
    assert issue["url"] == "https://example.org/1"


def test_points_are_a_table_and_those_that_fail_are_steps(ran: copied.Ran) -> None:
    result = result_of(ran, "many", "reads-zero")
    assert [each["name"] for each in result["attachments"]] == ["points"]
    assert [step["name"] for step in result["steps"]][:2] == ["msr=0x802", "msr=0x803"]
    assert {step["status"] for step in result["steps"]} == {"failed"}
    assert "observed value 0H" in result["steps"][0]["steps"][0]["name"]


def test_the_log_of_a_broken_machine_is_attached(ran: copied.Ran) -> None:
    assert [each["name"] for each in result_of(ran, "one", "broken")["attachments"]] == ["machine log"]
