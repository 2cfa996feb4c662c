"""A machine that a command of the user's boots: what a subject file of kind `machine` says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from backends import image, process, stream, unpacked, wire
from backends.batch import Booted
from backends.following import Deadlines, follow
from backends.machine import HOST_GUARD_TICKS, ProbeBackend
from runner.outcome import Unsupported

VERSION_SECONDS = AFTER_SECONDS = 30.0
DOORS = {"debug-console": wire.DOOR_E9, "serial": wire.DOOR_SERIAL}
SUFFIXES = {image.ROM: "rom", image.KERNEL: "elf", image.ISO: "iso"}


class Command:
    """A `Machine`; *start* is that of the subject file, whose schema has looked at it."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        """Start nothing yet."""
        self._command: Sequence[str] = start["command"]
        self._version_command = _filled(start.get("version", ()), {"cache": unpacked.cache(os.environ)})
        self._after: Sequence[str] = start.get("after", ())
        self._records: str = start["records"]
        self._deadlines = Deadlines(**start.get("deadlines", {}))
        counts = any("{cpus}" in word for word in self._command)
        self.form: str = start["image"]
        self.door = DOORS[start.get("door", "debug-console")]
        self.most_cpus: int = start.get("most-cpus", wire.MAX_CPUS if counts else 1)

    def version(self) -> str | Unsupported:
        """Return the first number with a dot that the version command prints; ``unknown`` without one."""
        return self._version

    @cached_property
    def _version(self) -> str | Unsupported:
        if not self._version_command:
            return "unknown"
        try:
            said = subprocess.run(
                self._version_command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=VERSION_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Unsupported(f"{self._version_command[0]} cannot be started: {error}")
        text = (said.stdout + said.stderr).decode(errors="replace")
        found = re.search(r"\d+(?:\.\d+)+", text)
        if said.returncode or found is None:
            words = " ".join(self._version_command)
            return Unsupported(f"`{words}` names no version: exit status {said.returncode}, {text[:80]!r}")
        return found[0]

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        """Boot an image in *folder*; the records' number bounds *room* well enough."""
        del room
        file = folder / f"image.{SUFFIXES[self.form]}"
        file.write_bytes(rom)
        work = folder / "work"
        work.mkdir()
        with stream.opened(self._records, folder) as records:
            values = {
                "cache": unpacked.cache(os.environ),
                "image": file,
                "cpus": cpus,
                "workdir": work,
                "records": records.path,
            }
            try:
                return follow(
                    _filled(self._command, values),
                    records,
                    folder=work,
                    deadlines=self._deadlines,
                    programs=programs,
                )
            finally:
                if self._after:
                    process.run(
                        _filled(self._after, values),
                        folder=work,
                        environment=os.environ,
                        deadline=AFTER_SECONDS,
                    )


def _filled(words: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """Return the words with each placeholder replaced by its value; other braces stay."""
    return [
        re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), word, flags=re.ASCII) for word in words
    ]


def backend(name: str, start: Mapping[str, Any]) -> ProbeBackend:
    """Return the subject that a subject file's ``start`` mapping describes."""
    return ProbeBackend(name, Command(start), guard=HOST_GUARD_TICKS)
