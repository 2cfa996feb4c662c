"""A machine that a command boots: every image on a real QEMU by every way, and commands that misbehave."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backends import Identity, command, image, machine
from backends.restricted import Restricted
from runner.apic import ApicMode
from runner.outcome import BackendBroken, Completed, Observation, Unsupported
from runner.program import Level, Plain, Program, Rdmsr, Setup, Step

QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "{cpus}", "-m", "64"]
QUIET = [*QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
ROM, KERNEL, CD = ["-bios", "{image}"], ["-kernel", "{image}"], ["-cdrom", "{image}"]


def subject(words: list[str], **start: object) -> machine.ProbeBackend:
    return command.backend("mine", {"command": words, "image": "rom", "records": "stdout", **start})


def reading_ids(cpus: int) -> Program:
    """Each processor reads its APIC ID, in xAPIC mode, which any QEMU has."""
    setups = tuple(Setup(apic_mode=ApicMode.XAPIC) for _ in range(cpus))
    return Program(Level.GUEST, setups, tuple(Step(Rdmsr(0x1B), vcpu=cpu) for cpu in range(cpus)))


def base(cpu: int) -> Completed:
    return Completed(0xFEE00900 if cpu == 0 else 0xFEE00800)


def outcomes(answer: object) -> list[object]:
    assert isinstance(answer, Observation), answer
    return [step.outcomes[0] for step in answer.steps]


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ([*QUIET, *ROM, "-debugcon", "stdio"], {}),
        ([*QUIET, *ROM, "-serial", "stdio"], {"door": "serial"}),
        ([*QUIET, *ROM, "-debugcon", "file:{records}"], {"records": "file"}),
        ([*QUIET, *ROM, "-serial", "file:{records}"], {"door": "serial", "records": "file"}),
        ([*QUIET, *ROM, "-serial", "file:{records}"], {"door": "serial", "records": "pipe"}),
        (
            [*QUIET, *ROM, "-chardev", "serial,id=c,path={records}", "-serial", "chardev:c"],
            {"door": "serial", "records": "pty"},
        ),
        ([*QUIET, *ROM, "-debugcon", "unix:{records}"], {"records": "socket"}),
        ([*QUIET, *KERNEL, "-debugcon", "stdio"], {"image": "kernel"}),
        ([*QUIET, "-M", "microvm", *KERNEL, "-serial", "stdio"], {"image": "kernel", "door": "serial"}),
        ([*QUIET, *CD, "-serial", "stdio"], {"image": "iso", "door": "serial"}),
    ],
    ids=["e9", "com1", "e9-file", "com1-file", "pipe", "pty", "socket", "multiboot", "pvh", "cd"],
)
def test_every_image_and_every_way(words: list[str], start: dict[str, Any]) -> None:
    mine = subject(words, version=["qemu-system-x86_64", "--version"], **start)
    who = mine.identity()
    assert isinstance(who, Identity), who
    assert who.version.count(".") >= 1
    assert outcomes(*mine.run([reading_ids(2)])) == [base(0), base(1)]


def test_processors_are_numbered_by_their_apic_ids() -> None:
    steps = tuple(Step(Plain.DUMP_AT_RESET, vcpu=cpu) for cpu in range(4))
    program = Program(Level.GUEST, tuple(Setup(apic_mode=ApicMode.XAPIC) for _ in range(4)), steps)
    for _ in range(2):
        (answer,) = subject([*QUIET, *ROM, "-debugcon", "stdio"]).run([program])
        assert isinstance(answer, Observation)
        bases = [dict(final.physical)[0x1B] for final in answer.finals]
        assert bases == [0xFEE00900, 0xFEE00800, 0xFEE00800, 0xFEE00800]


def test_behind_a_firmware_nobody_sees_the_registers_after_reset() -> None:
    program = Program(Level.GUEST, (Setup(apic_mode=ApicMode.XAPIC),), (Step(Plain.DUMP_AT_RESET),))
    (answer,) = subject([*QUIET, *KERNEL, "-debugcon", "stdio"], image="kernel").run([program])
    assert isinstance(answer, Unsupported)
    assert "a firmware or loader runs before the image `kernel`" in answer.reason


# Commands that misbehave, beside the real one: each plays a stream that a real QEMU has given.


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stream of a real boot of three programs."""
    seen: list[bytes] = []
    mine = subject([*QUIET, *ROM, "-debugcon", "stdio"])
    boot = command.Command.boot

    def listened(self: command.Command, *args: Any, **kwargs: Any) -> Any:
        booted = boot(self, *args, **kwargs)
        seen.append(booted.stream)
        return booted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.Command, "boot", listened)
        assert all(isinstance(answer, Observation) for answer in mine.run([reading_ids(1)] * 3))
    path = tmp_path_factory.mktemp("played") / "stream"
    path.write_bytes(seen[-1])
    return path


