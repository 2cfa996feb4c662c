"""Lines that no runner sends: bytes that are no message, and cases that are none.

An adapter may end at them, pass over them, or say *broken* or *unsupported*. It may not crash or hang, and
it may not take a word that it cannot know for one that it knows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FLIPPED_LINES = 48
"""Lines with some bytes changed at random, always the same ones."""
LONG = 4 << 20


@dataclass(frozen=True, slots=True)
class Nonsense:
    """A line with its end, and what is wrong with it.

    ``is_case``: it is a case with something wrong in it; ``is_unknown``: a word that nobody can know.
    """

    says: str
    line: bytes
    is_case: bool = False
    is_unknown: bool = False


def nonsense(run: str) -> Iterator[Nonsense]:
    """Yield lines that are wrong; *run* is a right one without its end, its page tagged and with words."""
    yield from _no_messages(run)
    for says, changed in _CHANGES.items():
        unknown = says.startswith("an unknown ")
        yield Nonsense(says, changed(run).encode() + b"\n", is_case=True, is_unknown=unknown)
    yield from _random(run.encode())


def _no_messages(run: str) -> Iterator[Nonsense]:
    whole = run.encode()
    level = b'"guest"' if b'"level":"guest"' in whole else b'"vmx"'
    for says, line in {
        "an empty line": b"",
        "a line of blanks": b" " * 100,
        "text that is no JSON": b"run the next case, please",
        "a line that ends within a string": whole[: len(whole) // 2],
        "an array": b"[" + whole + b"]",
        "an unknown message": b'{"message":"walk","seq":1}',
        "a message that is a number": b'{"message":1}',
        "no message": b'{"seq":1}',
        "bytes that are no UTF-8": whole.replace(level, b'"\xff\xfe\xfd"'),
        "a NUL byte": whole.replace(level, b'"v\0x"'),
        "a hundred thousand brackets": b"[" * 100000,
        "a line of 4 MBytes": whole[:-1] + b" " * LONG + b"}",
        "a string of 4 MBytes": whole.replace(level, b'"' + b"v" * LONG + b'"'),
    }.items():
        yield Nonsense(says, line + b"\n")


def _with(old: str, new: str) -> Callable[[str], str]:
    """Return a change of the last place where something stands: of the steps, where it is there."""

    def changed(run: str) -> str:
        before, found, after = run.rpartition(old)
        if not found:
            raise ValueError(f"{old} stands nowhere in {run}")
        return before + new + after

    return changed


def _step(text: str) -> Callable[[str], str]:
    return lambda run: run[: run.rindex('"steps":[')] + f'"steps":[{text}]}}'


_RDMSR = '"step":"rdmsr","vcpu":0,"cpl":0,"msr":"0x802","garbage":0'
_VMM = '"rvi":null,"svi":null,"if":null,"msr-bitmap":null}'

_CHANGES = {
    "a case without steps": lambda run: run[: run.rindex(',"steps":[')] + "}",
    "a case without virtual processors": _with('"vcpus":[', '"vcpus":[],"others":['),
    "an unknown level": lambda run: run.replace('"level":"', '"level":"no-'),
    "an unknown APIC mode": _with('"apic-mode":"x2apic"', '"apic-mode":"x3apic"'),
    "an unknown fill": _with('"fill":"tagged"', '"fill":"striped"'),
    "a page's word beyond its end": _with('"words":[["0x', '"words":[["0x1000","0x0"],["0x'),
    "a page's word far beyond its end": _with('"words":[["0x', '"words":[["0xfffffffc","0x0"],["0x'),
    "a word of 33 bits": _with('"words":[["0x', '"words":[["0x100","0x100000000"],["0x'),
    "an MSR bitmap's range without end": _with('"reads":[]', '"reads":[["0x0","0xffffffff"]]'),
    "an MSR bitmap's range between the halves": _with('"writes":[]', '"writes":[["0x2000","0xbfffffff"]]'),
    "a handler of vector 256": _with('"handlers":[]', '"handlers":[{"vector":256,"steps":[]}]'),
    "a handler of vector -1": _with('"handlers":[]', '"handlers":[{"vector":-1,"steps":[]}]'),
    "half a descriptor": _with('"words":[],"pid-pointer"', '"words":["0x0","0x0"],"pid-pointer"'),
    "an unknown step": _step('{"step":"rdpmc","vcpu":0,"cpl":0}'),
    "a step without its MSR": _step('{"step":"rdmsr","vcpu":0,"cpl":0}'),
    "a step of virtual processor 7, which is not there": _step(
        f"{{{_RDMSR}}}".replace('"vcpu":0', '"vcpu":7')
    ),
    "a step of virtual processor -1": _step(f"{{{_RDMSR}}}".replace('"vcpu":0', '"vcpu":-1')),
    "a step of virtual processor 4294967296": _step(f"{{{_RDMSR}}}".replace('"vcpu":0', '"vcpu":4294967296')),
    "a step at CPL 2": _step(f"{{{_RDMSR}}}".replace('"cpl":0', '"cpl":2')),
    "an MSR number of 33 bits": _step(f"{{{_RDMSR}}}".replace("0x802", "0x100000802")),
    "an MSR number that is a decimal": _step(f"{{{_RDMSR}}}".replace('"0x802"', "2050")),
    "an MSR number that is no number": _step(f"{{{_RDMSR}}}".replace("0x802", "0xzz")),
    "an MSR number that is empty": _step(f"{{{_RDMSR}}}".replace("0x802", "")),
    "a value of 65 bits": _step(
        '{"step":"wrmsr","vcpu":0,"cpl":0,"msr":"0x808","value":"0x10000000000000000","garbage":0}'
    ),
    "vector 300 raised": _step('{"step":"raise","vcpu":0,"cpl":0,"vector":300}'),
    "vector -1 injected": _step('{"step":"inject","vcpu":0,"cpl":0,"vector":-1}'),
    "a post to virtual processor 7, which is not there": _step(
        '{"step":"post","vcpu":0,"cpl":0,"to":7,"vectors":[49],"outstanding":1,"notify":null,"by":"vmm"}'
    ),
    "a post of vector 256": _step(
        '{"step":"post","vcpu":0,"cpl":0,"to":0,"vectors":[256],"outstanding":1,"notify":null,"by":"vmm"}'
    ),
    "a VMM step that writes a word beyond the page": _step(
        f'{{"step":"vmm","vcpu":0,"cpl":0,"words":[["0x7fffffffc","0x0"]],"controls":null,"fields":[],{_VMM}'
    ),
    "a VMM step with RVI 256": _step(
        '{"step":"vmm","vcpu":0,"cpl":0,"words":[],"controls":null,"fields":[],'
        + _VMM.replace("null", "256", 1)
    ),
}
"""What is wrong with a case, and how a right one becomes it."""


def _random(whole: bytes) -> Iterator[Nonsense]:
    chance = random.Random(802)  # noqa: S311 - always the same lines, nothing secret
    for number in range(FLIPPED_LINES):
        line = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            line[chance.randrange(len(line))] = chance.choice(b'"{}[]:,0x9\\ \xff')
        yield Nonsense(f"a line with bytes changed at random, the {number + 1}th", bytes(line) + b"\n")
