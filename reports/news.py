"""What changed since the night before: the first thing that a maintainer reads in the morning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.history import Night, by_case, last_with
from reports.merged import FAILING
from runner.judging.verdict import Verdict

MOST_CASES = 20
"""Cases that one item prints; the summary has all of them."""

NEW, GONE = "new", "not run"
"""What stands in place of a verdict where a case did not run the night before, or does not any more."""


@dataclass(frozen=True, slots=True)
class Item:
    """One change, of the cases of one subject on some hosts, or of what those are."""

    hosts: tuple[str, ...]
    subject: str
    what: str
    cases: tuple[str, ...] = ()
    weight: int = 0

    def plain(self) -> dict[str, Any]:
        """Return it as a summary keeps it."""
        return {
            "hosts": list(self.hosts), "subject": self.subject, "what": self.what, "cases": list(self.cases)
        }  # fmt: skip


def compare(before: Sequence[Night], now: Night) -> list[Item]:
    """Return what is new in *now*, the weightiest first, the hosts of one change together.

    Each subject on each host is compared with the last night that has results of it, so that a night
    without them hides nothing.
    """
    hosts: dict[tuple[str, str, tuple[str, ...], int], list[str]] = {}
    for item in _items(before, now):
        key = (item.subject, item.what, item.cases, item.weight)
        hosts.setdefault(key, []).append(item.hosts[0])
    items = [Item(tuple(names), *key[:3], weight=key[3]) for key, names in hosts.items()]
    return sorted(items, key=lambda item: item.weight)


def _items(before: Sequence[Night], now: Night) -> Iterator[Item]:
    for host, reason in now["missing"].items():
        if before and host not in before[-1]["missing"]:
            yield Item((host,), "", f"no results tonight: {reason}")
    for host in before[-1]["hosts"] if before else ():
        if host not in {**now["hosts"], **now["missing"]}:
            yield Item((host,), "", "no results tonight: nobody expected any", weight=_GONE)
    for host in now["hosts"]:
        last = last_with(before, host)
        if last is not None:
            yield from _of_host(host, last, before, now)
        elif before:
            yield Item((host,), "", "first results", weight=_LEAST)


def _of_host(host: str, last: Night, before: Sequence[Night], now: Night) -> Iterator[Item]:
    old, new = last["hosts"][host], now["hosts"][host]
    if host in before[-1]["missing"]:
        yield Item((host,), "", f"results again, the last were of {moment(last)}", weight=_FACTS)
    yield from _facts(host, "", old["facts"], new["facts"])
    for subject in sorted(old["subjects"].keys() - new["subjects"].keys()):
        why = new["absent"].get(subject, "nobody asked for it")
        yield Item((host,), subject, f"not here any more: {why}")
    for subject, said in new["subjects"].items():
        base = last_with(before, host, subject)
        if base is None:
            yield Item((host,), subject, "first results", weight=_LEAST)
            continue
        if base is not last:
            again = f"here again, the last results were of {moment(base)}"
            yield Item((host,), subject, again, weight=_FACTS)
        known = base["hosts"][host]["subjects"][subject]
        yield from _facts(host, subject, known["facts"], said["facts"])
        yield from _cases(host, subject, by_case(known), by_case(said))


_WORST, _GONE, _FACTS, _BETTER, _LEAST = range(5)
"""Weights: what fails now; what did not run; what may explain it; the other changes; what is there first."""


def _facts(host: str, subject: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Item]:
    for name, value in new.items():
        if old.get(name, value) != value:
            yield Item((host,), subject, f"{name}: {old[name]} → {value}", weight=_FACTS)


def _cases(host: str, subject: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Item]:
    changes: dict[tuple[str, str], list[str]] = {}
    for case in sorted(old.keys() | new.keys()):
        was, is_now = old.get(case, NEW), new.get(case, GONE)
        if was != is_now:
            changes.setdefault((was, is_now), []).append(case)
    for (was, is_now), cases in changes.items():
        weight = _WORST if is_now in FAILING else _GONE if is_now == GONE else _BETTER
        if (was, is_now) == (NEW, Verdict.CONFORMS.value):
            weight = _LEAST
        yield Item((host,), subject, f"{was} → {is_now}", tuple(cases), weight)


def moment(entry: Night) -> str:
    """Return when a night ended, to the minute."""
    return str(entry["finished"])[:16].replace("T", " ") + " UTC"


def words(before: Sequence[Night], items: Iterable[Item]) -> str:
    """Return the news for a terminal; that there are none is news as well."""
    if not before:
        return "news: this is the first night of the history"
    told = list(items)
    since = f"since {moment(before[-1])}"
    if not told:
        return f"news: nothing changed {since}"
    return "\n".join([f"news {since}", *(line for item in told for line in _lines(item))])


def _lines(item: Item) -> Iterator[str]:
    place = " ".join(filter(None, (", ".join(item.hosts), item.subject)))
    yield f"{place}: {item.what}{f' ({len(item.cases)})' if item.cases else ''}"
    if item.weight == _LEAST:
        return
    yield from (f"  {case}" for case in item.cases[:MOST_CASES])
    if len(item.cases) > MOST_CASES:
        yield f"  and {len(item.cases) - MOST_CASES} more"