PLAYER = """
import sys, time, os
data = open({stream!r}, "rb").read()
end = data.rindex(b"X2AF")
out = sys.stdout.buffer
def send(part):
    out.write(part); out.flush()
"""


def player(tmp_path: Path, stream: Path, body: str, **start: object) -> machine.ProbeBackend:
    script = tmp_path / "player.py"
    script.write_text(PLAYER.format(stream=str(stream)) + body, "utf-8")
    mine = subject([sys.executable, str(script), "{image}"], **start)
    mine._found = command.backend("mine", REAL)._processor()  # noqa: SLF001 - the player has no empty boot
    return mine


REAL = {"command": [*QUIET, *ROM, "-debugcon", "stdio"], "image": "rom", "records": "stdout"}


def reasons(mine: machine.ProbeBackend, count: int = 3) -> list[str]:
    answers = mine.run([reading_ids(1)] * count)
    return [answer.reason if isinstance(answer, BackendBroken) else "" for answer in answers]


def test_what_else_is_printed_is_passed_over(tmp_path: Path, played: Path) -> None:
    body = """
send(b'SeaBIOS X2A')
send(data[:end])
send(b'X2AF junk')
send(data[end:])
time.sleep(60)
"""
    start = time.monotonic()
    assert reasons(player(tmp_path, played, body)) == ["", "", ""]
    assert time.monotonic() - start < 30


def test_a_machine_that_is_silent_costs_one_case_a_deadline(tmp_path: Path, played: Path) -> None:
    body = """
first = data.index(b'X2AF', 4)
send(data[: data.index(b'X2AF', first + 4)])
time.sleep(60)
"""
    said = reasons(player(tmp_path, played, body, deadlines={"case": 0.3}))
    assert said[0] == ""
    assert "mine: no record for 0.3 s; killed" in said[1]


def test_no_record_at_all(tmp_path: Path, played: Path) -> None:
    said = reasons(player(tmp_path, played, "time.sleep(60)", deadlines={"boot": 0.3}))
    assert set(said) == {"mine: given up: no record within 0.3 s; killed"}


def test_a_machine_that_ends_early(tmp_path: Path, played: Path) -> None:
    said = reasons(player(tmp_path, played, "sys.stderr.write('cannot open the moon'); sys.exit(3)"))
    assert set(said) == {"mine: given up: ended before its last record: exit status 3"}
    (answer, *_) = player(tmp_path, played, "sys.exit('cannot open the moon')").run([reading_ids(1)])
    assert isinstance(answer, BackendBroken)
    assert "cannot open the moon" in answer.log


