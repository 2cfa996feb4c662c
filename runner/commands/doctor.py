"""``python -m runner doctor``: provide what the subjects need, or say how; then say which are here.

What lacks takes one line, and the doctor goes on: the other subjects do without it.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from backends import bochs_unpacked, unpacked
from backends.bochs import Bochs
from backends.emulated import kernel
from runner.commands import debian, presence, unpack, unpack_kernel

BINDEP = Path(__file__).parents[2] / "bindep.txt"
HAS_POSTED_INTERRUPTS = Version("2.8")
HAS_X2APIC = Version("9")


def main(arguments: Sequence[str]) -> int:
    """Print a line for each thing looked after; return 0, since a thing that lacks is no failure."""
    parser = argparse.ArgumentParser(prog="python -m runner doctor", description=__doc__)
    parser.add_argument("--also", type=Path, metavar="BINDEP", help="packages that something more needs")
    parser.add_argument(
        "--emulated-host",
        nargs="?",
        const=kernel.USUAL,
        choices=sorted(kernel.SUITES),
        help=f"also unpack the Linux kernel of the subjects kvm-on-bochs ({kernel.USUAL}), or another one,"
        " about 100 MB to fetch",
    )
    wanted = parser.parse_args(arguments)
    also: Path | None = wanted.also
    say("packages", packages(*debian.named(BINDEP), *(debian.named(also) if also else ())))
    say("unpacked", unpacked_bochs())
    say("unpacked", unpacked_qemu())
    if wanted.emulated_host:
        say("kernel", kernel_of_the_emulated_host(wanted.emulated_host))
    for name, found in presence.shipped():
        say(name, presence.words(found))
    return 0


def say(subject: str, state: str) -> None:
    """Print one line."""
    print(f"{subject:<11} {state}", flush=True)


def packages(*names: str) -> str:
    """Install those Debian packages that lack, if that needs no question; return what became of it."""
    lack = debian.missing(names)
    if lack is None:
        return f"unknown: no dpkg to ask for {', '.join(names)}"
    if not lack:
        return f"present: {', '.join(names)}"
    before = debian.unasked(os.geteuid(), os.environ)
    reason = "it takes root" if before is None else debian.install(lack, before)
    if reason:
        return f"absent: {reason}; do: {' '.join(('sudo', *debian.INSTALL, *lack))}"
    return f"installed: {', '.join(lack)}"


def unpacked_bochs() -> str:
    """Unpack Debian 13's Bochs, unless the host's own is as good; return what became of it."""
    host = Bochs().version()
    if isinstance(host, str) and Version(host) >= HAS_POSTED_INTERRUPTS:
        return f"not needed: the host's Bochs is {host}"
    return _unpacked("Bochs", bochs_unpacked.directory(os.environ), unpack.BOCHS)


def unpacked_qemu() -> str:
    """Unpack Debian 13's QEMU, unless the host's own is as good; return what became of it."""
    host = unpack.qemu_version(unpacked.QEMU)
    if host and Version(host) >= HAS_X2APIC:
        return f"not needed: the host's QEMU is {host}"
    return _unpacked("QEMU", unpacked.qemu_directory(os.environ), unpack.QEMU)


def _unpacked(what: str, target: Path, program: unpack.Program) -> str:
    if target.is_dir():
        return f"present: {target}"
    start = time.monotonic()
    reason = unpack.unpack(target, program)
    if reason:
        return f"absent: no {what} of Debian 13: {reason}"
    return f"unpacked in {time.monotonic() - start:.0f} s: {target}"


def kernel_of_the_emulated_host(series: str = kernel.USUAL) -> str:
    """Lay out a Linux kernel of a series, unless one is here; return what became of it."""
    present = kernel.newest(os.environ, series)
    if present:
        return f"present: {present}"
    start = time.monotonic()
    reason = unpack_kernel.unpack_kernel(series)
    if reason:
        return f"absent: no Linux {series} of Debian: {reason}"
    return f"unpacked in {time.monotonic() - start:.0f} s: {kernel.newest(os.environ, series)}"
