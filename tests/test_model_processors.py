"""Several virtual processors, posted interrupts, IPI virtualization's exits, and MSR lists."""

from __future__ import annotations

import pytest
from modelled import (
    DELIVERY,
    DONE,
    OPEN,
    POSTED,
    REGISTERS,
    answer,
    delivered,
    deliveries,
    observe,
    page,
    rules,
    setup,
    steps_of,
)

from backends.model import Model
from runner.apic import STALE, VPPR
from runner.outcome import (
    GP0,
    Completed,
    Entered,
    EntryFailure,
    Observation,
    Rip,
    Stuck,
    Unsupported,
    VmExit,
    VmxAbort,
)
from runner.program import (
    Action,
    Barrier,
    GuestState,
    Level,
    MsrEntry,
    MsrLists,
    Page,
    PageAddress,
    Plain,
    Post,
    PostedInterrupts,
    Program,
    Raise,
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


# Posted interrupts


def posting(  # noqa: PLR0913 -- one argument a part of the state
    *,
    pir: tuple[int, ...] = (),
    on: bool = True,
    tpr: int = 0,
    irr: tuple[int, ...] = (),
    rvi: int = 0,
    if_: bool = False,
) -> Setup:
    posted = PostedInterrupts(NV, frozenset(pir), on)
    one = page({0x104: 1}, tpr=tpr, irr=irr)
    return setup(POSTED, posted=posted, page=one, rvi=rvi, guest=GuestState(interrupt_flag=if_))


@pytest.mark.parametrize("on", [False, True])
def test_a_notification_at_entry_merges_pir_without_an_exit(on: bool) -> None:  # noqa: FBT001
    seen = observe(posting(pir=(0x71, 0x5), on=on), Raise(NV), Plain.NOP)
    assert [step.outcomes for step in seen.steps] == [(DONE,), (DONE,)]
    final = seen.finals[0]
    assert (final.rvi, final.svi, final.physical) == (0x71, 0, ())
    assert final.pid == (0, 0, 0, 0, NV << 16, 0, 0, 0)
    assert dict(final.page) == {0x200: 1 << 5, 0x230: 1 << 17}


@pytest.mark.parametrize(
    ("rvi", "pir", "expected"), [(0x41, (0x77,), 0x77), (0x81, (0x77,), 0x81), (0x41, (), 0x41)]
)
def test_rvi_becomes_the_larger_of_itself_and_pir(rvi: int, pir: tuple[int, ...], expected: int) -> None:
    seen = observe(posting(pir=pir, tpr=0xF0, rvi=rvi, irr=(0x91,)), Raise(NV), Plain.NOP)
    assert (seen.finals[0].rvi, seen.finals[0].pid[4]) == (expected, NV << 16)
    assert dict(seen.finals[0].page).get(VPPR) == 0xF0


def test_a_posted_interrupt_is_delivered_at_once() -> None:
    seen = observe(posting(pir=(0x71,), if_=True), Raise(NV), Plain.NOP)
    assert delivered(seen.steps[0]) == [(0x71, 1)]


def test_a_descriptor_without_a_notification_is_not_read() -> None:
    seen = observe(posting(pir=(0x71,), if_=True), Plain.NOP)
    assert (deliveries(seen), seen.finals[0].pid[1]) == ([[]], 1 << 0x31)


def test_another_vector_exits() -> None:
    seen = observe(posting(pir=(0x71,)), Raise(0x51), Plain.NOP)
    assert seen.steps[0].outcomes[1] == VmExit(1, rip=Rip.NEXT, interruption_information=0x80000051)
    assert seen.finals[0].pid[4] & 1 == 1


def test_posting_from_another_processor_reaches_a_spinning_guest() -> None:
    sender = setup(POSTED, posted=PostedInterrupts(NV))
    receiver = setup(POSTED, posted=PostedInterrupts(NV), guest=OPEN, eoi=True)
    ready = Barrier("ready")
    seen = together(
        (sender, receiver),
        Step(ready, 0),
        Step(ready, 1),
        Step(Post(1, frozenset([0x31, 0x71]), NV), 0),
        Step(Plain.SPIN, 1),
    )
    assert [step.outcomes for step in seen.steps] == [(DONE,)] * 4
    assert delivered(seen.steps[3]) == [(0x71, 3), (0x31, 3)]
    assert [final.pid for final in seen.finals] == [(0, 0, 0, 0, NV << 16, 0, 0, 0)] * 2


def test_posting_wakes_a_halted_guest_or_leaves_it_halted() -> None:
    for tpr, outcome, taken in ((0, DONE, [(0x71, 3)]), (0xF0, Stuck.STAYS_HALTED, [])):
        receiver = setup(POSTED, posted=PostedInterrupts(NV), guest=OPEN, page=page(tpr=tpr))
        sender = setup(POSTED, posted=PostedInterrupts(NV))
        seen = together(
            (sender, receiver),
            Step(Barrier("ready"), 0),
            Step(Barrier("ready"), 1),
            Step(Plain.HLT, 1),
            Step(Plain.NOP, 1),
            Step(Post(1, frozenset([0x71]), NV), 0),
        )
        assert (seen.steps[2].outcomes, delivered(seen.steps[2])) == ((outcome,), taken)
        assert seen.finals[1].pid[1] == 0


def test_a_vmm_posts_to_its_own_virtual_processor() -> None:
    post = Post(0, frozenset([0x71]), NV, by_guest=False)
    seen = observe(posting(if_=True, on=False), Plain.VMCALL, post, Plain.NOP)
    assert deliveries(seen) == [[], [(0x71, 2)], []]
    silent = observe(
        posting(on=False), Plain.VMCALL, Post(0, frozenset([3]), None, by_guest=False), Plain.NOP
    )
    assert (silent.finals[0].pid[0], silent.finals[0].pid[4] & 1) == (8, 1)
    quiet = Post(0, frozenset([3]), None, outstanding=False)
    left = observe(posting(pir=(0xFF, 0x41), on=False), quiet)
    assert left.finals[0].pid == (8, 2, 0, 1 << 63, NV << 16, 0, 0, 0)


# IPI virtualization, where it ends in an exit


@pytest.mark.parametrize(
    "command", [0x1031, 0x40031, 0x80031, 0x8031, 0x831, 0x131, 0x05, 0x31 | 1 << 32, 0x31 | 0xFFFFFFFF << 32]
)
def test_an_icr_value_that_cannot_be_virtualized_exits_after_the_store(command: int) -> None:
    seen = observe(setup(IPI, posted=PostedInterrupts(NV)), Wrmsr(0x830, command))
    assert seen.steps[0].outcomes == (VmExit(56, 0x300, rip=Rip.NEXT),)
    stored = {0x300: command & 0xFFFFFFFF, 0x304: command >> 32}
    assert dict(seen.finals[0].page) == {offset: word for offset, word in stored.items() if word}


@pytest.mark.parametrize(
    ("command", "rule"),
    [
        (0x1031, "ipi.bit-12-exits"),
        (0x40031, "ipi.suitable-icr-values"),
        (0x05, "ipi.vector-below-16-exits"),
        (0x31 | 1 << 32, "ipi.target-above-last-index-exits"),
    ],
)
def test_the_trace_says_why_an_ipi_is_not_virtualized(command: int, rule: str) -> None:
    named = rules(setup(IPI, posted=PostedInterrupts(NV)), Wrmsr(0x830, command))
    assert {each for each in named if each.startswith("ipi.")} == {"ipi.icr-write-virtualized", rule}


@pytest.mark.parametrize("bit", [13, 16, 17, *range(20, 32)])
def test_reserved_icr_bits_fault(bit: int) -> None:
    seen = observe(setup(IPI, posted=PostedInterrupts(NV)), Wrmsr(0x830, 0x31 | 1 << bit))
    assert (seen.steps[0].outcomes, seen.finals[0].page) == ((GP0,), ())


# MSR lists


@pytest.mark.parametrize("msr", [0x800, 0x8FF])
@pytest.mark.parametrize("names", [REGISTERS, "use-msr-bitmaps"])
def test_an_apic_msr_in_a_list(names: str, msr: int) -> None:
    entry = (MsrEntry(msr, 0),)
    loading = observe(setup(names, msr_lists=MsrLists(entry_load=entry)), Plain.NOP)
    assert loading.entries == (EntryFailure(34, 1),)
    assert observe(setup(names, msr_lists=MsrLists(exit_store=entry)), Plain.NOP).entries == (VmxAbort(1),)
    assert observe(setup(names, msr_lists=MsrLists(exit_load=entry)), Plain.NOP).entries == (VmxAbort(4),)


def test_a_program_whose_lists_name_other_msrs_is_not_modelled() -> None:
    other = setup(REGISTERS, msr_lists=MsrLists(entry_load=(MsrEntry(0x10, 0),)))
    (seen,) = Model().run([Program(Level.VMX, (other,), steps_of([Plain.NOP]))])
    assert seen == Unsupported("the model does not know MSR 10H in an MSR list")


def test_actions_reach_the_processor_they_name() -> None:
    action: Action = Wrmsr(0x808, 0x10)
    seen = together((setup(REGISTERS),) * 2, Step(action, 1))
    assert [final.page for final in seen.finals] == [(), ((0x80, 0x10),)]