def test_a_flood_is_bounded(tmp_path: Path, played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.process.MOST_OUTPUT", 1 << 20)
    said = reasons(player(tmp_path, played, "while True: send(bytes(65536))"))
    assert set(said) == {"mine: given up: gave more than 1 MiB; killed"}


def test_children_of_the_command_end_with_it(tmp_path: Path, played: Path) -> None:
    child = tmp_path / "child"
    body = f"""
pid = os.fork()
if pid == 0:
    time.sleep(60)
open({str(child)!r}, "w").write(str(pid))
send(data)
time.sleep(60)
"""
    assert reasons(player(tmp_path, played, body)) == ["", "", ""]
    pid = int(child.read_text("utf-8"))
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_cleans_up_runs_after_each_boot(tmp_path: Path, played: Path) -> None:
    log = tmp_path / "log"
    after = [sys.executable, "-c", f"open({str(log)!r}, 'a').write('off ')"]
    assert reasons(player(tmp_path, played, "send(data)", after=after)) == ["", "", ""]
    assert log.read_text("utf-8") == "off "


# What the file says.


def test_a_command_without_cpus_has_one_processor() -> None:
    (answer,) = subject([*QUIET[:5], *QUIET[7:], *ROM, "-debugcon", "stdio"]).run([reading_ids(2)])
    assert isinstance(answer, Unsupported)
    assert "2 processors: mine has at most 1" in answer.reason


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["no-such-program"], "no-such-program cannot be started"),
        (["false"], "`false` names no version: exit status 1"),
        (["echo", "latest"], "`echo latest` names no version: exit status 0"),
    ],
)
def test_a_version_command_that_says_none(words: list[str], reason: str) -> None:
    found = subject([*QUIET, *ROM], version=words).identity()
    assert isinstance(found, Unsupported)
    assert reason in found.reason


def test_without_a_version_command_it_is_unknown() -> None:
    who = subject([*QUIET, *ROM, "-debugcon", "stdio"]).identity()
    assert isinstance(who, Identity)
    assert who.version == "unknown"


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ("no-such-program", "needs the program no-such-program, which is not in the PATH"),
        ("/no/such/file", "needs /no/such/file, which is not here"),
        ("{cache}/nothing/here", "the doctor unpacks it"),
    ],
)
def test_what_it_needs(need: str, reason: str) -> None:
    mine = Restricted(subject([*QUIET, *ROM, "-debugcon", "stdio"]), [need], [])
    answers = [mine.identity(), *mine.run([reading_ids(1)])]
    assert all(isinstance(answer, Unsupported) and reason in answer.reason for answer in answers)


def test_a_device_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []
    monkeypatch.setattr(os, "access", lambda _, mode: wanted.append(mode))
    found = Restricted(subject([*QUIET, *ROM]), ["/dev/null"], []).identity()
    assert found == Unsupported("needs /dev/null, which this user may not open")
    assert wanted == [os.R_OK | os.W_OK]


def test_a_subject_that_needs_kvm_reports_the_hosts_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.restricted._lacks", lambda _: "")
    who = Restricted(subject([*QUIET, *ROM, "-debugcon", "stdio"]), ["/dev/kvm"], []).identity()
    assert isinstance(who, Identity)
    assert {"kvm-module", "enable_apicv", "vendor"} <= set(who.capabilities)
    assert who.capabilities["single-stepped"] == "false"


def test_other_levels_are_unsupported_and_the_order_stays() -> None:
    mine = Restricted(subject([*QUIET, *ROM, "-debugcon", "stdio"]), ["true"], ["guest"])
    vmx = Program(Level.VMX, (Setup(),), (Step(Rdmsr(0x1B)),))
    first, second, third = mine.run([vmx, reading_ids(1), vmx])
    assert outcomes(second) == [base(0)]
    assert first == third == Unsupported("level vmx: the subject file says guest")


def test_the_cd_holds_the_batch_and_nothing_else_differs() -> None:
    empty, full = image.iso(b""), image.iso(b"batch")
    assert isinstance(empty, bytes)
    assert isinstance(full, bytes)
    assert len(empty) == len(full)
    at = full.index(b"batch" + b"\xff" * 64)
    assert full[:at] + b"\xff" * 5 + full[at + 5 :] == empty
