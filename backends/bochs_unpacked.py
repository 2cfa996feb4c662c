"""Debian 13's Bochs, unpacked beside the host's: where it lies and how it is started.

``python -m runner doctor`` unpacks it where the host's own Bochs is older than 2.8. It is started through
its own loader and on its own libraries, so the host's release does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backends import unpacked

LIBRARIES = Path("usr/lib/x86_64-linux-gnu")


def directory(environ: Mapping[str, str]) -> Path:
    """Return where the unpacked Bochs lies, ``$XDG_CACHE_HOME/x2apic-conformance/bochs-3``.

    The directory exists only once it is complete and has been seen to start.
    """
    return unpacked.cache(environ) / "bochs-3"


def command(root: Path) -> tuple[str, ...]:
    """Return the first words of the command that starts the Bochs unpacked in ``root``.

    ``usr/bin/bochs`` is a shell script that calls ``bochs-bin`` from the PATH: it would start the host's.
    """
    loader = root / "lib64" / "ld-linux-x86-64.so.2"
    program = root / "usr" / "bin" / "bochs-bin"
    return (str(loader), "--library-path", str(root / LIBRARIES), str(program))


def environment(root: Path) -> dict[str, str]:
    """Return the variables that this Bochs needs beside the caller's own."""
    return {
        "LTDL_LIBRARY_PATH": str(root / LIBRARIES / "bochs" / "plugins"),
        "BXSHARE": str(root / "usr" / "share" / "bochs"),
    }
