"""The Debian packages of ``bindep.txt``: which of them lack, and how they get installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")
UPDATE = ("apt-get", "update")


def named(bindep: Path) -> tuple[str, ...]:
    """Return the package names of a bindep file."""
    lines = bindep.read_text("utf-8").splitlines()
    words = [line.partition("#")[0].split() for line in lines]
    return tuple(line[0] for line in words if line)


def missing(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return which packages are not installed; ``None`` where there is no dpkg to ask."""
    if shutil.which("dpkg-query") is None:
        return None
    query = ("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *names)
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    installed = {
        line.removesuffix(" installed") for line in answer.splitlines() if line.endswith(" installed")
    }
    return tuple(name for name in names if name not in installed)


def unasked(user: int, environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the words before ``apt-get`` with which to install without asking, ``None`` if not at all.

    Root needs none; in CI (the variable ``CI`` is set) ``sudo`` does it where it asks no password.
    """
    if user == 0:
        return ()
    return ("sudo", "-n") if environ.get("CI") and shutil.which("sudo") else None


def install(names: Sequence[str], before: tuple[str, ...]) -> str:
    """Install packages and return apt-get's complaint, empty if there is none.

    The package lists are fetched once, where the first attempt fails: they may lack or be too old.
    """
    wanted = (*before, *INSTALL, *names)
    if not _complaint(wanted):
        return ""
    return _complaint((*before, *UPDATE)) or _complaint(wanted)


def _complaint(command: Sequence[str]) -> str:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return first_error(done.stderr) or f"{command[0]}: exit status {done.returncode}"


def first_error(log: str) -> str:
    """Return the first error of an apt tool's log, without its ``E:``."""
    errors = (line.removeprefix("E: ") for line in log.splitlines() if line.startswith("E: "))
    return next(errors, "")
