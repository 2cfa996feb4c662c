"""A fleet of two hosts, each in a network namespace of its own: tmt, ssh and the suite are the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nightly.lab import Lab, lab, lacks
from runner import host

ROOT = Path(__file__).parents[1]
FILE = "specs/vmx/rdmsr/own-page.yaml"
OWN = "says: A Bochs of mine\nkind: bochs\n"
LESSER = f"{OWN}start: {{model: core2_penryn_t9600}}\n"  # its processor virtualizes no x2APIC mode
FAULTY = "faulty:rdmsr.id-as-stored"


@dataclass(frozen=True)
class Night:
    status: int
    text: str
    report: Path

    @property
    def summary(self) -> Any:
        return json.loads((self.report / "summary.json").read_text("utf-8"))

    @property
    def allure(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in (self.report / "results").glob("*-result.json")]


class Fleet:
    def __init__(self, home: Path, made: Lab) -> None:
        self.home, self.lab = home, made
        self.hosts: dict[str, str] = {}

    def host(self, name: str, address: str, own: str = OWN, *, more: str = "", program: str = "") -> None:
        subject = self.home / name / "own.yaml"
        subject.parent.mkdir(exist_ok=True)
        subject.write_text(own, "utf-8")
        program = program or f"{sys.executable} -m runner nightly {FILE} --subject {subject} {more}"
        self.hosts[name] = (
            f"/{name}:\n"
            f"    provision: {{how: connect, guest: {address}, user: root, key: {self.lab.key}}}\n"
            f"    environment: {{X2APIC_NIGHTLY: '{program}'}}\n"
        )

    def night(self) -> Night:
        hosts, report = self.home / "hosts.fmf", self.home / "report"
        hosts.write_text("".join(self.hosts.values()), "utf-8")
        command = (sys.executable, "-m", "runner", "fleet", "--hosts", str(hosts), "--report", str(report))
        environ = {**os.environ, "TMT_CONNECT_TIMEOUT": "10", "TMT_WORKDIR_ROOT": str(self.home / "tmt")}
        done = subprocess.run(
            (*self.lab.inside, *command), cwd=ROOT, env=environ, capture_output=True, text=True, check=False
        )
        return Night(done.returncode, done.stdout + done.stderr, report)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if why := lacks():
        pytest.fail(f"no lab here: {why}")
    home = tmp_path_factory.mktemp("fleet")
    (home / "tmt").mkdir()
    with lab(home, ("vtx1", "vtx2")) as made:
        yield Fleet(home, made)


@pytest.fixture(scope="module")
def first(fleet: Fleet) -> Night:
    for name in ("vtx1", "vtx2"):
        fleet.host(name, fleet.lab.addresses[name])
    return fleet.night()


def test_two_hosts_make_one_report(first: Night) -> None:
    assert first.status == 0, first.text
    found = first.summary
    assert found["hosts"].keys() == {"vtx1", "vtx2"}
    assert found["missing"] == {}
    for name, each in found["hosts"].items():
        assert each["host"] == {"name": name, **host.here().facts()}
        assert {"model", "own"} <= each["subjects"].keys()
        assert each["subjects"]["own"]["verdicts"]["conforms"] > 0
    assert first.text.rstrip().endswith("news: this is the first night of the history")


def test_every_result_comes_back_and_says_whose_it_is(first: Night) -> None:
    asked = {
        name: sum(sum(subject["verdicts"].values()) for subject in each["subjects"].values())
        for name, each in first.summary["hosts"].items()
    }
    shown = Counter(
        parameter["value"].strip("'")
        for result in first.allure
        for parameter in result["parameters"]
        if parameter["name"] == "host"
    )
    assert dict(shown) == asked
    assert len({result["historyId"] for result in first.allure}) == len(first.allure)
    for result in first.allure:
        assert {"processor", "microcode", "kernel", "vmx"} <= {label["name"] for label in result["labels"]}


def test_the_hosts_are_two(first: Night) -> None:
    names = {
        label["value"] for result in first.allure for label in result["labels"] if label["name"] == "host"
    }
    assert names == {"vtx1", "vtx2"}, "what the hosts call themselves, not what the fleet calls them"


def test_nothing_is_left_of_a_night_that_went_well(fleet: Fleet, first: Night) -> None:
    assert first.status == 0
    assert list((fleet.home / "tmt").iterdir()) == []


def test_a_night_that_went_badly(fleet: Fleet, first: Night) -> None:
    assert first.status == 0
    address = fleet.lab.addresses
    fleet.host("vtx2", address["vtx2"], LESSER, more=f"--subject {FAULTY}")
    fleet.host("vtx3", "198.51.100.1")  # the fleet's own side, where nobody listens
    fleet.host("vtx4", address["vtx1"], program="false")
    night = fleet.night()
    assert night.status == 1, night.text
    lines = night.text.splitlines()
    assert night.summary["hosts"].keys() == {"vtx1", "vtx2"}
    assert night.summary["missing"].keys() == {"vtx3", "vtx4"}
    failing = [line for line in lines if line.startswith("fails: ")]
    assert [line.split(": ")[1] for line in failing] == ["vtx3", "vtx4", "vtx2"]
    assert "tmt: exit status" in failing[0]
    news = lines[next(number for number, line in enumerate(lines) if line.startswith("news since ")) :]
    assert [line for line in news if line.startswith("vtx2 own: conforms → unsupported (")]
    assert f"vtx2 {FAULTY}: first results" in news
    assert not [line for line in news if line.startswith("vtx1")]
