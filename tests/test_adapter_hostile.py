"""Whatever an adapter does: its case is broken with the reason, the next one runs, memory stays bounded."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
from hostile_adapter import WAYS
from programs import program

from backends.adapter.backend import MOST_FAILURES, AdapterBackend
from backends.adapter.command import Command
from backends.adapter.session import Session
from runner.outcome import Answer, BackendBroken, Observation, Unsupported
from runner.program import Rdmsr

HOSTILE = Path(__file__).parent / "hostile_adapter.py"
PROGRAMS = [program(Rdmsr(msr)) for msr in (0x802, 0x80B, 0x803, 0x80A)]
"""The second makes the adapter misbehave."""
MOST_MEMORY = 64 << 20
"""Bytes by which the runner may grow, whatever an adapter writes."""

SLOW = ("hang", "stay-silent", "flood-stderr-for-ever", "close-output")
FINE = ("flood-stderr",)
NEXT_IS_BROKEN = ("answer-twice",)
REASONS = {
    "hang": "no answer within 2 s",
    "stay-silent": "seq: 2, where the answer to case 1 was due",
    "die": "it ended: ended by SIGABRT",
    "leave": "it ended: exit status 3",
    "die-within-a-line": "it ended within a line: exit status 0",
    "leave-a-child": "it ended: exit status 4",
    "close-output": "it closed its output",
    "flood-with-bytes": "a line of more than 1048576 bytes",
    "flood-with-lines": "message: nothing, where the answer to case 1 was due",
    "flood-stderr-for-ever": "no answer within 2 s",
    "a-long-line": "a line of more than 1048576 bytes",
    "many-objects": "message: nothing",
    "answer-twice": "seq: 1, where the answer to case 2 was due",
    "next-first": "seq: 2, where the answer to case 1 was due",
    "seq-of-another": "seq: 7, where the answer to case 1 was due",
    "seq-a-string": 'seq: "1", where',
    "seq-true": "seq: true, where",
    "seq-a-fraction": "seq: 1.0, where",
    "no-seq": "seq: nothing, where",
    "no-message": "message: nothing, where",
    "no-steps": "the key steps lacks",
    "greets-again": 'message: "capabilities", where the answer',
    "another-key": "no key verdict belongs here",
    "no-utf-8": "no UTF-8 at byte 12",
    "a-nul-byte": "no JSON",
    "no-json": "no JSON: Expecting value",
    "an-empty-line": "no JSON",
    "an-array": "no JSON object",
    "deep": "nested too deeply",
    "nan": "NaN is no number of JSON",
    "many-digits": "no JSON",
    "a-key-twice": "a key stands twice",
    "vector-256": "steps[0].physical.vector: found 256, wanted a number 0-255",
    "vector-negative": "vector: found -1, wanted a number 0-255",
    "vector-a-fraction": "13.0",
    "vector-true": "found true, wanted a number 0-255",
    "activity-4": "finals[0].activity: found 4, wanted a number 0-3",
    "rvi-too-wide": "finals[0].rvi: found 256, wanted a number 0-255",
    "unknown-outcome": 'found "fauld", wanted one of "completed", "value", "fault", ',
    "value-too-wide": 'found "0x10000000000000000", wanted 64 bits',
    "value-decimal": "found 3, wanted 64 bits as a hexadecimal string",
    "a-step-too-many": "steps: 2, where the case has 1",
    "a-word-off-the-page": 'finals[0].page[0][0]: found "0x1000", wanted an offset',
    "a-word-twice": "page: an offset stands there twice",
    "half-a-descriptor": "finals[0].pid: ",
    "broken": "the adapter says: no memory left",
}


def backend(way: str, deadline: float = 2.0) -> AdapterBackend:
    return AdapterBackend("hostile", Command((sys.executable, str(HOSTILE), way), deadline=deadline))


def answers(way: str) -> list[Answer]:
    return list(backend(way).run(PROGRAMS))


def memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def test_every_way_has_its_reason() -> None:
    assert set(WAYS) == {*REASONS, *FINE}


@pytest.mark.parametrize("way", sorted(REASONS))
def test_the_case_is_broken_with_the_reason_and_the_others_run(way: str) -> None:
    broken = 2 if way in NEXT_IS_BROKEN else 1
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    found = answers(way)
    assert memory("VmHWM") - before < MOST_MEMORY
    trouble = found[broken]
    assert isinstance(trouble, BackendBroken), found
    assert REASONS[way] in trouble.reason
    others = [each for index, each in enumerate(found) if index != broken]
    assert [type(each) for each in others] == [Observation] * 3


def test_what_it_writes_to_standard_error_is_attached() -> None:
    trouble = answers("leave")[1]
    assert isinstance(trouble, BackendBroken)
    assert trouble.log == "that was too much\n"


def test_the_end_of_much_standard_error_is_kept_and_the_case_answered() -> None:
    before = memory("VmRSS")
    found = answers("flood-stderr")
    assert [type(each) for each in found] == [Observation] * 4
    assert memory("VmHWM") - before < MOST_MEMORY
    trouble = answers("flood-stderr-for-ever")[1]
    assert isinstance(trouble, BackendBroken)
    assert set(trouble.log) == {"y"}
    assert len(trouble.log) == 4096


def test_an_adapter_that_writes_unasked_breaks_the_next_batch() -> None:
    subject = backend("answer-twice")
    assert [type(each) for each in subject.run(PROGRAMS[:2])] == [Observation] * 2
    time.sleep(0.2)  # until the second answer is there
    unasked, after = subject.run(PROGRAMS[2:])
    assert isinstance(unasked, BackendBroken)
    assert "it wrote what nobody asked for: " in unasked.reason
    assert isinstance(after, Observation)


def test_it_need_not_read_what_it_is_sent() -> None:
    """More than a pipe holds is on its way to a process that hangs; the next one gets the rest."""
    found = list(backend("hang").run([PROGRAMS[1], *[PROGRAMS[0]] * 250]))
    assert [type(each) for each in found] == [BackendBroken, *[Observation] * 250]


def test_its_process_and_what_that_started_are_gone() -> None:
    before = _sleepers()
    answers("leave-a-child")
    answers("hang")
    assert _sleepers() == before


def _sleepers() -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[:2] == [b"sleep", b"600"] or str(HOSTILE).encode() in words:
                found.add(int(folder.name))
    return found


ORPHAN = """
import sys
sys.path[:0] = sys.argv[1:]
from test_adapter_hostile import PROGRAMS, backend
subject = backend("hang", deadline=600)
list(subject.run(PROGRAMS[:1]))
print(subject._session._process.pid, flush=True)
list(subject.run(PROGRAMS))
"""


def test_it_dies_with_the_runner() -> None:
    places = [str(HOSTILE.parents[1]), str(HOSTILE.parent)]
    runner = subprocess.Popen([sys.executable, "-c", ORPHAN, *places], stdout=subprocess.PIPE, text=True)
    assert runner.stdout
    pid = int(runner.stdout.readline())
    handle = os.pidfd_open(pid)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert select.select([handle], [], [], 10)[0]
    os.close(handle)


class SpyingCommand(Command):
    sessions: ClassVar[list[Session]] = []

    def start(self) -> Session:
        self.sessions.append(super().start())
        return self.sessions[-1]


def test_it_is_told_to_stop_when_nobody_needs_it_any_more() -> None:
    command = SpyingCommand((sys.executable, str(HOSTILE), "hang"), deadline=600)
    subject = AdapterBackend("hostile", command)
    list(subject.run(PROGRAMS[:1]))
    del subject
    gc.collect()
    [session] = command.sessions
    assert session.close() == "exit status 0"
    assert session.log == "stopped\n"


def test_after_many_failures_in_a_row_all_is_given_up() -> None:
    subject = backend("die")
    found = list(subject.run([PROGRAMS[1]] * 40))
    reasons = [each.reason for each in found if isinstance(each, BackendBroken)]
    assert len(reasons) == 40
    assert sum("given up" in reason for reason in reasons) == 40 - MOST_FAILURES
    [later] = subject.run(PROGRAMS[:1])
    assert isinstance(later, BackendBroken)
    assert "given up" in later.reason


def test_failures_with_answers_between_them_are_not_given_up() -> None:
    found = list(backend("die").run([PROGRAMS[1], PROGRAMS[0]] * 20))
    assert [type(each) for each in found] == [BackendBroken, Observation] * 20


def test_hangs_that_take_too_long_together_are_given_up() -> None:
    found = list(backend("hang", deadline=0.05).run([PROGRAMS[1], PROGRAMS[0]] * 40))
    last = found[-1]
    assert isinstance(last, BackendBroken)
    assert "given up" in last.reason


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("no-such-program",), "no program `no-such-program`"),
        (("true",), "it ended: exit status 0"),
        (("echo", "hello"), "no JSON"),
        (("cat",), 'message: "hello", where `capabilities` was due'),
    ],
)
def test_a_program_that_is_no_adapter_is_broken_and_says_why(command: Sequence[str], reason: str) -> None:
    subject = AdapterBackend("mine", Command(tuple(command), deadline=5))
    who = subject.identity()
    assert isinstance(who, BackendBroken)
    assert reason in who.reason
    assert list(subject.run(PROGRAMS)) == [who] * 4


def test_another_build_that_fails_is_broken_and_one_without_its_compiler_is_unsupported(
    tmp_path: Path,
) -> None:
    failing = Command(("true",), build=("sh", "-c", "echo no source >&2; exit 2"), workdir=tmp_path)
    broken = AdapterBackend("mine", failing).identity()
    assert isinstance(broken, BackendBroken)
    assert "it cannot be built" in broken.reason
    assert broken.log == "no source\n"
    absent = AdapterBackend(
        "mine", Command(("true",), build=("no-such-compiler",), workdir=tmp_path)
    ).identity()
    assert absent == Unsupported("building it needs no-such-compiler, which is not installed")
