"""``python -m runner verify PAGE``: whether a certificate is what its data says, and shows again.

Exit status 0: it is; 1: the page was altered, or the subject shows something else now; 2: PAGE is no
certificate, or another suite made it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reports import certificate, merged, summary
from reports.certificate import Certificate
from reports.merged import UnusableError
from runner import suite
from runner.commands import certify

ALTERED, REFUSED = 1, 2
MOST_DIFFERENCES = 20


def main(arguments: Sequence[str]) -> int:
    """Check a page, and with ``--again`` the subject; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner verify", description=__doc__)
    parser.add_argument("page", type=Path, metavar="PAGE", help="a certificate that `certify` wrote")
    parser.add_argument(
        "--again", action="store_true", help="ask the subject again, and compare every verdict"
    )
    parser.add_argument(
        "--backend", metavar="FILE", help="the file of a subject that does not come with the suite"
    )
    chosen = parser.parse_args(arguments)
    try:
        found = certificate.read(chosen.page)
        _refuse_other_suite(chosen.page, found)
        if not certificate.is_unaltered(chosen.page, found):
            print(f"{chosen.page}: altered: the page is not what its data says")
            return ALTERED
        backend = _backend(found, chosen.backend) if chosen.again else ""
    except UnusableError as wrong:
        print(wrong, file=sys.stderr)
        return REFUSED
    print(f"{chosen.page}: {found['subject']}: {certificate.finding(found)}")
    print(f"  the page is what its data says; fingerprint {certificate.fingerprint(found)}")
    return _again(found, backend) if chosen.again else 0


def _refuse_other_suite(page: Path, found: Certificate) -> None:
    here = suite.identity()
    theirs = found.get("suite", {})
    if other := [name for name in here if here[name] != theirs.get(name)]:
        said = "; ".join(f"{name} {theirs.get(name)}, here {here[name]}" for name in other)
        raise UnusableError(f"{page}: of another suite: {said}; check out the one that made it")


def _backend(found: Certificate, given: str | None) -> str:
    """Return the subject's name or file; a file that others wrote is not run from their page."""
    if not found["source"]:
        return str(found["subject"])
    if given is None:
        said = f"{found['subject']} does not come with the suite: read its file on the page"
        raise UnusableError(f"{said}, keep it beside what it starts, and say --backend FILE")
    try:
        same = Path(given).read_text("utf-8") == found["source"]
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableError(f"{given}: cannot be read: {error}") from error
    if not same:
        raise UnusableError(f"{given}: another subject file than the one in the certificate")
    return given


def _again(found: Certificate, backend: str) -> int:
    files = dict.fromkeys(case.partition("::")[0] for case, _ in certificate.verdicts(found))
    with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
        certify.main([*files, "--backend", backend, "--report", folder])
        into = Path(folder) / "summary.json"
        said = summary.load(into)["subjects"].get(found["subject"]) if into.exists() else None
    if said is None:
        print(f"{found['subject']}: nothing was found now")
        return ALTERED
    lines = list(_differences(found, said))
    for line in lines[:MOST_DIFFERENCES]:
        print(line)
    if len(lines) > MOST_DIFFERENCES:
        print(f"and {len(lines) - MOST_DIFFERENCES} more")
    count = sum(found["verdicts"].values())
    print(
        f"{found['subject']}: {len(lines)} of {count} cases differ"
        if lines
        else f"all {count} verdicts again"
    )
    return ALTERED if lines else 0


def _differences(found: Certificate, now: Mapping[str, object]) -> Iterator[str]:
    then = dict(certificate.verdicts(found))
    again = merged.verdicts(now)
    for case, verdict in sorted(then.items()):
        if verdict != again.get(case):
            yield f"{case}: {verdict} then, {again.get(case, 'not asked')} now"
