"""Lay out Debian's Linux for the emulated host; nothing of it is installed."""

from __future__ import annotations

import fcntl
import lzma
import os
import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType

from backends.emulated import kernel
from runner.commands.unpack import fetch

KERNEL = "linux-image-cloud-amd64"
UNCOMPRESS = MappingProxyType({b"\x02\x21\x4c\x18": ("lz4", "-dc"), b"\x28\xb5\x2f\xfd": ("zstd", "-dcq")})
"""What uncompresses a kernel, by how it begins."""
SIZE_BYTES = 4
"""Behind the compressed kernel its size stands, which is no part of it."""
STRIP = ("objcopy", "--strip-unneeded", "--remove-section=.BTF*", "--remove-section=*orc_unwind*")
"""What only debuggers and tracers want: to read it takes an emulated processor longer than all the rest."""
TOOL_SECONDS = 60


def unpack_kernel(series: str = kernel.USUAL) -> str:
    """Lay a kernel of a series out in the cache, named by its version; return why that failed, or nothing.

    Its folder appears complete or not at all, and only one call at a time makes one.
    """
    cache = kernel.cache(os.environ)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with cache.joinpath("lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return "" if kernel.newest(os.environ, series) else _lay_out(cache, series, lock.fileno())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return str(error)


def _lay_out(cache: Path, series: str, lock: int) -> str:
    root, part = cache / "root", cache / "part"
    try:
        for folder in (root, part):
            shutil.rmtree(folder, ignore_errors=True)
        reason = fetch(root, KERNEL, kernel.SUITES[series], lock)
        if not reason:
            part.mkdir()
            part.rename(cache / _prepare(root, part))
            if kernel.newest(os.environ, series) is None:
                reason = f"Debian's suite {kernel.SUITES[series]} has no kernel {series} any more"
        return reason
    finally:
        for folder in (root, part):
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(root: Path, part: Path) -> str:
    """Put what the emulated machine loads into *part*; return the kernel's version."""
    image = _only(root, "boot/vmlinuz-*").read_bytes()
    compressed = kernel.payload(image)
    uncompress = UNCOMPRESS.get(compressed[:4])
    if uncompress is None:
        raise ValueError(f"the kernel is compressed by neither LZ4 nor Zstandard: {compressed[:4].hex()}")
    part.joinpath("vmlinuz").write_bytes(image)
    part.joinpath("vmlinux").write_bytes(_tool(uncompress, compressed[:-SIZE_BYTES]))
    for name in kernel.MODULES:
        module = _only(root, f"**/modules/*/kernel/**/{name}*")
        content = module.read_bytes()
        root.joinpath(name).write_bytes(lzma.decompress(content) if module.suffix == ".xz" else content)
        _tool((*STRIP, "--wildcard", str(root / name), str(part / name)))
    return kernel.version(image)


def _only(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        raise ValueError(f"{len(found)} files {pattern} in the packages instead of one")
    return found[0]


def _tool(command: tuple[str, ...], content: bytes = b"") -> bytes:
    done = subprocess.run(command, input=content, capture_output=True, timeout=TOOL_SECONDS, check=False)
    if done.returncode:
        raise ValueError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
