"""Each finding of an audit: there, and alone, with its mistake; none without one."""

from __future__ import annotations

import pytest
from audits import DUMPS, asked, broken, found, one_finding, sound

from runner.auditing.finding import Rank
from runner.language.loading import rules

NO_MSR_BITMAP = "all.msr-bitmap="
REGISTERS_ONLY = "all.controls.secondary=[virtualize-x2apic-mode, apic-register-virtualization]"
TPR_ONLY = "all.controls.secondary=[virtualize-x2apic-mode]"
NO_POSTING = "all.controls.pin-based=[external-interrupt-exiting]"
NO_DELIVERY = (REGISTERS_ONLY, NO_POSTING)
PRIMARY = "all.controls.primary=[{}]"
INTERCEPT_INTERRUPTS = "all.msr-bitmap.write=[0x1b, 0x800..0x807, 0x809..0x8ff]"
WRITES_BUT = "all.msr-bitmap.write=[0x1b, {}]"
READS_BUT = (
    "all.msr-bitmap.read=[{}, 0x800..0x801, 0x804..0x807, 0x809, EOI, 0x80c, 0x80e, 0x829..0x82e, 0x831,"
    " 0x83a..0x83d, SELF_IPI, 0x840..0x8ff]"
)
INTERRUPTIBILITY = "all.fields.guest-interruptibility-state={}"
INJECTION = "all.fields.vm-entry-interruption-information={}"


def test_a_sound_configuration_has_no_finding_and_no_question() -> None:
    assert found(sound()) == ()
    assert found((DUMPS / "sound.yaml").read_bytes()) == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ("vcpus.0.fields.virtual-apic-address=not-set", "many.virtual-apic-address-in-every-vmcs"),
        ("vcpus.0.fields.virtual-apic-address=0", "many.virtual-apic-address-in-every-vmcs"),
        ("all.fields.msr-bitmap-address=not-set", "bitmap.four-maps"),
        ("vcpus.0.apic-id=1", "rdmsr.id-as-stored"),
        ("all.virtual-apic-page.0x310=0x1000000", "rdmsr.icr-from-eight-bytes"),
        ("all.virtual-apic-page.0x34=1", "rdmsr.upper-half-from-page"),
        ("all.virtual-apic-page.IRR=[0x51]", "page.rvi-svi-in-vmcs"),
        ("all.virtual-apic-page.ISR=[0x51]", "page.rvi-svi-in-vmcs"),
        ("all.fields.guest-interrupt-status=0x51", "page.rvi-svi-in-vmcs"),
        (
            WRITES_BUT.format("0x809..0x80a, 0x80c..0x82f, 0x831..0x83e"),
            "ipi.icr-physical-without-ipi-virtualization",
        ),
        (
            WRITES_BUT.format("0x809..0x80a, 0x80c..0x80e, 0x810..0x83e"),
            "wrmsr.guest-controls-unintercepted-apic",
        ),
        (WRITES_BUT.format("0x808..0x80a, 0x80c..0x83e"), "bitmap.before-apic-virtualization"),
        ("all.msr-bitmap.write=[0x809..0x80a, 0x80c..0x83e]", "mode.apic-base-never-virtualized"),
        ("all.msr-bitmap.read=[0x839]", "rdmsr.any-msr-of-the-range"),
        (READS_BUT.format("0x1b"), "rdmsr.current-count-from-page"),
        (READS_BUT.format("APICID, 0x839"), "bitmap.before-apic-virtualization"),
    ],
)
def test_one_mistake_is_one_finding(changes: str, rule: str) -> None:
    finding = one_finding(sound(changes))
    assert (finding.rank, finding.rules[0]) == (Rank.NEXT, rule)
    assert finding.says.endswith(".")
    assert finding.fix.endswith(".")
    assert all(each in rules() for each in finding.rules)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        (
            [PRIMARY.format("use-msr-bitmaps, activate-secondary-controls"), TPR_ONLY, NO_POSTING],
            "entry.x2apic-needs-tpr-shadow",
        ),
        (
            ["all.controls.secondary=[virtualize-x2apic-mode, virtualize-apic-accesses]", NO_POSTING],
            "entry.x2apic-excludes-apic-accesses",
        ),
        (["all.controls.pin-based=[]"], "entry.delivery-needs-external-interrupt-exiting"),
        ([REGISTERS_ONLY], "entry.posted-needs-delivery"),
        (["all.controls.vm-exit=[]"], "entry.posted-needs-acknowledge-on-exit"),
        (["vcpus.0.fields.virtual-apic-address=0x10001"], "entry.virtual-apic-address-aligned"),
        (["vcpus.0.fields.virtual-apic-address=0x10000000000000"], "entry.virtual-apic-address-width"),
        (
            ["vcpus.0.fields.virtual-apic-address=0x10000000000", "physical-address-width=39"],
            "entry.virtual-apic-address-width",
        ),
        (["all.fields.msr-bitmap-address=0x7001"], "entry.msr-bitmap-address-aligned"),
        (["vcpus.0.fields.posted-interrupt-descriptor-address=0x8020"], "entry.descriptor-address-aligned"),
        (["all.fields.posted-interrupt-notification-vector=0x100"], "entry.notification-vector-below-256"),
        (
            [*NO_DELIVERY, "all.fields.tpr-threshold=5", "all.virtual-apic-page.TPR=0x40"],
            "entry.tpr-threshold-above-vtpr-fails",
        ),
        ([*NO_DELIVERY, "all.fields.tpr-threshold=16"], "entry.tpr-threshold-reserved-bits"),
        ([INTERRUPTIBILITY.format(1), "all.guest.if=false"], "fields.guest-non-register-state"),
        (["all.fields.guest-activity-state=1", "all.guest.cpl=3"], "entry.hlt-activity-state"),
        (
            [INJECTION.format("0x80000051"), "all.guest.if=false"],
            "entry.injection-needs-interruptible-guest",
        ),
    ],
)
def test_a_broken_entry_check(changes: list[str], rule: str) -> None:
    assert broken(sound(*changes), Rank.ENTRY) == [rule]


