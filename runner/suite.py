"""Which suite a run was of: two runs compare only where both asked the same, with the same code."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.language.loading import ROOT, SPECS

PACKAGES = ("runner", "backends", "reports")
SUFFIXES = {".py", ".c", ".h", ".S", ".ld", ".yaml", ".jinja"}
MADE = {"build", "certificates", "results", "html", "hosts"}


def identity() -> dict[str, str]:
    """Return the suite's version, and 12 digits of the SHA-256 of its scenarios and of its code.

    Known deviations are in the code's: they decide between two verdicts.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    code = [ROOT / "conftest.py", *_sources()]
    return {
        "version": str(project["version"]),
        "scenarios": _digest(SPECS.rglob("*.yaml")),
        "code": _digest(code),
    }


def _sources() -> Iterator[Path]:
    """Yield the files of the packages, without what is built or written there."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in SUFFIXES and not MADE & set(path.parts) and path.is_file():
                yield path


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix().encode()
        digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
