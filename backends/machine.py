"""Programs on a machine that boots the probe: batches in, observations out, whatever happens between.

One boot carries many programs. A machine that ends early costs the program that ran then (*broken*,
with the machine's log) and a fresh boot for the rest; nothing without a whole, checksummed record is
ever an observation.
"""

from __future__ import annotations

import fcntl
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from backends import Identity, decode, encode, wire
from backends.capabilities import Processor
from backends.events import BadRecordError
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program

PROBE = Path(__file__).parent / "probe"
GUARD_TICKS = 3_000_000
"""The VMX-preemption timer of the probe's guard; a step that takes longer did not return."""
FIXED_ROOM, RECORD_ROOM, STEP_ROOM = 16 << 10, 256, 64
"""Bytes of frames: for all, for each virtual processor, for each of its steps. More than most need;
where it was too little the probe says so and the rest gets another boot."""


@dataclass(frozen=True, slots=True)
class Booted:
    """What a boot left: the stream with the frames, how many programs began, and what was printed.

    ``trouble`` is empty where the machine ended as it ought to.
    """

    stream: bytes
    begun: int
    log: str
    trouble: str = ""


class Machine(Protocol):
    """Something that boots the ROM image."""

    most_cpus: int

    def version(self) -> str | Unsupported:
        """Return the version, or why the machine cannot be started here."""

    def boot(self, image: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        """Boot *image*; *room* is how many bytes of frames may come back. Raises OSError."""

    door: int


class ProbeBackend:
    """A `Backend` on a `Machine`."""

    def __init__(self, name: str, machine: Machine) -> None:
        """Take a machine; nothing is started before `identity` or `run`."""
        self.name = name
        self._machine = machine
        self._found: Processor | Unsupported | BackendBroken | None = None

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return the machine's version and what its processor reports; boots it once."""
        version = self._machine.version()
        if isinstance(version, Unsupported):
            return version
        found = self._processor()
        if not isinstance(found, Processor):
            return found
        return Identity(self.name, version, found.report())

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order."""
        answers: dict[int, Answer] = {}
        found = self._ready()
        if not isinstance(found, Processor):
            yield from [found] * len(programs)
            return
        records: dict[int, bytes] = {}
        for index, program in enumerate(programs):
            lack = self._lack(found, program)
            if lack is None:
                try:
                    records[index] = encode.encode_case(index, program)
                except encode.CannotEncodeError as error:
                    lack = f"the probe does not carry {error}"
            if lack is not None:
                answers[index] = Unsupported(lack)
        for group in _groups(programs, records):
            answers.update(self._boots(group, programs, records))
        yield from (answers[index] for index in range(len(programs)))

    def _ready(self) -> Processor | Unsupported | BackendBroken:
        version = self._machine.version()
        return version if isinstance(version, Unsupported) else self._processor()

    def _lack(self, found: Processor, program: Program) -> str | None:
        if len(program.vcpus) > self._machine.most_cpus:
            return f"{len(program.vcpus)} processors: {self.name} has at most {self._machine.most_cpus}"
        return found.lacks(program)

    def _processor(self) -> Processor | Unsupported | BackendBroken:
        """Return what an empty boot finds, once."""
        if self._found is None:
            self._found = self._look()
        return self._found

    def _look(self) -> Processor | BackendBroken:
        booted = self._boot([], cpus=1)
        if isinstance(booted, BackendBroken):
            return booted
        for frame in wire.frames(booted.stream):
            if frame.kind == wire.FRAME_BEGIN:
                return Processor.from_begin(frame.payload)
        reason = booted.trouble or "the machine ended without a BEGIN frame"
        return BackendBroken(f"{self.name}: {reason}", booted.log)

    def _boots(
        self, group: list[int], programs: Sequence[Program], records: dict[int, bytes]
    ) -> Iterator[tuple[int, Answer]]:
        """Boot as often as it takes to have an answer for each program of a group."""
        cpus = max(len(programs[index].vcpus) for index in group)
        left = group
        while left:
            batch = _fitting(left, records)
            room = sum(_room(programs[index]) for index in batch)
            booted = self._boot([records[index] for index in batch], cpus=cpus, room=room)
            if isinstance(booted, BackendBroken):
                yield from ((index, booted) for index in left)
                return
            done = dict(self._observations(booted.stream, batch, programs))
            culprit = self._culprit(booted, batch, done)
            if culprit is not None:
                done[culprit[0]] = culprit[1]
            elif not done:
                broken = BackendBroken(f"{self.name}: {booted.trouble or 'no record came back'}", booted.log)
                done = dict.fromkeys(batch, broken)
            yield from done.items()
            left = [index for index in left if index not in done]

    def _observations(
        self, stream: bytes, batch: list[int], programs: Sequence[Program]
    ) -> Iterator[tuple[int, Answer]]:
        """Yield what the frames of the batch's programs say; each program's first frame counts."""
        wanted = set(batch)
        for frame in wire.frames(stream):
            if frame.kind != wire.FRAME_CASE or frame.seq not in wanted:
                continue
            wanted.remove(frame.seq)
            try:
                yield frame.seq, decode.observation(programs[frame.seq], frame.payload)
            except (BadRecordError, struct.error, ValueError, IndexError) as error:
                yield frame.seq, BackendBroken(f"{self.name}: unreadable record: {error}")

    def _culprit(
        self, booted: Booted, batch: list[int], done: dict[int, Answer]
    ) -> tuple[int, BackendBroken] | None:
        """Return the program during which the machine ended early, if it did."""
        end = next((f for f in wire.frames(booted.stream) if f.kind == wire.FRAME_END), None)
        if end is not None:
            return None
        error = next((f for f in wire.frames(booted.stream) if f.kind == wire.FRAME_ERROR), None)
        begun = max(booted.begun, len(done) + 1) if error or booted.begun else len(done)
        if not 0 < begun <= len(batch) or batch[begun - 1] in done:
            return None
        reason = booted.trouble or "the machine ended early"
        if error is not None:
            reason = "the probe gave up: " + error.payload[4:].decode("ascii", "replace")
        return batch[begun - 1], BackendBroken(f"{self.name}: {reason}", booted.log)

    def _boot(self, records: list[bytes], *, cpus: int, room: int = 0) -> Booted | BackendBroken:
        probe = probe_image()
        if isinstance(probe, BackendBroken):
            return probe
        room = min(FIXED_ROOM + room, wire.RECORDS_ROOM)
        batch = wire.encode_batch(records, cpus=cpus, door=self._machine.door, limit=room, guard=GUARD_TICKS)
        image = batch.ljust(wire.BATCH_ROOM, b"\xff") + probe
        try:
            with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
                return self._machine.boot(
                    image, cpus=cpus, room=room, programs=len(records), folder=Path(folder)
                )
        except OSError as error:
            return BackendBroken(f"{self.name}: cannot start the machine: {error}")


def _room(program: Program) -> int:
    """Return the bytes of frames that a program gets."""
    return RECORD_ROOM * len(program.vcpus) + STEP_ROOM * len(program.steps)


def _groups(programs: Sequence[Program], indices: Iterable[int]) -> list[list[int]]:
    """Sort programs into boots: by number of processors; within one, by APIC mode as it can be reached.

    From xAPIC mode to x2APIC mode to disabled: the way back leads through the disabled state, which not
    every machine leaves again.
    """
    groups: dict[int, list[int]] = {}
    for index in indices:
        groups.setdefault(len(programs[index].vcpus), []).append(index)
    for group in groups.values():
        group.sort(key=lambda index: (wire.MODES[programs[index].vcpus[0].apic_mode], index))
    return [groups[cpus] for cpus in sorted(groups)]


def _fitting(indices: list[int], records: dict[int, bytes]) -> list[int]:
    """Return as many of the programs, from the first, as one batch holds."""
    room = wire.BATCH_ROOM - wire.BATCH.size
    for count, index in enumerate(indices):
        room -= len(records[index])
        if room < 0:
            return indices[: max(count, 1)]
    return indices


@cache
def probe_image() -> bytes | BackendBroken:
    """Return the probe's 192 KiB, built with make if its sources are newer."""
    PROBE.joinpath("build").mkdir(exist_ok=True)
    with PROBE.joinpath("build", "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            made = subprocess.run(
                ["make", "-s", "-C", str(PROBE)], capture_output=True, text=True, timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return BackendBroken(f"the probe cannot be built: {error}; `python -m runner doctor` helps")
        if made.returncode:
            return BackendBroken("the probe cannot be built: make failed", made.stdout + made.stderr)
        return PROBE.joinpath("build", "probe.rom").read_bytes()
