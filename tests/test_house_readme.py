"""What README.md tells a reader to type exists, and what it shows is so."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from backends.model import Model
from runner.__main__ import COMMANDS
from runner.judging.batch import Bench
from runner.judging.verdict import Verdict
from runner.language import loading
from runner.rulebook import catalogue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_its_commands_are_there() -> None:
    assert set(re.findall(r"python -m runner ([\w-]+)", README)) == set(COMMANDS)


def test_its_tox_environments_are_there() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    named = set(re.findall(r"tox -e ([\w-]+)", README)) | set(re.findall(r"\.tox/([\w-]+)/", README))
    assert named
    assert {f"testenv:{name}" for name in named} <= set(tox.sections())


def test_ci_runs_the_two_commands() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert lines[-3:] == ["pip install --quiet tox", "tox", "tox -e certify"]
    assert "pip install tox && tox\n" in README
    assert "pip install tox && tox -e certify\n" in README


def test_its_cases_are_there() -> None:
    named = set(re.findall(r"(specs/\S+\.yaml)::([a-z0-9-]+)", README))
    assert named
    for path, case in named:
        assert case in {each.id for each in loading.load(ROOT / path).cases}


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_its_folders_are_there() -> None:
    folders = re.findall(r"^\| `([a-z/]+/)` \|", README, re.MULTILINE)
    assert folders
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_its_scenario_conforms(tmp_path: Path) -> None:
    path = tmp_path / "readme.yaml"
    [text] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path.write_text(text, "utf-8")
    scenario = loading.load(path)
    bench = Bench(Model().run, None, catalogue.load(), (), {})
    assert [result.verdict for result in bench.results(scenario.cases)] == [Verdict.CONFORMS]


def test_its_verdicts_are_those_of_the_judge() -> None:
    table = README.partition("## Read a verdict")[2].partition("## ")[0]
    rows = re.findall(r"^\| ([a-z ]+) \|", table, re.MULTILINE)
    assert set(rows) - {"verdict"} == {verdict.value for verdict in Verdict}
