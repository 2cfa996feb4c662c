"""``python -m runner fleet`` refuses what it cannot use; `nightly/test_fleet.py` has the fleet itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.commands import fleet


@pytest.fixture
def _tmt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "find_spec", lambda _: object())

    def tried(*_: object) -> None:
        raise AssertionError("no host is asked")

    monkeypatch.setattr(fleet, "_run_all", tried)


@pytest.mark.usefixtures("_tmt")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("/vtx1: [", "cannot be read"),
        ("", "hosts are keys like `/vtx1`, as in nightly/fleet.fmf; found none"),
        ("[/vtx1]", "found none"),
        ("vtx1: {}", "found none"),
        ("/vtx1: {}\n/lab/vtx2: {}", "found `/lab/vtx2`"),
    ],
)
def test_a_wrong_file_of_hosts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    hosts = tmp_path / "lab.fmf"
    if text is not None:
        hosts.write_text(text, "utf-8")
    assert fleet.main(["--hosts", str(hosts), "--report", str(tmp_path / "report")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{hosts}: ")
    assert message in said
    assert not (tmp_path / "report").exists()


def test_without_tmt_it_says_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet, "find_spec", lambda _: None)
    assert fleet.main([]) == 2
    assert "it comes with `tox -e fleet`" in capsys.readouterr().err
