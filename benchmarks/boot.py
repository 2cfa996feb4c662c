"""What a boot that runs nothing takes: from a batch without cases to its frames.

``python benchmarks/boot.py [bochs] [bochs-3] [kvm]`` prints, for each subject that is here, milliseconds by
the clock and of CPU time, this process's and its children's together: the least and the median of all
rounds. Other load lengthens both; the least says what the boot itself needs.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backends import batch, image, wire
from backends.bochs import Bochs
from backends.kvm import Kvm
from backends.machine import Machine
from runner.outcome import BackendBroken, Unsupported

ROUNDS = 15
MACHINES = {"bochs": Bochs, "bochs-3": lambda: Bochs(unpacked=True), "kvm": Kvm}


def cpu() -> float:
    """Return the CPU seconds of this process and of the children it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def boot(machine: Machine) -> tuple[float, float]:
    """Return the milliseconds of one boot, by the clock and of CPU time; stops where it ends early."""
    sent = wire.encode_batch([], cpus=1, door=machine.door, limit=batch.FIXED_ROOM, guard=0)
    rom = image.rom(sent)
    if isinstance(rom, BackendBroken):
        raise SystemExit(rom.reason)
    start, used = time.monotonic(), cpu()
    with tempfile.TemporaryDirectory() as folder:
        booted = machine.boot(rom, cpus=1, room=batch.FIXED_ROOM, programs=0, folder=Path(folder))
    passed = (time.monotonic() - start) * 1e3, (cpu() - used) * 1e3
    kinds = [frame.kind for frame in wire.frames(booted.stream)]
    if booted.trouble or kinds != [wire.FRAME_BEGIN, wire.FRAME_END]:
        raise SystemExit(f"no whole boot: {booted.trouble or kinds}")
    return passed


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("subject", nargs="*", default=list(MACHINES))
    print(f"milliseconds of a boot that runs nothing, {ROUNDS} rounds")
    print(f"{'':10}{'clock least':>13}{'median':>9}{'CPU least':>11}{'median':>9}")
    for name in parser.parse_args().subject:
        machine = MACHINES[name]()
        version = machine.version()
        if isinstance(version, Unsupported):
            print(f"{name:10}not here: {version.reason}")
            continue
        boot(machine)
        clock, used = zip(*(boot(machine) for _ in range(ROUNDS)), strict=True)
        print(
            f"{name:10}{min(clock):13.1f}{statistics.median(clock):9.1f}"
            f"{min(used):11.1f}{statistics.median(used):9.1f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
