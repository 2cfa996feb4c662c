"""KVM: what the kernel and the processor under it show a guest, and through nested VMX a hypervisor.

A launcher of our own boots the probe's ROM on ``/dev/kvm``. The frames' room is a file that the launcher
maps into the machine, so what a case left is there whatever ends the machine.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from backends import Identity, image, made, process, wire
from backends.batch import Booted
from backends.capabilities import Processor
from backends.kvm import host
from backends.machine import HOST_GUARD_TICKS, ProbeBackend
from runner.outcome import BackendBroken, Unsupported
from runner.program import Level, Program
from runner.vmx import PinBasedControls

FOLDER = Path(__file__).parent
PATIENCE = 10
"""Seconds within which another case must have begun; one takes 50 ms where KVM emulates all of it."""
LOOK_SECONDS = 20
LOG_LINES = 40
WITH_APICV = "modprobe -r kvm_intel && modprobe kvm_intel nested=1 enable_apicv=1"


def launcher() -> Path | BackendBroken:
    """Return the launcher, built with make if its sources are newer."""
    return made.made(FOLDER, "launcher")


def look(*options: str) -> str:
    """Return what hinders the launcher, in one line; empty if nothing does. Raises OSError."""
    program = launcher()
    if isinstance(program, BackendBroken):
        raise OSError(program.reason)
    said = subprocess.run(
        [program, "-c", *options], capture_output=True, text=True, timeout=LOOK_SECONDS, check=False
    )
    return said.stderr.strip().removeprefix("launcher: ") if said.returncode else ""


class Kvm:
    """A `Machine`: ``/dev/kvm`` of this host."""

    most_cpus = wire.MAX_CPUS
    form = image.ROM

    def __init__(self) -> None:
        """Start nothing yet; without VT-x or SVM to stop KVM at an interrupt, its guests are stepped."""
        self.door = wire.DOOR_SHARED if host.has_hardware() else wire.DOOR_STEPPED

    def version(self) -> str | Unsupported:
        """Return the kernel's release, or what to do to have KVM."""
        return self._version

    @cached_property
    def _version(self) -> str | Unsupported:
        lack = [tool for tool in ("make", "gcc") if shutil.which(tool) is None]
        if lack:
            return Unsupported(f"no {lack[0]} for the launcher: apt-get install make gcc libc6-dev")
        try:
            hindrance = look()
        except (OSError, subprocess.TimeoutExpired):
            hindrance = ""  # a boot says why
        return Unsupported(hindrance) if hindrance else platform.release()

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:  # noqa: ARG002 - the batch says it
        """Boot a ROM in *folder*."""
        program = launcher()
        if isinstance(program, BackendBroken):
            raise OSError(program.reason)
        folder.joinpath("image.rom").write_bytes(rom)
        ended = process.run(
            [str(program), "-o", "frames", "-t", str(PATIENCE), "image.rom"],
            folder=folder,
            environment={},
            deadline=PATIENCE * (programs + 2),
        )
        return _read(folder, ended)


def _read(folder: Path, ended: process.Ended) -> Booted:
    frames = folder / "frames"
    stream = frames.read_bytes() if frames.exists() else b""
    said = ended.stderr.decode(errors="replace").splitlines()
    reason = next((line for line in said if line.startswith("launcher: ")), "")
    trouble = "" if ended.status == 0 else reason.removeprefix("launcher: ") or ended.describe()
    begun = int.from_bytes(stream[:8], "little")
    return Booted(stream, begun, "\n".join(said[-LOG_LINES:]), trouble)


class KvmBackend(ProbeBackend):
    """A `Backend` on `Kvm`, which tells what the host is, and what to do for what its KVM lacks."""

    def __init__(self, name: str) -> None:
        """Start nothing yet."""
        super().__init__(name, Kvm(), guard=HOST_GUARD_TICKS)

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return who KVM is, with the facts of its host."""
        who = super().identity()
        if isinstance(who, Identity):
            return who.with_facts(host.facts())
        return who

    def lack(self, found: Processor, program: Program) -> str | None:
        """Return what the program needs and this KVM has not, and how to get it."""
        if program.level is Level.VMX and not found.vmx:
            return f"level vmx: {self._no_vmx}"
        lack = super().lack(found, program)
        posted = PinBasedControls.PROCESS_POSTED_INTERRUPTS
        wants_apicv = any(setup.controls.pin & posted for setup in program.vcpus)
        if lack and wants_apicv and not found.allows(posted) and host.facts()["enable_apicv"] == "false":
            return f"{lack}; KVM offers it with APICv: {WITH_APICV}"
        return lack

    @cached_property
    def _no_vmx(self) -> str:
        return look("-v") or "KVM offers VMX, but the machine found none"


def backend(name: str, _: Mapping[str, object]) -> ProbeBackend:
    """Return the subject that a subject file describes; nothing is chosen for it."""
    return KvmBackend(name)
