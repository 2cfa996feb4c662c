"""The merged summary as a table of hosts and subjects, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reports.merged import FAILING
from reports.summary import Summary
from reports.table import cell, columns, of_points


def table(merged: Summary) -> str:
    """Return hosts by subjects, what the hosts are, then every case that fails with its hosts."""
    return "\n".join(_lines(merged))


def _lines(merged: Summary) -> Iterator[str]:
    hosts, missing = merged["hosts"], merged["missing"]
    names = list(dict.fromkeys(name for host in hosts.values() for name in _named(host)))
    names = names or [""]
    rows = [[name, *(_cell(host, subject) for subject in names)] for name, host in hosts.items()]
    rows += [[name, *["no results"] * len(names)] for name in missing]
    yield from columns([["host", *names], *sorted(rows)])
    yield ""
    for name, host in hosts.items():
        facts = host["host"]
        yield f"{name}: {facts['processor']}, microcode {facts['microcode']}, {facts['kernel']}"
        yield from (
            f"{name}: {subject} is not here: {why}" for subject, why in host.get("absent", {}).items()
        )
    yield from (f"{name}: no results: {reason}" for name, reason in missing.items())
    yield from _failing(hosts)


def _named(host: Mapping[str, Any]) -> Iterator[str]:
    yield from host["subjects"]
    yield from host.get("absent", {})


def _cell(host: Mapping[str, Any], subject: str) -> str:
    """Return ``2.7: 880, 30 known``; ``absent`` where the subject is not here, ``-`` if none asked for it."""
    said = host["subjects"].get(subject)
    if said is None:
        return "absent" if subject in host.get("absent", {}) else "-"
    version = said.get("version")
    return f"{version}: {cell(said['verdicts'])}" if version else cell(said["verdicts"])


def _failing(hosts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cases that fail, those with one verdict and one reason together, with their hosts."""
    groups: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for name, host in hosts.items():
        for subject, said in host["subjects"].items():
            for case in said["cases"]:
                if case["verdict"] in FAILING:
                    cases = groups.setdefault((subject, case["verdict"], case["reason"]), {})
                    cases.setdefault(f"{case['id']}{of_points(case)}", []).append(name)
    for (subject, verdict, reason), cases in groups.items():
        yield ""
        yield f"{subject}: {verdict}: {reason}"
        yield from (f"  {case} on {', '.join(names)}" for case, names in cases.items())
