"""A command that is followed: its records are read as they come, and the last one ends it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backends import process, wire
from backends.batch import Booted
from backends.process import Ended
from backends.stream import Stream

GLANCE = 0.01
"""Seconds between two looks at what cannot be waited for: a file that grows."""
SMALL_FRAME = 256
"""More bytes than BEGIN, END or ERROR has."""
LAST = {wire.FRAME_END, wire.FRAME_ERROR}
LOG_LINES = 40


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds from the start to the first record, and from one record to the next."""

    boot: float = 30.0
    case: float = 5.0


def follow(
    command: Sequence[str], stream: Stream, *, folder: Path, deadlines: Deadlines, programs: int
) -> Booted:
    """Run *command* in *folder* until END or ERROR, its end or a deadline; then kill all that it started.

    Raises OSError where it cannot be started.
    """
    said = folder / "stdout"
    with said.open("wb") as out, folder.joinpath("stderr").open("wb") as err:
        started = subprocess.Popen(
            [*process.guard(), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out if stream.path else subprocess.PIPE,
            stderr=err,
            start_new_session=True,
        )
        try:
            if started.stdout is not None:
                stream.descriptor = started.stdout.fileno()
                os.set_blocking(stream.descriptor, False)
            data, trouble = _records(started.pid, stream, deadlines, programs)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            status = started.wait()
            if started.stdout is not None:
                started.stdout.close()
    if trouble is None:
        trouble = "ended before its last record: " + Ended(status, False, b"", b"").describe()
    frames = [frame.kind for frame in wire.frames(data)]
    begun = frames.count(wire.FRAME_CASE) + 1 if wire.FRAME_BEGIN in frames else 0
    return Booted(data, begun, _log(folder), trouble)


def _records(pid: int, stream: Stream, deadlines: Deadlines, programs: int) -> tuple[bytes, str | None]:
    """Read until the last record; return what came, and what is wrong: ``None`` if the command ended."""
    data = bytearray()
    handle = os.pidfd_open(pid)
    try:
        start = last = time.monotonic()
        has_begun = False
        while True:
            ended = _wait(handle, stream)
            chunk = stream.read()
            now = time.monotonic()
            if chunk:
                data += chunk
                last = now
                kinds = _kinds(data, len(chunk))
                has_begun = has_begun or bool(kinds)
                if kinds & LAST:
                    return bytes(data), ""
                if len(data) > process.MOST_OUTPUT:
                    return bytes(data), f"gave more than {process.MOST_OUTPUT >> 20} MiB; killed"
            elif ended:
                return bytes(data), None
            silence = now - last if has_begun else 0.0
            if reason := _too_late(now - start, silence, deadlines, programs + 1 if has_begun else 0):
                return bytes(data), reason
    finally:
        os.close(handle)


def _wait(handle: int, stream: Stream) -> bool:
    """Wait a little for a record or the command's end; return whether it has ended."""
    sources = [handle] if stream.descriptor is None else [handle, stream.descriptor]
    ready, _, _ = select.select(sources, [], [], 0.1 if len(sources) > 1 else GLANCE)
    return handle in ready


def _kinds(data: bytearray, new: int) -> set[int]:
    """Return the kinds of small frames whose last byte is among the *new* ones."""
    return {frame.kind for frame in wire.frames(bytes(data[-(new + SMALL_FRAME) :]))}


def _too_late(since_start: float, silence: float, deadlines: Deadlines, programs: int) -> str:
    """Return which deadline is over; *programs* is 0 before the first record."""
    if silence > deadlines.case:
        return f"no record for {deadlines.case:g} s; killed"
    whole = deadlines.boot + deadlines.case * programs
    if since_start <= whole:
        return ""
    return f"not ready after {whole:g} s; killed" if programs else f"no record within {whole:g} s; killed"


def _log(folder: Path) -> str:
    """Return the last lines of what the command said beside its records."""
    texts = [folder.joinpath(name).read_bytes().decode(errors="replace") for name in ("stdout", "stderr")]
    return "\n".join(line for text in texts for line in text.splitlines()[-LOG_LINES:])
