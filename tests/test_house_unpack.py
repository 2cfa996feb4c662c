"""The doctor and the Bochs that it unpacks."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machines import LAYS_OUT, STARTS, Machine, users_machine

from runner.commands import doctor, unpack


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return users_machine(tmp_path, monkeypatch)


def test_debian_13s_bochs_is_unpacked_once(machine: Machine) -> None:
    assert doctor.unpacked_bochs() == f"unpacked in 0 s: {machine.target}"
    assert doctor.unpacked_bochs() == f"present: {machine.target}"
    [call] = machine.called("mmdebstrap")
    assert "--variant=extract --include=bochs,bochs-term trixie" in call
    assert machine.leftovers == ["bochs-3"]


LOADER = 'case "$*" in *qemu*--version) echo QEMU emulator version 10.0.13;; *) exit 3;; esac'


def test_a_host_with_an_older_qemu_gets_debian_13s(machine: Machine) -> None:
    machine.program("qemu-system-x86_64", "echo QEMU emulator version 7.2.22")
    machine.program("mmdebstrap", LAYS_OUT.format(loader=LOADER))
    target = machine.target.with_name("qemu-10")
    assert doctor.unpacked_qemu() == f"unpacked in 0 s: {target}"
    assert doctor.unpacked_qemu() == f"present: {target}"
    [call] = machine.called("mmdebstrap")
    assert "--include=qemu-system-x86 trixie" in call
    assert unpack.qemu_version(str(target / "qemu-system-x86_64")) == "10.0.13"


def test_a_host_with_x2apic_in_its_qemu_needs_no_other(machine: Machine) -> None:
    assert doctor.unpacked_qemu() == "not needed: the host's QEMU is 10.0.2"
    assert not machine.called("mmdebstrap")


def test_a_qemu_that_does_not_start_is_not_kept(machine: Machine) -> None:
    (machine.home / "bin" / "qemu-system-x86_64").unlink()
    assert doctor.unpacked_qemu() == "absent: no QEMU of Debian 13: unpacked, but it does not start"
    assert machine.leftovers == []


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
    assert doctor.unpacked_bochs() == "absent: no Bochs of Debian 13: no mmdebstrap in the PATH"


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


def test_two_doctors_at_once_unpack_once(machine: Machine) -> None:
    machine.program("mmdebstrap", f"sleep 0.5\n{STARTS}")
    both = [machine.doctor(), machine.doctor()]
    words = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    # The second waits for the first, or comes when it has ended.
    assert all("unpacked    unpacked in " in text or "unpacked    present: " in text for text in words)
    assert len(machine.called("mmdebstrap")) == 1


def test_what_a_killed_doctor_left_is_not_used(machine: Machine) -> None:
    # The fetch outlives its doctor and would write into the next one's files.
    machine.program(
        "mmdebstrap", f"for last; do :; done\nmkdir -p $last/stale\nsleep 1\ntouch {machine.home}/over"
    )
    killed = machine.doctor()
    assert _in_time(machine.target.with_name("bochs-3.part").is_dir)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not machine.target.exists()
    machine.program("mmdebstrap", f"test -e {machine.home}/over || exit 7\n{STARTS}")
    assert doctor.unpacked_bochs().startswith("unpacked in ")
    assert not (machine.target / "stale").exists()
    assert machine.leftovers == ["bochs-3"]
