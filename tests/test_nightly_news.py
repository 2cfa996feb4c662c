"""What changed since the night before, and the history that it is compared with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nights as n
import pytest

from reports import history, merged, news
from reports.merged import UnusableError

YES = "conforms"
SECOND = "2026-11-28T02:20:00+00:00"
FIRST = [history.night(merged.merge({"vtx1": n.host("vtx1", kvm={"a": YES, "b": YES})}, {}))]


def night(*hosts: dict[str, Any], **missing: str) -> history.Night:
    return history.night(merged.merge({each["host"]["name"]: each for each in hosts}, missing))


def told(before: list[history.Night], now: history.Night) -> list[str]:
    return news.words(before, news.compare(before, now)).splitlines()


def test_the_first_night_has_no_news() -> None:
    assert told([], FIRST[0]) == ["news: this is the first night of the history"]


def test_that_nothing_changed_is_said() -> None:
    assert told(FIRST, FIRST[0]) == ["news: nothing changed since 2026-11-27 02:14 UTC"]


def test_a_verdict_that_changed_is_news_and_failures_come_first() -> None:
    before = [night(n.host("vtx1", kvm={"a": n.FAILS, "b": YES, "c": YES, "d": n.KNOWN}))]
    now = night(n.host("vtx1", SECOND, kvm={"a": YES, "b": n.FAILS, "c": n.FAILS, "d": n.KNOWN}))
    assert told(before, now) == [
        "news since 2026-11-27 02:14 UTC",
        "vtx1 kvm: conforms → does not conform (2)",
        f"  {n.FILE}::b",
        f"  {n.FILE}::c",
        "vtx1 kvm: does not conform → conforms (1)",
        f"  {n.FILE}::a",
    ]


def test_new_cases_and_cases_that_do_not_run_any_more_are_news() -> None:
    now = night(n.host("vtx1", SECOND, kvm={"b": YES, "c": YES, "d": n.FAILS}))
    assert told(FIRST, now)[1:] == [
        "vtx1 kvm: new → does not conform (1)",
        f"  {n.FILE}::d",
        "vtx1 kvm: conforms → not run (1)",
        f"  {n.FILE}::a",
        "vtx1 kvm: new → conforms (1)",
    ]


def test_hosts_with_the_same_change_share_a_line() -> None:
    before = [night(*(n.host(name, kvm={"a": YES}) for name in ("vtx1", "vtx2", "vtx3")))]
    now = night(
        *(n.host(name, SECOND, kvm={"a": n.FAILS}) for name in ("vtx1", "vtx3")),
        n.host("vtx2", SECOND, kvm={"a": YES}),
    )
    assert told(before, now)[1] == "vtx1, vtx3 kvm: conforms → does not conform (1)"


def test_what_a_host_and_a_subject_are_is_news_where_it_changed() -> None:
    said = n.host("vtx1", SECOND, kvm={"a": YES, "b": YES})
    said["host"]["kernel"], said["subjects"]["kvm"]["version"] = "Linux 7", "2.8"
    said["subjects"]["kvm"]["vmx"], said["suite"]["code"] = "0123", "cccc"
    hashed = FIRST[0]["hosts"]["vtx1"]["subjects"]["kvm"]["facts"]["IA32_VMX_* hash"]
    assert told(FIRST, night(said))[1:] == [
        "vtx1: kernel: Linux 6 → Linux 7",
        "vtx1: suite, code: bbbb → cccc",
        "vtx1 kvm: version: 2.7 → 2.8",
        f"vtx1 kvm: IA32_VMX_* hash: {hashed} → 0123",
    ]


def test_a_host_that_lacks_is_news_once_and_comes_back_against_its_last_results() -> None:
    lacks = night(vtx1="it does not answer")
    assert told(FIRST, lacks)[1:] == ["vtx1: no results tonight: it does not answer"]
    assert told([*FIRST, lacks], lacks)[0].startswith("news: nothing changed")
    now = night(n.host("vtx1", SECOND, kvm={"a": YES, "b": n.FAILS}))
    assert told([*FIRST, lacks], now)[1:] == [
        "vtx1 kvm: conforms → does not conform (1)",
        f"  {n.FILE}::b",
        "vtx1: results again, the last were of 2026-11-27 02:14 UTC",
    ]


def test_a_host_that_nobody_expects_any_more_is_news() -> None:
    both = [night(*(n.host(name, kvm={"a": YES}) for name in ("vtx1", "vtx2")))]
    one = night(n.host("vtx1", SECOND, kvm={"a": YES}))
    assert told(both, one)[1:] == ["vtx2: no results tonight: nobody expected any"]
    assert told([*both, one], one)[0].startswith("news: nothing changed")


def test_a_subject_that_lacks_is_news_once_and_comes_back_against_its_last_results() -> None:
    both = {"kvm": {"a": YES}, "model": {"a": YES}}
    before = [night(n.host("vtx1", **both))]
    without = n.host("vtx1", SECOND, model={"a": YES})
    lacks = night({**without, "absent": {"kvm": "no /dev/kvm"}})
    assert told(before, lacks)[1:] == ["vtx1 kvm: not here any more: no /dev/kvm"]
    assert told([*before, lacks], lacks)[0].startswith("news: nothing changed")
    back = night(n.host("vtx1", "2026-11-29T02:00:00+00:00", kvm={"a": n.FAILS}, model={"a": YES}))
    assert told([*before, lacks], back)[1:] == [
        "vtx1 kvm: conforms → does not conform (1)",
        f"  {n.FILE}::a",
        "vtx1 kvm: here again, the last results were of 2026-11-27 02:14 UTC",
    ]


def test_what_is_there_first_is_said_and_hides_no_failure() -> None:
    now = night(
        n.host("vtx1", SECOND, kvm={"a": YES, "b": YES}, model={"a": n.FAILS}), n.host("vtx2", SECOND, kvm={})
    )
    assert told(FIRST, now)[1:] == ["vtx1 model: first results", "vtx2: first results"]
    assert list(merged.failures(merged.merge({"vtx1": n.host("vtx1", model={"a": n.FAILS})}, {})))


def test_many_cases_are_counted_and_some_named() -> None:
    cases = [f"c{number:03}" for number in range(100)]
    before = [night(n.host("vtx1", kvm=dict.fromkeys(cases, YES)))]
    now = night(n.host("vtx1", SECOND, kvm=dict.fromkeys(cases, n.BROKEN)))
    lines = told(before, now)
    assert lines[1] == "vtx1 kvm: conforms → broken (100)"
    assert lines[-1] == "  and 80 more"
    assert len(news.compare(before, now)[0].plain()["cases"]) == 100


# The history


def test_a_night_is_kept_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "history.jsonl"
    assert history.load(path) == []
    history.keep(path, FIRST)
    assert history.load(path) == FIRST
    kept = history.by_case(history.load(path)[0]["hosts"]["vtx1"]["subjects"]["kvm"])
    assert kept == {f"{n.FILE}::a": YES, f"{n.FILE}::b": YES}
    assert [each.name for each in path.parent.iterdir()] == ["history.jsonl"]


def test_the_oldest_nights_go(tmp_path: Path) -> None:
    nights = [{**copy.deepcopy(FIRST[0]), "finished": str(number)} for number in range(100)]
    history.keep(tmp_path / "history.jsonl", nights)
    assert [each["finished"] for each in history.load(tmp_path / "history.jsonl")] == [
        str(number) for number in range(100 - history.MOST_NIGHTS, 100)
    ]


@pytest.mark.parametrize("line", ["{", "[]", '{"finished": ""}', "\x00"])
def test_a_damaged_history_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history.jsonl"
    history.keep(path, FIRST)
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises(UnusableError, match=r"history.jsonl:2: no night of a history; remove the line"):
        history.load(path)
