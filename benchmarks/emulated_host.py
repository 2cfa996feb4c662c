"""What a one-step case costs in the emulated host, in emulated instructions: many of them against none.

    python benchmarks/emulated_host.py [--unpacked]

At most 80,000 are wanted. Bochs' log ends with the number of instructions of the whole run.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from backends import encode, wire
from backends.emulated.host import Host
from backends.machine import GUARD_TICKS
from runner.language.loading import parse
from runner.outcome import BackendBroken

SCENARIO = b"""\
title: A read from the page
level: vmx
setup: {base: registers, virtual-apic-page: {fill: tagged}}
cases:
  - id: one-step
    says: RDMSR reads the page
    rules: [rdmsr.register-virtualization]
    steps: [{rdmsr: APICID, expect: {value: from-page}}]
"""
CASES = 2000
MOST = 80_000


def instructions(host: Host, cases: int) -> int:
    """Return the emulated instructions of a boot that carries so many cases."""
    program = parse(SCENARIO, "benchmark").cases[0].points[0].program
    records = [encode.encode_case(index, program) for index in range(cases)]
    batch = wire.encode_batch(records, cpus=1, door=host.door, limit=2 << 20, guard=GUARD_TICKS)
    with tempfile.TemporaryDirectory(prefix="x2apic-") as folder:
        started = host.start([batch], room=4 << 20, programs=cases, folder=Path(folder))
    if isinstance(started, BackendBroken) or started.trouble or started.results[0].begun != cases:
        raise SystemExit(f"the emulated host did not come to its end: {started}")
    return int(re.findall(r"^(\d+)p", started.log, re.MULTILINE)[-1])


def main() -> int:
    """Print the cost; return 1 where it is more than wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unpacked", action="store_true", help="Debian 13's Bochs, and APICv")
    unpacked = parser.parse_args().unpacked
    host = Host(unpacked=unpacked, apicv=unpacked)
    nothing = instructions(host, 0)
    each = (instructions(host, CASES) - nothing) // CASES
    print(f"{host.version()}: {nothing:,} instructions for a boot, {each:,} for a one-step case")
    return int(each > MOST)


if __name__ == "__main__":
    sys.exit(main())
