"""The images that a machine boots: the probe with a batch of records before or behind it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from backends import made, wire
from runner.outcome import BackendBroken

PROBE = Path(__file__).parent / "probe"
ROM, KERNEL, ISO = "rom", "kernel", "iso"
"""The forms of an image: nothing runs before a ROM, a firmware or a loader before the others."""


def of(form: str, batch: bytes) -> bytes | BackendBroken:
    """Return the image of a form with this batch."""
    match form:
        case "kernel":
            return kernel(batch)
        case "iso":
            return iso(batch)
    return rom(batch)


def rom(batch: bytes) -> bytes | BackendBroken:
    """Return the 1 MiB of a ROM with this batch."""
    probe = probe_image()
    return probe if isinstance(probe, BackendBroken) else batch.ljust(wire.BATCH_ROOM, b"\xff") + probe


def kernel(batch: bytes) -> bytes | BackendBroken:
    """Return the 1 MiB of an ELF file for loaders of kernels, with this batch."""
    probe = probe_image("probe.kernel")
    return probe if isinstance(probe, BackendBroken) else probe + batch.ljust(wire.BATCH_ROOM, b"\xff")


def iso(batch: bytes) -> bytes | BackendBroken:
    """Return a CD that starts the kernel with this batch; the batch's room on it is filled in."""
    empty, disc = kernel(b""), probe_image("probe.iso")
    if isinstance(empty, BackendBroken) or isinstance(disc, BackendBroken):
        return empty if isinstance(empty, BackendBroken) else disc
    at = disc.find(empty)
    if at < 0:
        return BackendBroken("the CD does not hold the probe: remove backends/probe/build and try again")
    room = at + len(empty) - wire.BATCH_ROOM
    return disc[:room] + batch + disc[room + len(batch) :]


@cache
def probe_image(name: str = "probe.rom") -> bytes | BackendBroken:
    """Return a file that make builds from the probe's sources where they are newer, without a batch."""
    built = made.made(PROBE, name)
    return built if isinstance(built, BackendBroken) else built.read_bytes()
