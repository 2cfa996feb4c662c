"""The real Bochs under the worst: killed, cut short, hung, without room, without Bochs."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from programs import DELIVERY, OPEN, REGISTERS, page, program

from backends import Identity, bochs, encode, image, machine, process, wire
from backends.batch import Booted
from runner.language.loading import ROOT
from runner.outcome import BackendBroken, Completed, Observation, Stuck, Unsupported
from runner.program import Level, Plain, Program, Rdmsr, Setup, Step, Wrmsr
from runner.vmx import MsrBitmap

SVR, LVT_TIMER = 0x80F, 0x832


def backend(**start: object) -> machine.ProbeBackend:
    return bochs.backend("bochs", start)


@pytest.fixture(scope="module")
def subject() -> machine.ProbeBackend:
    return backend()


def reading(count: int) -> list[Program]:
    """Return programs that differ in the value that they read."""
    return [program(Rdmsr(0x802), controls=REGISTERS, page=page(x20=index)) for index in range(count)]


def values(answers: Sequence[object]) -> list[int | None]:
    return [
        outcome.value
        for answer in answers
        if isinstance(answer, Observation)
        for outcome in answer.steps[0].outcomes
        if isinstance(outcome, Completed)
    ]


def hanging() -> Program:
    return program(Plain.HLT, Plain.NOP)


def test_the_subject_says_who_it_is(subject: machine.ProbeBackend) -> None:
    identity = subject.identity()
    assert isinstance(identity, Identity)
    assert identity.version[0].isdigit()
    assert identity.capabilities["vmx"] == "true"
    assert int(identity.capabilities["IA32_VMX_PROCBASED_CTLS2"], 16) >> 36 & 1


def test_programs_are_answered_in_their_order(subject: machine.ProbeBackend) -> None:
    assert values(list(subject.run(reading(50)))) == list(range(50))


def test_a_batch_larger_than_the_rom_takes_several_boots(
    subject: machine.ProbeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "BATCH_ROOM", 0x800)
    monkeypatch.setattr(image, "rom", lambda batch: batch.ljust(0xD0000, b"\xff") + probe())
    assert values(list(subject.run(reading(40)))) == list(range(40))


def probe() -> bytes:
    built = image.probe_image()
    assert isinstance(built, bytes)
    return built


def test_records_that_do_not_fit_their_room_get_another_boot(
    subject: machine.ProbeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.batch.FIXED_ROOM", 600)
    monkeypatch.setattr("backends.batch.RECORD_ROOM", 80)
    monkeypatch.setattr("backends.batch.STEP_ROOM", 0)
    assert values(list(subject.run(reading(30)))) == list(range(30))


def test_a_bochs_without_a_debugger_gives_its_records_by_port_e9(subject: machine.ProbeBackend) -> None:
    programs = [*reading(20), hanging()]
    assert list(backend(door="port-e9").run(programs)) == list(subject.run(programs))


def test_an_exit_in_the_first_step_of_a_handler_ends_nothing(subject: machine.ProbeBackend) -> None:
    eoi_exits = MsrBitmap(writes=((0x80B, 0x80B),))
    (answer,) = subject.run(
        [program(Wrmsr(0x83F, 0x51), Plain.NOP, Plain.NOP, guest=OPEN, eoi=True, msr_bitmap=eoi_exits)]
    )
    assert isinstance(answer, Observation)
    assert [step.outcomes for step in answer.steps] == [(Completed(),)] * 3
    (delivery,) = answer.steps[0].delivered
    assert [getattr(outcome, "reason", None) for outcome in delivery.steps[0].outcomes] == [32]


LOCKS_VMX_OFF = bytes.fromhex("66 b9 3a000000 66 b8 01000000 66 31 d2 0f 30 ea 0000 00f0")
"""MOV ECX, 3AH; MOV EAX, 1; XOR EDX, EDX; WRMSR; JMP F000H:0000H"""


def test_vmx_that_the_firmware_locked_off_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    rom = image.rom

    def with_firmware(batch: bytes) -> bytes:
        plain = rom(batch)
        assert isinstance(plain, bytes)
        return plain[:-0x30] + LOCKS_VMX_OFF.ljust(0x20) + b"\xe9\xdd\xff" + plain[-0xD:]

    monkeypatch.setattr(image, "rom", with_firmware)
    subject = backend()
    identity = subject.identity()
    assert isinstance(identity, Identity)
    assert identity.capabilities["vmx"] == "false"
    (first, second) = subject.run([*reading(1), Program(Level.GUEST, (Setup(),), (Step(Plain.NOP),))])
    assert isinstance(first, Unsupported)
    assert "the firmware has locked VMX off" in first.reason
    assert isinstance(second, Observation)


# The machine ends early.


class Killed(bochs.Bochs):
    """Gets SIGKILL once so many programs have begun, so many times."""

    def __init__(self, begun: int, times: int = 1) -> None:
        super().__init__()
        self.begun = begun
        self.times = times

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        if programs and self.times:
            self.times -= 1
            threading.Thread(target=self.kill, args=(folder,), daemon=True).start()
        return super().boot(rom, cpus=cpus, room=room, programs=programs, folder=folder)

    def kill(self, folder: Path) -> None:
        out = folder / "stdout"
        for _ in range(2000):
            if out.exists() and out.read_bytes().count(wire.PROGRESS) >= self.begun:
                break
            time.sleep(0.005)
        for pid in machines_in(folder):
            os.kill(pid, signal.SIGKILL)


def machines_in(folder: Path) -> Iterator[int]:
    """Yield the processes that run in a folder, the test's own excepted."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.joinpath("cwd").readlink().is_relative_to(folder):
                yield int(entry.name)
        except OSError:
            continue


