"""Where a value comes from that the guest read: the first thing that an audit says."""

from __future__ import annotations

import pytest
from audits import DUMPS, broken, found, sound

from runner.auditing.finding import Finding, Rank

READ = "vcpus.0.reads.APICID={}"
NO_POSTING = "all.controls.pin-based=[external-interrupt-exiting]"
TPR_ONLY = "all.controls.secondary=[virtualize-x2apic-mode]"


def cause(*changes: str) -> Finding:
    """Return the first finding, which says where a value comes from."""
    first = found(sound(*changes))[0].finding
    assert first.rank is Rank.CAUSE
    return first


def test_the_question_this_project_began_from() -> None:
    first = found((DUMPS / "both-read-2621447225.yaml").read_bytes())[0]
    assert first.vcpus == ("0", "1")
    assert first.finding.rank is Rank.CAUSE
    assert first.finding.rules == (
        "many.virtual-apic-address-in-every-vmcs",
        "page.never-initialized",
        "rdmsr.register-virtualization",
    )
    assert first.finding.provided == ""
    for said in (
        "Nobody has told the processor where",
        "VMCS field 2012H",
        "was never set",
        "9C401C39H (2621447225)",
    ):
        assert said in first.finding.says
    assert "a 4-KByte aligned page of its own" in first.finding.fix


@pytest.mark.parametrize("address", ["fields: {virtual-apic-address: not-set}, ", ""])
def test_with_nothing_but_the_numbers_of_the_question(address: str) -> None:
    everywhere = f"{{controls: {{secondary: 0x310}}, {address}reads: {{0x802: 2621447225}}}}"
    first = found(f"all: {everywhere}\nvcpus: {{0: {{}}, 1: {{}}}}")[0]
    assert first.vcpus == ("0", "1")
    assert first.finding.rules[0] == "many.virtual-apic-address-in-every-vmcs"
    assert "The dump lacks the MSR bitmap and the primary controls." in first.finding.provided


def test_a_value_that_is_right_has_no_cause() -> None:
    assert broken(sound(READ.format(0))) == []
    assert broken(sound(one=False)) == []


@pytest.mark.parametrize(
    ("changes", "rule", "said"),
    [
        (
            ["vcpus.0.virtual-apic-page.APICID=5", READ.format(5)],
            "rdmsr.id-as-stored",
            "and the APIC ID is 0H",
        ),
        (
            ["vcpus.0.virtual-apic-page.APICID=0x3000000", "vcpus.0.apic-id=3", READ.format(0x3000000)],
            "rdmsr.id-as-stored",
            "they hold the ID 3H in bits 31:24",
        ),
        (
            ["all.virtual-apic-page.0x24=7", READ.format(7 << 32)],
            "rdmsr.upper-half-from-page",
            "024H-027H are not 0",
        ),
        ([READ.format(9)], "rdmsr.register-virtualization", "The dump has 0H there, not 9H (9)"),
        (
            ["all.virtual-apic-page=", READ.format(9)],
            "page.never-initialized",
            "9H (9) lies in the page at 10000H, whose content is not in the dump",
        ),
        (
            [
                "all.virtual-apic-page.0x300=81",
                "all.virtual-apic-page.0x310=0x3000000",
                "vcpus.0.reads.ICR=81",
            ],
            "rdmsr.icr-from-eight-bytes",
            "The destination stands at 310H",
        ),
        (
            ["all.msr-bitmap.read=[]", "all.virtual-apic-page.0x390=1000", "vcpus.0.reads.0x839=1000"],
            "rdmsr.current-count-from-page",
            "stands still",
        ),
        (
            ["all.virtual-apic-page.LVT_TIMER=255", "vcpus.0.reads.LVT_TIMER=255"],
            "rdmsr.register-virtualization",
            "bytes 320H-327H",
        ),
        (
            [TPR_ONLY, NO_POSTING, READ.format(2)],
            "rdmsr.others-physical-without-registers",
            "reaches the physical APIC, and 2H (2) is the register of the core",
        ),
        (
            ["all.controls.secondary=[]", NO_POSTING, READ.format(2)],
            "rdmsr.physical-without-x2apic-virtualization",
            "Virtualize x2APIC mode is 0",
        ),
        (
            ["all.controls.primary=[use-msr-bitmaps, use-tpr-shadow]", NO_POSTING, READ.format(2)],
            "controls.activate-secondary-controls",
            "no secondary one acts",
        ),
        (
            ["all.apic-mode=xapic", TPR_ONLY, NO_POSTING, READ.format(2)],
            "rdmsr.physical-read-faults",
            "raises #GP(0)",
        ),
        (["all.msr-bitmap.read=all", READ.format(2)], "bitmap.before-apic-virtualization", "the VMM did"),
        (["all.controls.pin-based=[]", READ.format(2)], "entry.control-error-is-vmfail-7", "VM entry fails"),
        (
            [TPR_ONLY, NO_POSTING, "vcpus.0.reads.0x80e=2"],
            "rdmsr.physical-read-faults",
            "raises #GP(0)",
        ),
    ],
)
def test_where_a_value_comes_from(changes: list[str], rule: str, said: str) -> None:
    if "vcpus.0.reads.0x80e=2" in changes:
        changes = [*changes, "all.msr-bitmap.read=[]"]
    finding = cause(*changes)
    assert (finding.rules[0], said in finding.says) == (rule, True), finding.says


def test_a_page_that_two_share() -> None:
    shared = ("vcpus.1.fields.virtual-apic-address=0x10000", READ.format(1), "vcpus.1.apic-id=2")
    first, *others = found(sound(*shared, one=False))
    assert first.finding.rules[0] == "many.shared-page-same-registers"
    assert first.vcpus == ("0", "1")
    assert "many.one-page-per-vcpu" not in {each.finding.rules[0] for each in others}


def test_the_same_value_from_different_pages() -> None:
    text = sound(
        "all.virtual-apic-page=",
        "all.reads.APICID=9",
        "vcpus.1.virtual-apic-page=",
        "vcpus.1.reads=",
        one=False,
    )
    first, second, *_ = found(text)
    assert (first.vcpus, second.vcpus) == (("0",), ("1",))
    for each in (first, second):
        assert "each from its own page" in each.finding.says
        assert each.finding.fix.startswith("Look at offset 020H there")
    [only] = [
        each for each in found(sound("all.virtual-apic-page=", READ.format(9))) if not each.finding.is_open
    ]
    assert "Several" not in only.finding.says


def test_the_cause_comes_before_entry_checks_and_these_before_the_rest() -> None:
    text = sound(
        *(READ.format(5), "vcpus.0.virtual-apic-page.APICID=5"),
        *("all.fields.guest-interruptibility-state=4", "all.virtual-apic-page.0x34=1"),
    )
    assert [each.finding.rank for each in found(text)] == [Rank.CAUSE, Rank.ENTRY, Rank.NEXT]


def test_the_cause_of_one_comes_before_what_goes_wrong_next_with_another() -> None:
    changes = (
        "vcpus.0.virtual-apic-page.0x34=1",
        "vcpus.1.reads.APICID=5",
        "vcpus.1.virtual-apic-page.APICID=5",
    )
    placed = found(sound(*changes, one=False))
    assert [(each.finding.rank, each.vcpus) for each in placed] == [(Rank.CAUSE, ("1",)), (Rank.NEXT, ("0",))]
