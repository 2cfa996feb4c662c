"""Programs of Debian 13 that the doctor unpacks beside the host's own, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

QEMU = "qemu-system-x86_64"
WRAPPER = """\
#!/bin/sh
# Starts the QEMU unpacked here through its own loader and on its own libraries.
root=${0%/*}
for loader in "$root"/lib64/ld-linux-x86-64.so.2 "$root"/usr/lib64/ld-linux-x86-64.so.2; do
    test -e "$loader" && break
done
exec "$loader" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/bin/qemu-system-x86_64" \\
    -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
"""


def cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of all that is unpacked, ``$XDG_CACHE_HOME/x2apic-conformance``."""
    return Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "x2apic-conformance"


def qemu_directory(environ: Mapping[str, str]) -> Path:
    """Return where the unpacked QEMU lies; it exists only once it is complete and has been seen to start."""
    return cache(environ) / "qemu-10"


def wrap_qemu(root: Path) -> Path:
    """Write the script that starts the QEMU unpacked in *root*; return it."""
    script = root / QEMU
    script.write_text(WRAPPER, encoding="utf-8")
    script.chmod(0o755)
    return script
