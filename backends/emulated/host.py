"""Linux in an emulated machine: the disk is written, Bochs boots it, the disk is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backends import image, made, process, wire
from backends.batch import Booted
from backends.bochs import LOG_LINES, Bochs
from backends.emulated import disk, kernel
from backends.emulated.linux import LAYOUTS, MEMORY, loaded
from backends.kvm import host as kvm
from runner.outcome import BackendBroken, Unsupported

KVM = Path(__file__).parents[1] / "kvm"
IPS = 50_000_000
"""Instructions of an emulated second."""
OPTIONS = "nested=1 enable_apicv={:d}"
"""Of the module ``kvm_intel``."""
PATIENCE = 5
"""Emulated seconds within which a machine must begin another case."""
BOOT_SECONDS, PROGRAM_SECONDS = 150.0, 0.05
"""Deadline of a boot, and what each program adds to it."""
HOW_TO = "python -m runner doctor --emulated-host"

CONFIGURATION = """\
config_interface: textconfig
display_library: term
memory: guest={memory}, host={memory}
vgaromimage: file=vga.bin
romimage: file=boot.rom
cpu: model={model}, count=1, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1
port_e9_hack: enabled=1
clock: sync=none, time0=1577836800
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path=disk, mode=flat
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


@dataclass(frozen=True, slots=True)
class Started:
    """What one boot of Linux left: results in order, what was printed, and why it ended early, if it did."""

    results: tuple[disk.Result, ...]
    log: str
    trouble: str


class Host:
    """Debian's Linux on a Bochs; ``unpacked`` and ``model`` are as for `Bochs`, ``ips`` in place of `IPS`.

    ``apicv`` is KVM's ``enable_apicv``, ``series`` one of `kernel.SUITES`.
    """

    most_cpus = wire.MAX_CPUS
    door = wire.DOOR_SHARED
    form = image.ROM

    def __init__(
        self,
        *,
        unpacked: bool = False,
        model: str = "corei7_skylake_x",
        ips: int = IPS,
        apicv: bool = False,
        series: str = kernel.USUAL,
    ) -> None:
        """Start nothing yet."""
        self._bochs = Bochs(unpacked=unpacked, model=model)
        self._model = model
        self._ips = ips
        self._apicv = apicv
        self._series = series
        self._options = OPTIONS.format(apicv)

    def version(self) -> str | Unsupported:
        """Return ``6.1.192 on Bochs 3.0``, or what to do to have it."""
        return self._version

    @property
    def _how_to(self) -> str:
        return HOW_TO if self._series == kernel.USUAL else f"{HOW_TO} {self._series}"

    @cached_property
    def _version(self) -> str | Unsupported:
        below = self._bochs.version()
        if isinstance(below, Unsupported):
            return below
        folder = kernel.newest(os.environ, self._series)
        if folder is None:
            return Unsupported(f"no Linux {self._series} for the emulated machine: {self._how_to}")
        return f"{folder.name} on Bochs {below}"

    def facts(self) -> Mapping[str, str]:
        """Return what results say of this KVM by name, as `kvm.facts` does of the host's own."""
        options = dict(each.split("=") for each in self._options.split())
        return {
            "host-kernel": str(self.version()),
            "kvm-module": "kvm_intel",
            "single-stepped": "false",
            **{name: kvm.switch(options.get(name, "N")) for name in kvm.PARAMETERS},
        }

    def kept(self) -> Path:
        """Return the file that keeps what the probe found when it began, for this version and model."""
        name = f"{self.version()} {self._model} {self._options}".replace(" ", "-")
        return kernel.cache(os.environ) / f"begin-{name}"

    def boot(self, rom: bytes, *, cpus: int, room: int, programs: int, folder: Path) -> Booted:  # noqa: ARG002 - the batch says it
        """Boot Linux in *folder* for one ROM."""
        only = rom[: wire.batch_size(rom)]
        started = self.start([only], room=room + disk.SPARE_ROOM, programs=programs, folder=folder)
        if isinstance(started, BackendBroken):
            raise OSError(started.reason)
        if not started.results:
            return Booted(b"", 0, started.log, started.trouble or "no result came back")
        return started.results[0].booted()

    def work(self, probe: bytes, batches: Sequence[bytes]) -> disk.Work:
        """Return what a boot is to do."""
        most_cpus = max(map(wire.batch_cpus, batches), default=1)
        return disk.Work(probe, batches, PATIENCE, aligned=most_cpus if self._apicv else 0)

    def start(
        self, batches: Sequence[bytes], *, room: int, programs: int, folder: Path
    ) -> Started | BackendBroken:
        """Boot Linux in *folder*, once for all *batches*; *room* bytes may come back. Raises OSError."""
        laid_out = kernel.newest(os.environ, self._series)
        if laid_out is None:
            raise FileNotFoundError("no Linux kernel")
        parts = _parts()
        if isinstance(parts, BackendBroken):
            return parts
        probe, launcher, init, rom = parts
        folder.joinpath("boot.rom").write_bytes(rom.read_bytes())
        linux = loaded(
            laid_out,
            (init, launcher),
            khz=self._ips // 1000,
            options=self._options,
            layout=LAYOUTS[self._series] if self._apicv else "",
        )
        results_at = disk.write(folder / "disk", linux, self.work(probe, batches), room=room)
        ended = self._bochs.run(
            CONFIGURATION.format(memory=MEMORY >> 20, model=self._model, ips=self._ips),
            folder=folder,
            deadline=BOOT_SECONDS + PROGRAM_SECONDS * programs,
        )
        return _started(folder, ended, results_at)


def _parts() -> tuple[bytes, Path, Path, Path] | BackendBroken:
    """Return what this suite builds: the probe, the launcher, init and the boot ROM."""
    probe = image.probe_image()
    if isinstance(probe, BackendBroken):
        return probe
    launcher = made.made(KVM, "launcher")
    init = made.made(KVM / "emulated", "init")
    rom = made.made(KVM / "emulated", "boot.rom")
    for each in (launcher, init, rom):
        if isinstance(each, BackendBroken):
            return each
    return probe, Path(str(launcher)), Path(str(init)), Path(str(rom))


def _started(folder: Path, ended: process.Ended, results_at: int) -> Started:
    log = folder / "log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    printed = ended.stdout.decode(errors="replace").splitlines()
    said = [line for line in printed if line.startswith("init: ")]
    text = "\n".join(
        [
            *said[-LOG_LINES:],
            *ended.stderr.decode(errors="replace").splitlines()[-LOG_LINES:],
            *lines[-LOG_LINES:],
        ]
    )
    trouble = "" if "init: done" in said else _why(ended, said, lines)
    return Started(tuple(disk.results(folder / "disk", results_at)), text, trouble)


def _why(ended: process.Ended, said: Sequence[str], log: Sequence[str]) -> str:
    panic = next((line.split(">>PANIC<<", 1)[1].strip() for line in log if ">>PANIC<<" in line), "")
    if said and panic.startswith("Shutdown port"):
        return said[-1].removeprefix("init: ")
    last = said[-1] if said else "Linux did not come to its first program"
    return "; ".join(filter(None, (ended.describe(), panic, last)))