@pytest.mark.parametrize(
    "changes",
    [
        [*NO_DELIVERY, "all.fields.tpr-threshold=4", "all.virtual-apic-page.TPR=0x40"],
        [*NO_DELIVERY, "all.fields.tpr-threshold=5", "all.virtual-apic-page="],
        ["all.fields.tpr-threshold=16"],
        ["vcpus.0.fields.virtual-apic-address=0x10000000000"],
        [INTERRUPTIBILITY.format(1), "all.guest.if=true"],
        [INTERRUPTIBILITY.format(1)],
        [INTERRUPTIBILITY.format(1), "all.guest={if: true, tf: true}", "all.fields.ia32-debugctl=2"],
        ["all.fields.guest-activity-state=1", "all.guest.cpl=0"],
        [INJECTION.format("0x80000051")],
        [INJECTION.format("0x8000030d"), "all.guest.if=false"],
        ["all.controls.vm-exit="],
        ["all.controls.pin-based="],
        ["all.controls.primary="],
        ["all.controls.secondary="],
    ],
)
def test_an_entry_check_that_passes_or_may_pass_is_no_finding(changes: list[str]) -> None:
    assert broken(sound(*changes), Rank.ENTRY) == []


CAPABILITIES = "capabilities={{{}}}"


@pytest.mark.parametrize(
    ("changes", "rule", "said"),
    [
        (["all.controls.pin-based=0x81"], "entry.pin-based-reserved-bits", "81H, bits 1, 2 and 4 must be 1"),
        (["all.controls.pin-based=0x197"], "entry.pin-based-reserved-bits", "197H, bit 8 must be 0"),
        (["all.controls.primary=0x90200000"], "entry.primary-reserved-bits", "bits 1, 4, 5, 6, 8, 13"),
        (["all.controls.secondary=0x80000310"], "entry.secondary-reserved-bits", "bit 31 must be 0"),
        (["all.controls.vm-exit=0x8000"], "fields.vm-exit-and-vm-entry-controls", "of the VM-exit controls"),
        (["all.controls.vm-entry=0"], "fields.vm-exit-and-vm-entry-controls", "of the VM-entry controls"),
        (
            ["all.controls.tertiary=0x20", "all.controls.primary=0x9423e172"],
            "entry.tertiary-reserved-bits",
            "of the tertiary controls, 20H, bit 5 must be 0",
        ),
    ],
)
def test_reserved_bits_are_held_against_the_capability_msrs(changes: list[str], rule: str, said: str) -> None:
    allowed = (
        "pin-based: 0xff00000016, primary: 0xfffbfffe0401e172, secondary: 0x7fffffff00000000, tertiary: 0x10,"
        " vm-exit: 0x1ffffff00036dfb, vm-entry: 0xffff000011fb"
    )
    finding = found(sound(*changes, CAPABILITIES.format(allowed)))[0].finding
    assert (finding.rank, finding.rules, said in finding.says) == (Rank.ENTRY, (rule,), True), finding.says
    assert broken(sound(CAPABILITIES.format(allowed))) == []
    assert "reserved" not in rule or rule not in broken(sound(*changes))


