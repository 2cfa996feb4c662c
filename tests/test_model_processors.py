"""Several virtual processors, and MSR lists."""

from __future__ import annotations

import pytest
from modelled import (
    DELIVERY,
    DONE,
    OPEN,
    POSTED,
    REGISTERS,
    answer,
    deliveries,
    observe,
    page,
    setup,
    steps_of,
)

from backends.model import Model
from runner.apic import STALE
from runner.outcome import (
    Completed,
    Entered,
    Entry,
    EntryFailure,
    Observation,
    Stuck,
    Unsupported,
    VmxAbort,
)
from runner.program import (
    Action,
    Barrier,
    GuestState,
    Level,
    MsrEntry,
    MsrLists,
    Number,
    Page,
    PageAddress,
    Plain,
    Program,
    Rdmsr,
    Setup,
    Step,
    Wrmsr,
)
from runner.vmx import Field

ADDRESS = Field.VIRTUAL_APIC_ADDRESS
IPI = f"{POSTED} activate-tertiary-controls ipi-virtualization"
NV = 0xF2


def together(setups: tuple[Setup, ...], *steps: Step) -> Observation:
    return answer(Program(Level.VMX, setups, steps))


def at(page_: Page, vcpu: int = 0) -> tuple[tuple[Field, PageAddress], ...]:
    return ((ADDRESS, PageAddress(page_, vcpu)),)


# Pages


def test_each_virtual_processor_reads_its_own_page() -> None:
    setups = tuple(setup(REGISTERS, page=page({0x20: vcpu})) for vcpu in range(3))
    seen = together(setups, *(Step(Rdmsr(0x802), vcpu) for vcpu in (2, 0, 1)))
    assert [step.outcomes for step in seen.steps] == [(Completed(2),), (Completed(0),), (Completed(1),)]


def test_a_shared_page_gives_both_the_same_registers() -> None:
    first = setup(REGISTERS, page=page({0x20: 7}))
    second = setup(REGISTERS, page=page({0x20: 9}), fields=at(Page.OF_VCPU, 0))
    steps = (Step(Rdmsr(0x802), 0), Step(Rdmsr(0x802), 1), Step(Wrmsr(0x808, 0x20), 1))
    seen = together((first, second), *steps)
    assert [step.outcomes[0] for step in seen.steps[:2]] == [Completed(7), Completed(7)]
    assert [final.page for final in seen.finals] == [((0x80, 0x20),), ()]


def test_a_page_that_nobody_set_gives_the_stale_value() -> None:
    stale = setup(REGISTERS, fields=at(Page.STALE))
    seen = together((stale, stale), Step(Rdmsr(0x802), 0), Step(Wrmsr(0x808, 0x10), 0), Step(Rdmsr(0x802), 1))
    assert seen.steps[0].outcomes == seen.steps[2].outcomes == (Completed(STALE << 32 | STALE),)
    assert STALE == 2621447225
    assert [final.page for final in seen.finals] == [(), ()]


def test_rvi_and_svi_belong_to_the_vmcs_also_with_a_shared_page() -> None:
    first = setup(DELIVERY, page=page(irr=[]), guest=GuestState())
    second = setup(DELIVERY, fields=at(Page.OF_VCPU, 0), guest=OPEN, rvi=0x31)
    barrier = Barrier("sent")
    seen = together(
        (first, second),
        Step(Wrmsr(0x83F, 0x51), 0),
        Step(barrier, 0),
        Step(barrier, 1),
        Step(Wrmsr(0x808, 0), 1),
        Step(Plain.NOP, 1),
    )
    assert deliveries(seen) == [[], [], [(0x31, 2)], [(0x51, 4)], []]
    assert [(final.rvi, final.svi) for final in seen.finals] == [(0x51, 0), (0, 0x51)]


# Waiting for each other


def test_barriers_order_and_others_do_not_wait() -> None:
    ready = Barrier("ready")
    seen = together(
        (setup(REGISTERS),) * 2, Step(ready, 0), Step(Plain.NOP, 1), Step(ready, 1), Step(Plain.NOP, 0)
    )
    assert all(step.outcomes == (DONE,) for step in seen.steps)


def test_a_barrier_that_one_never_reaches_is_not_passed() -> None:
    ready = Barrier("ready")
    steps = (Step(ready, 0), Step(Plain.NOP, 0), Step(Plain.HLT, 1), Step(ready, 1))
    seen = together((setup(REGISTERS),) * 2, *steps)
    outcomes = [step.outcomes[0] for step in seen.steps]
    assert outcomes == [Stuck.DID_NOT_RETURN, Stuck.NOT_REACHED, Stuck.STAYS_HALTED, Stuck.NOT_REACHED]


