"""How an adapter is started: its command, and what builds it before."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.adapter.session import Session
from runner.outcome import BackendBroken, Unsupported

SUITE = Path(__file__).parents[2]
DEADLINE = 30.0
BUILD_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Command:
    """A command, the one that builds it, and the deadline of a batch in seconds.

    Both may say ``{python}``, this Python, ``{suite}``, the folder of this suite, and ``{workdir}``, a
    folder that is kept for the subject. They run in the folder where the runner was started.
    """

    words: tuple[str, ...]
    build: tuple[str, ...] = ()
    deadline: float = DEADLINE
    workdir: Path = SUITE

    @classmethod
    def of(cls, name: str, start: Mapping[str, Any]) -> Command:
        """Read the ``start`` of a subject file."""
        workdir = SUITE / ".cache" / "adapters" / name
        places = {"python": sys.executable, "suite": str(SUITE), "workdir": str(workdir)}
        return cls(
            _filled(start["command"], places),
            _filled(start.get("build", ()), places),
            float(start.get("deadline", DEADLINE)),
            workdir,
        )

    def hindrance(self) -> Unsupported | BackendBroken | None:
        """Build the adapter; return why it does not run here."""
        if self.build:
            if shutil.which(self.build[0]) is None:
                return Unsupported(f"building it needs {self.build[0]}, which is not installed")
            if trouble := self._built():
                return trouble
        if shutil.which(self.words[0]) is None:
            return BackendBroken(f"no program `{self.words[0]}`: `command` names none that can be started")
        return None

    def start(self) -> Session:
        """Start it. Raises OSError."""
        return Session(self.words)

    def _built(self) -> BackendBroken | None:
        """Build, one process at a time."""
        said = " ".join(self.build)
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            with (self.workdir / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                made = subprocess.run(
                    self.build,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=BUILD_SECONDS,
                    check=False,
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            return BackendBroken(f"it cannot be built: {error}")
        if made.returncode:
            return BackendBroken(f"it cannot be built: `{said}` failed", made.stdout + made.stderr)
        return None


def _filled(words: Sequence[str], places: Mapping[str, str]) -> tuple[str, ...]:
    def filled(word: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: places.get(found[1], found[0]), word)

    return tuple(map(filled, words))
