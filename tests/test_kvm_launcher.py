"""The launcher's own words: what it refuses, with the reason and what to do, and how it ends."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from test_machine import mount_namespace

from backends import image, kvm, wire
from backends.kvm import host
from runner.outcome import BackendBroken, Unsupported

HERE = kvm.Kvm().version()
needs_kvm = pytest.mark.skipif(isinstance(HERE, Unsupported), reason=f"KVM: {getattr(HERE, 'reason', '')}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")

LIDT_NOTHING = bytes.fromhex("2e0f011ef8ff")
"""At the reset vector: LIDT from the zeros that follow; the exception behind it then is a triple fault."""
UD2 = bytes.fromhex("0f0b")


@pytest.fixture(scope="module")
def program() -> str:
    built = kvm.launcher()
    assert isinstance(built, Path), built
    return str(built)


def launch(*command: str, folder: Path | None = None) -> tuple[int, str, bytes]:
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stderr.decode(), done.stdout


def rom(*, cpus: int = 1, door: int = wire.DOOR_SHARED, magic: int = wire.BATCH_MAGIC) -> bytearray:
    made = image.rom(wire.encode_batch([], cpus=cpus, door=door, limit=1 << 14, guard=0))
    assert isinstance(made, bytes)
    return bytearray(magic.to_bytes(4, "little") + made[4:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "usage: launcher"),
        (("-c", "image.rom"), "usage: launcher"),
        (("one", "two"), "usage: launcher"),
        (("-t", "0", "image.rom"), "-t 0: write whole seconds"),
        (("-t", "1s", "image.rom"), "-t 1s: write whole seconds"),
        (("-x",), "usage: launcher"),
    ],
)
def test_words_that_it_does_not_know(program: str, words: tuple[str, ...], said: str) -> None:
    status, error, _ = launch(program, *words)
    assert status == 2
    assert said in error


@needs_kvm
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "image.rom: No such file or directory"),
        (b"short", "image.rom: 5 bytes, a ROM image has 1048576"),
        (rom(magic=0), "image.rom: begins with no batch of this version"),
        (rom(cpus=0), "image.rom: wants 0 processors, there can be 1 to 8"),
        (rom(cpus=9), "image.rom: wants 9 processors, there can be 1 to 8"),
    ],
)
def test_images_that_it_refuses(program: str, tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        tmp_path.joinpath("image.rom").write_bytes(content)
    status, error, out = launch(program, "image.rom", folder=tmp_path)
    assert (status, error, out) == (2, f"launcher: {said}\n", b"")


@needs_kvm
@pytest.mark.parametrize("door", [wire.DOOR_MEMORY, wire.DOOR_E9, wire.DOOR_SHARED, wire.DOOR_STEPPED])
def test_frames_come_by_every_door_to_a_file_and_to_standard_output(
    program: str, tmp_path: Path, door: int
) -> None:
    tmp_path.joinpath("image.rom").write_bytes(rom(door=door, cpus=2))
    status, error, out = launch(program, "image.rom", folder=tmp_path)
    assert (status, error) == (0, "")
    assert [frame.kind for frame in wire.frames(out)][:2] == [wire.FRAME_BEGIN, wire.FRAME_END]
    status, error, printed = launch(program, "-o", "frames", "image.rom", folder=tmp_path)
    assert (status, error) == (0, "")
    stream = printed if door == wire.DOOR_E9 else tmp_path.joinpath("frames").read_bytes()
    assert [frame.payload for frame in wire.frames(stream)][:2] == [f.payload for f in wire.frames(out)][:2]


@needs_kvm
def test_a_machine_that_ends_badly_says_how_and_where(program: str, tmp_path: Path) -> None:
    """A KVM that emulates real mode gives up at UD2; else the fault is a triple one."""
    wrong = rom()
    wrong[-16:] = LIDT_NOTHING + UD2 + bytes(8)
    tmp_path.joinpath("image.rom").write_bytes(wrong)
    status, error, _ = launch(program, "-t", "5", "image.rom", folder=tmp_path)
    first, second = error.splitlines()[:2]
    assert status == 1
    triple = "launcher: shutdown (a triple fault) on processor 0"
    error = "launcher: KVM_EXIT_INTERNAL_ERROR on processor 0, suberror 1: KVM cannot emulate an instruction"
    assert first == triple or first.startswith(f"{error}; data ")
    assert second.startswith("processor 0: RIP fff6 ")


@needs_kvm
def test_a_machine_without_progress_is_stopped(program: str, tmp_path: Path) -> None:
    halted = rom()
    halted[-16:-14] = b"\xeb\xfe"
    tmp_path.joinpath("image.rom").write_bytes(halted)
    status, error, _ = launch(program, "-t", "1", "image.rom", folder=tmp_path)
    assert status == 1
    assert error.startswith("launcher: no progress for 1 s\nprocessor 0: RIP fff0 ")


@needs_kvm
def test_a_full_disk_is_said(program: str, tmp_path: Path) -> None:
    tmp_path.joinpath("image.rom").write_bytes(rom())
    run = f"""
        mount -t tmpfs -o size=8k tmpfs /mnt
        "$0" -o /mnt/frames {tmp_path}/image.rom; status=$?; umount /mnt; exit $status
    """
    status, error, _ = launch(*mount_namespace(), "sh", "-c", run, program)
    assert (status, error) == (2, "launcher: /mnt/frames: 16384 bytes: No space left on device\n")


# What a host lacks.


def in_namespace(program: str, prepare: str, *before: str) -> tuple[int, str]:
    """Run ``launcher -c`` where /dev holds nothing but the launcher and what *prepare* makes."""
    run = f"""
        mount -t tmpfs tmpfs /dev && cp "$0" /dev/launcher && {prepare} || exit 77
        {" ".join(before)} /dev/launcher -c; status=$?; umount /dev; exit $status
    """
    status, error, _ = launch(*mount_namespace(), "sh", "-c", run, program)
    return status, error


def test_without_the_device_it_says_what_to_do(program: str) -> None:
    status, error = in_namespace(program, "true")
    assert status == 2
    assert error.startswith("launcher: no /dev/kvm: ")
    assert "modprobe kvm_" in error or "shows no virtualization" in error


@needs_root
def test_without_permission_it_names_the_group(program: str) -> None:
    nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups"
    status, error = in_namespace(program, "chmod 755 /dev && mknod -m 600 /dev/kvm c 10 232", nobody)
    assert status == 2
    said = "usermod -aG kvm $USER and log in again, or run as root"
    assert error == f"launcher: /dev/kvm: permission denied: {said}\n"


@needs_root
def test_a_device_that_is_no_kvm_is_refused(program: str) -> None:
    assert in_namespace(program, "mknod /dev/kvm c 1 3") == (
        2,
        "launcher: /dev/kvm has another API version than 12\n",
    )


@needs_kvm
def test_nested_vmx_is_there_or_how_to_have_it_is_said(program: str) -> None:
    status, error, _ = launch(program, "-c", "-v")
    assert status == 0 or (status == 2 and error.startswith("launcher: no nested VMX: "))


def test_a_subject_without_the_device_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "look", lambda *_: "no /dev/kvm: do this")
    subject = kvm.backend("kvm", {})
    assert subject.identity() == Unsupported("no /dev/kvm: do this")


def test_a_launcher_that_cannot_be_built_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "launcher", lambda: BackendBroken("launcher cannot be built: why"))
    identity = kvm.backend("kvm", {}).identity()
    assert isinstance(identity, BackendBroken)
    assert "cannot be built: why" in identity.reason


def test_without_a_compiler_the_subject_says_which_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kvm.backend("kvm", {}).identity() == Unsupported(
        "no make for the launcher: apt-get install make gcc libc6-dev"
    )


# The facts of a host.


def modules(folder: Path, name: str, **parameters: str) -> Path:
    for parameter, value in parameters.items():
        path = folder / name / "parameters" / parameter
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n", "ascii")
    return folder


def test_the_facts_of_an_intel_host(tmp_path: Path) -> None:
    facts = host.facts(modules(tmp_path, "kvm_intel", nested="Y", enable_apicv="N", enable_ipiv="0"))
    assert facts["kvm-module"] == "kvm_intel"
    assert (facts["nested"], facts["enable_apicv"], facts["enable_ipiv"]) == ("true", "false", "false")
    assert facts["single-stepped"] == "false"


def test_the_facts_of_a_host_without_vt_x(tmp_path: Path) -> None:
    facts = host.facts(modules(tmp_path, "kvm_soft", verbose="N"))
    assert facts["kvm-module"] == "kvm_soft"
    assert (facts["nested"], facts["enable_apicv"], facts["single-stepped"]) == ("false", "false", "true")


def test_of_two_modules_that_are_built_in_the_processors_own_counts(tmp_path: Path) -> None:
    modules(modules(tmp_path, "kvm_amd", nested="1"), "kvm_intel", nested="Y")
    for flag, module in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        cpuinfo = tmp_path / f"cpuinfo-{flag}"
        cpuinfo.write_text(f"flags\t\t: fpu {flag} x2apic\n", "utf-8")
        assert host.module(tmp_path, cpuinfo) == module
