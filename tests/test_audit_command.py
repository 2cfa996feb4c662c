"""``python -m runner audit``: its report, its options, its exit status."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from audits import DUMPS, sound

from runner.__main__ import main

ROOT = Path(__file__).parents[1]
Audit = Callable[..., tuple[int, str]]
"""Gives the exit status and what is printed."""


@pytest.fixture
def audit(capsys: pytest.CaptureFixture[str]) -> Audit:
    def run(*arguments: object) -> tuple[int, str]:
        status = main(["audit", *map(str, arguments)])
        return status, capsys.readouterr().out

    return run


def test_the_command_line() -> None:
    command = (sys.executable, "-m", "runner", "audit", "tests/dumps/both-read-2621447225.yaml")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    title, _, heading, first, *_ = done.stdout.splitlines()
    assert title == "tests/dumps/both-read-2621447225.yaml: YAML, 2 virtual processors, 6 findings"
    assert heading == "Where the value in hand comes from"
    assert first.startswith("  1. Virtual processors 0 and 1: Nobody has told the processor where")


def test_its_page_quotes_the_first_finding(audit: Audit) -> None:
    _, text = audit(DUMPS / "both-read-2621447225.yaml")
    page = (ROOT / "runner" / "auditing" / "README.md").read_text("utf-8")
    first = text[text.index("  1. ") : text.index("     Rule")]
    assert " ".join(first.split()) in " ".join(page.split())


def test_nothing_found_is_0(audit: Audit) -> None:
    status, text = audit(DUMPS / "sound.yaml")
    assert status == 0
    assert text.startswith(f"{DUMPS / 'sound.yaml'}: YAML, 2 virtual processors, no findings\n")


def test_questions_alone_are_0(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "no-bitmap.yaml"
    path.write_text(sound("all.msr-bitmap="), "utf-8")
    status, text = audit(path)
    assert status == 0
    assert "What to look at, since the dump does not tell" in text
    assert "the MSR bitmap: the table is that of accesses whose bit is 0" in text


def said(path: Path, audit: Audit, *changes: str) -> list[str]:
    """Return what a dump is said not to say."""
    path.write_text(sound(*changes), "utf-8")
    text = audit(path)[1].partition("What the dump does not say\n")[2].partition("\n\n")[0]
    return " ".join(text.split()).removeprefix("- ").split(" - ")


def test_what_a_dump_does_not_say(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "dump.yaml"
    words = "the pin-based controls, the primary controls, the secondary controls, the VM-exit controls"
    assert said(path, audit) == [f"what the processor allows: reserved bits are not checked of {words}"]
    allowed = "capabilities={pin-based: 0xff00000016, secondary: 0x7fffffff00000000}"
    [line] = said(path, audit, allowed, "all.controls.pin-based=0x97")
    assert line.endswith("not checked of the primary controls, the VM-exit controls")
    [line] = said(path, audit, allowed)  # a list of controls says nothing of the other bits
    assert line.endswith("not checked of the pin-based controls, the primary controls, the VM-exit controls")
    lines = said(
        path,
        audit,
        *("all.msr-bitmap=", "all.apic-mode=", "all.virtual-apic-page=", "all.controls.pin-based="),
        "vcpus.0.fields.virtual-apic-address=",
    )
    for start in (
        "the pin-based controls (VMCS field 4000H)",
        "the MSR bitmap:",
        "the virtual-APIC address (VMCS field 2012H):",
        "what the virtual-APIC page holds",
        "the mode of the physical APIC:",
        "whether these entry checks pass: entry.delivery-needs-external-interrupt-exiting",
    ):
        assert [line for line in lines if line.startswith(start)], start


def test_the_table(audit: Audit) -> None:
    _, text = audit(DUMPS / "sound.yaml")
    rows = [line.split() for line in text.partition("What an access of the guest does")[2].splitlines()]
    for row in (
        "800H-801H VM exit VM exit",
        "802H APICID page: 0H VM exit",
        "802H APICID page: 1H VM exit",
        "808H TPR page: 0H page",
        "80BH EOI VM exit page",
        "810H-817H ISR page: 0H VM exit",
    ):
        assert row.split() in rows


def test_the_table_of_a_kernel_s_dump(audit: Audit) -> None:
    status, text = audit(DUMPS / "linux-6.dmesg")
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert status == 1
    assert {"80FH SVR page physical APIC", "840H-8FFH page #GP(0)"} <= set(rows)
    assert "the guest is blocked by STI and RFLAGS.IF is 0" in text
    assert "The virtual-APIC page at 360524000H serves all of these" in " ".join(text.split())


def test_where_vm_entry_fails_there_is_no_table(audit: Audit) -> None:
    status, text = audit(DUMPS / "linux-5.journal")
    assert status == 1
    assert "virtualize x2APIC mode is 1 and use TPR shadow 0" in text
    assert text.endswith("    nothing: VM entry fails, so the guest does not run\n")


def test_virtual_processors_that_are_set_differently(audit: Audit) -> None:
    status, text = audit(DUMPS / "xen-4.17.log")
    assert status == 1
    assert (
        "1. Virtual processor 0: VM entry fails: virtualize x2APIC mode and virtualize APIC accesses" in text
    )
    _, first, second = text.partition("What an access of the guest does")[2].split("  Virtual processor ")
    assert first.startswith("0\n    nothing: VM entry fails")
    assert second.startswith("1\n    MSR")


def test_a_read_from_the_line(audit: Audit) -> None:
    status, text = audit(DUMPS / "linux-6.dmesg", "--read", "0x802=2621447225")
    assert status == 1
    first = " ".join(text.partition("Where the value in hand comes from")[2].split())
    assert first.startswith("1. Virtual processors 0 and 1: RDMSR APICID (802H) gives bytes 020H-027H")
    assert "more than one virtual processor has the same page, at 360524000H" in first


def test_a_read_of_one_virtual_processor(audit: Audit) -> None:
    status, text = audit(DUMPS / "sound.yaml", "--read", "1:APICID=9")
    assert status == 1
    assert "1. Virtual processor 1: RDMSR APICID (802H)" in text
    status, _ = audit(DUMPS / "sound.yaml", "--read", "1:APICID=1")
    assert status == 0


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ("APICID", "write REGISTER=VALUE"),
        ("APCID=1", "did you mean 'APICID'?"),
        ("0x900=1", "write REGISTER=VALUE"),
        ("APICID=x", "`x` is no number of 64 bits"),
        ("APICID=-1", "`-1` is no number of 64 bits"),
        ("APICID=0x10000000000000000", "is no number of 64 bits"),
        ("7:APICID=1", "the dump has no virtual processor 7, but 0, 1"),
    ],
)
def test_a_read_that_says_nothing_is_refused(audit: Audit, read: str, said: str) -> None:
    status, text = audit(DUMPS / "sound.yaml", "--read", read)
    assert (status, said in text) == (2, True), text
    assert len(text.splitlines()) == 1


def test_a_wrong_dump_is_2(audit: Audit, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("vcpus: {0: {control: {}}}", "utf-8")
    status, text = audit(path)
    assert status == 2
    assert text.startswith(f"{path}:1:13: unknown key `control`")
