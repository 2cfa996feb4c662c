"""Rules of the house that no linter knows: sizes, places, pins, and a reason for every exception."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("runner", "backends", "reports")
CODE_SUFFIXES = {".py", ".c", ".h", ".S"}
LONGEST, LONGEST_TESTS = 250, 450  # lines; tests are read one at a time
TABLES = {
    "runner/vmx.py": "the names and numbers of VMX, one table a fact",
    "runner/program.py": "all that a program can say",
    "backends/probe/wire.h": "the records that cross to the probe and back",
    "backends/adapters/c/x2apic_adapter.h": "one file for the author of a VMM to take along",
}
KNOW_SPECS = {
    "runner/language/loading.py": "reads the scenarios",
    "runner/rulebook/catalogue.py": "reads the rules",
    "runner/language/compiled.py": "a scenario's cache key covers what it was read with",
    "reports/allure.py": "links to the rules",
}
MADE = (
    "reports/nightly",
    "reports/results",
    "reports/html",
    "reports/summary.json",
    "backends/probe/build",
    "backends/kvm/build",
    "backends/adapters/c/build",
)


def _files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        place = path.relative_to(ROOT)
        folders = set(place.parts[:-1]) - {".ci"}
        made = place.as_posix().startswith(MADE) or "__pycache__" in folders or place == Path(".git")
        if path.is_file() and not made and not any(folder.startswith(".") for folder in folders):
            yield place


FILES = tuple(_files())
CODE = tuple(path for path in FILES if path.suffix in CODE_SUFFIXES)
MODULES = tuple(path for path in FILES if path.suffix == ".py" and path.parts[0] in PACKAGES)


def _text(path: Path) -> str:
    return (ROOT / path).read_text("utf-8", errors="replace")  # tests/malformed is wrong on purpose


def test_files_are_found() -> None:
    assert {Path("tox.ini"), Path("runner/vmx.py"), Path(".ci/run")} <= set(FILES)


def test_a_module_reads_in_one_sitting() -> None:
    lengths = {path.as_posix(): len(_text(path).splitlines()) for path in CODE}
    limits = {name: LONGEST_TESTS if name.startswith("tests/") else LONGEST for name in lengths}
    long = {name: length for name, length in lengths.items() if length > limits[name]}
    assert {name: length for name, length in long.items() if name not in TABLES} == {}
    assert set(TABLES) <= set(long), "no longer long: take it off the list"


def test_nothing_names_a_place_of_one_machine() -> None:
    place = re.compile(r"(?<![\w.$}/])/(?:work|root|home|farm|tmp|opt)/\w")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(_text(path).splitlines(), 1)
        if place.search(line)
    ]
    assert found == []


def test_an_exception_gives_its_reason() -> None:
    exception = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b")  # mypy does not look at tests
    reasoned = re.compile(r"#\s*(?:noqa:|type:\s*ignore\[)[\w\], -]+[^\w\s]\s+\w")
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        if path.suffix == ".py" and path.parts[0] != "tests"
        for number, line in enumerate(_text(path).splitlines(), 1)
        if exception.search(line) and not reasoned.search(line)
    ]
    assert found == []


def test_a_rule_that_ruff_ignores_gives_its_reason() -> None:
    config = _text(Path("pyproject.toml"))
    ignored = tomllib.loads(config)["tool"]["ruff"]["lint"]["ignore"]
    lines = re.search(r"^ignore = \[\n(.*?)^\]", config, re.DOTALL | re.MULTILINE)
    assert ignored
    assert lines
    assert [line for line in lines[1].splitlines() if "#" not in line] == []


def _plain_texts(tree: ast.AST) -> Iterator[str]:
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_only_these_know_where_the_specs_are() -> None:
    modules = {path.as_posix(): ast.parse(_text(path)) for path in MODULES}
    know = {
        name
        for name, tree in modules.items()
        if any(text == "specs" or text.startswith("specs/") for text in _plain_texts(tree))
    }
    assert know == set(KNOW_SPECS)


def _wanted(lines: str) -> list[Requirement]:
    return [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]


def _pins() -> dict[str, Requirement]:
    lines = re.findall(r"^(\S+==[^\\\n]+?)\s*\\?$", _text(Path("requirements.txt")), re.MULTILINE)
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def _closure(wanted: list[Requirement]) -> dict[str, str]:
    """Return the version here of each requirement, and of what those require in turn."""
    found: dict[str, str] = {}
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.version(name)
        wanted += [Requirement(text) for text in metadata.requires(name) or ()]
    return found


def test_the_lock_pins_all_that_is_required_and_nothing_else() -> None:
    pins = _pins()
    here = {name: pin for name, pin in pins.items() if not pin.marker or pin.marker.evaluate()}
    assert {
        name: f"=={version}" for name, version in _closure(_wanted(_text(Path("requirements.in")))).items()
    } == {name: str(pin.specifier) for name, pin in here.items()}


def test_every_pin_has_hashes() -> None:
    blocks = re.split(r"^(?=\S+==)", _text(Path("requirements.txt")), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(_pins())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_git_keeps_every_file_that_the_packages_read() -> None:
    kinds = (".schema.json", ".yaml", ".py", ".c", ".h", ".S", ".fmf")
    read = [path.as_posix() for path in FILES if path.name.endswith(kinds)]
    ignored = ("git", "check-ignore", "--no-index", *read)
    done = subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == []
