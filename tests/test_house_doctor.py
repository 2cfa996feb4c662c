"""The doctor, beside stand-ins for dpkg-query, apt-get, mmdebstrap and Bochs that log their calls."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends import bochs_unpacked
from runner.commands import debian, doctor, unpack

ROOT = Path(__file__).parents[1]
PACKAGES = debian.named(ROOT / "bindep.txt")

# The loader of the unpacked Bochs is a script here: it is what the doctor starts.
LAYS_OUT = """
for last; do :; done
mkdir -p "$last/lib64"
printf '#!/bin/sh\\n%s\\n' '{loader}' > "$last/lib64/ld-linux-x86-64.so.2"
chmod +x "$last/lib64/ld-linux-x86-64.so.2"
"""
STARTS = LAYS_OUT.format(loader="echo Bochs x86 Emulator 3.0")


@dataclass(frozen=True)
class Machine:
    """A PATH with nothing but stand-ins, and a cache of its own."""

    home: Path

    def program(self, name: str, body: str) -> None:
        path = self.home / "bin" / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {self.home}/calls\nPATH=/usr/bin:/bin\n{body}\n', "utf-8"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def has(self, *packages: str) -> None:
        state = {name: "installed" if name in packages else "config-files" for name in PACKAGES}
        self.program("dpkg-query", "\n".join(f"echo {name} {state[name]}" for name in PACKAGES))

    @property
    def calls(self) -> list[str]:
        log = self.home / "calls"
        return log.read_text("utf-8").splitlines() if log.exists() else []

    def called(self, program: str) -> list[str]:
        return [call for call in self.calls if call.startswith(program)]

    @property
    def target(self) -> Path:
        return bochs_unpacked.directory({"XDG_CACHE_HOME": str(self.home / "cache")})

    @property
    def leftovers(self) -> list[str]:
        return sorted(path.name for path in self.target.parent.iterdir() if not path.name.endswith(".lock"))

    def environ(self) -> dict[str, str]:
        return {"PATH": str(self.home / "bin"), "XDG_CACHE_HOME": str(self.home / "cache")}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Provide a user's machine with all packages, Bochs 2.7, and nothing unpacked."""
    (tmp_path / "bin").mkdir()
    result = Machine(tmp_path)
    result.has(*PACKAGES)
    result.program("bochs-bin", "echo '   Bochs x86 Emulator 2.7'")
    result.program("mmdebstrap", STARTS)
    result.program("apt-get", "")
    for name, value in result.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return result


def test_bindep_names_what_the_probe_and_the_subjects_need() -> None:
    assert set(PACKAGES) == {"binutils", "bochs", "bochs-term", "gcc", "make", "mmdebstrap"}


def test_nothing_is_installed_where_nothing_lacks(machine: Machine) -> None:
    assert doctor.packages().startswith("present: bochs, ")
    assert not machine.called("apt-get")


@pytest.mark.usefixtures("machine")
def test_without_dpkg_it_names_the_packages(machine: Machine) -> None:
    (machine.home / "bin" / "dpkg-query").unlink()
    assert doctor.packages() == f"unknown: no dpkg to ask for {', '.join(PACKAGES)}"


def test_a_user_gets_the_line_to_type(machine: Machine) -> None:
    machine.has(*(name for name in PACKAGES if name not in {"gcc", "bochs-term"}))
    line = "sudo apt-get install -y --no-install-recommends bochs-term gcc"
    assert doctor.packages() == f"absent: it takes root; do: {line}"
    assert not machine.called("apt-get")


def test_root_installs_just_what_lacks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.has(*(name for name in PACKAGES if name not in {"gcc", "make"}))
    assert doctor.packages() == "installed: gcc, make"
    assert machine.called("apt-get") == ["apt-get install -y --no-install-recommends gcc make"]


def test_ci_installs_by_a_sudo_that_asks_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    machine.program("sudo", f"shift; PATH={machine.home}/bin; exec " + '"$@"')
    machine.has(*(name for name in PACKAGES if name != "gcc"))
    assert doctor.packages() == "installed: gcc"
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
    assert doctor.packages() == f"installed: {', '.join(PACKAGES)}"
    assert [call.split()[1] for call in machine.called("apt-get")] == ["install", "update", "install"]


def test_a_failing_apt_costs_one_line_and_the_rest_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    machine.has(*(name for name in PACKAGES if name != "bochs"))
    machine.program("apt-get", "echo 'W: old' >&2; echo 'E: No network' >&2; exit 100")
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    command = "sudo apt-get install -y --no-install-recommends bochs"
    assert lines[0] == f"packages  absent: No network; do: {command}"
    assert lines[1].startswith("unpacked  unpacked in ")