def test_a_killed_machine_costs_the_case_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GUARD_TICKS", 60_000_000)
    programs = [*reading(5), hanging(), *reading(5)]
    answers = list(machine.ProbeBackend("bochs", Killed(begun=6)).run(programs))
    assert [index for index, answer in enumerate(answers) if isinstance(answer, BackendBroken)] == [5]
    assert "SIGKILL" in answers[5].reason  # type: ignore[union-attr]
    assert values(answers) == [*range(5), *range(5)]


def test_a_machine_killed_again_and_again_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GUARD_TICKS", 60_000_000)
    monkeypatch.setattr(machine, "MOST_EARLY_ENDS", 2)
    answers = list(machine.ProbeBackend("bochs", Killed(begun=1, times=99)).run([hanging()] * 6))
    assert all(isinstance(answer, BackendBroken) for answer in answers)
    assert "given up" in answers[5].reason  # type: ignore[union-attr]


def test_a_machine_that_hangs_is_killed_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GUARD_TICKS", 0)
    monkeypatch.setattr(bochs, "BOOT_SECONDS", 2.0)
    programs = [*reading(3), hanging(), *reading(3)]
    start = time.monotonic()
    answers = list(backend().run(programs))
    assert time.monotonic() - start < 20
    assert [index for index, answer in enumerate(answers) if isinstance(answer, BackendBroken)] == [3]
    assert "deadline" in answers[3].reason  # type: ignore[union-attr]
    assert values(answers) == [*range(3), *range(3)]


def test_a_guest_that_does_not_return_is_an_observation(subject: machine.ProbeBackend) -> None:
    (answer,) = subject.run([hanging()])
    assert isinstance(answer, Observation)
    assert [s.outcomes for s in answer.steps] == [(Stuck.STAYS_HALTED,), (Stuck.NOT_REACHED,)]


class Damaged(bochs.Bochs):
    """Its stream is changed on the way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        booted = super().boot(rom, cpus=cpus, room=room, programs=programs, folder=folder)
        if not programs:
            return booted
        stream = bytearray(booted.stream)
        frames = list(wire.frames(booted.stream))
        at = stream.index(frames[4].payload)
        if self.how == "flipped":
            stream[at + 9] ^= 0x10
        elif self.how == "cut":
            del stream[at + 20 :]
        else:
            del stream[at - wire.FRAME.size : at + len(frames[4].payload)]
        return Booted(bytes(stream), booted.begun, booted.log, booted.trouble)


@pytest.mark.parametrize(("how", "broken"), [("flipped", [3]), ("cut", [3, 4, 5, 6, 7]), ("lost", [3])])
def test_damage_of_the_stream_is_broken_and_nothing_else(how: str, broken: list[int]) -> None:
    answers = list(machine.ProbeBackend("bochs", Damaged(how)).run(reading(8)))
    assert [index for index, answer in enumerate(answers) if isinstance(answer, BackendBroken)] == broken
    assert values(answers) == [index for index in range(8) if index not in broken]
    assert "damaged" in answers[3].reason  # type: ignore[union-attr]


def test_a_batch_that_was_changed_is_refused_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = backend()
    assert isinstance(subject.identity(), Identity)
    real = image.rom

    def changed(batch: bytes) -> bytes | BackendBroken:
        return real(batch[:-1] + bytes([batch[-1] ^ 1]))

    monkeypatch.setattr(image, "rom", changed)
    (answer,) = subject.run(reading(1))
    assert isinstance(answer, BackendBroken)
    assert "checksum" in answer.reason


FIRST = 48
"""Offset in a batch: how many of its cases earlier boots have done."""


def test_the_probe_goes_on_in_a_batch_that_an_earlier_boot_began(tmp_path: Path) -> None:
    records = [encode.encode_case(index, each) for index, each in enumerate(reading(3))]
    batch = bytearray(wire.encode_batch(records, cpus=1, door=wire.DOOR_MEMORY, limit=1 << 16, guard=0))
    struct.pack_into("<I", batch, FIRST, 2)
    rom = image.rom(bytes(batch))
    assert isinstance(rom, bytes)
    booted = bochs.Bochs().boot(rom, cpus=1, room=1 << 16, programs=1, folder=tmp_path)
    frames = list(wire.frames(booted.stream))
    assert [each.seq for each in frames if each.kind == wire.FRAME_CASE] == [2]
    end = next(each for each in frames if each.kind == wire.FRAME_END)
    assert wire.END.unpack(end.payload)[1] == 1


# The environment.


def test_without_bochs_the_subject_is_unsupported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("make", "gcc", "ld"):
        tmp_path.joinpath(tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path))
    subject = backend()
    answers = [subject.identity(), *subject.run(reading(2))]
    assert all(isinstance(answer, Unsupported) for answer in answers)
    assert "apt-get install bochs" in answers[0].reason  # type: ignore[union-attr]


def test_the_unpacked_bochs_says_how_to_unpack_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    identity = backend(unpacked=True).identity()
    assert isinstance(identity, Unsupported)
    assert "the doctor does it" in identity.reason


def test_a_program_that_is_no_bochs_is_unsupported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.joinpath("bochs-bin").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    identity = backend().identity()
    assert isinstance(identity, Unsupported)
    assert "version" in identity.reason


def test_a_full_disk_is_broken() -> None:
    """In a mount namespace whose temporary folder has room for a ROM but not for the frames."""
    script = textwrap.dedent(
        """
        import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
        from backends import bochs
        from test_machine import reading
        for answer in bochs.backend("bochs", {}).run(reading(3)):
            print(type(answer).__name__, getattr(answer, "reason", ""))
        """
    )
    run = f'mount -t tmpfs -o size=1040k tmpfs /mnt; TMPDIR=/mnt {sys.executable} -c "$0" {ROOT}'
    done = subprocess.run(
        [*mount_namespace(), "sh", "-c", f"set -e; {run}; umount /mnt", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all(line.startswith("BackendBroken") for line in lines)


def mount_namespace() -> list[str]:
    """Return the words that give a command mounts of its own; in a chroot the root's stay shared."""
    private = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    works = subprocess.run([*private, "true"], capture_output=True, timeout=20, check=False).returncode == 0
    return private if works else [*private, "--propagation", "unchanged"]


