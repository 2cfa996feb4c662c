"""Programs on an adapter: batches in, observations out, whatever the adapter does.

A process that fails costs the program whose answer was due (*broken*, with the reason and the end of its
standard error) and a new process for the rest.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backends import Identity
from backends.adapter import answers, asks
from backends.adapter.answers import AnswerError, Capabilities
from backends.adapter.asks import Asks
from backends.adapter.command import Command
from backends.adapter.session import PATIENCE, Session, SessionError
from backends.adapter.setups import CannotAskError
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program

HELLO_SECONDS = 30.0
"""Seconds that the first answer may take, at least."""
MOST_FAILURES = 16
"""Processes that may fail one after the other, without an answer in between, before all is given up."""
MOST_LOST = 20
"""Deadlines' worth of time that failing processes may take before all is given up."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A program on its way: its place in the batch, and its run line from the level on."""

    index: int
    program: Program
    body: str


class AdapterBackend:
    """A `Backend` on an adapter's process, which goes on from run to run."""

    def __init__(self, name: str, command: Command) -> None:
        """Take a command; nothing is started before `identity` or `run`."""
        self.name = name
        self._command = command
        self._found: Capabilities | Unsupported | BackendBroken | None = None
        self._session: Session | None = None
        self._stop: weakref.finalize[..., AdapterBackend]
        self._seq = 0
        self._failures = 0
        self._lost = 0.0

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return the adapter's version and its capabilities; it is started once for it."""
        found = self._capabilities()
        if not isinstance(found, Capabilities):
            return found
        return Identity(self.name, found.version, found.report())

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order."""
        found = self._capabilities()
        if not isinstance(found, Capabilities):
            yield from [found] * len(programs)
            return
        asking = Asks(found.platform)
        for first in range(0, len(programs), found.batch):
            yield from self._batch(programs[first : first + found.batch], asking)

    def _batch(self, programs: Sequence[Program], asking: Asks) -> Iterator[Answer]:
        answered: dict[int, Answer] = {}
        left: deque[_Asked] = deque()
        for index, program in enumerate(programs):
            try:
                left.append(_Asked(index, program, asking.body(program)))
            except CannotAskError as lack:
                answered[index] = Unsupported(str(lack))
        while left:
            trouble = self._exchange(left, answered)
            if trouble is not None:
                answered[left.popleft().index] = trouble
                if self._is_hopeless():
                    given_up = BackendBroken(f"{self.name}: given up: {trouble.reason}", trouble.log)
                    answered.update((asked.index, given_up) for asked in left)
                    self._found = given_up
                    break
        yield from (answered[index] for index in range(len(programs)))

    def _exchange(self, left: deque[_Asked], answered: dict[int, Answer]) -> BackendBroken | None:
        """Ask for all that is left, and take what is answered; return what went wrong with the next."""
        started = time.monotonic()
        try:
            session = self._running()
            _refuse_unasked(session)
            last = len(left) - 1
            session.send(b"".join(asks.line(self._seq + at, last - at, a.body) for at, a in enumerate(left)))
            asked = time.monotonic()
            while left:
                line = session.line(asked, self._command.deadline)
                answer = answers.answer(answers.message(line), self._seq, left[0].program)
                answered[left.popleft().index] = answer
                self._seq += 1
                self._failures = 0
        except (SessionError, AnswerError, OSError) as error:
            self._seq += len(left)
            self._failures += 1
            self._lost += time.monotonic() - started
            return self._broken(error)
        return None

    def _is_hopeless(self) -> bool:
        return self._failures >= MOST_FAILURES or self._lost > MOST_LOST * self._command.deadline

    def _capabilities(self) -> Capabilities | Unsupported | BackendBroken:
        """Return what the adapter says of itself, asked once."""
        if self._found is None:
            self._found = self._command.hindrance() or self._greeted()
        return self._found

    def _greeted(self) -> Capabilities | BackendBroken:
        try:
            return self._greet(self._start())
        except (SessionError, AnswerError, OSError) as error:
            return self._broken(error)

    def _greet(self, session: Session) -> Capabilities:
        session.send(asks.HELLO)
        line = session.line(time.monotonic(), max(HELLO_SECONDS, self._command.deadline))
        return answers.capabilities(answers.message(line))

    def _running(self) -> Session:
        """Return the session; a new process must say of itself what the first one said."""
        if self._session is None:
            said = self._greet(session := self._start())
            if said != self._found:
                raise SessionError("a new process says other capabilities than the one before")
            return session
        return self._session

    def _start(self) -> Session:
        session = self._session = self._command.start()
        self._stop = weakref.finalize(self, session.stop, PATIENCE)
        return session

    def _broken(self, error: Exception) -> BackendBroken:
        """End the process; return its failure with the end of its log."""
        session, self._session = self._session, None
        if session is None:
            return BackendBroken(f"{self.name}: cannot be started: {error}")
        self._stop.detach()
        session.close()
        return BackendBroken(f"{self.name}: {error}", session.log)


def _refuse_unasked(session: Session) -> None:
    if unasked := session.unasked():
        raise SessionError(f"it wrote what nobody asked for: {answers.shown(unasked)}")
