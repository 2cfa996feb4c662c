"""The rule catalogue: complete, consistent, and strict about what it does not know."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import yaml

from runner.program import Level
from runner.reading.problems import MalformedError
from runner.reading.schema import Schema
from runner.rulebook import catalogue
from runner.rulebook.citations import Citation, citations
from runner.rulebook.rules import Catalogue, Certainty, Handling
from runner.scenario import Case, Scenario
from runner.vmx import PrimaryControls, SecondaryControls

COLLECTED = {
    "BAS": 52, "MOD": 21, "CTL": 18, "FLD": 19, "CAP": 9, "ENT": 44, "BMP": 13, "PRI": 9, "VAP": 9, "RD": 26,
    "WR": 30, "TPR": 6, "PPR": 7, "EOI": 15, "SLF": 7, "IPI": 15, "EVL": 13, "DLV": 24, "CR8": 12, "THR": 14,
    "PI": 25, "EXI": 23, "MSL": 6, "MVC": 9,
}  # fmt: skip
"""How many rules were first collected under each prefix, numbered from 1."""

TOUCHED = {
    1: "RD-018 BAS-006", 2: "RD-016", 3: "RD-011 WR-021", 4: "BAS-003 RD-017", 5: "RD-012 WR-017",
    6: "CR8-004 WR-003", 7: "ENT-035", 8: "THR-013", 9: "MSL-001 MSL-002 MSL-003", 10: "EOI-010",
    11: "THR-007", 12: "DLV-019", 13: "EXI-014", 14: "BAS-039", 15: "BAS-023", 16: "ENT-024 OPEN-16",
    17: "WR-029 EXI-016", 18: "ENT-006 ENT-021 ENT-030 ENT-031", 19: "BAS-033 IPI-003",
    20: "RD-006 WR-003", 21: "WR-013", 22: "WR-008", 23: "PI-012 DLV-017", 24: "WR-006",
}  # fmt: skip
"""Which rules each open point touches, by the numbers of both."""

TEXT = (catalogue.SPECS / "rules.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((catalogue.SPECS / "rules.schema.json").read_text(encoding="utf-8"))


def parse(text: str) -> Catalogue:
    return catalogue.parse(text.encode(), Schema(SCHEMA), "rules.yaml")


@pytest.fixture(scope="module")
def rules() -> Catalogue:
    return parse(TEXT)


def raw_rules() -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["rules"]
    return rules


def test_every_collected_rule_is_here_once() -> None:
    wanted = [f"X2V-{prefix}-{n:03}" for prefix, count in COLLECTED.items() for n in range(1, count + 1)]
    origins = Counter(rule["origin"] for rule in raw_rules().values() if "OPEN" not in rule["origin"])
    assert origins == Counter(wanted)
    assert len(wanted) == 426


def test_ids_are_an_area_and_a_short_statement(rules: Catalogue) -> None:
    for name in [*rules.rules, *rules.aliases]:
        area, _, statement = name.partition(".")
        assert area in rules.areas, name
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", statement), name
        assert len(statement.split("-")) <= 9, name


def test_rules_stand_in_the_order_of_their_areas(rules: Catalogue) -> None:
    order = [name.partition(".")[0] for name in raw_rules()]
    assert list(dict.fromkeys(order)) == list(rules.areas)
    assert order == sorted(order, key=list(rules.areas).index)


def test_sections_are_headings_without_numbers(rules: Catalogue) -> None:
    for rule in rules:
        assert rule.section, rule.id
        for heading in rule.section:
            assert not re.search(r"\d\.\d|^\d|rev|[()\[\]]", heading), f"{rule.id}: {heading}"


def test_an_alias_answers_as_its_rule(rules: Catalogue) -> None:
    assert rules.aliases
    for alias, target in rules.aliases.items():
        assert alias in rules
        assert rules[alias] is rules.rules[target]
        assert rules.resolve(alias) == target


def test_every_open_point_marks_the_rules_it_touches(rules: Catalogue) -> None:
    assert len(rules.open_points) == 24
    for name, point in rules.open_points.items():
        marked = {rule.origin for rule in rules if name in dict(rule.open_points)}
        number = int(point.origin.removeprefix("X2V-OPEN-"))
        assert marked == {f"X2V-{rule}" for rule in TOUCHED[number].split()}, name


def test_every_source_is_used(rules: Catalogue) -> None:
    assert {source for rule in rules for source in rule.evidence} == set(rules.sources)


def test_ids_in_texts_exist(rules: Catalogue) -> None:
    word = re.compile(rf"(?<![\w.-])(?:{'|'.join(rules.areas)})\.[a-z0-9]+(?:-[a-z0-9]+)*")
    mentioned = {
        found: rule.id
        for rule in rules
        for found in word.findall(f"{rule.says} {rule.observed} {rule.notes}")
    }
    assert len(mentioned) > 20
    assert {found: where for found, where in mentioned.items() if found not in rules} == {}
    assert "X2V-" not in re.sub(r"origin: X2V-\S+", "", TEXT)


def test_rules_named_in_code_and_pages_exist(rules: Catalogue) -> None:
    root = catalogue.SPECS.parent
    word = re.compile(rf"(?<![\w.-])(?:{'|'.join(rules.areas)})\.[a-z0-9]+(?:-[a-z0-9]+)+")
    files = [
        path
        for folder in ("runner", "backends", "reports", "specs")
        for path in (root / folder).rglob("*")
        if path.suffix in {".py", ".c", ".h", ".S", ".md", ".json"}
    ]
    named = {(path.name, found) for path in files for found in word.findall(path.read_text(encoding="utf-8"))}
    assert {(file, found) for file, found in named if found not in rules} == set()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rdmsr.register-virtualization", "8 bytes at offset X"),
        ("rdmsr.upper-half-from-page", "upper 4 bytes"),
        ("rdmsr.any-msr-of-the-range", "does not check that the MSR corresponds"),
        ("many.one-page-per-vcpu", "its own virtual-APIC page"),
        ("entry.x2apic-needs-tpr-shadow", "virtualize x2APIC mode =0"),
        ("eoi.exit-bitmap", "EOI-exit bitmap"),
        ("eoi.stores-eight-bytes", "0B0H-0B7H"),
        ("posted.processing", "posted-interrupt processing"),
        ("entry.may-clear-vtpr-upper-bytes", "81H-83H"),
    ],
)
def test_the_ids_that_the_language_page_uses(rules: Catalogue, name: str, says: str) -> None:
    assert says in rules[name].says


def test_what_a_rule_carries(rules: Catalogue) -> None:
    rule = rules["rdmsr.tpr-from-page"]
    assert rule.origin == "X2V-RD-002"
    assert rule.area == "rdmsr"
    assert rule.section == ("Virtualizing MSR-Based APIC Accesses",)
    assert SecondaryControls.VIRTUALIZE_X2APIC_MODE in rule.when_set
    assert PrimaryControls.USE_TPR_SHADOW in rule.when_set
    assert rule.when_clear == (SecondaryControls.APIC_REGISTER_VIRTUALIZATION,)
    assert TEXT.splitlines()[rule.line - 1] == "  rdmsr.tpr-from-page:"


def test_settled_needs_high_certainty_and_nothing_open(rules: Catalogue) -> None:
    rule = rules["rdmsr.upper-half-from-page"]
    assert rule.open_points == (("eight-byte-reads", Handling.ASSERT),)
    assert rule.settled
    assert rule.unsettled == ""
    assert not replace(rule, certainty=Certainty.MEDIUM).settled
    for handling in (Handling.REPORT, Handling.RECORD):
        assert not replace(rule, open_points=(("eight-byte-reads", handling),)).settled
    assert rules["cr8.write-keeps-084h"].unsettled == "open point cr8-and-084h: report only"
    assert rules["page.physical-addressing"].unsettled == "the rule's certainty is medium"


def test_an_unknown_id_names_the_nearest(rules: Catalogue) -> None:
    assert "rdmsr.upper-half" not in rules
    with pytest.raises(
        KeyError, match=r"rdmsr\.upperhalf-from-page.*did you mean 'rdmsr\.upper-half-from-page'"
    ):
        rules["rdmsr.upperhalf-from-page"]


def edited(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


BROKEN = {
    "alias of nothing": ("alias-of: bitmap.before-", "alias-of: bitmap.befor-", "did you mean 'bitmap."),
    "alias of an alias": (
        "alias-of: bitmap.before-apic-virt",
        "alias-of: eoi.exit-is-trap-like #",
        "one of the rules",
    ),
    "unknown area": ("  rdmsr.tpr-from-page:", "  rdmrs.tpr-from-page:", "did you mean 'rdmsr'"),
    "unknown source": ("evidence: [sdm-2016]", "evidence: [sdm-2015]", "did you mean 'sdm-2016'"),
    "unknown control": ("set: [use-tpr-shadow", "set: [use-tpr-shadows", "did you mean 'use-tpr-shadow'"),
    "unknown open point": ("{msr-831h: assert}", "{msr-831: assert}", "did you mean 'msr-831h'"),
    "unknown handling": ("{msr-831h: assert}", "{msr-831h: ignore}", "ignore"),
    "origin used twice": ("origin: X2V-RD-002", "origin: X2V-RD-001", "is the origin of"),
    "malformed origin": ("origin: X2V-RD-002", "origin: X2V-RD-2", "X2V-RD-2"),
    "id used twice": ("  rdmsr.tpr-from-page:", "  rdmsr.register-virtualization:", "a second time"),
    "malformed id": ("  rdmsr.tpr-from-page:", "  rdmsr.TPR_from_page:", "lower-case"),
    "heading with a number": ("section: TPR Virt", "section: 30.1.2 TPR Virt", "30.1.2"),
    "heading with an edition": (
        "section: TPR Virtualization",
        "section: TPR Virtualization (2016)",
        "(2016)",
    ),
    "missing statement": ("    says: A processor announces", "    notes: A processor announces", "`says`"),
    "unknown key": ("    certainty: high", "    certanty: high", "certainty"),
    "unknown certainty": ("    certainty: high", "    certainty: hihg", "high"),
}


@pytest.mark.parametrize(("old", "new", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_catalogue_is_refused_at_its_line(old: str, new: str, message: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(edited(old, new))
    lines = edited(old, new).splitlines()
    assert any(
        message in problem.message and new.strip()[:12] in "".join(lines[problem.line - 3 : problem.line + 2])
        for problem in caught.value.problems
    ), str(caught.value)


def test_a_file_that_is_no_catalogue_is_refused() -> None:
    for text in ("", "[]", "rules: {}", "a: &b 1"):
        with pytest.raises(MalformedError):
            parse(text)


def test_the_schema_is_sound_and_explains_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(yaml.safe_load(TEXT), SCHEMA)

    def properties(schema: object) -> Iterator[tuple[str, object]]:
        if isinstance(schema, dict):
            for table in ("properties", "patternProperties"):
                yield from schema.get(table, {}).items()
            for inner in schema.values():
                yield from properties(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from properties(inner)

    silent = [
        name
        for name, schema in properties(SCHEMA)
        if isinstance(schema, dict) and "description" not in schema
    ]
    assert silent == []


def test_citations_follow_aliases_and_keep_apart_what_is_asked(rules: Catalogue) -> None:
    def case(name: str, *cited: str) -> Case:
        return Case(id=name, says="", rules=cited, line=1, points=())

    cases = (case("a", "eoi.exit-is-trap-like", "eoi.exit-bitmap"), case("b", "eoi.exit-bitmap"))
    cited = citations(rules, [Scenario("specs/vmx/x.yaml", "x", Level.VMX, cases)])
    assert list(cited) == list(rules.rules)
    assert cited["exit.trap-like-and-fault-like"] == (Citation("specs/vmx/x.yaml::a", asks=True),)
    assert [citation.asks for citation in cited["eoi.exit-bitmap"]] == [False, True]
    assert cited["eoi.stores-eight-bytes"] == ()
    with pytest.raises(KeyError, match="unknown rule"):
        citations(rules, [Scenario("specs/vmx/x.yaml", "x", Level.VMX, (case("c", "eoi.no-such-rule"),))])
