"""Trials of many mutants: a process each, several at a time, with limits of time and memory."""

from __future__ import annotations

import gc
import resource
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mutation.mutant import Mutant
from mutation.trial import Listed, benches, notice

FORK = get_context("fork")
MEMORY = 2 << 30
CASE_SECONDS = 2
"""Processor time that one case may take; the longest takes a tenth of a second."""

WALL_FACTOR = 20
"""How much longer than its processor time a trial may take on a machine that is busy."""


class TrialError(Exception):
    """A trial failed, whatever its mutant: nothing is known of the model, and the run cannot go on."""


class End(Enum):
    """How the trial of a mutant ended; ``ERROR``: the model cannot be imported or not say what it is."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    ERROR = "error"
    SURVIVED = "survived"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a trial, the case that killed the mutant, and whether it did by an exception."""

    end: End
    by: str = ""
    raised: bool = False


@dataclass(frozen=True, slots=True)
class _Running:
    mutant: Mutant
    process: BaseProcess
    pipe: Connection
    deadline: float

    def outcome(self) -> Outcome | None:
        """Return how the trial ended; ``None`` while it goes on."""
        if self.process.is_alive():
            if time.monotonic() < self.deadline:
                return None
            self.process.kill()
        self.process.join()
        if self.process.exitcode in (-signal.SIGXCPU, -signal.SIGPROF, -signal.SIGKILL):
            return Outcome(End.TIMEOUT)
        if self.process.exitcode or not self.pipe.poll():
            raise TrialError(self.mutant.id)
        said = self.pipe.recv()
        assert isinstance(said, Outcome)  # noqa: S101 - our own child sends nothing else
        return said


class _Order:
    """In which order cases are tried: likely killers first."""

    def __init__(self, listed: Sequence[Listed], killers: Mapping[str, str]) -> None:
        self._listed = listed
        self._killers = killers
        self._kills: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def of(self, mutant: Mutant) -> Sequence[Listed]:
        """Return the cases in the order in which they are tried on a mutant."""
        killer, kills = self._killers.get(mutant.id), self._kills[mutant.module]
        return sorted(self._listed, key=lambda each: (each.id != killer, -kills[each.id]))

    def learn(self, mutant: Mutant, outcome: Outcome) -> None:
        """Note which case killed a mutant."""
        if outcome.by:
            self._kills[mutant.module][outcome.by] += 1


def outcomes(
    mutants: Sequence[Mutant],
    listed: Sequence[Listed],
    killers: Mapping[str, str],
    *,
    seconds: int,
    workers: int,
) -> Iterator[tuple[Mutant, Outcome]]:
    """Yield how the trial of each mutant ended, in the order in which they end.

    *killers* has the cases that killed mutants before, by the mutant's id: each is tried first, then those
    that killed most of the same module. A trial that takes more than *seconds* of processor time is ended.
    """
    gc.freeze()  # else each child's first collection copies all scenarios
    order = _Order(listed, killers)
    waiting = list(reversed(mutants))
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                mutant = waiting.pop()
                running.append(_start(mutant, order.of(mutant), seconds))
            wait([each.process.sentinel for each in running], timeout=1)
            for each in list(running):
                if (outcome := each.outcome()) is not None:
                    running.remove(each)
                    order.learn(each.mutant, outcome)
                    yield each.mutant, outcome
    finally:
        for each in running:
            each.process.kill()


def _start(mutant: Mutant, listed: Sequence[Listed], seconds: int) -> _Running:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_limited, args=(seconds, sender, lambda: _try(mutant, listed)))
    process.start()
    sender.close()
    return _Running(mutant, process, receiver, time.monotonic() + WALL_FACTOR * seconds)


def _limited(seconds: int, sender: Connection, work: Callable[[], Outcome]) -> None:
    """Send the outcome of *work*; the kernel ends this process where it takes too much."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sender.send(work())


def _timed(listed: Iterable[Listed]) -> Iterator[Listed]:
    """Yield cases; the kernel ends this process where one of them takes too much."""
    for each in listed:
        signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
        yield each


def _try(mutant: Mutant, listed: Sequence[Listed]) -> Outcome:
    try:
        altered = benches({mutant.module: mutant.text})
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - a module that cannot even be imported raises anything
        return Outcome(End.ERROR)
    try:
        noticed = notice(altered, _timed(listed))
    except MemoryError:
        return Outcome(End.TIMEOUT)
    return Outcome(End.SURVIVED) if noticed is None else Outcome(End.KILLED, noticed.by, noticed.raised)
