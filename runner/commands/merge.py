"""``python -m runner merge FOLDER…``: the results of several hosts as one report, and what is new in it.

Each FOLDER is the report folder of one host. Exit status 1: a host has a verdict that fails a run, or has
no results; 2: the folders do not belong together, or hold something else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reports import history, hosts, merged, news, summary
from reports.merged import UnusableError
from reports.summary import Summary
from runner.commands import page

REPORT = Path("reports") / "nightly"
FAILED, REFUSED = 1, 2

Found = dict[str, tuple[Path, Summary]]
"""By host: its report folder and its summary."""


def main(arguments: Sequence[str]) -> int:
    """Merge folders and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner merge", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--expect", action="append", default=[], metavar="HOST", help="it must be among them")
    add_options(parser)
    chosen = parser.parse_args(arguments)
    return merge(chosen.folders, dict.fromkeys(chosen.expect, "no folder has its summary"), chosen)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is merged, where the report goes, and what it is compared with."""
    parser.add_argument("--mixed", action="store_true", help="merge runs of different suites or cases")
    parser.add_argument(
        "--report", type=Path, default=REPORT, metavar="FOLDER", help="write the report there"
    )
    parser.add_argument("--history", type=Path, metavar="FILE", help="earlier nights; default: in the report")


def merge(folders: Iterable[Path], expected: Mapping[str, str], chosen: argparse.Namespace) -> int:
    """Merge folders, print and write the report; return the exit status.

    *expected* says of each host that must be among them what to report where it is not.
    """
    try:
        found, lacking = gather(folders)
        missing = {name: why for name, why in expected.items() if name not in {**found, **lacking}}
        _refuse_mixture(found, chosen)
        return report(found, {**missing, **lacking}, chosen.report, chosen.history)
    except UnusableError as wrong:
        print(wrong, file=sys.stderr)
        return REFUSED


def gather(folders: Iterable[Path]) -> tuple[Found, dict[str, str]]:
    """Return each host's folder and summary, and which folders have none."""
    found: Found = {}
    missing: dict[str, str] = {}
    for folder in folders:
        said = merged.read(folder)
        if said is None:
            missing[folder.name] = f"no summary.json in {folder}: the run there did not end"
            continue
        name = said["host"]["name"]
        if name in found:
            other = found[name][0]
            raise UnusableError(f"{other} and {folder}: both of host {name}; name one by X2APIC_HOST")
        found[name] = folder, said
    return found, missing


def _refuse_mixture(found: Found, chosen: argparse.Namespace) -> None:
    differ = merged.mixture({name: said for name, (_, said) in found.items()})
    if differ and not chosen.mixed:
        told = "\n  ".join(differ)
        raise UnusableError(f"these runs are not of one suite; say --mixed to merge them:\n  {told}")
    for line in differ:
        print(f"mixed: {line}")


def report(found: Found, missing: Mapping[str, str], into: Path, kept: Path | None) -> int:
    """Write and print one report of all hosts, the news last; return 1 where something fails."""
    kept = kept or into / "history.jsonl"
    nights = history.load(kept)
    whole = merged.merge({name: said for name, (_, said) in found.items()}, missing)
    tonight = history.night(whole)
    items = news.compare(nights, tonight)
    _collect_results([folder for folder, _ in found.values()], into / "results")
    summary.write({**whole, "news": [item.plain() for item in items]}, into / "summary.json")
    history.keep(kept, [*nights, tonight])
    print(hosts.table(whole), f"page: {page.make(into)}", news.words(nights, items), sep="\n\n")
    failing = list(merged.failures(whole))
    if failing:
        print("", *(f"fails: {line}" for line in failing), sep="\n")
    return FAILED if failing else 0


def _collect_results(folders: Iterable[Path], into: Path) -> None:
    """Put the Allure results of all hosts into one folder; their file names are unique by themselves."""
    shutil.rmtree(into, ignore_errors=True)
    for folder in folders:
        if (folder / "results").is_dir():
            shutil.copytree(folder / "results", into, dirs_exist_ok=True)
