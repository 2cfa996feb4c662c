"""A cache of read scenarios under `.cache/scenarios/`, one entry a scenario file.

An entry begins with the SHA-256 of all that made it: the scenario file, what it refers to in specs, and
the code that reads it. So it is right, or it counts as not found; a damaged one does too.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import cache
from pathlib import Path

from runner.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "scenarios"
SOURCES = ("specs/scenario.schema.json", "specs/setups.yaml", "specs/rules.yaml", "runner/**/*.py")


def fetch(name: str, data: bytes) -> Scenario | None:
    """Return the kept scenario of a file with these bytes; ``None`` where there is none that can be read."""
    key = _key(data)
    try:
        kept = _entry(name).read_bytes()
        found = pickle.loads(kept[len(key) :]) if kept.startswith(key) else None  # noqa: S301 - written by `store`
    except Exception:  # noqa: BLE001 - damaged bytes raise nearly anything
        return None
    return found if isinstance(found, Scenario) else None


def store(name: str, data: bytes, scenario: Scenario) -> None:
    """Keep the scenario of a file with these bytes; where nothing can be written nothing is kept."""
    entry = _entry(name)
    made = entry.with_suffix(f".{os.getpid()}")
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        made.write_bytes(_key(data) + pickle.dumps(scenario, protocol=pickle.HIGHEST_PROTOCOL))
        made.replace(entry)
    except OSError:
        made.unlink(missing_ok=True)


def _entry(name: str) -> Path:
    return FOLDER / hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def _key(data: bytes) -> bytes:
    return hashlib.sha256(_sources() + data).digest()


@cache
def _sources() -> bytes:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()
