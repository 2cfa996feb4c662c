"""Batches: which programs one boot carries, and what a boot's stream says of each.

A program that began and left no whole record is *broken*; nothing else ever stands for its answer.
Programs that never began, and those whose records a crash took along, get another boot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backends import decode, wire
from backends.events import BadRecordError
from runner.outcome import Answer, BackendBroken
from runner.program import Program, SetApicBase

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


@dataclass(frozen=True, slots=True)
class Read:
    """The answers of a boot by program; the batch's other programs want another boot.

    ``early`` is true where the machine did not come to the end of what it had begun.
    """

    answers: Mapping[int, Answer]
    early: bool


DEFAULT_BASE = 0xFEE00000
"""Where the local APIC's page is at reset. SDM: *Local APIC Status and Location*."""


def groups(programs: Sequence[Program], indices: Iterable[int]) -> list[list[int]]:
    """Sort programs into boots: by number of processors; within one, by APIC mode as it can be reached.

    From xAPIC mode to x2APIC mode to disabled: the way back leads through the disabled state, which not
    every machine leaves again. Programs that move the APIC's base have boots of their own: where it was
    elsewhere once, KVM does without APICv from then on.
    """
    found: dict[tuple[int, bool], list[int]] = {}
    for index in indices:
        program = programs[index]
        found.setdefault((len(program.vcpus), _moves_base(program)), []).append(index)
    for group in found.values():
        group.sort(key=lambda index: (wire.MODES[programs[index].vcpus[0].apic_mode], index))
    return [found[key] for key in sorted(found)]


def _moves_base(program: Program) -> bool:
    values = (step.action.value for step in program.steps if isinstance(step.action, SetApicBase))
    return any(value & ~0xFFF not in (0, DEFAULT_BASE) for value in values)


def fitting(indices: list[int], records: Mapping[int, bytes]) -> list[int]:
    """Return as many of the programs, from the first, as one batch holds; at least one."""
    room = wire.BATCH_ROOM - wire.BATCH.size
    for count, index in enumerate(indices):
        room -= len(records[index])
        if room < 0:
            return indices[: max(count, 1)]
    return indices


def room(programs: Iterable[Program]) -> int:
    """Return the bytes of frames that programs get."""
    wanted = sum(RECORD_ROOM * len(p.vcpus) + STEP_ROOM * len(p.steps) for p in programs)
    return min(FIXED_ROOM + wanted, wire.RECORDS_ROOM)


def read(booted: Booted, batch: list[int], programs: Sequence[Program], name: str) -> Read:
    """Read what one boot of *batch* left; *name* is the subject's, for reasons."""
    frames = list(wire.frames(booted.stream))
    records: dict[int, bytes] = {}
    for frame in frames:
        if frame.kind == wire.FRAME_CASE and frame.seq in batch:
            records.setdefault(frame.seq, frame.payload)
    answers = {index: _answer(programs[index], record, name) for index, record in records.items()}
    end = next((frame for frame in frames if frame.kind == wire.FRAME_END), None)
    error = next((frame for frame in frames if frame.kind == wire.FRAME_ERROR), None)
    if end is not None:
        _, done, why, _ = wire.END.unpack(end.payload)
        answers |= _broken(batch[:done], answers, f"{name}: its record is damaged")
        if why == wire.END_MODE and not answers:
            answers |= _broken(batch[:1], answers, f"{name}: the physical APIC mode cannot be reached")
        return Read(answers, early=False)
    reason, culprits = booted.trouble, batch[: booted.begun][-1:]
    if error is not None:
        reason = "the probe gave up: " + error.payload[4:].decode("ascii", "replace")
        culprits = culprits or batch
    elif not reason:
        reason, culprits = "the stream is damaged", batch[: booted.begun]
    return Read(answers | _broken(culprits, answers, f"{name}: {reason}", booted.log), early=True)


def _answer(program: Program, record: bytes, name: str) -> Answer:
    try:
        return decode.observation(program, record)
    except (BadRecordError, struct.error, ValueError, IndexError) as error:
        return BackendBroken(f"{name}: unreadable record: {error}")


def _broken(
    indices: Iterable[int], answers: Mapping[int, Answer], reason: str, log: str = ""
) -> dict[int, Answer]:
    return {index: BackendBroken(reason, log) for index in indices if index not in answers}
