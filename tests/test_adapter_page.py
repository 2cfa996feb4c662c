"""adapters/README.md and the protocol's schema: the transcript is what crosses, every key is described."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import transcripts
from jsonschema import Draft202012Validator

from backends.adapter.reading import SCHEMA, first_mistake

PROTOCOL = json.loads(SCHEMA.read_text(encoding="utf-8"))
PAGE = transcripts.PAGE.read_text(encoding="utf-8")


def test_the_transcript_is_what_crosses() -> None:
    assert transcripts.shown() == transcripts.broken(transcripts.produced())


def test_its_lines_are_messages_when_they_are_joined_again() -> None:
    lines = re.sub(r"\n {4}", "", transcripts.shown()).splitlines()
    assert [line[0] for line in lines] == ["<" if line.startswith("<") else ">" for line in lines]
    messages = [json.loads(line[2:]) for line in lines]
    assert [first_mistake(message) for message in messages] == [""] * len(messages)
    kinds = {message["message"] for message in messages}
    assert {"hello", "capabilities", "run", "observation", "stop"} == kinds


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" in schema:
            yield schema
        for part in schema.values():
            yield from _objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _objects(part)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(PROTOCOL)
    assert "2020-12" in PROTOCOL["$schema"]


def test_every_key_has_a_description_and_no_other_key_is_allowed() -> None:
    objects = list(_objects(PROTOCOL))
    assert len(objects) > 15
    assert all(schema["additionalProperties"] is False for schema in objects)
    silent = [
        key for schema in objects for key, value in schema["properties"].items() if "description" not in value
    ]
    assert silent == []


@pytest.mark.parametrize("place", ["setup", "capabilities", "observation", "result", "final"])
def test_every_key_of_these_is_on_the_page(place: str) -> None:
    prose = PAGE.replace(transcripts.shown(), "") if place != "capabilities" else PAGE
    missing = [
        key
        for key in PROTOCOL["$defs"][place]["properties"]
        if key not in prose and f'"{key}"' not in transcripts.shown()
    ]
    assert missing == []


def test_the_page_is_one_page() -> None:
    prose = PAGE.replace(transcripts.shown(), "")
    assert len(prose.splitlines()) <= 140
    assert max(map(len, PAGE.splitlines())) <= 125
