"""What this suite builds from C: with make, once, when first wanted."""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path

from runner.outcome import BackendBroken

BUILD_SECONDS = 300


@cache
def made(folder: Path, name: str) -> Path | BackendBroken:
    """Return ``build/NAME`` of a folder, built with make if its sources are newer."""
    build = folder / "build"
    try:
        build.mkdir(exist_ok=True)
        with build.joinpath("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run(
                ["make", "-s", "-C", str(folder), f"build/{name}"],
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return BackendBroken(f"{name} cannot be built: {error}; `python -m runner doctor` helps")
    if done.returncode:
        return BackendBroken(
            f"{name} cannot be built: make failed; `python -m runner doctor` helps", done.stdout + done.stderr
        )
    return build / name
