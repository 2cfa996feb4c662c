"""The machine Bochs: the host's own, or Debian 13's unpacked beside it.

Frames are gathered in the machine's memory and taken by its debugger at the end, which costs far less
than a port; a byte on port E9H before each program says how far it came.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from backends import bochs_unpacked, image, process, wire
from backends.batch import Booted
from backends.machine import ProbeBackend
from runner.outcome import Unsupported

MEMORY = 32
"""MiB: the frames' room ends at 24."""
BOOT_SECONDS, PROGRAM_SECONDS = 20.0, 0.2
"""Deadline of a boot, and what each program adds to it; a guarded hang takes 0.1 s."""
LOG_LINES = 40

RUN = "c\n"
"""What the debugger of 2.7 is told where it is not to be used."""
CONFIGURATION = """\
config_interface: textconfig
display_library: term
memory: guest={memory}, host={memory}
vgaromimage: file=vga.bin
romimage: file=image.rom
cpu: model={model}, count={cpus}, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0
port_e9_hack: enabled=1
clock: sync=none
magic_break: enabled=1
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"""
PLUGINS_2 = "plugin_ctrl: biosdev=0, speaker=0, parallel=0, gameport=0, extfpuirq=0, serial=0"
PLUGINS_3 = "vga: extension=vbe"


def said_version(command: Sequence[str], extra: Mapping[str, str]) -> str | Unsupported:
    """Return the version that a Bochs says it is; *extra* are variables that it needs."""
    try:
        said = subprocess.run(
            [*command, "--help"],
            env={**os.environ, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BOOT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Unsupported(f"{command[-1]} cannot be started: {error}")
    found = re.search(rb"Bochs x86 Emulator (\d+(?:\.\d+)*)", said.stdout + said.stderr)
    if said.returncode or found is None:
        return Unsupported(f"{command[-1]} --help names no version of Bochs")
    return found[1].decode()


class Bochs:
    """A `Machine`.

    ``unpacked`` chooses Debian 13's; ``model`` is the processor model's Bochs name; ``door`` is
    `wire.DOOR_E9` where the debugger is not to be used (Bochs 3 can be started without, 2.7 cannot).
    """

    most_cpus = wire.MAX_CPUS
    form = image.ROM

    def __init__(
        self, *, unpacked: bool = False, model: str = "corei7_skylake_x", door: int = wire.DOOR_MEMORY
    ) -> None:
        """Start nothing yet."""
        self.door = door
        self._unpacked = unpacked
        self._model = model

    def version(self) -> str | Unsupported:
        """Return ``2.7`` or ``3.0``, or what to do to have it."""
        return self._version

    @cached_property
    def _version(self) -> str | Unsupported:
        command = self.command()
        if isinstance(command, Unsupported):
            return command
        return said_version(command, self.environment())

    def command(self) -> tuple[str, ...] | Unsupported:
        """Return the first words of the command that starts it, or what to do to have it."""
        if self._unpacked:
            root = bochs_unpacked.directory(os.environ)
            if not root.is_dir():
                return Unsupported(
                    "not unpacked; the doctor does it where the host's Bochs is older than 2.8"
                )
            return bochs_unpacked.command(root)
        program = shutil.which("bochs-bin") or shutil.which("bochs")
        if program is None:
            return Unsupported("no bochs in the PATH: apt-get install bochs bochs-term")
        return (program,)

    def environment(self) -> Mapping[str, str]:
        """Return the variables that it needs beside the caller's own."""
        extra = {"TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
        if self._unpacked:
            extra |= bochs_unpacked.environment(bochs_unpacked.directory(os.environ))
        return extra

    def _debugger_commands(self, room: int) -> str:
        """Return what the debugger does: run, and take the frames at the magic break."""
        if self.door == wire.DOOR_MEMORY:
            return f'c\nwritemem "frames" {wire.RECORDS_BASE:#x} {room}\nq\n'
        return RUN

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        """Boot a ROM in *folder*."""
        folder.joinpath("image.rom").write_bytes(rom)
        ended = self.run(
            CONFIGURATION.format(memory=MEMORY, model=self._model, cpus=cpus),
            self._debugger_commands(room),
            folder=folder,
            deadline=BOOT_SECONDS + PROGRAM_SECONDS * programs,
            silence=BOOT_SECONDS,
        )
        return _read(folder, ended, self.door)

    def run(
        self,
        configuration: str,
        commands: str = RUN,
        *,
        folder: Path,
        deadline: float,
        silence: float = math.inf,
    ) -> process.Ended:
        """Run it in *folder*; the debugger is there where *commands* are more than to run, and in 2.7 always.

        *deadline* and *silence* are as for `process.run`. Raises OSError.
        """
        command, version = self.command(), self.version()
        if isinstance(command, Unsupported) or isinstance(version, Unsupported):
            raise FileNotFoundError("no Bochs")
        new = int(version.split(".")[0]) >= 3
        folder.joinpath("vga.bin").write_bytes(bytes(512))
        folder.joinpath("rc").write_text(f"{PLUGINS_3 if new else PLUGINS_2}\n{configuration}")
        folder.joinpath("commands").write_text(commands)
        debugger = ["-rc", "commands"] if commands != RUN or not new else []
        if new and debugger:
            debugger.insert(0, "-debugger")
        return process.run(
            [*command, *debugger, "-q", "-f", "rc", "log: log"],
            folder=folder,
            environment=self.environment(),
            deadline=deadline,
            silence=silence,
        )


def _read(folder: Path, ended: process.Ended, door: int) -> Booted:
    log = folder / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    said = ended.stderr.decode(errors="replace").splitlines()
    text = "\n".join([*said[-LOG_LINES:], *lines[-LOG_LINES:]])
    trouble = "" if ended.status == 0 else ended.describe()
    panic = next((line for line in [*said, *lines] if ">>PANIC<<" in line), None)
    if trouble and panic:
        trouble += "; " + panic.split(">>PANIC<<", 1)[1].strip()
    if door == wire.DOOR_E9:
        seen = sum(frame.kind == wire.FRAME_CASE for frame in wire.frames(ended.stdout))
        return Booted(ended.stdout, seen + 1, text, trouble)
    frames = folder / "frames"
    stream = frames.read_bytes() if frames.exists() else b""
    return Booted(stream, ended.stdout.count(wire.PROGRESS), text, trouble)


def backend(name: str, start: Mapping[str, object]) -> ProbeBackend:
    """Return the subject that a subject file's ``start`` mapping describes."""
    model = str(start.get("model", "corei7_skylake_x"))
    door = wire.DOOR_E9 if start.get("door") == "port-e9" else wire.DOOR_MEMORY
    return ProbeBackend(name, Bochs(unpacked=bool(start.get("unpacked")), model=model, door=door))
