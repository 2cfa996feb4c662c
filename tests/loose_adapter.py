"""Adapters that answer every right case and are wrong between and beside them; the argument says how."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from hostile_adapter import CAPABILITIES, OBSERVED, say, write

asked_before = 0


def answer(way: str, message: dict[str, Any]) -> None:
    global asked_before  # noqa: PLW0603 - the state that an adapter should not have
    right: dict[str, Any] = {"message": "observation", "seq": message["seq"], **OBSERVED}
    if way != "takes-anything" and message["steps"][0]["step"] != "rdmsr":
        right = {"message": "unsupported", "seq": message["seq"], "reason": "a step that is no RDMSR"}
    if way == "keeps-state":
        asked_before += 1
        right["finals"] = [{**OBSERVED["finals"][0], "rvi": asked_before % 256}]
    say(right)
    if way == "chatty":
        write(b"done\n")


def main(way: str) -> None:
    for line in sys.stdin.buffer:
        try:
            message = json.loads(line)
            kind = message["message"]
            if kind == "hello":
                say({**CAPABILITIES, "vcpus": 0} if way == "no-processors" else CAPABILITIES)
            elif kind == "stop" and way == "never-stops":
                time.sleep(600)
            elif kind == "stop":
                sys.exit(5 if way == "stops-with-5" else 0)
            else:
                answer(way, message)
        except (ValueError, KeyError, TypeError, IndexError):
            if way == "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            if way == "hangs":
                time.sleep(600)
    if way == "never-ends":
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
