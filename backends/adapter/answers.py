"""What an adapter writes, strictly read: a line that is no answer raises `AnswerError`, which says why.

What is right is read without a look at the schema, which takes long; what is wrong, the schema explains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from backends.adapter import reading
from backends.adapter.observations import observation
from backends.adapter.platform import MEMORY_BYTES, STRIDE, Platform
from backends.adapter.reading import Json, WrongError
from backends.capabilities import CAPABILITY_NAMES, X2APIC, Processor
from runner.outcome import Answer, BackendBroken, Unsupported
from runner.program import Level, Program

SHOWN = 80
"""Characters of an adapter's own words in a reason."""

T = TypeVar("T")


class AnswerError(Exception):
    """What an adapter wrote is no answer; the text says where and why."""


def message(line: bytes) -> Json:
    """Return the JSON object of one line. Raises `AnswerError`."""
    try:
        found = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise AnswerError(f"no UTF-8 at byte {error.start}: {shown(line)}") from None
    except RecursionError:
        raise AnswerError(f"nested too deeply: {shown(line)}") from None
    except json.JSONDecodeError as error:
        raise AnswerError(f"no JSON: {error.msg} at byte {error.pos}: {shown(line)}") from None
    except ValueError as error:
        raise AnswerError(f"no JSON: {str(error)[:SHOWN]}: {shown(line)}") from None
    if not isinstance(found, dict):
        raise AnswerError(f"no JSON object: {shown(line)}")
    return found


def answer(given: Json, seq: int, program: Program) -> Answer:
    """Return the answer to the case *seq*, which is *program*. Raises `AnswerError`."""
    kind = given.get("message")
    if kind not in _READERS:
        raise AnswerError(f"message: {shown(kind)}, where the answer to case {seq} was due")
    if type(given.get("seq")) is not int or given["seq"] != seq:
        raise AnswerError(f"seq: {shown(given.get('seq'))}, where the answer to case {seq} was due")
    return _explained(given, lambda: _READERS[kind](given, program))


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an adapter says of itself; ``batch`` is the most cases that it wants at once."""

    platform: Platform
    name: str
    version: str
    batch: int

    def report(self) -> dict[str, str]:
        """Return all of it by name, for reports and for what cases suppose with ``when``."""
        processor = self.platform.processor.report()
        unknown = {"vendor", "cpuid-signature"}
        return {"adapter": self.name, **{name: processor[name] for name in processor if name not in unknown}}


def capabilities(given: Json) -> Capabilities:
    """Return what an adapter says of itself. Raises `AnswerError`."""
    if given.get("message") != "capabilities":
        raise AnswerError(f"message: {shown(given.get('message'))}, where `capabilities` was due")
    return _explained(given, lambda: _capabilities(given))


def _explained(given: Json, reader: Callable[[], T]) -> T:
    try:
        return reader()
    except RecursionError:
        raise AnswerError("handlers are nested too deeply") from None
    except (WrongError, KeyError, TypeError, ValueError) as error:
        raise AnswerError(reading.first_mistake(given) or str(error)) from None


def _observation(given: Json, program: Program) -> Answer:
    return observation(given, program)


def _unsupported(given: Json, _: Program) -> Answer:
    return Unsupported(reading.words(given, "seq", "reason"))


def _broken(given: Json, _: Program) -> Answer:
    return BackendBroken(f"the adapter says: {reading.words(given, 'seq', 'reason')}")


_READERS: Mapping[Any, Callable[[Json, Program], Answer]] = MappingProxyType(
    {"observation": _observation, "unsupported": _unsupported, "broken": _broken}
)


def _capabilities(given: Json) -> Capabilities:
    mistake = reading.first_mistake(given)
    if mistake:
        raise WrongError(mistake)
    numbers = {int(msr, 16): int(value, 16) for msr, value in given["msrs"]}
    if len(numbers) != len(given["msrs"]):
        raise WrongError("msrs: an MSR stands there twice")
    memory, width = int(given["memory"], 16), given["physical-address-width"]
    if memory % STRIDE or memory + MEMORY_BYTES > 1 << width:
        raise WrongError(f"memory: {memory:#x} is no multiple of {STRIDE:#x}, or reaches beyond {width} bits")
    levels = frozenset(map(Level, given["levels"]))
    processor = Processor(
        vmx=Level.VMX in levels,
        vendor="",
        signature=0,
        features=X2APIC * given["x2apic"],
        physical_width=width,
        apic_version=int(given["apic-version"], 16),
        msrs=MappingProxyType({CAPABILITY_NAMES[msr - 0x480]: numbers[msr] for msr in sorted(numbers)}),
    )
    platform = Platform(processor, levels, given["vcpus"], memory)
    return Capabilities(platform, given["name"], given["version"], given["batch"])


def shown(found: object) -> str:
    """Return a value of the adapter's for a reason, not all of it where it is long."""
    if isinstance(found, bytes):
        text = repr(found[:SHOWN])[1:]
    else:
        text = json.dumps(found)[: 2 * SHOWN] if found is not None else "nothing"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
