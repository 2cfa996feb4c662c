"""Programs on a machine that boots the probe: records in, observations out, whatever happens between.

One boot carries many programs. A machine that ends early costs the program that ran then (*broken*,
with the machine's log) and a fresh boot for the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from backends import Identity, batch, encode, image, wire
from backends.batch import Booted
from backends.capabilities import Processor
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Plain, Program

GUARD_TICKS = 3_000_000
"""The VMX-preemption timer of the probe's guard; a step that takes longer did not return."""
HOST_GUARD_TICKS = 20 * GUARD_TICKS
"""The same where they are of a host's TSC, which runs on while another process has the processor."""
LEAST = 16
"""Programs of a boot after one that ended at once: where many do, a long batch is read in vain each time."""
MOST_EARLY_ENDS = 16
"""Boots of one run that may end early before the rest is given up."""


class Machine(Protocol):
    """Something that boots an image of the form that it names (`image.of`)."""

    most_cpus: int
    door: int
    form: str

    def version(self) -> str | Unsupported:
        """Return the version, or why the machine cannot be started here."""

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        """Boot an image; *room* is how many bytes of frames may come back. Raises OSError."""


class ProbeBackend:
    """A `Backend` on a `Machine`."""

    def __init__(self, name: str, machine: Machine, guard: int | None = None) -> None:
        """Take a machine; nothing is started before `identity` or `run`.

        *guard* is in ticks of its TSC, `GUARD_TICKS` unless it is given.
        """
        self.name = name
        self._machine = machine
        self._guard = guard
        self._found: Processor | BackendBroken | None = None

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return the machine's version and what its processor reports; boots it once."""
        version = self._machine.version()
        if isinstance(version, Unsupported):
            return version
        found = self._processor()
        if isinstance(found, BackendBroken):
            return found
        return Identity(self.name, version, found.report())

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order."""
        version = self._machine.version()
        found = version if isinstance(version, Unsupported) else self._processor()
        if not isinstance(found, Processor):
            yield from [found] * len(programs)
            return
        answers: dict[int, Answer] = {}
        records: dict[int, bytes] = {}
        for index, program in enumerate(programs):
            record = self._record(found, index, program)
            if isinstance(record, Unsupported):
                answers[index] = record
            else:
                records[index] = record
        answers.update(self._answered(programs, records))
        yield from (answers[index] for index in range(len(programs)))

    def _answered(self, programs: Sequence[Program], records: dict[int, bytes]) -> dict[int, Answer]:
        """Boot until each program that has a record has an answer."""
        answers: dict[int, Answer] = {}
        for group in batch.groups(programs, records):
            answers.update(self._boots(group, programs, records))
        return answers

    def lack(self, found: Processor, program: Program) -> str | None:
        """Return what the program needs and the processor has not, with the evidence; or ``None``."""
        return found.lacks(program)

    def _record(self, found: Processor, index: int, program: Program) -> bytes | Unsupported:
        if len(program.vcpus) > self._machine.most_cpus:
            most = self._machine.most_cpus
            return Unsupported(f"{len(program.vcpus)} processors: {self.name} has at most {most}")
        lack = self.lack(found, program) or self._cannot_see(program)
        if lack is not None:
            return Unsupported(lack)
        try:
            return encode.encode_case(index, program)
        except encode.CannotEncodeError as error:
            return Unsupported(f"the probe does not carry {error}")

    def _cannot_see(self, program: Program) -> str | None:
        if self._machine.form != image.ROM and any(s.action is Plain.DUMP_AT_RESET for s in program.steps):
            return f"registers after RESET: a firmware or loader runs before the image `{self._machine.form}`"
        return None

    def _processor(self) -> Processor | BackendBroken:
        """Return what an empty boot finds, once."""
        if self._found is None:
            booted = self._boot([], cpus=1, room=batch.FIXED_ROOM)
            self._found = booted if isinstance(booted, BackendBroken) else self._begin(booted)
        return self._found

    def _begin(self, booted: Booted) -> Processor | BackendBroken:
        for frame in wire.frames(booted.stream):
            if frame.kind == wire.FRAME_BEGIN:
                return Processor.from_begin(frame.payload)
        reason = booted.trouble or "the machine ended without a BEGIN frame"
        return BackendBroken(f"{self.name}: {reason}", booted.log)

    def _boots(
        self, group: list[int], programs: Sequence[Program], records: dict[int, bytes]
    ) -> dict[int, Answer]:
        """Boot as often as it takes to have an answer for each program of a group."""
        cpus = len(programs[group[0]].vcpus)
        answers: dict[int, Answer] = {}
        left, early_ends, most = group, 0, len(group)
        while left:
            some = batch.fitting(left[:most], records)
            room = batch.room(programs[index] for index in some)
            booted = self._boot([records[index] for index in some], cpus=cpus, room=room)
            if isinstance(booted, BackendBroken):
                return answers | dict.fromkeys(left, booted)
            read = batch.read(booted, some, programs, self.name)
            answers.update(read.answers)
            early_ends += read.early
            if not read.answers or early_ends > MOST_EARLY_ENDS:
                reason = booted.trouble or "no record came back"
                given_up = BackendBroken(f"{self.name}: given up: {reason}", booted.log)
                return answers | {index: given_up for index in left if index not in answers}
            left = [index for index in left if index not in answers]
            most = len(group) if len(read.answers) == len(some) else max(LEAST, 4 * len(read.answers))
        return answers

    def _boot(self, records: list[bytes], *, cpus: int, room: int) -> Booted | BackendBroken:
        guard = GUARD_TICKS if self._guard is None else self._guard
        rom = image.of(
            self._machine.form,
            wire.encode_batch(records, cpus=cpus, door=self._machine.door, limit=room, guard=guard),
        )
        if isinstance(rom, BackendBroken):
            return rom
        try:
            with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
                return self._machine.boot(
                    rom, cpus=cpus, room=room, programs=len(records), folder=Path(folder)
                )
        except OSError as error:
            return BackendBroken(f"{self.name}: cannot start the machine: {error}")
