"""The doctor and Debian's packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from machines import PACKAGES, Machine, users_machine

from runner.commands import debian, doctor


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return users_machine(tmp_path, monkeypatch)


def test_bindep_names_what_the_probe_and_the_subjects_need() -> None:
    assert set(PACKAGES) == {
        "binutils",
        "bochs",
        "bochs-term",
        "gcc",
        "grub-common",
        "grub-pc-bin",
        "libc6-dev",
        "lz4",
        "make",
        "mmdebstrap",
        "mtools",
        "qemu-system-x86",
        "xorriso",
        "zstd",
    }


def test_nothing_is_installed_where_nothing_lacks(machine: Machine) -> None:
    assert doctor.packages(*PACKAGES).startswith("present: bochs, ")
    assert not machine.called("apt-get")


@pytest.mark.usefixtures("machine")
def test_without_dpkg_it_names_the_packages(machine: Machine) -> None:
    (machine.home / "bin" / "dpkg-query").unlink()
    assert doctor.packages(*PACKAGES) == f"unknown: no dpkg to ask for {', '.join(PACKAGES)}"


def test_a_user_gets_the_line_to_type(machine: Machine) -> None:
    machine.has(*(name for name in PACKAGES if name not in {"gcc", "bochs-term"}))
    line = "sudo apt-get install -y --no-install-recommends bochs-term gcc"
    assert doctor.packages(*PACKAGES) == f"absent: it takes root; do: {line}"
    assert not machine.called("apt-get")


def test_root_installs_just_what_lacks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.has(*(name for name in PACKAGES if name not in {"gcc", "make"}))
    assert doctor.packages(*PACKAGES) == "installed: gcc, make"
    assert machine.called("apt-get") == ["apt-get install -y --no-install-recommends gcc make"]


def test_ci_installs_by_a_sudo_that_asks_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    machine.program("sudo", f"shift; PATH={machine.home}/bin; exec " + '"$@"')
    machine.has(*(name for name in PACKAGES if name != "gcc"))
    assert doctor.packages(*PACKAGES) == "installed: gcc"
    assert machine.called("sudo") == ["sudo -n apt-get install -y --no-install-recommends gcc"]


def test_ci_without_sudo_installs_nothing(machine: Machine) -> None:
    assert debian.unasked(1000, {"CI": "true"}) is None
    machine.program("sudo", "")
    assert debian.unasked(1000, {"CI": "true"}) == ("sudo", "-n")
    assert debian.unasked(1000, {}) is None
    assert debian.unasked(0, {}) == ()


def test_package_lists_are_fetched_once_where_they_lack(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.has()
    lists = machine.home / "lists"
    machine.program("apt-get", f"case $1 in update) touch {lists};; install) test -e {lists};; esac")
    assert doctor.packages(*PACKAGES) == f"installed: {', '.join(PACKAGES)}"
    assert [call.split()[1] for call in machine.called("apt-get")] == ["install", "update", "install"]


def test_what_fails_costs_one_line_and_the_rest_goes_on(machine: Machine) -> None:
    machine.has(*(name for name in PACKAGES if name != "bochs"))
    machine.program("sudo", f"shift; PATH={machine.home}/bin; exec " + '"$@"')
    machine.program("apt-get", "echo 'W: old' >&2; echo 'E: No network' >&2; exit 100")
    machine.program("mmdebstrap", "exit 25")
    process = machine.doctor(CI="true")
    lines = process.communicate(timeout=60)[0].splitlines()
    command = "sudo apt-get install -y --no-install-recommends bochs"
    assert process.returncode == 0
    assert lines[:2] == [
        f"packages    absent: No network; do: {command}",
        "unpacked    absent: no Bochs of Debian 13: mmdebstrap: exit status 25",
    ]
    assert lines[2] == "unpacked    not needed: the host's QEMU is 10.0.2"
    assert [line.split()[:2] for line in lines[3:]] == [
        ["bochs", "broken:"],
        ["bochs-3", "absent:"],
        ["kvm", "absent:"],
        ["kvm-on-bochs", "absent:"],
        ["kvm-on-bochs-3", "absent:"],
        ["model", "present:"],
        ["qemu-10-tcg", "absent:"],
        ["qemu-tcg", "broken:"],
    ]
