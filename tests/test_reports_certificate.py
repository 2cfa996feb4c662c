"""The certificate of a subject: what it says, that it is its data's, and that the subject is asked again."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import nights
import pytest

from reports import certificate
from reports.certificate import Certificate
from reports.merged import UnusableError
from runner import suite
from runner.commands import certify, verify
from runner.judging.verdict import Verdict
from runner.rulebook import catalogue

RULES = catalogue.load()
SUITE = suite.identity()
CONFORMS, UNSUPPORTED = Verdict.CONFORMS.value, Verdict.UNSUPPORTED.value
HOSTILE = "</script><script>alert(1)</script>&"


def made(*not_asked: str, **verdicts: str) -> Certificate:
    """The certificate of a subject whose cases have these verdicts; more cases may not have been asked."""
    said = nights.host("vtx1", mine=verdicts)
    said["suite"] = SUITE
    corpus = [f"{nights.FILE}::{case}" for case in (*verdicts, *not_asked)]
    return certificate.of(said, "mine", RULES, corpus)


def written(folder: Path, said: Certificate) -> Path:
    page = folder / "mine.html"
    page.write_text(certificate.page(said), "utf-8")
    return page


@pytest.mark.parametrize(
    ("verdicts", "finding", "tone"),
    [
        ([CONFORMS], "conforms in 1 case", "certifies"),
        (
            [CONFORMS, UNSUPPORTED, "unsettled"],
            "conforms in 1 case; 1 unsettled; 1 could not be asked",
            "certifies",
        ),
        ([CONFORMS, nights.KNOWN], "deviates in 1 case as it announces, conforms in 1", "deviates"),
        ([CONFORMS, nights.KNOWN, nights.FAILS], "no certificate: 1 does not conform", "refuses"),
        ([nights.FAILS, nights.BROKEN], "no certificate: 1 does not conform, 1 broken", "refuses"),
    ],
)
def test_what_it_says_first(verdicts: list[str], finding: str, tone: str) -> None:
    said = made(**{f"case-{number}": verdict for number, verdict in enumerate(verdicts)})
    assert certificate.finding(said) == finding
    assert certificate.certifies(said) is (tone != "refuses")
    assert f": {finding}." in certificate.page(said)
    assert f'class="finding {tone}"' in certificate.page(said)


def test_a_run_of_a_part_certifies_nothing() -> None:
    said = made("another", one=CONFORMS)
    assert certificate.finding(said) == "no certificate: 1 case not asked"
    assert not certificate.certifies(said)


def test_a_deviation_announced_in_vain_certifies_nothing() -> None:
    said = {**made(one=CONFORMS), "announced in vain": ["mine.yaml:3: no case shows this any more"]}
    assert certificate.finding(said) == "no certificate: 1 announced in vain"
    assert not certificate.certifies(said)


def test_a_rule_counts_at_its_weightiest_verdict_and_is_unsupported_only_where_nothing_ran() -> None:
    assert certificate.weightiest({CONFORMS: 9, nights.KNOWN: 1, UNSUPPORTED: 3}) == nights.KNOWN
    assert certificate.weightiest({CONFORMS: 1, UNSUPPORTED: 3}) == CONFORMS
    assert certificate.weightiest({UNSUPPORTED: 3}) == UNSUPPORTED


def test_a_page_is_its_datas_to_the_byte(tmp_path: Path) -> None:
    said = made(one=CONFORMS, two=nights.KNOWN)
    page = written(tmp_path, said)
    assert certificate.read(page) == said
    assert certificate.is_unaltered(page, said)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("no certificate: 1 does not conform", "conforms in 1 case"),
        ("expected 1, observed 2", "expected 1, observed 1"),
        ("A processor", "Another processor"),
        (r"[0-9a-f]{64}", "0" * 64),
    ],
)
def test_a_page_that_somebody_altered_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    page = written(tmp_path, made(one=nights.FAILS))
    altered = re.sub(old, new, page.read_text("utf-8"), count=1)
    assert altered != page.read_text("utf-8")
    page.write_text(altered, "utf-8")
    assert verify.main([str(page)]) == verify.ALTERED
    assert "altered" in capsys.readouterr().out


def test_nothing_that_a_subject_says_becomes_markup(tmp_path: Path) -> None:
    said = {**made(one=CONFORMS), "says": HOSTILE, "version": HOSTILE, "source": HOSTILE}
    page = written(tmp_path, said)
    text = page.read_text("utf-8")
    assert text.count("<script") == 1
    assert "alert(1)</script>" not in text
    assert certificate.read(page) == said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no certificate of format 1"),
        ("<html>", "no certificate of format 1"),
        ('<script type="application/json" id="data">{]</script>', "no certificate of format 1"),
        ('<script type="application/json" id="data">[1]</script>', "no certificate of format 1"),
        ('<script type="application/json" id="data">{"format": 2}</script>', "no certificate of format 1"),
    ],
)
def test_what_is_no_certificate(tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(text, "utf-8")
    with pytest.raises(UnusableError, match=message):
        certificate.read(page)
    with pytest.raises(UnusableError, match="cannot be read"):
        certificate.read(tmp_path / "nowhere.html")


def test_data_that_no_page_is_made_of_is_altered(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    identity = certificate._plain(SUITE)  # noqa: SLF001 - the form of the data
    text = f'<script type="application/json" id="data">{{"format": 1, "suite": {identity}}}</script>'
    page.write_text(text, "utf-8")
    assert verify.main([str(page)]) == verify.ALTERED


def test_a_certificate_of_another_suite_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = made(one=CONFORMS)
    page = written(tmp_path, {**said, "suite": {**said["suite"], "scenarios": "0123456789ab"}})
    assert verify.main([str(page)]) == verify.REFUSED
    assert "of another suite: scenarios 0123456789ab, here " in capsys.readouterr().err


def test_a_file_of_the_users_is_run_only_where_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = written(tmp_path, {**made(one=CONFORMS), "source": "says: X\nkind: model\n"})
    other = tmp_path / "other.yaml"
    other.write_text("says: Y\nkind: model\n", "utf-8")
    assert verify.main([str(page), "--again"]) == verify.REFUSED
    assert verify.main([str(page), "--again", "--backend", str(other)]) == verify.REFUSED
    said = capsys.readouterr().err
    assert "say --backend FILE" in said
    assert "another subject file" in said


def test_a_subject_is_asked_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = "specs/vmx/rdmsr/own-page.yaml"
    certify.main([case, "--backend", "model", "--report", str(tmp_path)])
    page = tmp_path / "certificates" / "model.html"
    said = certificate.read(page)
    found = dict(certificate.verdicts(said))
    assert set(found.values()) == {CONFORMS}
    (file, cases), *_ = said["conforming"].items()
    (tmp_path / "lies").mkdir()
    lies = written(tmp_path / "lies", {**said, "conforming": {file: [*cases, "no-such-case"]}})
    assert verify.main([str(lies), "--again"]) == verify.ALTERED
    assert f"{file}::no-such-case: conforms then, not asked now" in capfd.readouterr().out


class Nesting(HTMLParser):
    """Closes elements in the order in which a page opened them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script" or ("type", "application/json") in attrs
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_sound_html_and_runs_nothing() -> None:
    verdicts = {verdict.name: verdict.value for verdict in Verdict}
    said = {**made("another", **verdicts), "source": "says: <X>", "announced in vain": ["<one>"]}
    nesting = Nesting()
    nesting.feed(certificate.page(said))
    assert nesting.open == []


def test_the_index_leads_to_each_subject_and_says_who_is_not_here() -> None:
    said = nights.host("vtx1", mine={"one": CONFORMS}, yours={"one": nights.FAILS})
    said["absent"] = {"kvm": "no /dev/kvm <here>"}
    pages = {f"{name}.html": certificate.of(said, name, RULES, []) for name in said["subjects"]}
    text = certificate.index(said, pages, RULES)
    Nesting().feed(text)
    assert '<a href="yours.html"><strong>yours</strong> 2.7</a>: no certificate: 1 does not conform.' in text
    assert "<strong>kvm</strong> is not here: no /dev/kvm &lt;here&gt;" in text
    assert "<td>1</td><td>1 FAIL</td>" in text
