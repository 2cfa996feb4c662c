"""Wrong files: each mistake is found at its position, and the schema is what it says it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from spoken import file as spoken_file
from spoken import mistakes

from runner.apic import REGISTERS, VECTOR_SETS
from runner.language.expectations import FAULTS
from runner.language.loading import ROOT, SPECS, named_setups, parse, scenario_files
from runner.language.steps import ACTIONS, ASIDE
from runner.program import Plain
from runner.reading.nodes import Notes, plain, read
from runner.reading.schema import Schema
from runner.vmx import CONTROLS_BY_NAME, EXIT_REASONS_BY_NAME, FIELDS_BY_NAME, Activity, name_of

MALFORMED = sorted((ROOT / "tests" / "malformed").glob("*.yaml"))
DOCUMENT: dict[str, Any] = json.loads((SPECS / "scenario.schema.json").read_text())
DEFINITIONS: dict[str, Any] = DOCUMENT["$defs"]


def test_there_are_many_mistakes() -> None:
    assert len(MALFORMED) >= 150


@pytest.mark.parametrize("path", MALFORMED, ids=lambda path: path.stem)
def test_mistake(path: Path) -> None:
    data = path.read_bytes()
    wanted = re.fullmatch(r"# (\d+:\d+): (.+)", data.partition(b"\n")[0].decode())
    assert wanted
    [message] = mistakes(data)
    assert message.startswith(f"{wanted[1]}: ")
    assert wanted[2] in message


def test_all_mistakes_of_a_file_are_reported() -> None:
    assert mistakes(
        spoken_file(
            "setup: {rvi: 0x100}",
            "steps: [{rdmsr: 0x1ffffffff, cpl: 1}]",
            "vary: {n: [1]}",
            "steps: [{nop: true}, {inject: 0x31}]",
        )
    ) == [
        "7:18: `0x100` does not fit; wanted a number of 8 bits (0 to 0xff) or a $name",
        "13:21: `0x1ffffffff` does not fit; wanted an MSR number (0 to 0xffffffff)",
        "13:39: `1`; wanted 0 or 3, or a $name",
        "18:12: `n` is not used; write $n where it is meant",
        "24:26: `inject` needs a VM exit before it; put a vmcall between",
    ]


def plain_of(text: str, notes: Notes) -> Any:
    top = read(text.encode(), notes)
    assert top is not None
    return plain(top)


def test_yaml_and_schema_are_both_reported() -> None:
    assert mistakes(b"title: on\nlevel: vmy\n") == [
        "1:1: `cases` is missing: The cases; each asks about one rule",
        "1:8: `on`: some YAML readers take this for a truth value; write true or false, or quote it",
        "2:8: `vmy`; wanted vmx or guest; did you mean 'vmx'?",
    ]


@pytest.mark.parametrize(
    "text", ["on", "Off", "yes", "No", "y", "010", "0o17", "0b1", "1:30", "1_000", "1.0", "1e3"]
)
def test_yaml_1_1_surprises(text: str) -> None:
    for quote in "'\"":
        notes = Notes("f")
        assert plain_of(f"a: {quote}{text}{quote}", notes) == {"a": text}
        assert notes.problems == []
    read(f"a: {text}".encode(), notes)
    assert [(problem.line, problem.column) for problem in notes.problems] == [(1, 4)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x1F", 31),
        ("31", 31),
        ("-1", -1),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("1..3", "1..3"),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    notes = Notes("f")
    assert plain_of(f"a: {text}\n7:0: {text}", notes) == {
        "a": value,
        "7:0": value,
    }
    assert notes.problems == []


def test_a_mark_at_the_start_is_no_character() -> None:
    assert mistakes(b"\xef\xbb\xbf" + spoken_file()[: -len("cases:")] + b"cases: x") == [
        "3:8: `x`; wanted a list of cases"
    ]


def problems_of(text: str, schema: dict[str, Any]) -> list[str]:
    notes = Notes("f")
    top = read(text.encode(), notes)
    assert top is not None
    Schema(schema).check(top, notes)
    return [str(problem) for problem in sorted(notes.problems)]


def readable() -> Iterator[tuple[str, Any, bool]]:
    """Yield every file that is YAML, with whether the schema accepts its nodes."""
    schema = Schema(DOCUMENT)
    for path in (*MALFORMED, *scenario_files()):
        notes = Notes(path.stem)
        top = read(path.read_bytes(), notes)
        if top is not None and not notes.problems:
            schema.check(top, notes)
            yield path.stem, plain(top), not notes.problems


def test_nodes_are_judged_like_plain_data() -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    other = jsonschema.Draft202012Validator(DOCUMENT)
    compared = [(name, accepted, other.is_valid(data)) for name, data, accepted in readable()]
    assert [each for each in compared if each[1] != each[2]] == []
    assert sum(accepted for _, accepted, _ in compared) > 30
    assert sum(not accepted for _, accepted, _ in compared) > 60


def test_a_keyword_without_words_of_its_own_says_what_is_wanted() -> None:
    for schema in ({"const": 3}, {"exclusiveMinimum": 5}, {"oneOf": [{"type": "string"}]}, {"minLength": 1}):
        text, found = ("{a: ''}", "nothing") if "minLength" in schema else ("{a: 5}", "`5`")
        wanted = {"title": "what fits", **schema}
        assert problems_of(text, {"properties": {"a": wanted}}) == [f"f:1:5: {found}; wanted what fits"]
        assert problems_of(text, {"additionalProperties": wanted}) == [f"f:1:5: {found}; wanted what fits"]


@pytest.mark.parametrize("word", ["propertyNames", "dependentSchemas", "unevaluatedProperties"])
def test_a_keyword_that_cannot_be_held_against_nodes_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"not understood here: one of .*{word}"):
        problems_of("{a: 5}", {"properties": {}, word: {}})


def keys(schema: Any, at: str = "#") -> Iterator[tuple[str, Any]]:
    if isinstance(schema, dict):
        for word in ("properties", "patternProperties"):
            for name, each in schema.get(word, {}).items():
                yield f"{at}/{name}", each
        for name, each in schema.items():
            yield from keys(each, f"{at}/{name}")
    elif isinstance(schema, list):
        for each in schema:
            yield from keys(each, at)


def test_every_key_is_described() -> None:
    found = dict(keys(DOCUMENT))
    assert len(found) > 300
    assert [name for name, each in found.items() if not each.get("description", "").endswith(".")] == []


def test_every_definition_is_used_and_has_a_title() -> None:
    used = set(re.findall(r"#/\$defs/([a-z0-9-]+)", json.dumps(DOCUMENT)))
    assert used | {"setups"} == set(DEFINITIONS)
    assert [name for name, each in DEFINITIONS.items() if "title" not in each] == []


def enumeration(schema: Any) -> list[Any]:
    return list(next(each["enum"] for each in (schema, *schema.get("anyOf", ())) if "enum" in each))


def test_names_are_those_of_the_tables() -> None:
    registers = [register.name for register in REGISTERS]
    assert enumeration(DEFINITIONS["control"]) == list(CONTROLS_BY_NAME)
    assert enumeration(DEFINITIONS["register"]) == registers
    assert enumeration(DEFINITIONS["msr-set"]["anyOf"][1]["items"]) == registers
    assert list(DEFINITIONS["page-words"]["properties"]) == [*registers, *VECTOR_SETS]
    assert list(DEFINITIONS["fields"]["properties"]) == list(FIELDS_BY_NAME)
    assert enumeration(DEFINITIONS["activity"]) == [name_of(state) for state in Activity]
    assert enumeration(DEFINITIONS["expect"]["properties"]["fault"]) == list(FAULTS)
    assert enumeration(DEFINITIONS["setup"]["properties"]["base"]) == list(named_setups().controls)
    exits = enumeration(DEFINITIONS["exit"]["properties"]["reason"])
    failures = enumeration(DEFINITIONS["entry"]["properties"]["exit"]["properties"]["reason"])
    assert sorted(exits + failures) == sorted(EXIT_REASONS_BY_NAME)
    actions = set(DEFINITIONS["step"]["properties"]) - ASIDE
    assert actions == {*ACTIONS, "rdmsr", "wrmsr", "vmm", "post", "init-sipi"}
    assert {plain.value for plain in Plain} <= actions


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("page", range(0, 0x1000, 4)),
        ("physical", [0x1B, *range(0x800, 0x900)]),
        ("handlers", range(0x100)),
    ],
)
def test_a_key_is_a_number_in_hexadecimal_or_decimal(kind: str, numbers: Sequence[int]) -> None:
    [pattern] = [each for each in DEFINITIONS[kind]["patternProperties"] if "0x" in each]
    for spelling in (str, hex):
        assert [each for each in range(0x2000) if re.search(pattern, spelling(each))] == list(numbers)
    assert not re.search(pattern, "010")


def test_a_field_takes_numbers_of_its_width() -> None:
    for name, field in FIELDS_BY_NAME.items():
        most = (1 << field.width) - 1
        parse(spoken_file("", setup=f"{{fields: {{{name}: {most:#x}}}}}"), "f")
        [message] = mistakes(spoken_file("", setup=f"{{fields: {{{name}: {most + 1:#x}}}}}"))
        assert f"`{most + 1:#x}` does not fit; wanted a number of {field.width} bits" in message
