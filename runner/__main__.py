"""``python -m runner COMMAND``: finds the command and gives it the rest of the line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

COMMANDS: Mapping[str, str] = {
    "check": "check scenario files without running them",
    "explain": "say step by step what the processor does, and by which rule",
    "convict": "say which case notices each known-bad subject",
    "coverage": "say which rules have cases, who ran them, and why some have none",
    "audit": "say what is wrong with what a VMM has set, from a dump",
    "adapter-check": "say whether a program is an adapter, and what it does wrong",
    "certify": "run the main job on every subject present",
    "verify": "say whether a certificate is unaltered, and whether its subject shows the same again",
    "nightly": "run all there is on every subject, and say what changed since the night before",
    "merge": "make one report of the results of several hosts",
    "fleet": "run the night on several hosts, and make one report",
    "doctor": "provide what the subjects need, or say how",
}

USAGE_ERROR = 2


def main(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status."""
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(usage(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else USAGE_ERROR
    command = import_module(f"runner.commands.{arguments[0].replace('-', '_')}")
    status: int = command.main(arguments[1:])
    return status


def usage() -> str:
    """Return the commands, a line each."""
    listed = "\n".join(f"  {name:13} {says}" for name, says in COMMANDS.items())
    return f"usage: python -m runner COMMAND …\n\n{listed}"


def run() -> int:
    """Run the command of the line; a reader that has had enough, ``| head``, is no error."""
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(run())