def test_inactive_control_words_have_no_reserved_bits() -> None:
    capability = CAPABILITIES.format("secondary: 0x31000000000")
    active = sound("all.controls.secondary=0x330", capability)
    assert broken(active, Rank.ENTRY) == ["entry.secondary-reserved-bits"]
    primary = PRIMARY.format("use-tpr-shadow, use-msr-bitmaps")
    assert broken(sound("all.controls.secondary=0x330", capability, primary, NO_POSTING), Rank.ENTRY) == []


@pytest.mark.parametrize(
    ("name", "rule", "rank"),
    [
        ("vm-entry-load", "msr-lists.entry-load-of-apic-msr-fails", Rank.ENTRY),
        ("vm-exit-store", "msr-lists.exit-store-of-apic-msr-aborts", Rank.NEXT),
        ("vm-exit-load", "msr-lists.exit-load-of-apic-msr-aborts", Rank.NEXT),
    ],
)
def test_an_x2apic_msr_in_an_msr_list(name: str, rule: str, rank: Rank) -> None:
    value = "" if name == "vm-exit-store" else ", value: 0"
    finding = one_finding(sound(f"all.msr-lists.{name}=[{{msr: 0x808{value}}}]"))
    assert (finding.rules[0], finding.rank, "TPR (808H)" in finding.says) == (rule, rank, True)
    assert broken(sound(f"all.msr-lists.{name}=[{{msr: 0x174{value}}}]")) == []


def test_a_vector_in_a_word_that_is_not_known_is_not_missed_by_rvi() -> None:
    text = sound("all.virtual-apic-page={APICID: 0, IRR1: 0x2}")
    assert "page.rvi-svi-in-vmcs" not in broken(text)
    assert broken(sound("all.virtual-apic-page.IRR1=0x2")) == ["page.rvi-svi-in-vmcs"]


def test_upper_halves_are_named_up_to_a_number() -> None:
    assert "and more" not in one_finding(sound("all.virtual-apic-page.0x34=1")).says
    many = found(sound("all.virtual-apic-page={fill: ones, APICID: 0, IRR: [], ISR: []}"))
    [finding] = [each.finding for each in many if each.finding.rules[0] == "rdmsr.upper-half-from-page"]
    assert "024H, 034H, 084H, 0A4H, 0D4H, 0F4H and more" in finding.says


def test_nothing_is_asked_where_every_access_may_exit() -> None:
    assert "wrmsr.guest-controls-unintercepted-apic" in asked(sound(NO_MSR_BITMAP))
    assert asked(sound(NO_MSR_BITMAP, "all.controls.primary=")) == []


def test_pages_of_two_virtual_processors() -> None:
    assert broken(sound(one=False)) == []
    shared = sound("vcpus.1.fields.virtual-apic-address=0x10000", "vcpus.1.reads=", one=False)
    [placed] = found(shared)
    assert placed.finding.rules[0] == "many.one-page-per-vcpu"
    assert placed.vcpus == ("0", "1")
    descriptor = sound("vcpus.1.fields.posted-interrupt-descriptor-address=0x8000", one=False)
    assert broken(descriptor) == ["many.descriptor-per-vcpu"]
    same_id = ("vcpus.0.apic-id=", "vcpus.1.apic-id=", "vcpus.1.reads=", "vcpus.1.virtual-apic-page=")
    assert broken(sound(*same_id, one=False)) == ["rdmsr.id-as-stored"]


def test_each_virtual_processor_is_asked_about_as_it_is_set() -> None:
    one = "vcpus={0: {apic-id: 0}, 1: {apic-id: 0, fields: {tpr-threshold: 5}}}"
    placed = found(sound(*NO_DELIVERY, INTERCEPT_INTERRUPTS, one))
    assert [(each.finding.rules[0], each.vcpus) for each in placed if each.finding.rank is Rank.ENTRY] == [
        ("entry.tpr-threshold-above-vtpr-fails", ("1",))
    ]


