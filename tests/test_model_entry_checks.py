"""VM entry: each check on the control fields, alone; what is not checked; guest state."""

from __future__ import annotations

import pytest
from modelled import (
    DELIVERY,
    DONE,
    MMIO,
    OPEN,
    POSTED,
    REGISTERS,
    TPR_ONLY,
    answer,
    observe,
    page,
    program,
    setup,
)

from backends.model import Model, explaining
from backends.model.implementation import Implementation
from runner.apic import VPPR
from runner.outcome import Entered, Entry, EntryFailure, Stuck, VmExit, VmfailValid
from runner.program import (
    Barrier,
    BeyondWidth,
    FieldValue,
    Flip,
    GuestState,
    Inject,
    Level,
    MsrEntry,
    MsrLists,
    Number,
    Page,
    PageAddress,
    Plain,
    PostedInterrupts,
    Program,
    Setup,
    Step,
    Vmm,
    Wrmsr,
)
from runner.vmx import Activity, Blocking, Field

FAILS = VmfailValid(7)
LATE = EntryFailure(33)
POSTING = PostedInterrupts()
ADDRESS, BITMAP = Field.VIRTUAL_APIC_ADDRESS, Field.MSR_BITMAP_ADDRESS
DESCRIPTOR, VECTOR = Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR
TABLE, ACCESS = Field.PID_POINTER_TABLE_ADDRESS, Field.APIC_ACCESS_ADDRESS
PIN, PRIMARY = Field.PIN_BASED_CONTROLS, Field.PRIMARY_PROCESSOR_BASED_CONTROLS
SECONDARY, TERTIARY = Field.SECONDARY_PROCESSOR_BASED_CONTROLS, Field.TERTIARY_PROCESSOR_BASED_CONTROLS
IPI = f"{POSTED} activate-tertiary-controls ipi-virtualization"
OFF_BY_8 = PageAddress(Page.OWN, add=8)


def with_field(names: str, field: Field, value: FieldValue, **more: object) -> Setup:
    posted = POSTING if "process-posted-interrupts" in names else None
    return setup(names, fields=((field, value),), posted=posted, **more)


VIOLATIONS = {
    "entry.pin-based-reserved-bits": with_field(REGISTERS, PIN, Flip(1)),
    "entry.primary-reserved-bits": with_field(REGISTERS, PRIMARY, Flip(0)),
    "entry.secondary-reserved-bits": with_field(REGISTERS, SECONDARY, Flip(31)),
    "entry.tertiary-reserved-bits": with_field(IPI, TERTIARY, Flip(63)),
    "fields.vm-exit-and-vm-entry-controls": with_field(REGISTERS, Field.VM_EXIT_CONTROLS, Flip(0)),
    "entry.msr-bitmap-address-aligned": with_field(REGISTERS, BITMAP, OFF_BY_8),
    "entry.msr-bitmap-address-width": with_field(REGISTERS, BITMAP, BeyondWidth()),
    "entry.virtual-apic-address-aligned": with_field(REGISTERS, ADDRESS, OFF_BY_8),
    "entry.virtual-apic-address-width": with_field(REGISTERS, ADDRESS, BeyondWidth()),
    "entry.virtual-apic-address-aligned, of another": with_field(
        REGISTERS, ADDRESS, PageAddress(Page.OF_VCPU, 0, 0x10)
    ),
    "entry.virtual-apic-address-aligned, stale": with_field(
        REGISTERS, ADDRESS, PageAddress(Page.STALE, add=1)
    ),
    "entry.msr-bitmap-address-aligned, APIC access": with_field(
        REGISTERS, BITMAP, PageAddress(Page.APIC_ACCESS, add=0x800)
    ),
    "entry.tpr-threshold-reserved-bits": setup(TPR_ONLY, tpr_threshold=0x10),
    "entry.tpr-threshold-above-vtpr-fails": setup(TPR_ONLY, tpr_threshold=5, page=page(tpr=0x40)),
    "entry.apic-access-address": with_field(MMIO, ACCESS, OFF_BY_8),
    "entry.x2apic-needs-tpr-shadow": setup(f"{TPR_ONLY} -use-tpr-shadow"),
    "entry.registers-need-tpr-shadow": setup(f"{REGISTERS} -use-tpr-shadow -virtualize-x2apic-mode"),
    "entry.delivery-needs-tpr-shadow": setup(
        "activate-secondary-controls virtual-interrupt-delivery external-interrupt-exiting"
    ),
    "entry.ipi-needs-tpr-shadow": setup("activate-tertiary-controls ipi-virtualization"),
    "entry.x2apic-excludes-apic-accesses": setup(f"{TPR_ONLY} virtualize-apic-accesses"),
    "entry.delivery-needs-external-interrupt-exiting": setup(f"{DELIVERY} -external-interrupt-exiting"),
    "entry.posted-needs-delivery": setup(f"{POSTED} -virtual-interrupt-delivery", posted=POSTING),
    "entry.posted-needs-acknowledge-on-exit": setup(
        f"{POSTED} -acknowledge-interrupt-on-exit", posted=POSTING
    ),
    "entry.notification-vector-below-256": with_field(POSTED, VECTOR, Number(0x100)),
    "entry.descriptor-address-aligned": with_field(POSTED, DESCRIPTOR, OFF_BY_8),
    "entry.descriptor-address-width": with_field(POSTED, DESCRIPTOR, BeyondWidth()),
    "entry.pid-pointer-table-aligned": with_field(IPI, TABLE, PageAddress(Page.OWN, add=4)),
    "entry.pid-pointer-table-width": with_field(IPI, TABLE, BeyondWidth()),
}

