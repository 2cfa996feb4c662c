"""Single values of an adapter's answers, each with the exact check that the schema makes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from jsonschema import Draft202012Validator, ValidationError

Json = Mapping[str, Any]

SCHEMA = Path(__file__).parents[1] / "adapters" / "protocol.schema.json"

_HEX32 = re.compile(r"0[xX]0*[0-9a-fA-F]{1,8}").fullmatch
_HEX64 = re.compile(r"0[xX]0*[0-9a-fA-F]{1,16}").fullmatch
_OFFSET = re.compile(r"0[xX]0*[0-9a-fA-F]{0,2}[048cC]").fullmatch
_LONGEST_HEX, _LONGEST_WORDS = 34, 400


class WrongError(Exception):
    """A value is not what the schema wants."""


def u32(found: Any) -> int:
    """Return a number of 32 bits from its hexadecimal string."""
    if type(found) is not str or len(found) > _LONGEST_HEX or not _HEX32(found):
        raise WrongError(f"{found!r} is no hexadecimal string of 32 bits")
    return int(found, 16)


def u64(found: Any) -> int:
    """Return a number of 64 bits from its hexadecimal string."""
    if type(found) is not str or len(found) > _LONGEST_HEX or not _HEX64(found):
        raise WrongError(f"{found!r} is no hexadecimal string of 64 bits")
    return int(found, 16)


def offset(found: Any) -> int:
    """Return the offset of a 32-bit word in a page."""
    if type(found) is not str or len(found) > _LONGEST_HEX or not _OFFSET(found):
        raise WrongError(f"{found!r} is no offset of a word")
    return int(found, 16)


def number(found: Any, most: int) -> int:
    """Return a decimal number, 0 to *most*."""
    if type(found) is not int or not 0 <= found <= most:
        raise WrongError(f"{found!r} is no number 0-{most}")
    return found


def items(found: Any, most: int) -> Sequence[Any]:
    """Return an array of at most so many items."""
    if type(found) is not list or len(found) > most:
        raise WrongError(f"no array of at most {most} items")
    return found


def pair(found: Any) -> tuple[Any, Any]:
    """Return an array of two."""
    if type(found) is not list or len(found) != 2:
        raise WrongError("no array of two")
    return found[0], found[1]


def keys(found: Any, wanted: frozenset[str]) -> Json:
    """Return an object that has exactly these keys."""
    if type(found) is not dict or found.keys() != wanted:
        raise WrongError(f"no object with the keys {', '.join(sorted(wanted))}")
    return found


def words(given: Json, *others: str) -> str:
    """Return the words under the last of these keys, which with ``message`` are all of a message's."""
    keys(given, frozenset(("message", *others)))
    found = given[others[-1]]
    if type(found) is not str or not 0 < len(found) <= _LONGEST_WORDS:
        raise WrongError(f"{others[-1]}: no words, at most {_LONGEST_WORDS} characters")
    return found


@cache
def validator() -> Draft202012Validator:
    """Return the protocol's schema, ready to use."""
    return Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def mistakes(given: Any) -> Iterator[str]:
    """Yield what the schema finds wrong with a message, with the place."""
    for error in validator().iter_errors(given):
        place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path)
        yield f"{place[1:] or 'message'}: {_mistake(error)}"


def _mistake(error: ValidationError) -> str:
    schema, wanted = cast("Any", error.schema), cast("Any", error.validator_value)
    found = cast("Any", error.instance)
    match error.validator:
        case "required":
            return f"the key {next(key for key in wanted if key not in found)} lacks"
        case "additionalProperties":
            return f"no key {next(key for key in found if key not in schema['properties'])} belongs here"
        case "enum":
            said = ", ".join(map(json.dumps, wanted))
            return f"found {_shown(found)}, wanted one of {said}"
        case "type" | "pattern" | "minimum" | "maximum" if "title" in schema:
            return f"found {_shown(found)}, wanted {schema['title']}"
    return error.message[:200]


def _shown(found: Any) -> str:
    text = json.dumps(found)
    return text if len(text) <= 60 else f"{text[:60]}…"


def first_mistake(given: Any) -> str:
    """Return the first thing that the schema finds wrong, or nothing."""
    return next(mistakes(given), "")
