"""``python -m runner explain``: the project's first question, cases by id, and lines that name nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.__main__ import main

ROOT = Path(__file__).parents[1]
FIRST_QUESTION = ("--base", "delivery", "--no-page-address", "--vcpus", "2", "--rdmsr", "0x802")
BITS_4_8_9 = ("virtualize-x2apic-mode", "apic-register-virtualization", "virtual-interrupt-delivery")
PREREQUISITES = (
    "use-tpr-shadow",
    "use-msr-bitmaps",
    "activate-secondary-controls",
    "external-interrupt-exiting",
)


Explain = Callable[..., tuple[int, str]]
"""Gives the exit status and what is printed, on one line."""


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Explain:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(ROOT)
        status = main(["explain", *arguments])
        return status, " ".join(capsys.readouterr().out.split())

    return run


def test_the_command_line() -> None:
    command = (sys.executable, "-m", "runner", "explain", *FIRST_QUESTION)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "offset 020H of the page whose physical address is in VMCS field 2012H" in " ".join(
        done.stdout.split()
    )
    wrong = subprocess.run((*command, "--rdmsr"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "expected one argument" in wrong.stderr


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    command = (sys.executable, "-m", "runner", "explain", *FIRST_QUESTION)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""


@pytest.mark.parametrize(
    "line",
    [
        FIRST_QUESTION,
        ("--set", *PREREQUISITES, *BITS_4_8_9, "--no-page-address", "--vcpus", "2", "--rdmsr", "APICID"),
        ("--set", *BITS_4_8_9, "--set", *PREREQUISITES, "--no-page-address", "--vcpus=2", "--rdmsr=0x802"),
    ],
)
def test_the_first_question(explain: Explain, line: tuple[str, ...]) -> None:
    status, text = explain(*line)
    assert status == 0
    for said in (
        "RDMSR 802H gives the 8 bytes at offset 020H of the page whose",
        "physical address is in VMCS field 2012H",
        "the processor never initializes it",
        "field 2012H must be set in each virtual processor's VMCS",
        "each virtual processor needs a page of its own",
        "2621447225",
        "rdmsr.register-virtualization (SDM: Virtualizing MSR-Based APIC Accesses)",
        "page.never-initialized (SDM: Virtual APIC State",
        "Virtual processor 0, step 1: RDMSR APICID (802H)",
        "Virtual processor 1, step 2: RDMSR APICID (802H)",
        "virtual processor 1, step 2, RDMSR APICID (802H): value 9C401C39_9C401C39H",
    ):
        assert said in text, said


def test_what_happens_comes_before_why(explain: Explain) -> None:
    _, text = explain(*FIRST_QUESTION)
    places = [
        text.index(said)
        for said in ("What happens", "(EAX 2621447225 in decimal)", "Why", "The rules in full")
    ]
    assert places == sorted(places)
    assert "the guest reads whatever lies there. Each virtual processor needs a page of its own." in text


def test_virtual_processors_that_fare_alike_are_told_of_once(explain: Explain) -> None:
    _, text = explain(*FIRST_QUESTION)
    alike = (
        "Virtual processor 0, step 1: RDMSR APICID (802H) Virtual processor 1, step 2: RDMSR APICID (802H)"
    )
    assert alike in text
    assert text.count("RDMSR 802H gives the 8 bytes") == 1
    _, text = explain("specs/vmx/many-processors/own-pages.yaml::own-pages-own-ids")
    assert text.count("RDMSR 802H gives the 8 bytes") == 2


def test_a_page_that_was_set_is_not_called_unprepared(explain: Explain) -> None:
    status, text = explain("--base", "registers", "--page", "0x20=0x9c401c39", "--rdmsr", "0x802")
    assert status == 0
    assert "EAX 9C401C39H (2621447225), EDX 0H" in text
    assert "page.never-initialized" not in text


def test_steps_come_in_the_order_of_the_line(explain: Explain) -> None:
    line = (
        "--base",
        "delivery",
        "--wrmsr",
        "SELF_IPI=0x51",
        "--sti",
        "--nop",
        "--wrmsr",
        "EOI",
        "--read-cr8",
    )
    status, text = explain(*line)
    assert status == 0
    places = [
        text.index(said)
        for said in ("Step 1: WRMSR SELF_IPI", "Step 2: STI", "Step 3: NOP", "Step 4: WRMSR EOI")
    ]
    assert places == sorted(places)
    assert "step 3, NOP: completes, delivering 51H at step 4" in text
    assert "step 5, MOV from CR8: value 0H" in text


def test_every_option_of_a_setup_reaches_the_processor(explain: Explain) -> None:
    line = (
        *("--base", "registers", "--set", "virtual-interrupt-delivery", "external-interrupt-exiting"),
        *("--clear", "apic-register-virtualization", "--fill", "tagged", "--apic-mode", "xapic"),
        *(
            "--page",
            "TPR=0x35",
            "ISR=[0x61]",
            "--exits-on-read",
            "APICID",
            "--exits-on-write",
            "0x808..0x80a",
        ),
        *("--guest", "if=1", "--rvi", "0x41", "--svi", "0x61", "--eoi-exit-bitmap", "[0x61]"),
        *("--rdmsr", "0x803", "--rdmsr", "APICID", "--wrmsr", "TPR=0x10", "--wrmsr", "EOI=0x0"),
    )
    _, text = explain(*line)
    assert "apic-register-virtualization" not in text.partition("VM entry")[0]
    assert "VTPR is 35H, SVI 61H: VPPR := 60H" in text
    assert "RVI 41H is not above the class of VPPR 60H" in text
    assert "step 1, RDMSR VERSION (803H): #GP(0)" in text
    assert "step 2, RDMSR APICID (802H): VM exit rdmsr (31)" in text
    assert "step 3, WRMSR TPR (808H), 10H: VM exit wrmsr (32)" in text
    assert "step 4, WRMSR EOI (80BH), 0H: VM exit virtualized-eoi (45), qualification 61H" in text


def test_a_threshold_and_an_entry_that_fails(explain: Explain) -> None:
    status, text = explain("--base", "tpr-only", "--tpr-threshold", "5", "--page", "TPR=0x40", "--nop")
    assert status == 0
    assert "TPR threshold 5H is above VTPR[7:4] 4H" in text
    assert "entry.tpr-threshold-above-vtpr-fails" in text
    assert "VMfailValid(7" in text
    assert "step 1, NOP: not reached" in text


def test_any_step_of_the_language(explain: Explain) -> None:
    status, text = explain("--base", "delivery", "--guest", "if=1", "--step", "inject: 0x91", "--nop")
    assert status == 0
    assert "the VMM injects interrupt 91H: completes, delivering 91H at step 2" in text


def test_a_case_by_its_id(explain: Explain) -> None:
    case = "specs/vmx/many-processors/page-nobody-set.yaml::both-read-2621447225"
    for name in (case, f"{case}[bochs]"):
        status, text = explain(name)
        assert status == 0
        assert "page.never-initialized" in text


def test_a_point_of_a_case(explain: Explain) -> None:
    case = "specs/vmx/rdmsr/every-msr.yaml::every-msr"
    status, text = explain(case)
    assert status == 2
    point = text.partition("name one: every-msr")[2]
    assert point.startswith("[mode=")
    status, text = explain(case + point)
    assert status == 0
    assert "RDMSR MSR 800H" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("--base", "register", "--rdmsr", "0x802"), "did you mean 'registers'?"),
        (("--set", "virtualise-x2apic-mode"), "did you mean 'virtualize-x2apic-mode'?"),
        (("--rdmsr", "APCID"), "APICID"),
        (("specs/vmx/rdmsr/own-page.yaml",), "is no FILE::CASE"),
        (("specs/vmx/rdmsr/no-such-file.yaml::x",), "no-such-file.yaml"),
        (("specs/vmx/rdmsr/own-page.yaml::no-such-case",), "has no case 'no-such-case'"),
    ],
)
def test_a_line_that_names_nothing_is_refused(explain: Explain, line: tuple[str, ...], said: str) -> None:
    status, text = explain(*line)
    assert (status, said in text) == (2, True), text


def test_where_the_model_ends_it_says_so(explain: Explain) -> None:
    status, text = explain("--base", "registers", "--set", "enable-ept", "--nop")
    assert status == 1
    assert "Here it ends: the model does not know the effect of enable-ept" in text
