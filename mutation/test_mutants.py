"""What becomes a mutant, and what is left alone. Needs mutmut, so it is not part of the suite's own tests."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from backends.faulty.private import FOLDER
from mutation.__main__ import main
from mutation.mutants import model, mutants


def ids(text: str) -> list[str]:
    return [mutant.id for mutant in mutants({"m.py": dedent(text)})]


def test_a_mutant_says_what_was_and_what_is() -> None:
    assert ids("if a < b:\n    c()\n") == ["m.py: if a < b: -> if a <= b:"]


def test_a_mutant_is_the_whole_module_with_one_change() -> None:
    text = "def f():\n    if a < b:\n        c()\n\n\nd = 3 + e\n"
    changed = {mutant.id: mutant.text for mutant in mutants({"m.py": text})}
    assert changed["m.py: if a < b: -> if a <= b:"] == text.replace("<", "<=")
    assert changed["m.py: d = 3 + e -> d = 3 - e"] == text.replace("+", "-")
    assert changed["m.py: d = 3 + e -> d = 4 + e"] == text.replace("3", "4")


def test_a_change_within_many_lines() -> None:
    text = """\
        x = f(
            a,
            b + c,
        )
        """
    assert "m.py: b + c, -> b - c," in ids(text)


def test_mutants_with_the_same_lines_have_a_number() -> None:
    found = ids("if a < b:\n    c()\nif a < b:\n    d()\n")
    assert found == ["m.py: if a < b: -> if a <= b:", "m.py: if a < b: -> if a <= b: #2"]


def test_an_id_does_not_depend_on_the_place() -> None:
    assert ids("if a < b:\n    c()\n") == ids("import z\n\n\nif a < b:\n    c()\n")


def test_a_case_of_a_match_is_dropped() -> None:
    text = """\
        def f(x):
            match x:
                case A():
                    return g
                case _:
                    return h
        """
    assert "m.py: case A(): return g -> " in ids(text)


@pytest.mark.parametrize(
    "text",
    [
        "import a.b as c\nfrom d import e\n",
        "def f(x: int | None = 3) -> A | B: ...\n",
        "@lru_cache(maxsize=4)\ndef f(): ...\n",
        "x: Mapping[str, int]\n",
        "'a docstring'\n",
        "rule = 'a.b'\n",
        "cpu.trace.by('a.rule', 'a sentence of {}', a + 1)\n",
        "by('a.rule', 'a sentence')\n",
        "raise NotModelled(f'{a + 1}')\n",
        "if a < b:\n    raise NotModelled('this')\n",
        "def _rule(a: int) -> str:\n    return 'a' if a < 3 else 'b'\n",
        "def f(b):\n    rule = 'a' if b < 1 else 'c'\n    by(rule, 'a sentence')\n",
        "if a < b:\n    sentence = 'text'\n    cpu.trace.by('a.rule', sentence, a + 1)\n",
        "__slots__ = (1, 2)\n",
        "Result = Completed | Fault\n",
        "def _say(cpu):\n    if a < 3:\n        return\n    cpu.trace.by('a.rule', 'b')\n",
        "_NAMES = {1: 'a.rule'}\nby(_NAMES.get(a + 1), 'a sentence of {}', 1)\n",
        "def f(a):\n    low, high = a & 1, a >> 8\n    by('a.rule', '{} {}', low, high)\n",
        "_LEAST = 3\nif a < _LEAST:\n    raise NotModelled('so few')\n",
        "def _rule() -> str: ...\ndef f(a):\n    return 'a.rule' if a < 3 else _rule()\n",
    ],
)
def test_what_no_scenario_sees_is_left_alone(text: str) -> None:
    assert ids(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "if {}:\n    by('a.rule', 'text')\n    c()\n",
        "if {}:\n    by('a.rule', 'text')\nelse:\n    c()\n",
        "if {}:\n    return\n",
        "def f():\n    x = {}\n    by('a.rule', 'text {{}}', x)\n    return x\n",
        "def f():\n    x = {}\n    return x\n",
        "def f():\n    by('a.rule', 'text')\n    c({})\n",
        "x = {}\nby('a.rule', 'text', x)\n",
        "def f(): ...\ng.f({})\n",
    ],
)
def test_what_does_more_than_to_speak_is_not_left_alone(text: str) -> None:
    assert any("<=" in each for each in ids(text.format("a < b")))


def test_what_follows_a_refusal_is_not() -> None:
    assert ids("if a < b:\n    raise NotModelled('x')\nelif c < d:\n    e()\n") == [
        "m.py: elif c < d: -> elif c <= d:"
    ]


def test_a_text_or_a_word_of_the_trace_is_not_taken_away() -> None:
    assert ids("f('text', rule, a, cpu.trace)\n") == [
        "m.py: f('text', rule, a, cpu.trace) -> f('text', rule, None, cpu.trace)",
        "m.py: f('text', rule, a, cpu.trace) -> f('text', rule, cpu.trace)",
    ]


def test_false_does_not_become_none() -> None:
    assert ids("recognized = False\n") == ["m.py: recognized = False -> recognized = True"]


def test_a_strict_zip_stays_strict() -> None:
    found = ids("zip(a, b, strict=True)\n")
    assert found
    assert [each for each in found if not each.endswith("strict=True)")] == []


def test_an_unknown_module_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tpr"])
    assert "no module of the model: tpr; there are " in capsys.readouterr().err


def test_the_mutants_of_the_model() -> None:
    modules = model(FOLDER)
    found = [*mutants(modules)]
    assert modules.keys().isdisjoint({"trace.py", "explaining.py"})
    assert {mutant.module for mutant in found} == modules.keys()
    assert len({mutant.id for mutant in found}) == len(found) > 2000
    for mutant in found[::20]:
        ast.parse(mutant.text)
        assert mutant.text != modules[mutant.module]
