"""Unpack programs of Debian 13 for the subjects ``bochs-3`` and ``qemu-10-tcg``; none is installed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backends import bochs, bochs_unpacked, unpacked
from runner.commands.debian import first_error
from runner.outcome import Unsupported

# `extract` runs no script of any package, so `chrootless` is safe; it needs neither root nor mounts.
FETCH = ("mmdebstrap", "--mode=chrootless", "--variant=extract")
FETCH_SECONDS = 300.0
QEMU_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Program:
    """Packages of Debian 13, and what tries what they were unpacked to: it returns a reason, or nothing."""

    packages: str
    hindrance: Callable[[Path], str]


def unpack(target: Path, program: Program) -> str:
    """Make ``target`` the unpacked program; return why that failed, empty if it did not.

    ``target`` appears complete or not at all: its files are laid out beside it, tried, then renamed. Only
    one call at a time does so. The process that fetches holds the lock as well: it may outlive its caller.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return "" if target.is_dir() else _lay_out(target, program, lock.fileno())
    except OSError as error:
        return str(error)


def _lay_out(target: Path, program: Program, lock: int) -> str:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    reason = fetch(part, program.packages, "trixie", lock) or program.hindrance(part)
    if reason:
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.rename(target)
    return reason


def _bochs_hindrance(root: Path) -> str:
    said = bochs.said_version(bochs_unpacked.command(root), bochs_unpacked.environment(root))
    return "unpacked, but it does not start" if isinstance(said, Unsupported) else ""


def _qemu_hindrance(root: Path) -> str:
    return "" if qemu_version(str(unpacked.wrap_qemu(root))) else "unpacked, but it does not start"


def qemu_version(command: str) -> str:
    """Return the version that a QEMU says it is, empty where it cannot be started."""
    try:
        said = subprocess.run(
            (command, "--version"), capture_output=True, text=True, timeout=QEMU_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.match(r"QEMU emulator version (\d+(?:\.\d+)*)", said.stdout)
    return found[1] if found and not said.returncode else ""


BOCHS = Program("bochs,bochs-term", _bochs_hindrance)
QEMU = Program("qemu-system-x86", _qemu_hindrance)


def fetch(root: Path, packages: str, suite: str, lock: int) -> str:
    """Lay packages of a suite out in *root*; return why that failed, empty if it did not.

    The process that fetches holds the file *lock* as well.
    """
    if shutil.which(FETCH[0]) is None:
        return f"no {FETCH[0]} in the PATH"
    process = subprocess.Popen(
        (*FETCH, f"--include={packages}", suite, str(root)),
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
