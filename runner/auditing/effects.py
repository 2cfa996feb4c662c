"""What an access to an x2APIC MSR does, as far as a dump tells, and the table of all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

from runner.apic import FIRST_MSR, LAST_MSR, REGISTERS_BY_MSR, page_offset
from runner.words import hexadecimal

MSRS = range(FIRST_MSR, LAST_MSR + 1)


class Reach(Enum):
    """Where an access ends."""

    PAGE = "page"
    EXIT = "VM exit"
    PHYSICAL = "physical APIC"
    FAULT = "#GP(0)"


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that an access can do; ``low`` and ``high`` are EAX and EDX of a read where known."""

    reach: Reach
    low: int | None = None
    high: int | None = None

    @classmethod
    def of_page(cls, value: int) -> Effect:
        """Return the effect of a read of the page."""
        return cls(Reach.PAGE, value & 0xFFFFFFFF, value >> 32)


Effects = tuple[Effect, ...]
"""All things that an access can do, each `Reach` once: more than one where the dump does not tell."""


@dataclass(frozen=True, slots=True)
class Accesses:
    """What RDMSR and WRMSR of each MSR of 800H-8FFH do; empty where the guest does not run."""

    reads: Mapping[int, Effects]
    writes: Mapping[int, Effects]


def merged(effects: Iterable[Effect]) -> Effects:
    """Return each `Reach` once, with what all of its effects agree on."""
    found: dict[Reach, Effect] = {}
    for effect in effects:
        known = found.setdefault(effect.reach, effect)
        low, high = (known.low, effect.low), (known.high, effect.high)
        found[effect.reach] = Effect(effect.reach, _agreed(*low), _agreed(*high))
    return tuple(found[reach] for reach in Reach if reach in found)


def _agreed(one: int | None, other: int | None) -> int | None:
    return one if one == other else None


def can(effects: Effects, reach: Reach) -> Effect | None:
    """Return the effect with this `Reach`, if the access can have it."""
    return next((effect for effect in effects if effect.reach is reach), None)


def only(effects: Effects, reach: Reach) -> bool:
    """Whether the access does this and nothing else."""
    return [effect.reach for effect in effects] == [reach]


@dataclass(frozen=True, slots=True)
class Row:
    """Neighbouring MSRs that do the same."""

    first: int
    last: int
    name: str
    read: str
    write: str

    @property
    def msrs(self) -> str:
        """``802H``, ``810H-817H``."""
        return f"{self.first:X}H" if self.first == self.last else f"{self.first:X}H-{self.last:X}H"


def table(accesses: Accesses) -> Iterator[Row]:
    """Yield the rows of the table, lowest MSR first."""
    for (name, read, write), group in groupby(
        MSRS if accesses.reads else (), lambda msr: _cells(accesses, msr)
    ):
        msrs = list(group)
        yield Row(msrs[0], msrs[-1], name, read, write)


def _cells(accesses: Accesses, msr: int) -> tuple[str, str, str]:
    register = REGISTERS_BY_MSR.get(msr)
    name = re.sub(r"(?<=ISR|TMR|IRR)\d", "", register.name) if register else ""
    read = " or ".join(map(_read_words, accesses.reads[msr]))
    return name, read, " or ".join(effect.reach.value for effect in accesses.writes[msr])


def _read_words(effect: Effect) -> str:
    page = effect.reach.value
    if effect.reach is not Reach.PAGE or effect.low is effect.high is None:
        return page
    if effect.high is None:
        return f"{page}, EAX {hexadecimal(effect.low or 0)}"
    if effect.low is None:
        return f"{page}, EDX {hexadecimal(effect.high)}"
    return f"{page}: {hexadecimal(effect.high << 32 | effect.low)}"


def place(msr: int) -> str:
    """Return ``bytes 020H-027H``: where in the page a virtualized access of *msr* goes."""
    offset = page_offset(msr)
    return f"bytes {offset:03X}H-{offset + 7:03X}H"


def ranges(msrs: Iterable[int]) -> str:
    """Return ``80FH, 832H-838H`` for MSR numbers."""
    parts: list[list[int]] = []
    for msr in sorted(msrs):
        if parts and msr == parts[-1][-1] + 1:
            parts[-1].append(msr)
        else:
            parts.append([msr])
    return ", ".join(f"{part[0]:X}H" + (f"-{part[-1]:X}H" if len(part) > 1 else "") for part in parts)
