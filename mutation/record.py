"""What trials found, kept in a file so that a run goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.mutant import Mutant
from mutation.session import End, Outcome

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".cache" / "mutants.jsonl"
DECIDING = ("backends/**/*.py", "runner/**/*.py", "mutation/*.py", "specs/**/*.yaml", "specs/*.json")
"""What a trial depends on."""


@dataclass(frozen=True, slots=True)
class Record:
    """Outcomes by mutant: ``known`` of what is there now, ``killers`` the cases that killed at any time."""

    path: Path
    digest: str
    known: Mapping[str, Outcome]
    killers: Mapping[str, str]

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Keep an outcome, at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        said = {"digest": self.digest, "mutant": mutant.id, **asdict(outcome), "end": outcome.end.value}
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(said) + "\n")


def read(path: Path = FILE, digest: str | None = None) -> Record:
    """Return what is kept; a line that an interruption cut is passed over."""
    digest = _digest() if digest is None else digest
    known: dict[str, Outcome] = {}
    killers: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said["by"]:
            killers[said["mutant"]] = said["by"]
        if said["digest"] == digest:
            known[said["mutant"]] = Outcome(End(said["end"]), said["by"], said["raised"])
    return Record(path, digest, known, killers)


def _digest() -> str:
    digest = hashlib.sha256()
    for pattern in DECIDING:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
