"""What a case costs in the emulated host, in emulated instructions: many of them against none.

    python benchmarks/emulated_host.py [--unpacked] [--corpus]

At most 80,000 are wanted for a one-step case. Bochs' log ends with the whole run's time, in instructions;
an idle processor counts as if it executed some. With ``--corpus`` the same of all cases, and the CPU time.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from backends import encode, wire
from backends.emulated import EmulatedHost
from backends.emulated.host import Host, Started
from backends.machine import GUARD_TICKS
from runner.language import loading
from runner.language.loading import parse
from runner.outcome import BackendBroken, Observation
from runner.program import Program

SCENARIO = b"""\
title: A read from the page
level: vmx
setup: {base: registers, virtual-apic-page: {fill: tagged}}
cases:
  - id: one-step
    says: RDMSR reads the page
    rules: [rdmsr.register-virtualization]
    steps: [{rdmsr: APICID, expect: {value: from-page}}]
  - id: two-processors
    says: Two that wait for each other read their pages
    rules: [many.one-page-per-vcpu]
    vcpus: {0: {}, 1: {}}
    steps:
      - {barrier: ready}
      - {vcpu: 0, rdmsr: APICID, expect: {value: from-page}}
      - {vcpu: 1, rdmsr: APICID, expect: {value: from-page}}
"""
ONE, TWO = (case.points[0].program for case in parse(SCENARIO, "benchmark").cases)
CASES, CASES_OF_TWO = 2000, 100
MOST = 80_000


class Counting(Host):
    """Adds up what its boots take."""

    boots = instructions = 0

    def start(
        self, batches: Sequence[bytes], *, room: int, programs: int, folder: Path
    ) -> Started | BackendBroken:
        """Boot, and count."""
        started = super().start(batches, room=room, programs=programs, folder=folder)
        if isinstance(started, Started):
            self.boots += 1
            self.instructions += taken(started)
        return started


def taken(started: Started) -> int:
    """Return the emulated instructions of a boot."""
    return int(re.findall(r"^(\d+)p", started.log, re.MULTILINE)[-1])


def corpus(host: Counting) -> str:
    """Return what all points of the corpus cost that run there."""
    scenarios = loading.load_all(loading.scenario_files([loading.SPECS]))
    programs = [point.program for each in scenarios for case in each.cases for point in case.points]
    answers = list(EmulatedHost("benchmark", host).run(programs))
    seen = sum(isinstance(each, Observation) for each in answers)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        f"{host.instructions:,} instructions and {used.ru_utime + used.ru_stime:.0f} s of CPU time "
        f"for {seen:,} points, {host.instructions // seen:,} each, in {host.boots} boots of Linux"
    )


def instructions(host: Host, program: Program, cases: int) -> int:
    """Return the emulated instructions of a boot that carries so many cases."""
    records = [encode.encode_case(index, program) for index in range(cases)]
    cpus = len(program.vcpus)
    batch = wire.encode_batch(records, cpus=cpus, door=host.door, limit=2 << 20, guard=GUARD_TICKS * cpus)
    with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
        started = host.start([batch], room=4 << 20, programs=cases, folder=Path(folder))
    if isinstance(started, BackendBroken) or started.trouble or started.results[0].begun != cases:
        raise SystemExit(f"the emulated host did not come to its end: {started}")
    return taken(started)


def main() -> int:
    """Print the cost; return 1 where it is more than wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unpacked", action="store_true", help="Debian 13's Bochs, and APICv")
    parser.add_argument("--corpus", action="store_true", help="the whole corpus")
    chosen = parser.parse_args()
    host = Counting(unpacked=chosen.unpacked, apicv=chosen.unpacked)
    if chosen.corpus:
        print(f"{host.version()}: {corpus(host)}")
        return 0
    nothing = instructions(host, ONE, 0)
    each = (instructions(host, ONE, CASES) - nothing) // CASES
    of_two = (instructions(host, TWO, CASES_OF_TWO) - instructions(host, TWO, 0)) // CASES_OF_TWO
    print(f"{host.version()}: {nothing:,} instructions for a boot, {each:,} for a one-step case")
    print(f"{of_two:,} for a case of two virtual processors that wait for each other")
    return int(each > MOST)


if __name__ == "__main__":
    sys.exit(main())