ENTERS = {
    "entry.legal-x2apic-combinations, bit 4": setup(TPR_ONLY),
    "entry.legal-x2apic-combinations, bits 4 and 8": setup(REGISTERS),
    "entry.legal-x2apic-combinations, bits 4 and 9": setup(
        f"{TPR_ONLY} virtual-interrupt-delivery external-interrupt-exiting"
    ),
    "entry.legal-x2apic-combinations, bits 4, 8 and 9": setup(DELIVERY),
    "entry.registers-and-delivery-without-access-mode": setup(f"{DELIVERY} -virtualize-x2apic-mode"),
    "entry.window-exiting-with-delivery": setup(f"{DELIVERY} interrupt-window-exiting"),
    "entry.threshold-unchecked-without-tpr-shadow": setup("use-msr-bitmaps", tpr_threshold=0xFFFFFFFF),
    "entry.threshold-unchecked-with-delivery": setup(DELIVERY, tpr_threshold=0xFFFFFFFF),
    "entry.tpr-threshold-above-vtpr-fails, equal": setup(TPR_ONLY, tpr_threshold=5, page=page(tpr=0x50)),
    "entry.posted-fields-unchecked-without-posted": with_field(DELIVERY, DESCRIPTOR, Number(1)),
    "entry.notification-vector-below-256, 0": with_field(POSTED, VECTOR, Number(0)),
    "entry.unused-addresses-unchecked, bitmap": with_field("use-tpr-shadow", BITMAP, Number(1)),
    "entry.unused-addresses-unchecked, APIC access": with_field(REGISTERS, ACCESS, Number(1)),
    "fields.unused-pointer-need-not-be-set": with_field("use-msr-bitmaps", ADDRESS, Number(1)),
    "entry.secondary-reserved-bits, inactive": with_field(
        "use-tpr-shadow use-msr-bitmaps", SECONDARY, Flip(31)
    ),
    "controls.activate-secondary-controls": setup(
        f"{REGISTERS} virtual-interrupt-delivery -activate-secondary-controls -use-tpr-shadow"
    ),
    "entry.page-and-interrupt-status-unchecked": setup(
        DELIVERY, rvi=0xFF, svi=0x21, page=page(ppr=0xFFFFFFFF)
    ),
}


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_a_violated_check_fails_the_entry_with_error_7(rule: str) -> None:
    asked = program(VIOLATIONS[rule], Plain.NOP)
    (seen,) = Model().run([asked])
    assert seen.entries == (FAILS,)
    assert seen.steps[0].outcomes == (Stuck.NOT_REACHED,)
    assert [name for name, _ in explaining.violations(asked)] == [rule.partition(",")[0]]


@pytest.mark.parametrize("rule", ENTERS)
def test_what_no_check_speaks_of_enters(rule: str) -> None:
    asked = program(ENTERS[rule], Plain.NOP)
    (seen,) = Model().run([asked])
    assert (seen.entries, seen.steps[0].outcomes) == ((Entered(),), (DONE,))
    assert not explaining.violations(asked)


def test_the_last_entry_of_the_pid_pointer_table_must_fit_too() -> None:
    fields = ((TABLE, Number((1 << 46) - 8)), (Field.LAST_PID_POINTER_INDEX, Number(1)))
    asked = program(setup(IPI, fields=fields, posted=POSTING), Plain.NOP)
    assert [name for name, _ in explaining.violations(asked)] == ["entry.pid-pointer-table-width"]


