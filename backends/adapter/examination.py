"""Whether an adapter keeps to the protocol: right lines, wrong lines, and lines at odd moments."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from backends.adapter import answers, asks, reading
from backends.adapter.answers import AnswerError, Capabilities
from backends.adapter.asks import Asks
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.adapter.nonsense import Nonsense, nonsense
from backends.adapter.session import PATIENCE, EndedError, Session, SessionError
from runner.apic import VTPR, Fill, VirtualApicPage
from runner.outcome import Answer, BackendBroken, Observation, Unsupported
from runner.program import Level, Program, Rdmsr, Setup, Step

MOST_TOLD = 8
"""Wrong answers of one kind that are told one by one."""
MOST_ALONE = 100
"""Cases that run a second time, each alone and in reverse order."""
START_SECONDS = 10.0
"""Seconds that a process has at least until its first answer."""
QUIET_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and seen, whether it is wrong, and the end of the adapter's standard error."""

    about: str
    says: str
    wrong: bool = False
    log: str = ""


def examine(command: Command, programs: Mapping[str, Program]) -> Iterator[Finding]:
    """Yield what is found; *programs* are right cases by name. Nothing else follows a wrong greeting."""
    session = command.start()
    try:
        found = answers.capabilities(answers.message(_greeting(session, command)))
    except (SessionError, AnswerError) as error:
        session.close()
        yield Finding("hello", str(error), wrong=True, log=session.log)
        return
    session.close()
    yield Finding("hello", _introduction(found))
    yield from _right_cases(command, programs)
    talk = _Talk(command, found)
    for look in (talk.quiet, talk.in_pieces, talk.passes_over_nonsense, talk.ends):
        try:
            yield from look()
        except (SessionError, AnswerError, OSError) as error:
            yield Finding(look.__name__.replace("_", " "), str(error), wrong=True, log=talk.log)
        talk.leave()


def _greeting(session: Session, command: Command) -> bytes:
    """Return the first line; a process may take its time to start."""
    session.send(asks.HELLO)
    return session.line(time.monotonic(), max(command.deadline, START_SECONDS))


def _introduction(found: Capabilities) -> str:
    platform = found.platform
    levels = " and ".join(sorted(level.value for level in platform.levels))
    says = (
        f"{found.name}, version {found.version}: level {levels}",
        _many(platform.most_vcpus, "virtual processor"),
        _many(found.batch, "case") + " a batch",
        _many(len(platform.processor.msrs), "capability MSR"),
    )
    return ", ".join(says)


def _right_cases(command: Command, programs: Mapping[str, Program]) -> Iterator[Finding]:
    first = dict(zip(programs, AdapterBackend("it", command).run(list(programs.values())), strict=True))
    kinds = Counter(type(answer) for answer in first.values())
    broken = {name: answer for name, answer in first.items() if isinstance(answer, BackendBroken)}
    observed = _many(kinds[Observation], "observation")
    says = f"{_many(len(first), 'case')}: {observed}, {kinds[Unsupported]} unsupported"
    yield Finding("cases", says + f", {len(broken)} broken" * bool(broken), wrong=bool(broken))
    for name, answer in list(broken.items())[:MOST_TOLD]:
        yield Finding("cases", f"{name}: {answer.reason}", wrong=True, log=answer.log)
    yield from _alone(command, programs, first)


