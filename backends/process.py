"""A process that cannot outlive its welcome: it ends by itself, at a deadline, or with its parent."""

from __future__ import annotations

import math
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_OUTPUT = 256 << 20
"""Bytes that any file of a started process may grow to; the disk of an emulated host takes 80 MiB."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit status (negative: a signal), or killed at the deadline."""

    status: int
    timed_out: bool
    stdout: bytes
    stderr: bytes

    def describe(self) -> str:
        """Return it in words."""
        if self.timed_out:
            return "killed at its deadline"
        if self.status < 0:
            return f"ended by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    deadline: float,
    silence: float = math.inf,
) -> Ended:
    """Run *command* in *folder* without input, in a session of its own, for at most *deadline* seconds.

    It gets SIGKILL when this process ends, however that ends, at the deadline, and where its standard
    output does not grow for *silence* seconds (it may take twice as long); its output goes to files in
    *folder*. Raises OSError where it cannot be started or the folder cannot be written.
    """
    outputs = folder / "stdout", folder / "stderr"
    with outputs[0].open("wb") as out, outputs[1].open("wb") as err:
        process = subprocess.Popen(
            [*guard(), *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            timed_out = not _ends_within(process.pid, deadline, silence, outputs[0])
        finally:
            if process.poll() is None:
                process.kill()
            status = process.wait()
    return Ended(status, timed_out, outputs[0].read_bytes(), outputs[1].read_bytes())


def guard() -> tuple[str, ...]:
    """Return the words before a command that bind it to its parent and bound its files (util-linux)."""
    setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
    if setpriv is None or prlimit is None:
        raise FileNotFoundError("setpriv and prlimit of util-linux are needed to start a machine safely")
    return (setpriv, "--pdeathsig", "KILL", prlimit, f"--fsize={MOST_OUTPUT}", "--")


def _ends_within(pid: int, seconds: float, silence: float, output: Path) -> bool:
    """Wait for a child of ours to end, without polling; it is left to be reaped."""
    handle, end, said = os.pidfd_open(pid), time.monotonic() + seconds, -1
    try:
        while not select.select([handle], [], [], max(0.0, min(silence, end - time.monotonic())))[0]:
            before, said = said, output.stat().st_size
            if said == before or time.monotonic() >= end:
                return False
        return True
    finally:
        os.close(handle)
