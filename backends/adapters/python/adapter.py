"""An adapter in Python: the conversation with the runner, in the standard library alone.

    python -m runner adapter-check python3 backends/adapters/python/adapter.py
    pytest specs --backend backends/adapters/python/python-adapter.yaml

Begin a VMM's own adapter with this file. What stands behind it here is no VMM: `reference_model` gives
each case to this project's reference model, and is what you replace.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project's folder, for the reference model

from backends.adapters.python import reference_model

Message = dict[str, Any]


def answer(message: Message) -> Message | None:
    """Return the answer to one message of the runner; ``None`` ends the adapter."""
    match message["message"]:
        case "hello":
            return {"message": "capabilities", "protocol": 1, **reference_model.CAPABILITIES}
        case "run":
            kind, rest = _run(message)
            return {"message": kind, "seq": message["seq"], **rest}
        case "stop":
            return None
    raise ValueError(f"no message of the runner: {message['message']}")


def _run(case: Message) -> tuple[str, Message]:
    """Run one case; whatever goes wrong is said of this case, and the next one runs."""
    try:
        return "observation", reference_model.run(case)
    except reference_model.UnsupportedError as lack:
        return "unsupported", {"reason": str(lack)}
    except Exception as error:  # noqa: BLE001 - it is this case's answer
        return "broken", {"reason": f"{type(error).__name__}: {error}"[:400]}


def converse(asked: TextIO, answered: TextIO) -> None:
    """Answer line by line until ``stop`` or the end of the file."""
    for line in asked:
        try:
            message = answer(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            sys.stderr.write(f"no message: {error!r}\n")
            continue
        if message is None:
            return
        answered.write(json.dumps(message, separators=(",", ":")) + "\n")
        answered.flush()


if __name__ == "__main__":
    converse(sys.stdin, sys.stdout)
