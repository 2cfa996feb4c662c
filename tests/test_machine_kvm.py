"""The real /dev/kvm under the subject `kvm`: what it answers, and what becomes of it at the worst."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import REGISTERS, page, program
from test_machine import eventually, machines_in

from backends import Identity, kvm, machine, wire
from backends.batch import Booted
from runner.apic import ApicMode
from runner.language.loading import ROOT
from runner.outcome import BackendBroken, Completed, Observation, Unsupported
from runner.program import (
    Action,
    Barrier,
    Cpuid,
    GuestState,
    Level,
    Plain,
    Program,
    Rdmsr,
    Setup,
    Step,
    Wrmsr,
)

HERE = kvm.Kvm().version()
pytestmark = pytest.mark.skipif(isinstance(HERE, Unsupported), reason=f"KVM: {getattr(HERE, 'reason', '')}")

APIC_ID, TPR, IRR2, SELF_IPI = 0x802, 0x808, 0x822, 0x83F


@pytest.fixture(scope="module")
def subject() -> machine.ProbeBackend:
    return kvm.backend("kvm", {})


def guest(*actions: Action | Step, count: int = 1, open_at_first: bool = False) -> Program:
    steps = tuple(each if isinstance(each, Step) else Step(each) for each in actions)
    setup = Setup(apic_mode=ApicMode.X2APIC, guest=GuestState(interrupt_flag=open_at_first))
    return Program(Level.GUEST, (setup,) * count, steps)


def numbered(count: int) -> list[Program]:
    """Return programs that differ in the value that they read."""
    return [guest(Wrmsr(TPR, index % 256), Rdmsr(TPR)) for index in range(count)]


def hanging() -> Program:
    return guest(Plain.HLT)


def values(*answers: object) -> list[int]:
    return [
        outcome.value
        for answer in answers
        if isinstance(answer, Observation)
        for step in answer.steps
        for outcome in step.outcomes
        if isinstance(outcome, Completed) and outcome.value is not None
    ]


def broken(answers: list[object]) -> list[int]:
    return [index for index, answer in enumerate(answers) if isinstance(answer, BackendBroken)]


def test_the_subject_says_who_it_is_and_what_its_host_is(subject: machine.ProbeBackend) -> None:
    identity = subject.identity()
    assert isinstance(identity, Identity)
    assert identity.version == os.uname().release
    assert identity.capabilities["x2apic"] == "true"
    assert identity.capabilities["host-kernel"] == f"Linux {os.uname().release}"
    assert {"host-processor", "host-microcode", "kvm-module", "nested", "enable_apicv", "enable_ipiv"} <= set(
        identity.capabilities
    )
    offers_vmx = identity.capabilities["vmx"] == "true"
    assert ("IA32_VMX_BASIC" in identity.capabilities) is offers_vmx


def test_programs_are_answered_in_their_order(subject: machine.ProbeBackend) -> None:
    assert values(*subject.run(numbered(30))) == list(range(30))


@pytest.mark.parametrize("count", [2, 8])
def test_each_processor_has_an_apic_id_of_its_own(subject: machine.ProbeBackend, count: int) -> None:
    steps = [Step(action, vcpu) for vcpu in range(count) for action in (Rdmsr(APIC_ID), Cpuid(1), Cpuid(0xB))]
    seen = values(*subject.run([guest(*steps, count=count)]))
    own, features, topology = seen[0::3], seen[1::3], seen[2::3]
    assert own == [value >> 32 for value in topology] == list(range(count))
    assert all(value >> 21 & 1 for value in features)


def test_processors_wait_for_each_other(subject: machine.ProbeBackend) -> None:
    ready = [Step(Barrier("ready"), vcpu) for vcpu in (0, 1)]
    sent = [Step(Barrier("sent"), vcpu) for vcpu in (0, 1)]
    (answer,) = subject.run(
        [guest(*ready, Step(Wrmsr(0x830, 0x1_00004051)), *sent, Step(Rdmsr(IRR2), 1), count=2)]
    )
    assert values(answer) == [1 << 17]


def test_an_interrupt_comes_behind_the_instruction_that_sti_protects(subject: machine.ProbeBackend) -> None:
    (answer,) = subject.run([guest(Wrmsr(SELF_IPI, 0x51), Plain.STI, Plain.NOP, Plain.NOP)])
    assert isinstance(answer, Observation)
    assert [[taken.vector for taken in step.delivered] for step in answer.steps] == [[], [], [0x51], []]


def test_level_vmx_runs_or_says_what_to_do(subject: machine.ProbeBackend) -> None:
    (answer,) = subject.run([program(Rdmsr(APIC_ID), controls=REGISTERS, page=page(x20=0x7))])
    if isinstance(answer, Unsupported):
        assert "nested VMX" in answer.reason
        assert "kvm_intel" in answer.reason
    else:
        assert values(answer) == [7]


# The machine ends early.


def test_a_guest_that_nobody_wakes_costs_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "PATIENCE", 3)
    answers = list(kvm.backend("kvm", {}).run([*numbered(3), hanging(), *numbered(3)]))
    assert broken(answers) == [3]
    assert isinstance(answers[3], BackendBroken)
    assert "no progress for 3 s" in answers[3].reason
    assert "HLT" in answers[3].log
    assert values(*answers) == [0, 1, 2, 0, 1, 2]


class Killed(kvm.Kvm):
    """Its launcher gets SIGKILL once so many programs have begun, once."""

    def __init__(self, begun: int) -> None:
        super().__init__()
        self.begun = begun
        self.to_come = True

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
        if programs and self.to_come:
            self.to_come = False
            threading.Thread(target=self.kill, args=(folder,), daemon=True).start()
        return super().boot(rom, cpus=cpus, room=room, programs=programs, folder=folder)

    def kill(self, folder: Path) -> None:
        eventually(lambda: begun(folder) >= self.begun)
        for pid in machines_in(folder):
            os.kill(pid, signal.SIGKILL)


def begun(folder: Path) -> int:
    frames = folder / "frames"
    return int.from_bytes(frames.read_bytes()[:8], "little") if frames.exists() else 0


def test_a_killed_launcher_costs_the_case_that_ran() -> None:
    answers = list(
        machine.ProbeBackend("kvm", Killed(begun=4)).run([*numbered(3), hanging(), *numbered(3)][:4])
    )
    assert broken(answers) == [3]
    assert isinstance(answers[3], BackendBroken)
    assert "SIGKILL" in answers[3].reason
    assert values(*answers) == [0, 1, 2]


def test_a_killed_runner_leaves_no_process_no_machine_and_no_file_elsewhere(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
        from backends import kvm
        from test_machine_kvm import hanging, numbered
        list(kvm.backend("kvm", {}).run([*numbered(1), hanging()]))
        """
    )
    own = tmp_path / "own"
    own.mkdir()
    runner = subprocess.Popen(
        [sys.executable, "-c", script, str(ROOT)], env={**os.environ, "TMPDIR": str(own)}, cwd=tmp_path
    )
    try:
        assert eventually(lambda: any(begun(folder) == 2 for folder in own.iterdir()))
        launchers = list(machines_in(own))
        assert launchers
        assert any(has_machine(pid) for pid in launchers)
    finally:
        runner.kill()
        runner.wait()
    assert eventually(lambda: not list(machines_in(own)))
    assert not any(has_machine(pid) for pid in launchers)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def has_machine(pid: int) -> bool:
    """Whether a process holds a virtual machine."""
    try:
        return any(link.readlink().name == "anon_inode:kvm-vm" for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_two_runs_at_once_do_not_disturb_each_other() -> None:
    programs = numbered(40)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(lambda: list(kvm.backend("kvm", {}).run(programs))) for _ in range(2)]
        alone = list(kvm.backend("kvm", {}).run(programs[:5]))
        both = [run.result() for run in runs]
    assert both[0] == both[1]
    assert both[0][:5] == alone
    assert values(*both[0]) == list(range(40))


def test_damage_of_the_stream_is_broken_and_nothing_else() -> None:
    class Damaged(kvm.Kvm):
        def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:
            booted = super().boot(rom, cpus=cpus, room=room, programs=programs, folder=folder)
            stream = bytearray(booted.stream)
            if programs:
                stream[stream.index(list(wire.frames(booted.stream))[2].payload) + 9] ^= 0x10
            return Booted(bytes(stream), booted.begun, booted.log, booted.trouble)

    assert broken(list(machine.ProbeBackend("kvm", Damaged()).run(numbered(4)))) == [1]


def test_the_end_of_a_machine_is_not_waited_for() -> None:
    start = time.monotonic()
    assert isinstance(kvm.backend("kvm", {}).identity(), Identity)
    assert time.monotonic() - start < kvm.PATIENCE
