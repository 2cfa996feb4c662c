"""A subject that its file restricts: what must be here before it runs, which levels it is tested at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends import Backend, Identity, unpacked
from backends.kvm import host
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Program

KVM = "/dev/kvm"


class Restricted:
    """A `Backend` round another one: ``needs`` are programs and files, ``levels`` values of `Level`."""

    def __init__(self, backend: Backend, needs: Sequence[str], levels: Sequence[str]) -> None:
        """Take a subject; all levels are meant where *levels* is empty."""
        self.name = backend.name
        self._backend = backend
        self._needs = needs
        self._levels = levels

    def identity(self) -> Identity | Unsupported | BackendBroken:
        """Return who the subject is, with the facts of a KVM that it needs; or what lacks here."""
        who = self._lack() or self._backend.identity()
        if KVM in self._needs and isinstance(who, Identity):
            facts = {**host.facts(), "single-stepped": "false"}
            return who.with_facts(facts)
        return who

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        """Yield one answer a program, in order; the subject gets those of its levels."""
        lack = self._lack()
        if lack is not None:
            yield from [lack] * len(programs)
            return
        asked = [program for program in programs if self._is_meant(program)]
        answers = self._backend.run(asked)
        for program in programs:
            yield next(answers) if self._is_meant(program) else self._other_level(program)

    def _is_meant(self, program: Program) -> bool:
        return not self._levels or program.level.value in self._levels

    def _other_level(self, program: Program) -> Unsupported:
        return Unsupported(f"level {program.level.value}: the subject file says {', '.join(self._levels)}")

    def _lack(self) -> Unsupported | None:
        return next((Unsupported(lack) for need in self._needs if (lack := _lacks(need))), None)


def _lacks(need: str) -> str:
    """Return why a program or file cannot be used, empty if it can; devices are written too."""
    if "/" not in need:
        return "" if shutil.which(need) else f"needs the program {need}, which is not in the PATH"
    cache = str(unpacked.cache(os.environ))
    path = Path(need.replace("{cache}", cache)).expanduser()
    if not path.exists():
        doctor = "; the doctor unpacks it where the host's is older" if need.startswith("{cache}") else ""
        return f"needs {path}, which is not here{doctor}"
    wanted = os.R_OK | (os.W_OK if path.is_char_device() else 0)
    return "" if os.access(path, wanted) else f"needs {path}, which this user may not open"