def test_debian_13s_bochs_is_unpacked_once(machine: Machine) -> None:
    assert doctor.unpacked_bochs() == f"unpacked in 0 s: {machine.target}"
    assert doctor.unpacked_bochs() == f"present: {machine.target}"
    [call] = machine.called("mmdebstrap")
    assert "--variant=extract --include=bochs,bochs-term trixie" in call
    assert machine.leftovers == ["bochs-3"]


def test_a_host_with_posted_interrupts_needs_no_other_bochs(machine: Machine) -> None:
    machine.program("bochs-bin", "echo 'Bochs x86 Emulator 2.8'")
    assert doctor.unpacked_bochs() == "not needed: the host's Bochs is 2.8"
    assert not machine.called("mmdebstrap")


def test_a_host_without_bochs_gets_debian_13s(machine: Machine) -> None:
    (machine.home / "bin" / "bochs-bin").unlink()
    assert doctor.unpacked_bochs() == f"unpacked in 0 s: {machine.target}"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "echo 'I: wait'; echo 'E: Failed to fetch' >&2; echo 'E: mmdebstrap failed' >&2; exit 25",
            "Failed to fetch",
        ),
        ("exit 25", "mmdebstrap: exit status 25"),
        (f"{STARTS}\nexit 1", "mmdebstrap: exit status 1"),
        (LAYS_OUT.format(loader="exit 127"), "unpacked, but it does not start"),
        (LAYS_OUT.format(loader="echo Bochs x86 Emulator 3.0; exit 1"), "unpacked, but it does not start"),
        ("", "unpacked, but it does not start"),
    ],
)
def test_what_is_not_whole_is_not_kept(machine: Machine, body: str, reason: str) -> None:
    machine.program("mmdebstrap", body)
    assert doctor.unpacked_bochs() == f"absent: no Bochs of Debian 13: {reason}"
    assert machine.leftovers == []
    machine.program("mmdebstrap", STARTS)
    assert doctor.unpacked_bochs() == f"unpacked in 0 s: {machine.target}"


def test_no_mmdebstrap_is_one_line(machine: Machine) -> None:
    (machine.home / "bin" / "mmdebstrap").unlink()
    assert doctor.unpacked_bochs().startswith("absent: no Bochs of Debian 13: ")
    assert "mmdebstrap" in doctor.unpacked_bochs()


def test_no_place_for_a_cache_is_one_line(machine: Machine) -> None:
    (machine.home / "cache").write_text("a file, no directory", "utf-8")
    assert doctor.unpacked_bochs().startswith("absent: no Bochs of Debian 13: ")
    assert not machine.called("mmdebstrap")


def test_a_fetch_that_hangs_is_ended_with_its_children(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "FETCH_SECONDS", 0.3)
    machine.program("mmdebstrap", f"sleep 60 & echo $! > {machine.home}/child; wait")
    start = time.monotonic()
    assert doctor.unpacked_bochs() == "absent: no Bochs of Debian 13: mmdebstrap did not end within 0 s"
    assert time.monotonic() - start < 10
    child = int((machine.home / "child").read_text("utf-8"))
    assert _in_time(lambda: not _runs(child))
    assert machine.leftovers == []


def _in_time(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def _runs(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8")
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _doctor(machine: Machine) -> subprocess.Popen[str]:
    command = (sys.executable, "-m", "runner", "doctor")
    return subprocess.Popen(command, cwd=ROOT, env=machine.environ(), stdout=subprocess.PIPE, text=True)


def test_two_doctors_at_once_unpack_once(machine: Machine) -> None:
    machine.program("mmdebstrap", f"sleep 0.5\n{STARTS}")
    both = [_doctor(machine), _doctor(machine)]
    words = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("unpacked  unpacked in " in text for text in words)
    assert len(machine.called("mmdebstrap")) == 1


def test_what_a_killed_doctor_left_is_not_used(machine: Machine) -> None:
    # The fetch outlives its doctor and would write into the next one's files.
    machine.program(
        "mmdebstrap", f"for last; do :; done\nmkdir -p $last/stale\nsleep 1\ntouch {machine.home}/over"
    )
    killed = _doctor(machine)
    assert _in_time(machine.target.with_name("bochs-3.part").is_dir)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not machine.target.exists()
    machine.program("mmdebstrap", f"test -e {machine.home}/over || exit 7\n{STARTS}")
    assert doctor.unpacked_bochs().startswith("unpacked in ")
    assert not (machine.target / "stale").exists()
    assert machine.leftovers == ["bochs-3"]