@pytest.mark.parametrize("address", [8, (1 << 46) - 16])
@pytest.mark.parametrize("list_", ["entry_load", "exit_store", "exit_load"])
def test_msr_areas_are_checked_if_their_lists_have_entries(list_: str, address: int) -> None:
    lists = MsrLists(**{list_: (MsrEntry(0x174, 0), MsrEntry(0x175, 0))})
    name = {
        "entry_load": "VM_ENTRY_MSR_LOAD",
        "exit_store": "VM_EXIT_MSR_STORE",
        "exit_load": "VM_EXIT_MSR_LOAD",
    }
    fields = ((Field[f"{name[list_]}_ADDRESS"], Number(address)),)
    asked = program(setup(REGISTERS, msr_lists=lists, fields=fields), Plain.NOP)
    assert [rule for rule, _ in explaining.violations(asked)] == ["fields.msr-areas"]
    assert not explaining.violations(program(setup(REGISTERS, fields=fields), Plain.NOP))
    assert not explaining.violations(program(setup(REGISTERS, msr_lists=lists), Plain.NOP))


@pytest.mark.parametrize(
    ("activity", "choices"),
    [
        (Activity.HLT, Implementation(hlt_activity_state=False)),
        (Activity.SHUTDOWN, Implementation(shutdown_activity_state=False)),
    ],
)
def test_an_activity_state_that_is_not_supported(activity: Activity, choices: Implementation) -> None:
    asked = program(setup(REGISTERS, guest=GuestState(activity=activity)), Plain.NOP)
    assert next(iter(Model(choices).run([asked]))).entries == (LATE,)
    assert next(iter(Model().run([asked]))).entries == (Entered(),)


def test_shutdown_may_be_entered_at_cpl_3() -> None:
    assert observe(
        setup(REGISTERS, guest=GuestState(cpl=3, activity=Activity.SHUTDOWN)), Plain.NOP
    ).entries == (Entered(),)


def test_bits_that_must_be_0_or_1_are_told_apart() -> None:
    must_be_0 = explaining.violations(program(with_field(REGISTERS, PIN, Flip(31)), Plain.NOP))
    must_be_1 = explaining.violations(program(with_field(REGISTERS, PIN, Flip(2)), Plain.NOP))
    assert "must be 0" in must_be_0[0][1]
    assert "must be 1" in must_be_1[0][1]


def test_inactive_secondary_controls_do_not_hide_other_words() -> None:
    asked = program(with_field("use-msr-bitmaps", PIN, Flip(31)), Plain.NOP)
    assert [rule for rule, _ in explaining.violations(asked)] == ["entry.pin-based-reserved-bits"]


def test_two_violations_are_counted_as_two() -> None:
    both = setup(f"{TPR_ONLY} virtualize-apic-accesses", tpr_threshold=0x10)
    assert len(explaining.violations(program(both, Plain.NOP))) == 2


@pytest.mark.parametrize(("tpr", "entry"), [(0x40, FAILS), (0x50, Entered())])
def test_inactive_secondary_controls_count_as_0_in_the_threshold_checks(tpr: int, entry: Entry) -> None:
    inactive = setup(
        "use-tpr-shadow use-msr-bitmaps virtualize-apic-accesses virtual-interrupt-delivery",
        tpr_threshold=5,
        page=page(tpr=tpr),
    )
    assert observe(inactive, Plain.NOP).entries == (entry,)


def test_only_bits_3_0_of_the_threshold_are_compared_with_apic_accesses() -> None:
    seen = observe(setup(MMIO, tpr_threshold=0x10), Plain.NOP)
    assert seen.entries == (FAILS,)


def test_a_vmfail_changes_nothing() -> None:
    failing = setup(
        f"{DELIVERY} -external-interrupt-exiting",
        page=page(ppr=0x55, irr=[0x61]),
        rvi=0x61,
        svi=0x21,
        guest=OPEN,
    )
    final = observe(failing, Plain.NOP).finals[0]
    assert (final.page, final.rvi, final.svi) == ((), 0x61, 0x21)


def test_an_entry_virtualizes_ppr_only_with_delivery() -> None:
    with_delivery = observe(setup(DELIVERY, page=page(tpr=0x35, ppr=0xABCDEF99)), Plain.NOP)
    without = observe(setup(REGISTERS, page=page(tpr=0x35, ppr=0xABCDEF99)), Plain.NOP)
    assert with_delivery.finals[0].page == ((VPPR, 0x35),)
    assert without.finals[0].page == ()