def _alone(
    command: Command, programs: Mapping[str, Program], first: Mapping[str, Answer]
) -> Iterator[Finding]:
    """Run cases again, each in a batch of its own and in reverse order: their answers stay."""
    names = [name for name, answer in first.items() if isinstance(answer, Observation)]
    some = names[:: -max(1, len(names) // MOST_ALONE)]
    subject = AdapterBackend("it", command)
    differing = [name for name in some if list(subject.run([programs[name]])) != [first[name]]]
    says = f"{_many(len(some), 'case')} alone and in reverse order: as before"
    if differing:
        says = f"{len(differing)} of {_many(len(some), 'case')} end otherwise alone and in reverse order: "
        says += ", ".join(differing[:MOST_TOLD])
    yield Finding("alone", says, wrong=bool(differing))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


class _Talk:
    """A conversation line by line; a process that has ended is replaced."""

    def __init__(self, command: Command, found: Capabilities) -> None:
        self._command = command
        self._session: Session | None = None
        self._seq = 0
        level = Level.VMX if Level.VMX in found.platform.levels else Level.GUEST
        page = VirtualApicPage(Fill.TAGGED, 0, ((VTPR, 0),))
        self._program = Program(level, (Setup(page=page),), (Step(Rdmsr(0x802)),))
        self._body = Asks(found.platform).body(self._program)
        self._right: Answer | None = None

    @property
    def log(self) -> str:
        """The end of what the process wrote to its standard error."""
        return self._session.log if self._session else ""

    def leave(self) -> None:
        """End the process."""
        if self._session:
            self._session.close()
        self._session = None

    def _open(self) -> Session:
        if self._session is None:
            self._session = self._command.start()
            _greeting(self._session, self._command)
        return self._session

    def _line(self, session: Session) -> bytes:
        return session.line(time.monotonic(), self._command.deadline)

    def _run_line(self) -> bytes:
        self._seq += 1
        return asks.line(self._seq, 0, self._body)

    def _answered(self, line: bytes) -> None:
        """Hold a line against the answer that the same case had before."""
        answer = answers.answer(answers.message(line), self._seq, self._program)
        self._right = self._right or answer
        if answer != self._right:
            raise AnswerError("the same case has another answer than before")

    def quiet(self) -> Iterator[Finding]:
        """See that it writes one line for one case."""
        session = self._open()
        session.send(self._run_line())
        self._answered(self._line(session))
        time.sleep(QUIET_SECONDS)
        if unasked := session.unasked():
            yield Finding("quiet", f"wrote what nobody asked for: {answers.shown(unasked)}", wrong=True)
        else:
            yield Finding("quiet", "one line for each case, and nothing else")

    def in_pieces(self) -> Iterator[Finding]:
        """Send a line in pieces, and two at once."""
        session = self._open()
        line = self._run_line()
        third = len(line) // 3
        for piece in (line[:third], line[third:-1], line[-1:]):
            session.send(piece)
            session.flush(self._command.deadline)
            time.sleep(QUIET_SECONDS / 4)
        self._answered(self._line(session))
        first = self._run_line()
        session.send(first + self._run_line())
        self._seq -= 1
        self._answered(self._line(session))
        self._seq += 1
        self._answered(self._line(session))
        yield Finding("in pieces", "a line in three pieces, and two lines at once: answered")

    def passes_over_nonsense(self) -> Iterator[Finding]:
        """Send wrong lines, and a right one behind each."""
        self._open()
        taken, ended, wrong, lines = [], 0, 0, 0
        for each in nonsense(self._run_line().decode().rstrip()):
            lines += 1
            try:
                if self._takes(each):
                    taken.append(each.says)
            except EndedError as error:
                ended += 1
                if error.status < 0 and error.status != -signal.SIGABRT:
                    wrong += 1
                    yield Finding("nonsense", f"{each.says}: {error}", wrong=True, log=self.log)
                self.leave()
            except (SessionError, AnswerError) as error:
                wrong += 1
                yield Finding("nonsense", f"{each.says}: {error}", wrong=True, log=self.log)
                self.leave()
            if wrong == MOST_TOLD:
                break
        if taken:
            yield Finding("nonsense", f"to be stricter about, if you like: {'; '.join(taken)}")
        yield Finding("nonsense", f"{lines} wrong lines, at {ended} of which it ended by itself")

    def _takes(self, each: Nonsense) -> bool:
        """Whether a wrong case is answered with an observation; a right one is answered behind it."""
        session = self._open()
        session.send(each.line + self._run_line())
        line = self._line(session)
        given = answers.message(line)
        before = given.get("seq") != self._seq
        if before:
            if mistake := reading.first_mistake(given):
                raise AnswerError(mistake)
            line = self._line(session)
        self._answered(line)
        takes = before and each.is_case and given["message"] == "observation"
        if takes and each.is_unknown:
            raise AnswerError("answered with an observation")
        return takes

    def ends(self) -> Iterator[Finding]:
        """See that it ends when it is told to, and at the end of its input."""
        said = self._open().stop(PATIENCE)
        yield Finding("stop", said, wrong=said != "exit status 0")
        self.leave()
        said = self._open().hang_up(PATIENCE)
        yield Finding("end of file", said, wrong="not ended" in said)
