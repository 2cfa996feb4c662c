"""The ROM image that a machine boots: a batch of records, and behind it the probe."""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path

from backends import wire
from runner.outcome import BackendBroken

PROBE = Path(__file__).parent / "probe"
BUILD_SECONDS = 300


def rom(batch: bytes) -> bytes | BackendBroken:
    """Return the 1 MiB of a ROM with this batch."""
    probe = probe_image()
    return probe if isinstance(probe, BackendBroken) else batch.ljust(wire.BATCH_ROOM, b"\xff") + probe


@cache
def probe_image() -> bytes | BackendBroken:
    """Return the probe's 192 KiB, built with make if its sources are newer."""
    build = PROBE / "build"
    try:
        build.mkdir(exist_ok=True)
        with build.joinpath("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = subprocess.run(
                ["make", "-s", "-C", str(PROBE)],
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
            if made.returncode:
                return BackendBroken("the probe cannot be built: make failed", made.stdout + made.stderr)
            return build.joinpath("probe.rom").read_bytes()
    except (OSError, subprocess.TimeoutExpired) as error:
        return BackendBroken(f"the probe cannot be built: {error}; `python -m runner doctor` helps")
