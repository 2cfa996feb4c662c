"""One run of an adapter's process: lines in, lines out, whatever it does.

Memory is bounded: of its output a line is kept and what came with it, of its standard error the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from backends.adapter import asks
from backends.process import guard

LONGEST = 1 << 20
"""Bytes of the longest line that an adapter may write."""
LOG_BYTES = 4096
"""Bytes of standard error that are kept."""
PATIENCE = 2.0
"""Seconds that a process has to end when it has closed its output, or has been told to stop."""

_CHUNK = 1 << 16


class SessionError(Exception):
    """The process gave no line; the text says why."""


class EndedError(SessionError):
    """The process has ended; ``status`` is its exit status, or negative: a signal."""

    def __init__(self, where: str, said: str, status: int) -> None:
        super().__init__(f"it ended{where}: {said}")
        self.status = status


class Session:
    """A process in a session of its own, which dies with this one."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises OSError."""
        self._process = subprocess.Popen(
            [*guard(), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (stream.fileno() for stream in streams if stream)
        self._handle = os.pidfd_open(self._process.pid)
        self._poll = select.poll()
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)
        for descriptor in (self._out, self._err, self._handle):
            self._poll.register(descriptor, select.POLLIN)
        self._unsent = b""
        self._lines: deque[bytes] = deque()
        self._partial = b""
        self._stderr = b""
        self._has_ended = self._at_end = False

    @property
    def log(self) -> str:
        """The end of what it has written to standard error."""
        return self._stderr.decode("utf-8", "replace")

    def unasked(self) -> bytes:
        """Return the beginning of what it has written and nobody has taken."""
        if not self._lines and not self._partial:
            self._read_output()
        return (self._lines[0] if self._lines else self._partial)[:LOG_BYTES]

    def send(self, data: bytes) -> None:
        """Have *data* written while lines are waited for."""
        self._unsent += data
        self._poll.register(self._in, select.POLLOUT)

    def line(self, since: float, seconds: float) -> bytes:
        """Return the next line without its end, within this time from *since* on. Raises `SessionError`."""
        while not self._lines:
            if len(self._partial) > LONGEST:
                raise SessionError(f"it wrote a line of more than {LONGEST} bytes")
            if self._at_end:
                raise self._end()
            left = since + seconds - time.monotonic()
            if left <= 0:
                raise SessionError(f"no answer within {seconds:g} s")
            self._wait(left)
        if len(self._lines[0]) > LONGEST:
            raise SessionError(f"it wrote a line of more than {LONGEST} bytes")
        return self._lines.popleft()

    def close(self) -> str:
        """Kill it, if it has not ended, with what it has started; say how it ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # not reaped: the number is still its own
            self._process.wait()
            self._read_log()
            os.close(self._handle)
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()
        status = self._process.returncode
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def stop(self, seconds: float) -> str:
        """Tell it to stop, kill it where it does not within this time, and say how it ended."""
        if self._process.returncode is None:
            self.send(asks.STOP)
            if not self.ends(seconds):
                return f"it had not ended {seconds:g} s after `stop`"
        return self.close()

    def hang_up(self, seconds: float) -> str:
        """Close its input, kill it where it does not end within this time, and say how it ended."""
        if self._process.stdin:
            self._process.stdin.close()
        if not self.ends(seconds):
            return f"it had not ended {seconds:g} s after the end of its input"
        return self.close()

    def flush(self, seconds: float) -> None:
        """Wait until all is written that was sent."""
        deadline = time.monotonic() + seconds
        while self._unsent and (left := deadline - time.monotonic()) > 0:
            self._wait(left)

    def ends(self, seconds: float) -> bool:
        """Whether it ends by itself within this time."""
        deadline = time.monotonic() + seconds
        while not self._has_ended and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
            self._lines.clear()
            self._partial = self._partial[:LONGEST]
        return self._has_ended

    def _end(self) -> SessionError:
        """Say how it ended."""
        where = " within a line" if self._partial else ""
        if not self.ends(PATIENCE):
            return SessionError(f"it closed its output{where}")
        said = self.close()
        return EndedError(where, said, self._process.returncode)

    def _wait(self, seconds: float) -> None:
        """Wait until something happens, and take part in it."""
        for descriptor, _ in self._poll.poll(seconds * 1000):
            if descriptor == self._in:
                self._write()
            elif descriptor == self._err:
                self._read_log()
            elif descriptor == self._handle:
                self._has_ended = True
                self._poll.unregister(self._handle)
            elif not self._read_output():
                self._stop_reading()
        if self._has_ended and not self._read_output():
            self._stop_reading()

    def _stop_reading(self) -> None:
        if not self._at_end:
            self._at_end = True
            self._poll.unregister(self._out)

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._in, self._unsent[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._unsent = b""
        if not self._unsent:
            self._poll.unregister(self._in)

    def _read_output(self) -> bool:
        """Take some output apart into lines; false at its end, and where nothing came."""
        data = _read(self._out) or b""
        *lines, partial = data.split(b"\n")
        if lines:
            self._lines.append(self._partial + lines[0])
            self._lines.extend(lines[1:])
            self._partial = partial
        else:
            self._partial += partial
        return bool(data)

    def _read_log(self) -> None:
        data = _read(self._err)
        self._stderr = (self._stderr + (data or b""))[-LOG_BYTES:]
        if data == b"":
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._err)


def _read(descriptor: int) -> bytes | None:
    """Return what is there to read, nothing at the end, ``None`` where nothing is there yet."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None
