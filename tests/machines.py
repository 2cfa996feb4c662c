"""A user's machine: stand-ins for dpkg-query, apt-get, mmdebstrap and Bochs that log their calls."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends import bochs_unpacked
from runner.commands import debian

ROOT = Path(__file__).parents[1]
PACKAGES = debian.named(ROOT / "bindep.txt")

# The loader of the unpacked Bochs is a script here: it is what the doctor starts.
LAYS_OUT = """
for last; do :; done
mkdir -p "$last/lib64"
printf '#!/bin/sh\\n%s\\n' '{loader}' > "$last/lib64/ld-linux-x86-64.so.2"
chmod +x "$last/lib64/ld-linux-x86-64.so.2"
"""
STARTS = LAYS_OUT.format(loader="echo Bochs x86 Emulator 3.0")


@dataclass(frozen=True)
class Machine:
    """A PATH with nothing but stand-ins, and a cache of its own."""

    home: Path

    def program(self, name: str, body: str) -> None:
        path = self.home / "bin" / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {self.home}/calls\nPATH=/usr/bin:/bin\n{body}\n', "utf-8"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def has(self, *packages: str) -> None:
        state = {name: "installed" if name in packages else "config-files" for name in PACKAGES}
        self.program("dpkg-query", "\n".join(f"echo {name} {state[name]}" for name in PACKAGES))

    @property
    def calls(self) -> list[str]:
        log = self.home / "calls"
        return log.read_text("utf-8").splitlines() if log.exists() else []

    def called(self, program: str) -> list[str]:
        return [call for call in self.calls if call.startswith(program)]

    @property
    def target(self) -> Path:
        return bochs_unpacked.directory({"XDG_CACHE_HOME": str(self.home / "cache")})

    @property
    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir() if not path.name.endswith(".lock"))

    def environ(self) -> dict[str, str]:
        return {"PATH": str(self.home / "bin"), "XDG_CACHE_HOME": str(self.home / "cache")}

    def doctor(self, **environ: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "runner", "doctor")
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environ() | environ, stdout=subprocess.PIPE, text=True
        )


def users_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Become a user whose machine has all packages, Bochs 2.7, QEMU 10, and nothing unpacked."""
    (home / "bin").mkdir()
    result = Machine(home)
    result.has(*PACKAGES)
    result.program("bochs-bin", "echo '   Bochs x86 Emulator 2.7'")
    result.program("qemu-system-x86_64", "echo QEMU emulator version 10.0.2")
    result.program("mmdebstrap", STARTS)
    result.program("apt-get", "")
    for name, value in result.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return result
