"""The host that a run takes place on: facts that tell its results from another host's."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
NAME = "X2APIC_HOST"
"""Environment variable: what reports call this host, where its own name changes from run to run."""

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Host:
    """Name, processor model, microcode revision and kernel release, as the host says them itself."""

    name: str
    processor: str
    microcode: str
    kernel: str

    def facts(self) -> dict[str, str]:
        """Return what reports keep beside the name."""
        return {"processor": self.processor, "microcode": self.microcode, "kernel": self.kernel}


def here(environ: Mapping[str, str] = os.environ, cpuinfo: Path = CPUINFO) -> Host:
    """Return this host; a fact that it does not tell is ``unknown``."""
    try:
        lines = cpuinfo.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = environ.get(NAME, "").strip() or platform.node() or UNKNOWN
    kernel = f"{platform.system()} {platform.release()}"
    return Host(name, _values("model name", lines), _values("microcode", lines), kernel)


def _values(key: str, lines: Iterable[str]) -> str:
    """Return what the processors say of a key; where they differ, each value once."""
    pairs = (line.partition(":") for line in lines)
    values = {" ".join(value.split()) for name, _, value in pairs if name.strip() == key}
    return ", ".join(sorted(values)) or UNKNOWN


def vmx_hash(capabilities: Mapping[str, str]) -> str:
    """Return 12 digits of the SHA-256 of a subject's IA32_VMX_* values; empty where it reports none.

    Two subjects with one hash offer the same VMX (SDM: *VMX Capability Reporting Facility*).
    """
    values = sorted(item for item in capabilities.items() if item[0].startswith("IA32_VMX_"))
    text = "".join(f"{name}={value}\n" for name, value in values)
    return hashlib.sha256(text.encode()).hexdigest()[:12] if values else ""