def test_a_failed_entry_leaves_the_other_processors_alone() -> None:
    failing = setup(f"{DELIVERY} -external-interrupt-exiting")
    seen = together((failing, setup(REGISTERS)), Step(Plain.NOP, 0), Step(Plain.NOP, 1))
    assert seen.entries[1] == Entered()
    assert seen.entries[0] != Entered()
    assert [step.outcomes for step in seen.steps] == [(Stuck.NOT_REACHED,), (DONE,)]


def test_an_interrupt_that_comes_at_a_barrier_is_taken_there() -> None:
    sender, receiver = setup("use-msr-bitmaps"), setup("use-msr-bitmaps", guest=OPEN)
    ready = Barrier("ready")
    seen = together(
        (sender, receiver),
        Step(Wrmsr(0x830, 0x51 | 1 << 32), 0),
        Step(ready, 0),
        Step(ready, 1),
        Step(Plain.NOP, 1),
    )
    assert deliveries(seen)[2:] == [[(0x51, 2)], []]
    late = together(
        (receiver, receiver),
        Step(ready, 0),
        Step(Plain.NOP, 0),
        Step(Wrmsr(0x830, 0x51), 1),
        Step(ready, 1),
    )
    assert deliveries(late)[:2] == [[(0x51, 0)], []]


# MSR lists


@pytest.mark.parametrize("msr", [0x800, 0x8FF])
@pytest.mark.parametrize("names", [REGISTERS, "use-msr-bitmaps"])
def test_an_apic_msr_in_a_list(names: str, msr: int) -> None:
    entry = (MsrEntry(msr, 0),)
    loading = observe(setup(names, msr_lists=MsrLists(entry_load=entry)), Plain.NOP)
    assert loading.entries == (EntryFailure(34, 1),)
    assert observe(setup(names, msr_lists=MsrLists(exit_store=entry)), Plain.NOP).entries == (VmxAbort(1),)
    assert observe(setup(names, msr_lists=MsrLists(exit_load=entry)), Plain.NOP).entries == (VmxAbort(4),)


def test_lists_load_other_msrs_and_number_their_entries() -> None:
    entries = MsrEntry(0x174, 0x5A), MsrEntry(0x808, 0)
    seen = observe(
        setup(REGISTERS, msr_lists=MsrLists(entry_load=entries[:1], exit_store=entries[:1])), Rdmsr(0x174)
    )
    assert seen.steps[0].outcomes == (Completed(0x5A),)
    failing = observe(setup(REGISTERS, msr_lists=MsrLists(entry_load=entries)), Plain.NOP)
    assert failing.entries == (EntryFailure(34, 2),)
    one = ((Field.VM_ENTRY_MSR_LOAD_COUNT, Number(1)), (Field.VM_EXIT_MSR_LOAD_COUNT, Number(1)))
    shorter = setup(REGISTERS, msr_lists=MsrLists(entry_load=entries, exit_load=entries), fields=one)
    assert observe(shorter, Plain.NOP).entries == (Entered(),)


@pytest.mark.parametrize(
    ("value", "entry"),
    [(0xFEE00D00, Entered()), (0xFEE00900, EntryFailure(34, 1)), (0xFEE00D01, EntryFailure(34, 1))],
)
def test_a_list_loads_ia32_apic_base_where_wrmsr_does(value: int, entry: Entry) -> None:
    lists = MsrLists(entry_load=(MsrEntry(0x1B, value),))
    assert observe(setup(REGISTERS, msr_lists=lists), Plain.NOP).entries == (entry,)


def test_a_program_whose_lists_name_other_msrs_is_not_modelled() -> None:
    other = setup(REGISTERS, msr_lists=MsrLists(entry_load=(MsrEntry(0x10, 0),)))
    (seen,) = Model().run([Program(Level.VMX, (other,), steps_of([Plain.NOP]))])
    assert seen == Unsupported("the model does not know MSR 10H in an MSR list")


def test_actions_reach_the_processor_they_name() -> None:
    action: Action = Wrmsr(0x808, 0x10)
    seen = together((setup(REGISTERS),) * 2, Step(action, 1))
    assert [final.page for final in seen.finals] == [(), ((0x80, 0x10),)]