def test_secondary_controls_that_do_nothing() -> None:
    inactive = sound(PRIMARY.format("use-tpr-shadow, use-msr-bitmaps"), NO_POSTING)
    assert "controls.activate-secondary-controls" in broken(inactive)
    no_x2apic = sound("all.controls.secondary=[apic-register-virtualization]", NO_POSTING)
    assert "controls.no-msr-virtualization-without-x2apic" in broken(no_x2apic)
    no_bitmaps = sound(PRIMARY.format("use-tpr-shadow, activate-secondary-controls"))
    assert broken(no_bitmaps) == ["bitmap.unused-exits-always"]
    for rule in ("controls.activate-secondary-controls", "bitmap.unused-exits-always"):
        assert rule not in broken(sound("all.controls.secondary=[]", NO_POSTING))


def test_a_guest_in_xapic_mode_is_a_question() -> None:
    xapic = "all.controls.secondary=[virtualize-apic-accesses, apic-register-virtualization]"
    text = sound(xapic, NO_POSTING)
    assert "controls.no-msr-virtualization-without-x2apic" in asked(text)
    assert "controls.no-msr-virtualization-without-x2apic" not in broken(text)


def test_content_of_a_register_that_exits_is_the_vmm_s_own_affair() -> None:
    exits = "all.msr-bitmap.read=all"
    for content in ("vcpus.0.apic-id=1", "all.virtual-apic-page.0x310=1", "all.virtual-apic-page.0x34=1"):
        assert set(broken(sound(exits, content))) == {"bitmap.before-apic-virtualization"}
        [finding] = [
            each.finding for each in found(sound(NO_MSR_BITMAP, content)) if not each.finding.is_open
        ]
        assert finding.provided == "Supposed: RDMSR does not exit. The dump lacks the MSR bitmap."


def test_eoi_and_self_ipi_without_virtual_interrupt_delivery() -> None:
    through = sound(REGISTERS_ONLY, NO_POSTING)
    assert {"eoi.physical-without-delivery", "self-ipi.physical-without-delivery"} == set(broken(through))
    assert broken(sound(REGISTERS_ONLY, NO_POSTING, INTERCEPT_INTERRUPTS)) == []


def test_reads_that_reach_the_physical_apic() -> None:
    through = sound(TPR_ONLY, NO_POSTING, INTERCEPT_INTERRUPTS)
    [rule] = broken(through)
    assert rule == "rdmsr.others-physical-without-registers"
    exits = "all.msr-bitmap.read=[0x1b, 0x800..0x807, 0x809..0x8ff]"
    assert broken(sound(TPR_ONLY, NO_POSTING, INTERCEPT_INTERRUPTS, exits)) == []


def test_a_read_of_what_the_vmm_keeps_itself_may_exit() -> None:
    kept = READS_BUT.format("0x839, PPR, 0x810..0x827")
    assert broken(sound(REGISTERS_ONLY, NO_POSTING, INTERCEPT_INTERRUPTS, kept)) == []
    assert broken(sound(kept)) == ["bitmap.before-apic-virtualization"]


def test_a_stale_intercept_of_tpr_alone() -> None:
    finding = one_finding(sound(TPR_ONLY, NO_POSTING, INTERCEPT_INTERRUPTS, "all.msr-bitmap.read=all"))
    assert finding.rules == ("bitmap.before-apic-virtualization", "rdmsr.tpr-from-page")
    assert "RDMSR of 808H exits" in finding.says


def test_an_intercepted_eoi_says_what_it_costs() -> None:
    finding = one_finding(sound(WRITES_BUT.format("0x809..0x83e")))
    assert "stays in service" in finding.says
    others = one_finding(sound(WRITES_BUT.format("0x808..0x80a, 0x80c..0x83e")))
    assert "stays in service" not in others.says
    assert "808H" in others.says


def test_what_depends_on_an_unknown_bitmap_is_a_question() -> None:
    text = sound(NO_MSR_BITMAP)
    assert broken(text) == []
    assert set(asked(text)) == {
        "wrmsr.guest-controls-unintercepted-apic",
        "ipi.icr-physical-without-ipi-virtualization",
        "rdmsr.any-msr-of-the-range",
        "rdmsr.current-count-from-page",
        "mode.apic-base-never-virtualized",
    }


def test_an_unknown_page_is_a_question() -> None:
    text = sound("all.virtual-apic-page=")
    assert (broken(text), asked(text)) == ([], ["rdmsr.id-as-stored"])