def test_a_killed_runner_leaves_no_process(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
        from backends import bochs, machine
        from test_machine import hanging, reading
        machine.GUARD_TICKS = 0
        list(bochs.backend("bochs", {}).run([*reading(1), hanging()]))
        """
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT)], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert eventually(lambda: begun(tmp_path) == 2)
        assert list(machines_in(tmp_path))
    finally:
        runner.kill()
        runner.wait()
    assert eventually(lambda: not list(machines_in(tmp_path)))


def begun(folder: Path) -> int:
    return sum(out.read_bytes().count(wire.PROGRESS) for out in folder.glob("*/stdout"))


def eventually(what: Callable[[], bool]) -> bool:
    for _ in range(400):
        if what():
            return True
        time.sleep(0.02)
    return False


def test_a_process_that_floods_its_output_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_OUTPUT", 1 << 20)
    ended = process.run(["yes"], folder=tmp_path, environment={}, deadline=30)
    assert len(ended.stdout) == 1 << 20
    assert ended.status < 0 or ended.status == 1


# What the processor lacks.


@pytest.mark.parametrize(
    ("model", "lack"),
    [
        ("corei5_arrandale_m520", "apic-register-virtualization: IA32_VMX_PROCBASED_CTLS2[40] = 0"),
        ("core2_penryn_t9600", "virtualize-x2apic-mode: IA32_VMX_PROCBASED_CTLS2[36] = 0"),
        ("athlon64_clawhammer", "level vmx: the processor has no VMX (CPUID.01H:ECX[5] = 0)"),
    ],
)
def test_a_processor_without_a_control_is_unsupported(model: str, lack: str) -> None:
    (answer,) = backend(model=model).run(reading(1))
    assert answer == Unsupported(lack)


def test_more_processors_than_the_machine_has_are_unsupported(subject: machine.ProbeBackend) -> None:
    nine = Program(program().level, (Setup(),) * 9, (Step(Plain.NOP),))
    (answer,) = subject.run([nine])
    assert isinstance(answer, Unsupported)
    assert "9 processors" in answer.reason


def test_posted_interrupts_are_gated_on_the_capability(subject: machine.ProbeBackend) -> None:
    identity = subject.identity()
    assert isinstance(identity, Identity)
    if not identity.version.startswith("2."):
        return
    posted = DELIVERY.plus([type(DELIVERY.pin).PROCESS_POSTED_INTERRUPTS])
    (answer,) = subject.run([program(Plain.NOP, controls=posted)])
    assert answer == Unsupported("process-posted-interrupts: IA32_VMX_TRUE_PINBASED_CTLS[39] = 0")


def test_the_probe_is_built_the_same_twice(tmp_path: Path) -> None:
    built = []
    for name in ("one", "two"):
        folder = tmp_path / name
        shutil.copytree(image.PROBE, folder, ignore=shutil.ignore_patterns("build"))
        subprocess.run(["make", "-s", "-C", folder], check=True, timeout=120)
        built.append(folder.joinpath("build", "probe.rom").read_bytes())
    assert built[0] == built[1] == probe()
