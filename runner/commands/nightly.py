"""``python -m runner nightly``: all subjects, yours among them, on all scenarios and the sweeps of the night.

It prints what changed since the night before. Exit status 1: something fails, or a subject that is
required is not here; 2: a scenario, a subject's file or the history says what cannot be used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from backends import Identity
from reports import summary
from runner import host
from runner.commands import certify, merge, presence
from runner.judging import subject_file
from runner.language.loading import NIGHTLY, SPECS
from runner.outcome import Unsupported
from runner.reading.problems import MalformedError

SUBJECTS, REQUIRED = "X2APIC_SUBJECTS", "X2APIC_REQUIRE"
"""Environment variables for those who cannot give options: what `--subject` and `--require` give."""


AT_VMX = "@vmx"
"""Behind the name of a subject that is required: at level vmx, not at level guest alone."""


def main(arguments: Sequence[str]) -> int:
    """Run the night and return the exit status."""
    chosen = _parser().parse_args(arguments)
    name = host.here().name
    if not re.fullmatch(r"[\w.-]+", name):
        print(
            f"{host.NAME}: `{name}` names no folder; use letters, digits, `.`, `_` and `-`", file=sys.stderr
        )
        return merge.REFUSED
    own = [*chosen.subject, *filter(None, os.environ.get(SUBJECTS, "").split(os.pathsep))]
    required = [*own, *chosen.require, *os.environ.get(REQUIRED, "").split()]
    names = [*subject_file.shipped(), *(each.removesuffix(AT_VMX) for each in required)]
    try:
        found = certify.said(presence.of(dict.fromkeys(names)))
    except MalformedError as wrong:
        print(wrong, file=sys.stderr)
        return merge.REFUSED
    lacking = certify.absent(found)
    folder = chosen.report / name
    shutil.rmtree(folder, ignore_errors=True)
    status = certify.run(chosen.paths, [each for each in found if each not in lacking], lacking, folder)
    _note_required(dict(_unmet(required, found)), folder)
    if status == merge.REFUSED:
        return status
    return merge.merge([folder], {}, chosen) or status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runner nightly", description=__doc__)
    everything = [str(SPECS), str(NIGHTLY)]
    parser.add_argument(
        "paths", nargs="*", default=everything, metavar="PATH", help="only these scenario files"
    )
    parser.add_argument(
        "--subject", action="append", default=[], metavar="FILE", help=f"one of yours; also by {SUBJECTS}"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME[@vmx]",
        help=f"must be here; also by {REQUIRED}",
    )
    merge.add_options(parser)
    return parser


def _unmet(required: Iterable[str], found: Mapping[str, presence.Presence]) -> Iterator[tuple[str, str]]:
    """Yield what is required and not here, and why; a broken subject is here, and its cases fail."""
    for each in required:
        match found[each.removesuffix(AT_VMX)]:
            case Unsupported(reason):
                yield each, reason
            case Identity(capabilities=known) if each.endswith(AT_VMX) and known.get("vmx") == "false":
                yield each, "its processor has no VMX, so it runs level guest alone"


def _note_required(lacking: Mapping[str, str], folder: Path) -> None:
    """Note in the summary which subjects were required and are not here."""
    into = folder / "summary.json"
    if lacking and into.exists():
        summary.write({**summary.load(into), "required": dict(lacking)}, into)
