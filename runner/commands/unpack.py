"""Unpack Debian 13's Bochs for the subject ``bochs-3``; nothing of it is installed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path

from backends import bochs, bochs_unpacked
from runner.commands.debian import first_error
from runner.outcome import Unsupported

# `extract` runs no script of any package, so `chrootless` is safe; it needs neither root nor mounts.
FETCH = ("mmdebstrap", "--mode=chrootless", "--variant=extract", "--include=bochs,bochs-term", "trixie")
FETCH_SECONDS = 300.0


def unpack(target: Path) -> str:
    """Make ``target`` the unpacked Bochs; return why that failed, empty if it did not.

    ``target`` appears complete or not at all: its files are laid out beside it, tried, then renamed. Only
    one call at a time does so. The process that fetches holds the lock as well: it may outlive its caller.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return "" if target.is_dir() else _lay_out(target, lock.fileno())
    except OSError as error:
        return str(error)


def _lay_out(target: Path, lock: int) -> str:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    reason = _fetch(part, lock) or _does_not_start(part)
    if reason:
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.rename(target)
    return reason


def _does_not_start(root: Path) -> str:
    said = bochs.said_version(bochs_unpacked.command(root), bochs_unpacked.environment(root))
    return "unpacked, but it does not start" if isinstance(said, Unsupported) else ""


def _fetch(root: Path, lock: int) -> str:
    if shutil.which(FETCH[0]) is None:
        return f"no {FETCH[0]} in the PATH"
    process = subprocess.Popen(
        (*FETCH, str(root)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        pass_fds=(lock,),
    )
    try:
        log, _ = process.communicate(timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"{FETCH[0]} did not end within {FETCH_SECONDS:.0f} s"
    if process.returncode == 0:
        return ""
    return first_error(log) or f"{FETCH[0]}: exit status {process.returncode}"
