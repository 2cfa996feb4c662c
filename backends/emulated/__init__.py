"""An emulated host with VT-x: Linux inside Bochs runs the launcher, and its KVM the probe.

One boot of Linux carries all programs of a run. There the launcher boots the ROM for each batch, and
again for what is left of one; what each of these boots left comes back on the emulated machine's disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backends import Identity, batch, wire
from backends.capabilities import Processor
from backends.emulated import kernel
from backends.emulated.disk import MOST_BATCHES, SPARE_ROOM
from backends.emulated.host import IPS, Host, Started
from backends.machine import GUARD_TICKS, ProbeBackend
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Number, Program
from runner.vmx import Field

RAM_SIZE = wire.RECORDS_BASE + wire.RECORDS_ROOM
"""Of the launcher's machine."""
MOST_BOOTS = 3
"""Boots of Linux for one run: what one that ended early has left goes into the next."""


class EmulatedHost(ProbeBackend):
    """A `Backend` on a `Host`."""

    def __init__(self, name: str, host: Host) -> None:
        """Start nothing yet."""
        super().__init__(name, host)
        self._host = host

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return who the host is, with what results say of any KVM."""
        who = super().identity()
        if isinstance(who, Identity):
            return who.with_facts(self._host.facts())
        return who

    def _processor(self) -> Processor | BackendBroken:
        """Return what the probe finds: kept from the first time on, since it costs a boot of Linux."""
        if self._found is None:
            kept = self._host.kept()
            if not kept.exists():
                booted = self._boot([], cpus=1, room=batch.FIXED_ROOM)
                begin = None if isinstance(booted, BackendBroken) else next(_begins(booted.stream), None)
                if begin is None:
                    return booted if isinstance(booted, BackendBroken) else self._begin(booted)
                kept.write_bytes(begin)
            self._found = Processor.from_begin(kept.read_bytes())
        return self._found

    def lack(self, found: Processor, program: Program) -> str | None:
        """Return what the program needs and this host has not."""
        for setup in program.vcpus:
            address = dict(setup.fields).get(Field.APIC_ACCESS_ADDRESS)
            if isinstance(address, Number) and RAM_SIZE <= address.value < 1 << found.physical_width:
                return f"APIC-access address {address.value:X}H: KVM ends a machine that has no memory there"
        return super().lack(found, program)

    def _answered(self, programs: Sequence[Program], records: dict[int, bytes]) -> dict[int, Answer]:
        answers: dict[int, Answer] = {}
        left, trouble = list(records), ""
        for _ in range(MOST_BOOTS):
            before = len(answers)
            some = _batches(programs, left, records)
            started = self._start_all(some, programs, records)
            if isinstance(started, BackendBroken):
                return answers | dict.fromkeys(left, started)
            if self._is_another(started):
                other = BackendBroken(f"{self.name}: it offers other capabilities than it did: run it again")
                return dict.fromkeys(records, other)
            for result in started.results:
                indices = some[result.batch][result.first : result.first + result.count]
                booted = result.booted()
                trouble = booted.trouble or trouble
                found = batch.read(booted, indices, programs, self.name).answers
                answers.update((index, answer) for index, answer in found.items() if index not in answers)
            left = [index for index in left if index not in answers]
            trouble = started.trouble or trouble
            if not left or len(answers) == before:
                break
        given_up = BackendBroken(f"{self.name}: given up: {trouble or 'no record came back'}")
        return answers | dict.fromkeys(left, given_up)

    def _start_all(
        self, some: Sequence[Sequence[int]], programs: Sequence[Program], records: Mapping[int, bytes]
    ) -> Started | BackendBroken:
        rooms = [batch.room(programs[index] for index in indices) for indices in some]
        batches = [
            self._encoded(
                [records[index] for index in indices], cpus=len(programs[indices[0]].vcpus), room=room
            )
            for indices, room in zip(some, rooms, strict=True)
        ]
        return self._start(batches, room=sum(rooms), programs=sum(map(len, some)))

    def _encoded(self, records: Sequence[bytes], *, cpus: int, room: int) -> bytes:
        guard = GUARD_TICKS * cpus  # each has its turn before
        return wire.encode_batch(records, cpus=cpus, door=self._host.door, limit=room, guard=guard)

    def _start(self, batches: Sequence[bytes], *, room: int, programs: int) -> Started | BackendBroken:
        try:
            with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
                return self._host.start(
                    batches, room=room + SPARE_ROOM, programs=programs, folder=Path(folder)
                )
        except OSError as error:
            return BackendBroken(f"{self.name}: cannot start the machine: {error}")

    def _is_another(self, started: Started) -> bool:
        """Whether the probe found something else than what is kept; then that is kept no more."""
        found = {begin[8:] for result in started.results for begin in _begins(result.frames)}
        other = any(Processor.from_begin(bytes(8) + each) != self._found for each in found)
        if other:
            self._host.kept().unlink(missing_ok=True)
        return other


def _batches(
    programs: Sequence[Program], left: Sequence[int], records: Mapping[int, bytes]
) -> list[list[int]]:
    """Return the batches of a boot of Linux: as full as the ROM's room allows, as many as a disk lists."""
    found: list[list[int]] = []
    for group in batch.groups(programs, left):
        rest = group
        while rest:
            found.append(batch.fitting(rest, records))
            rest = rest[len(found[-1]) :]
    return found[:MOST_BATCHES]


def _begins(stream: bytes) -> Iterator[bytes]:
    return (frame.payload for frame in wire.frames(stream) if frame.kind == wire.FRAME_BEGIN)


def backend(name: str, start: Mapping[str, object]) -> ProbeBackend:
    """Return the subject that a subject file's ``start`` mapping describes."""
    model, ips = str(start.get("model", "corei7_skylake_x")), int(str(start.get("ips", IPS)))
    unpacked, apicv = bool(start.get("unpacked")), bool(start.get("apicv"))
    series = str(start.get("kernel", kernel.USUAL))
    return EmulatedHost(name, Host(unpacked=unpacked, model=model, ips=ips, apicv=apicv, series=series))
