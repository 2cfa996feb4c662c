"""A cache of read scenarios, under `.cache/scenarios/`, each in a file named after all that made it.

The key is the SHA-256 of the scenario file, of what it refers to in specs and of the code that reads
it: an entry is right or is not found. A damaged entry counts as not found.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import cache
from pathlib import Path

from runner.scenario import Scenario

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".cache" / "scenarios"
SOURCES = ("specs/scenario.schema.json", "specs/setups.yaml", "specs/rules.yaml", "runner/*.py")


def key(name: str, data: bytes) -> str:
    """Return the name under which the scenario of this file is kept."""
    digest = hashlib.sha256(_sources())
    digest.update(name.encode(errors="surrogateescape") + b"\0" + data)
    return digest.hexdigest()


def fetch(key: str) -> Scenario | None:
    """Return a kept scenario; ``None`` where there is none, or none that can be read."""
    try:
        found = pickle.loads((FOLDER / key).read_bytes())  # noqa: S301 - written by `store`, on this machine
    except Exception:  # noqa: BLE001 - damaged bytes raise nearly anything
        return None
    return found if isinstance(found, Scenario) else None


def store(key: str, scenario: Scenario) -> None:
    """Keep a scenario; where nothing can be written nothing is kept."""
    made = FOLDER / f"{key}.{os.getpid()}"
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        made.write_bytes(pickle.dumps(scenario, protocol=pickle.HIGHEST_PROTOCOL))
        made.replace(FOLDER / key)
    except OSError:
        made.unlink(missing_ok=True)


@cache
def _sources() -> bytes:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()
