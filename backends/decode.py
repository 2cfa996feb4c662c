"""A case frame becomes an `Observation`. Twin of ``append_result`` in the probe's main.c."""

from __future__ import annotations

from backends import wire
from backends.events import BadRecordError
from backends.processor_log import ProcessorLog
from runner.outcome import Entry, Final, Observation, StepResult, Stuck
from runner.program import Program
from runner.vmx import Activity, Blocking

NO_DESCRIPTOR = (0,) * 8
NOT_REACHED = StepResult((Stuck.NOT_REACHED,))


def observation(program: Program, payload: bytes) -> Observation:
    """Read one case frame. Raises `BadRecordError`."""
    _, count = wire.RESULT.unpack_from(payload)
    if count != len(program.vcpus):
        raise BadRecordError(f"{count} virtual processors in the record, {len(program.vcpus)} in the program")
    results = [NOT_REACHED] * len(program.steps)
    entries: list[Entry] = []
    finals: list[Final] = []
    at = wire.RESULT.size
    for vcpu in range(count):
        size, events, *rest = wire.FINAL.unpack_from(payload, at)
        log = at + wire.FINAL.size
        processor = ProcessorLog(program, vcpu)
        processor.read(payload[log : log + events])
        finals.append(_final(payload, log + events, rest))
        entries.append(processor.entry)
        for index, result in processor.results():
            results[index] = result
        at += size
    return Observation(tuple(entries), tuple(results), tuple(finals))


def _final(payload: bytes, at: int, rest: list[int]) -> Final:
    words, registers, has_pid, lost, status, activity, blocking = rest
    if lost:
        raise BadRecordError("more events than the probe has room for")
    page_end = at + words * wire.WORD.size
    end = page_end + registers * wire.REGISTER.size
    return Final(
        page=tuple(wire.WORD.iter_unpack(payload[at:page_end])),
        rvi=status & 0xFF,
        svi=status >> 8 & 0xFF,
        pid=wire.PID.unpack_from(payload, end) if has_pid else NO_DESCRIPTOR,
        physical=tuple(wire.REGISTER.iter_unpack(payload[page_end:end])),
        activity=Activity(activity & 3),
        blocking=Blocking(blocking & 0xF),
    )
