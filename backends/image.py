"""The ROM image that a machine boots: a batch of records, and behind it the probe."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from backends import made, wire
from runner.outcome import BackendBroken

PROBE = Path(__file__).parent / "probe"


def rom(batch: bytes) -> bytes | BackendBroken:
    """Return the 1 MiB of a ROM with this batch."""
    probe = probe_image()
    return probe if isinstance(probe, BackendBroken) else batch.ljust(wire.BATCH_ROOM, b"\xff") + probe


@cache
def probe_image() -> bytes | BackendBroken:
    """Return the probe's 192 KiB, built with make if its sources are newer."""
    built = made.made(PROBE, "probe.rom")
    return built if isinstance(built, BackendBroken) else built.read_bytes()
