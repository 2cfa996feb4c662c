"""The transcript of adapters/README.md: what crosses, produced anew and broken for reading."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from backends.adapter import asks
from backends.adapter.answers import capabilities, message
from runner.language.loading import parse

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "backends" / "adapters" / "README.md"
ADAPTER = [sys.executable, str(ROOT / "backends" / "adapters" / "python" / "adapter.py")]
WIDTH = 118

CASES = b"""
title: An EOI that exits, and a VM entry that fails
level: vmx
setup:
  base: delivery
  eoi-exit-bitmap: [0x51]
  svi: 0x51
  virtual-apic-page: {fill: tagged, TPR: 0x0, PPR: 0x50, 0xb4: 0x7, ISR: [0x31, 0x51], IRR: []}
cases:
  - id: eoi
    says: The EOI exits after VISR, SVI and VPPR have changed
    rules: [eoi.exit-bitmap]
    steps:
      - {rdmsr: VERSION, expect: {value: from-page}}
      - {wrmsr: {EOI: 0x0}, expect: {exit: {reason: virtualized-eoi, qualification: 0x51}}}
    after: {page: {EOI: 0x0, 0xb4: 0x0, ISR: [0x31], PPR: 0x30}, svi: 0x31}
  - id: no-tpr-shadow
    says: VM entry fails without use TPR shadow
    rules: [entry.x2apic-needs-tpr-shadow]
    setup:
      base: tpr-only
      clear: [use-tpr-shadow]
      eoi-exit-bitmap: []
      svi: 0x0
      virtual-apic-page: {fill: zero}
    expect-entry: {vmfail-valid: 7}
"""


def produced() -> str:
    """Return the transcript, a message a line."""
    hello = _answers(asks.HELLO)
    programs = [point.program for case in parse(CASES, "transcript.yaml").cases for point in case.points]
    asking = asks.Asks(capabilities(message(hello[0].encode())).platform)
    runs = [
        asks.line(seq, len(programs) - 1 - seq, asking.body(program)) for seq, program in enumerate(programs)
    ]
    answers = _answers(b"".join((asks.HELLO, *runs, asks.STOP)))
    asked = [f"> {line.decode().strip()}" for line in (asks.HELLO, *runs, asks.STOP)]
    answered = [f"< {line}" for line in answers]
    return "\n".join((asked[0], answered[0], *asked[1:-1], *answered[1:], asked[-1]))


def _answers(asked: bytes) -> list[str]:
    return subprocess.run(ADAPTER, input=asked, capture_output=True, check=True).stdout.decode().splitlines()


def broken(transcript: str) -> str:
    """Return a transcript with its lines broken behind commas, the rest of a line indented."""
    lines: list[str] = []
    for text in transcript.splitlines():
        line = ""
        for piece in re.split(r'(?<=,)(?! |"0x|"[a-z0-9-]+","0x)', text):
            if len(line) + len(piece) > WIDTH:
                lines.append(line)
                line = "    "
            line += piece
        lines.append(line)
    return "\n".join(lines)


def shown() -> str:
    """Return the page's transcript."""
    [text] = re.findall(r"```\n(> .*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(shown(), broken(produced())), encoding="utf-8")