GUEST_STATES = {
    "injection with IF 0": (GuestState(), (Inject(0x91),)),
    "injection with blocking by STI": (
        GuestState(interrupt_flag=True, blocking=Blocking.STI),
        (Inject(0x91),),
    ),
    "injection with blocking by MOV SS": (
        GuestState(interrupt_flag=True, blocking=Blocking.MOV_SS),
        (Inject(0x91),),
    ),
    "injection into shutdown": (GuestState(interrupt_flag=True, activity=Activity.SHUTDOWN), (Inject(0x91),)),
    "HLT with blocking by STI": (
        GuestState(interrupt_flag=True, blocking=Blocking.STI, activity=Activity.HLT),
        (),
    ),
    "HLT with blocking by MOV SS": (GuestState(blocking=Blocking.MOV_SS, activity=Activity.HLT), ()),
    "HLT at CPL 3": (GuestState(cpl=3, activity=Activity.HLT), ()),
    "blocking by STI with IF 0": (GuestState(blocking=Blocking.STI), ()),
    "blocking by STI and MOV SS": (
        GuestState(interrupt_flag=True, blocking=Blocking.STI | Blocking.MOV_SS),
        (),
    ),
    "blocking by SMI": (GuestState(blocking=Blocking.SMI), ()),
    "single step with blocking and no pending trap": (
        GuestState(interrupt_flag=True, trap_flag=True, blocking=Blocking.STI),
        (),
    ),
}


@pytest.mark.parametrize("state", GUEST_STATES)
def test_guest_state_that_fails_the_entry(state: str) -> None:
    guest, before = GUEST_STATES[state]
    seen = observe(setup(DELIVERY, guest=guest, rvi=0x61, page=page(irr=[0x61])), *before, Plain.NOP)
    assert seen.entries == (LATE,)
    assert seen.steps[-1].outcomes == (Stuck.NOT_REACHED,)
    assert (seen.finals[0].rvi, seen.finals[0].page) == (0x61, ())


@pytest.mark.parametrize(
    "field",
    [
        (Field.GUEST_ACTIVITY_STATE, Number(4)),
        (Field.GUEST_INTERRUPTIBILITY_STATE, Number(0x20)),
        (Field.GUEST_PENDING_DEBUG_EXCEPTIONS, Number(1 << 13)),
        (Field.GUEST_PENDING_DEBUG_EXCEPTIONS, Number(1 << 63)),
    ],
)
def test_reserved_guest_state_fails_the_entry(field: tuple[Field, FieldValue]) -> None:
    assert observe(setup(REGISTERS, fields=(field,)), Plain.NOP).entries == (LATE,)


def test_blocking_by_nmi_is_no_obstacle() -> None:
    blocked = setup(REGISTERS, guest=GuestState(blocking=Blocking.NMI))
    assert observe(blocked, Plain.NOP).entries == (Entered(),)


def test_a_re_entry_that_fails_belongs_to_the_vmm_step_before_it() -> None:
    seen = observe(setup(TPR_ONLY, page=page(tpr=0x50)), Plain.VMCALL, Vmm(tpr_threshold=6), Plain.NOP)
    assert seen.entries == (Entered(),)
    assert seen.steps[1].outcomes == (DONE, FAILS)
    assert seen.steps[2].outcomes == (Stuck.NOT_REACHED,)


def test_a_last_vmm_step_is_followed_by_an_entry() -> None:
    misaligned = Vmm(fields=((ADDRESS, OFF_BY_8),))
    assert observe(setup(REGISTERS), Plain.VMCALL, misaligned).steps[1].outcomes == (DONE, FAILS)


def test_a_re_entry_that_fails_without_a_vmm_step_belongs_to_the_step_that_exited() -> None:
    shared = ((ADDRESS, PageAddress(Page.OF_VCPU, 0)),)
    first = setup(TPR_ONLY, page=page(tpr=0x50), tpr_threshold=3)
    second = setup(TPR_ONLY, fields=shared)
    lowered = Barrier("lowered")
    steps = (
        Step(lowered, 0),
        Step(Plain.VMCALL, 0),
        Step(Plain.NOP, 0),
        Step(Wrmsr(0x808, 0x20), 1),
        Step(lowered, 1),
    )
    seen = answer(Program(Level.VMX, (first, second), steps))
    assert seen.steps[1].outcomes == (VmExit(18, instruction_length=3), FAILS)
    assert seen.steps[2].outcomes == (Stuck.NOT_REACHED,)
