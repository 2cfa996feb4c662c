"""The ways by which a command's records come: where its bytes are read while it runs."""

from __future__ import annotations

import os
import socket
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 16


class Stream:
    """Bytes of a command's: ``path`` is what it is told to write to, empty for its standard output."""

    def __init__(self, path: str = "", descriptor: int | None = None) -> None:
        """Read from *descriptor*; without one, from the file at *path* as it grows."""
        self.path = path
        self.descriptor = descriptor
        self._at = 0

    def read(self) -> bytes:
        """Return what is there now, without waiting; a descriptor at its end is not read again."""
        if self.descriptor is None:
            return self._more_of_file()
        try:
            data = os.read(self.descriptor, CHUNK)
        except BlockingIOError:
            return b""
        except OSError:  # a terminal whose other end was closed
            data = b""
        if not data:
            self.descriptor = None
        return data

    def _more_of_file(self) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self._at)
                data = file.read(CHUNK)
        except (FileNotFoundError, IsADirectoryError):
            return b""
        self._at += len(data)
        return data


class Connection(Stream):
    """A UNIX socket: the first read takes the connection."""

    def __init__(self, listening: socket.socket) -> None:
        """Take a socket that listens."""
        super().__init__(listening.getsockname(), listening.fileno())
        self._listening: socket.socket | None = listening
        self._connected: socket.socket | None = None

    def read(self) -> bytes:
        """Return what is there now."""
        if self._listening is not None:
            self._connected, _ = self._listening.accept()
            self._connected.setblocking(False)
            self.descriptor = self._connected.fileno()
            self._listening = None
            return b""
        return super().read()

    def close(self) -> None:
        """Close the connection."""
        if self._connected is not None:
            self._connected.close()


@contextmanager
def opened(records: str, folder: Path) -> Iterator[Stream]:
    """Open a way that a subject file's ``records`` names; *folder* is the command's own. Raises OSError."""
    path = folder / "records"
    match records:
        case "stdout":
            yield Stream()
        case "file":
            yield Stream(str(path))
        case "pipe":
            os.mkfifo(path, 0o600)
            with _closing(os.open(path, os.O_RDWR | os.O_NONBLOCK)) as descriptor:  # so it never ends
                yield Stream(str(path), descriptor)
        case "pty":
            ours, theirs = os.openpty()
            with _closing(ours), _closing(theirs):
                tty.setraw(theirs)
                os.set_blocking(ours, False)
                yield Stream(os.ttyname(theirs), ours)
        case _:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(path))
                listening.listen(1)
                connection = Connection(listening)
                try:
                    yield connection
                finally:
                    connection.close()


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
