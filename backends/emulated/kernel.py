"""The kernel of the emulated machine, as the doctor laid it out: Debian's Linux, and KVM's modules."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from packaging.version import Version

SUITES = MappingProxyType({"6.1": "bookworm", "6.12": "trixie"})
"""Debian's suites by the series of their kernels."""
USUAL = "6.1"
"""The series that a subject has which names none."""
MODULES = ("irqbypass.ko", "kvm.ko", "kvm-intel.ko")
"""In the order in which they are loaded."""
FILES = ("vmlinuz", "vmlinux", *MODULES)

LOAD = 1
"""``p_type`` of a segment that is loaded."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of the kernel, and where in memory they stand; ``room`` is what they take there."""

    address: int
    content: bytes
    room: int


def cache(environ: Mapping[str, str]) -> Path:
    """Return the folder that holds a folder for each kernel."""
    base = Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return base / "x2apic-conformance" / "linux"


def newest(environ: Mapping[str, str], series: str = USUAL) -> Path | None:
    """Return the folder of the newest kernel of a series that the doctor laid out, named by its version."""
    spelled = re.compile(re.escape(series) + r"(\.\d+)+")
    folders = [path for path in cache(environ).glob("[0-9]*") if spelled.fullmatch(path.name)]
    return max(folders, key=lambda path: Version(path.name), default=None)


def version(vmlinuz: bytes) -> str:
    """Return Debian's version of a kernel image, ``6.1.192``. Linux: *The Linux/x86 Boot Protocol*.

    Raises ValueError where the image names none.
    """
    at = int.from_bytes(vmlinuz[0x20E:0x210], "little") + 0x200
    said = vmlinuz[at : at + 256].partition(b"\0")[0]
    found = re.search(rb"Debian (\d+(?:\.\d+)+)", said)
    if vmlinuz[0x202:0x206] != b"HdrS" or found is None:
        raise ValueError("this is no kernel image of Debian")
    return found[1].decode()


def payload(vmlinuz: bytes) -> bytes:
    """Return the compressed kernel within an image. Linux: *The Linux/x86 Boot Protocol*."""
    protected_mode = ((vmlinuz[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", vmlinuz, 0x248)
    return vmlinuz[protected_mode + offset : protected_mode + offset + length]


def entry(vmlinux: bytes) -> int:
    """Return the address of the kernel's 64-bit entry."""
    return int.from_bytes(vmlinux[24:32], "little")


def segments(vmlinux: bytes) -> Iterator[Segment]:
    """Yield what is loaded of an ELF file, by physical address."""
    table, size, count = struct.unpack_from("<Q14xHH", vmlinux, 32)
    for index in range(count):
        kind, _, offset, _, address, length, room, _ = struct.unpack_from(
            "<IIQQQQQQ", vmlinux, table + index * size
        )
        if kind == LOAD:
            yield Segment(address, vmlinux[offset : offset + length], room)
