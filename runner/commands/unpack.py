"""Unpack Debian 13's Bochs for the subject ``bochs-3``; nothing of it is installed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends import bochs_unpacked
from runner.commands.debian import first_error

# `extract` runs no script of any package, so `chrootless` is safe; it needs neither root nor mounts.
FETCH = ("mmdebstrap", "--mode=chrootless", "--variant=extract", "--include=bochs,bochs-term", "trixie")
FETCH_SECONDS = 300.0
START_SECONDS = 20.0
BANNER = re.compile(r"Bochs x86 Emulator (\d+)\.(\d+)")


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
    reason = _fetch(part, lock)
    if not reason and not version(bochs_unpacked.command(part), bochs_unpacked.environment(part)):
        reason = "unpacked, but it does not start"
    if reason:
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.rename(target)
    return reason


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


def version(command: Sequence[str], extra: Mapping[str, str]) -> tuple[int, ...]:
    """Return the version that a Bochs says it is, ``(3, 0)``; empty if it does not start.

    ``extra`` are variables that it needs beside those of this process.
    """
    environ = {**os.environ, **extra}
    ask = (*command, "--help")
    try:
        done = subprocess.run(
            ask,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = BANNER.search(done.stdout)
    return (int(found[1]), int(found[2])) if found else ()
