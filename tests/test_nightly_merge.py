"""``python -m runner merge``: hosts into one report; none is lost, and what does not belong is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nights as n
import pytest

from runner.commands import merge, page

YES = "conforms"


@pytest.fixture(autouse=True)
def _no_allure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "NPM", tmp_path / "nowhere")


def test_two_hosts_are_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = n.folder(
        tmp_path, n.host("vtx1", kvm={"a": YES, "b": n.KNOWN}, model={"a": YES, "b": YES}), "x", "y"
    )
    other = n.folder(tmp_path, n.host("vtx2", kvm={"a": YES, "b": YES}), "z")
    report = tmp_path / "report"
    assert merge.main([str(one), str(other), "--report", str(report)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "host  kvm              model",
        "vtx1  2.7: 1, 1 known  2.7: 2",
        "vtx2  2.7: 2           -",
        "",
        "vtx1: A processor, microcode 0x1, Linux 6",
        "vtx2: A processor, microcode 0x1, Linux 6",
        "",
        "page: none: no allure of nightly/package.json here; do: npm ci --prefix nightly",
        "",
        "news: this is the first night of the history",
    ]
    assert n.merged_in(report)["hosts"]["vtx1"]["subjects"]["kvm"]["version"] == "2.7"
    assert len(list((report / "results").iterdir())) == 3


@pytest.mark.parametrize("verdict", [n.FAILS, n.BROKEN])
def test_a_host_that_fails_fails_the_fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verdict: str
) -> None:
    one = n.folder(tmp_path, n.host("vtx1", kvm={"a": YES}))
    other = n.folder(tmp_path, n.host("vtx2", kvm={"a": verdict}))
    assert merge.main([str(one), str(other), "--report", str(tmp_path / "report")]) == 1
    said = capsys.readouterr().out
    assert f"kvm: {verdict}: expected 1, observed 2\n  {n.FILE}::a on vtx2\n" in said
    assert said.endswith(f"fails: vtx2: kvm: 1 {verdict}\n")


@pytest.mark.parametrize("verdict", [n.KNOWN, "unsupported", "unsettled"])
def test_other_verdicts_fail_nobody(tmp_path: Path, verdict: str) -> None:
    one = n.folder(tmp_path, n.host("vtx1", kvm={"a": verdict}))
    assert merge.main([str(one), "--report", str(tmp_path / "report")]) == 0


def test_a_host_without_results_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = n.folder(tmp_path, n.host("vtx1", kvm={"a": YES}))
    (tmp_path / "vtx2" / "results").mkdir(parents=True)
    arguments = [str(one), str(tmp_path / "vtx2"), "--report", str(tmp_path / "report")]
    assert merge.main([*arguments, "--expect", "vtx1", "--expect", "vtx2", "--expect", "vtx3"]) == 1
    said = capsys.readouterr().out
    assert "vtx2  no results\n" in said
    assert (
        f"fails: vtx2: no results: no summary.json in {tmp_path / 'vtx2'}: the run there did not end" in said
    )
    assert "fails: vtx3: no results: no folder has its summary" in said
    assert n.merged_in(tmp_path / "report")["missing"].keys() == {"vtx2", "vtx3"}


def test_a_required_subject_that_is_not_here_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {**n.host("vtx1", model={"a": YES}), "absent": {"kvm": "no /dev/kvm", "qemu": "no qemu"}}
    one = n.folder(tmp_path, said)
    report = str(tmp_path / "report")
    assert merge.main([str(one), "--report", report]) == 0
    assert "vtx1  2.7: 1  absent  absent" in capsys.readouterr().out
    n.folder(tmp_path, {**said, "required": {"kvm": "no /dev/kvm"}})
    assert merge.main([str(one), "--report", report]) == 1
    assert "fails: vtx1: kvm: required, and not here: no /dev/kvm" in capsys.readouterr().out


def test_a_deviation_announced_in_vain_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = n.host("vtx1", kvm={"a": YES})
    said["subjects"]["kvm"]["announced in vain"] = ["kvm.yaml:7: remove it"]
    assert merge.main([str(n.folder(tmp_path, said)), "--report", str(tmp_path / "report")]) == 1
    assert "fails: vtx1: kvm: kvm.yaml:7: remove it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"suite": {**n.SUITE, "code": "cccc"}}, "vtx2 ran version 1, scenarios aaaa, code cccc"),
        ({"suite": {**n.SUITE, "scenarios": "dddd"}}, "vtx2 ran version 1, scenarios dddd, code bbbb"),
        (
            n.host("vtx2", kvm={"b": YES}),
            "vtx2 ran 1 of 2 cases; the first that lacks: specs/vmx/rdmsr/asked",
        ),
    ],
)
def test_a_mixture_is_refused_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], message: str
) -> None:
    both = {"a": YES, "b": YES}
    one = n.folder(tmp_path, n.host("vtx1", kvm=both))
    two = n.folder(tmp_path, {**n.host("vtx2", kvm=both), **other})
    report = tmp_path / "report"
    arguments = [str(one), str(two), "--report", str(report)]
    assert merge.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not report.exists(), "nothing is written"
    assert merge.main([*arguments, "--mixed"]) == 0
    assert f"mixed: {message}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "at the top: [] is not of type 'object'"),
        ("{}", "'finished' is a required property"),
        (json.dumps({**n.host("vtx1"), "subjects": {"kvm": {}}}), "at subjects/kvm: 'vmx' is a required"),
    ],
)
def test_what_is_no_summary_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "summary.json").write_text(text, "utf-8")
    assert merge.main([str(tmp_path), "--report", str(tmp_path / "report")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/summary.json: " in said
    assert message in said


def test_two_folders_of_one_host_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(n.folder(tmp_path / place, n.host("vtx1", kvm={"a": YES}))) for place in "ab"]
    assert merge.main([*folders, "--report", str(tmp_path / "report")]) == 2
    assert "both of host vtx1; name one by X2APIC_HOST" in capsys.readouterr().err


def test_a_merged_report_is_no_report_of_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = n.folder(tmp_path, n.host("vtx1", kvm={"a": YES}))
    report = str(tmp_path / "report")
    merge.main([str(one), "--report", report])
    assert merge.main([report, "--report", str(tmp_path / "another")]) == 2
    assert (
        "is a required property; give the folder that the run on that host wrote" in capsys.readouterr().err
    )


def test_the_results_of_the_night_before_are_gone(tmp_path: Path) -> None:
    report = tmp_path / "report"
    for name in ("x", "y"):
        one = n.folder(tmp_path / name, n.host("vtx1", kvm={"a": YES}), name)
        merge.main([str(one), "--report", str(report)])
    assert [path.name for path in (report / "results").iterdir()] == ["y-result.json"]
