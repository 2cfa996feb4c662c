"""The disk of the emulated machine: what it boots, its work, the results. Twin of ``kvm/emulated/disk.h``.

Sector 0 lists the pieces that the boot ROM loads, the next four say what init is to do. The pieces follow,
the probe and the batches, then room for results.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from backends.batch import Booted
from backends.emulated.linux import PARAMETERS, Loaded

SECTOR = 512
PIECE_SECTORS = 64
"""The boot ROM reads that many at a time, so a piece has a multiple of them."""
CYLINDER = 16 * 63
"""Sectors; a disk of Bochs has whole cylinders."""
WORK_SECTOR, FIRST_SECTOR = 1, 5
WORK_MAGIC, RESULT_MAGIC = 0x57413258, 0x52413258
MOST_BATCHES = 252
SPARE_ROOM = 16 << 20
"""Bytes of results beyond the frames of a run in which nothing goes wrong."""

DIRECTORY = struct.Struct("<QQQ")
PIECE = struct.Struct("<IIII")
WORK = struct.Struct("<8I")
BATCH = struct.Struct("<II")
RESULT = struct.Struct("<8I")


@dataclass(frozen=True, slots=True)
class Result:
    """What one start of the launcher left: it was given ``count`` cases of a batch, from ``first`` on."""

    batch: int
    first: int
    count: int
    begun: int
    status: int
    frames: bytes
    text: str

    def booted(self) -> Booted:
        """Return it as what one boot of the probe left."""
        lines = self.text.splitlines()
        said = next((line.removeprefix("launcher: ") for line in lines if line.startswith("launcher: ")), "")
        trouble = said or f"the launcher ended with wait status {self.status:#x}" if self.status else ""
        return Booted(self.frames, self.begun, self.text, trouble)


@dataclass(frozen=True, slots=True)
class Work:
    """What init is to do: the probe, batches for it, seconds within which another case must begin.

    ``aligned`` processors are to have a posted-interrupt descriptor that Bochs 3.0 takes; none without APICv.
    """

    probe: bytes
    batches: Sequence[bytes]
    patience: int
    aligned: int = 0


def write(path: Path, linux: Loaded, work: Work, *, room: int) -> int:
    """Write the disk; return the first sector of its results, for which there are *room* bytes."""
    pieces = [_padded(content, PIECE_SECTORS * SECTOR) for _, content in linux.pieces]
    contents = [*pieces, *(_padded(each, SECTOR) for each in (work.probe, *work.batches))]
    *sectors, results_at = accumulate((len(each) // SECTOR for each in contents), initial=FIRST_SECTOR)
    last = results_at + room // SECTOR
    count = len(pieces)
    with path.open("wb") as disk:
        disk.write(_directory(linux, sectors, pieces))
        disk.write(_work(work, sectors[count:], results_at, last))
        disk.writelines(contents)
        disk.truncate(-(-(last + 1) // CYLINDER) * CYLINDER * SECTOR)
    return results_at


def _padded(content: bytes, size: int) -> bytes:
    return content + bytes(-len(content) % size)


def _directory(linux: Loaded, sectors: Sequence[int], pieces: Sequence[bytes]) -> bytes:
    rows = [DIRECTORY.pack(linux.entry, PARAMETERS, len(pieces))]
    for (address, _), sector, content in zip(linux.pieces, sectors, pieces, strict=False):
        rows.append(PIECE.pack(address, sector, len(content) // SECTOR, 0))
    return b"".join(rows).ljust(SECTOR, b"\0")


def _work(work: Work, sectors: Sequence[int], results_at: int, last: int) -> bytes:
    probe_at, *batches_at = sectors
    sizes = map(len, work.batches)
    probe = (probe_at, len(work.probe))
    head = (WORK_MAGIC, len(work.batches), *probe, results_at, last, work.patience, work.aligned)
    rows = [BATCH.pack(*each) for each in zip(batches_at, sizes, strict=True)]
    return b"".join([WORK.pack(*head), *rows]).ljust((FIRST_SECTOR - WORK_SECTOR) * SECTOR, b"\0")


def results(path: Path, sector: int) -> Iterator[Result]:
    """Yield the results that stand on a disk from *sector* on."""
    with path.open("rb") as disk:
        disk.seek(sector * SECTOR)
        while len(head := disk.read(RESULT.size)) == RESULT.size:
            magic, batch, first, count, begun, status, frames, text = RESULT.unpack(head)
            if magic != RESULT_MAGIC:
                return
            content, said = disk.read(frames), disk.read(text)
            yield Result(batch, first, count, begun, status, content, said.decode(errors="replace"))
            disk.seek(-(RESULT.size + frames + text) % SECTOR, 1)
