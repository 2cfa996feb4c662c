"""Posted interrupts and IPI virtualization in the reference model."""

from __future__ import annotations

import pytest
from modelled import (
    DONE,
    OPEN,
    POSTED,
    answer,
    delivered,
    deliveries,
    observe,
    page,
    rules,
    setup,
)

from runner.apic import VPPR, ApicMode
from runner.outcome import GP0, Observation, Rip, Stuck, VmExit
from runner.program import (
    Barrier,
    GuestState,
    Level,
    Number,
    Plain,
    Post,
    PostedInterrupts,
    Program,
    Raise,
    Setup,
    Step,
    Wrmsr,
)
from runner.vmx import Blocking, Field, MsrBitmap

IPI = f"{POSTED} activate-tertiary-controls ipi-virtualization"
NV = 0xF2


def together(setups: tuple[Setup, ...], *steps: Step) -> Observation:
    return answer(Program(Level.VMX, setups, steps))


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
    assert [final.pid for final in seen.finals] == [
        (0, 0, 0, 0, NV << 16 | own << 32, 0, 0, 0) for own in (0, 1)
    ]


@pytest.mark.parametrize("sender", [0, 1])
def test_who_comes_through_a_barrier_first_waits_for_the_others(sender: int) -> None:
    one = setup(POSTED, posted=PostedInterrupts(NV), guest=OPEN)
    ready, receiver = Barrier("ready"), 1 - sender
    steps = (
        Step(ready, 0),
        Step(ready, 1),
        Step(Post(receiver, frozenset([0x71]), NV), sender),
        Step(Plain.SPIN, receiver),
    )
    seen = together((one, one), *steps)
    assert deliveries(seen) == [[], [], [], [(0x71, 3)]]


def test_what_was_sent_before_a_barrier_opened_is_taken_there() -> None:
    one = setup(POSTED, posted=PostedInterrupts(NV), guest=OPEN)
    ready, then = Barrier("ready"), Barrier("then")
    post = Step(Post(1, frozenset([0x71]), NV), 0)
    steps = Step(ready, 0), Step(ready, 1), post, Step(then, 0), Step(then, 1), Step(Plain.NOP, 1)
    assert deliveries(together((one, one), *steps)) == [[], [], [], [], [(0x71, 4)], []]


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


# IPI virtualization


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


def posts(command: int, *setups: Setup) -> Observation:
    """What two virtual processors show when the first writes its ICR and the second spins."""
    return together(
        setups,
        Step(Barrier("ready"), 0),
        Step(Wrmsr(0x830, command), 0),
        Step(Barrier("ready"), 1),
        Step(Plain.SPIN, 1),
    )


def target(**posted: object) -> Setup:
    return setup(IPI, posted=PostedInterrupts(NV, **posted), guest=OPEN)


@pytest.mark.parametrize("mode", [ApicMode.X2APIC, ApicMode.XAPIC])
def test_a_virtual_ipi_is_posted_and_notified(mode: ApicMode) -> None:
    both = setup(IPI, posted=PostedInterrupts(NV), guest=OPEN, apic_mode=mode)
    seen = posts(1 << 32 | 0x4071, both, both)
    assert [step.outcomes for step in seen.steps] == [(DONE,)] * 4
    assert [delivered(step) for step in seen.steps] == [[], [], [], [(0x71, 3)]]
    assert seen.finals[1].pid[:4] == (0, 0, 0, 0)
    assert dict(seen.finals[0].page) == {0x300: 0x4071, 0x304: 1}


@pytest.mark.parametrize(("on", "suppress"), [(True, False), (False, True), (True, True)])
def test_a_virtual_ipi_does_not_notify_where_on_or_sn_is_1(on: bool, suppress: bool) -> None:  # noqa: FBT001
    seen = posts(1 << 32 | 0x71, target(), target(outstanding=on, suppress=suppress))
    assert delivered(seen.steps[3]) == []
    assert (seen.finals[1].pid[1], seen.finals[1].pid[4] & 3) == (1 << 0x31, on | suppress << 1)


def test_a_notification_has_the_vector_and_destination_of_the_descriptor() -> None:
    elsewhere = ((0x20, 0xE1 << 16), (0x24, 0))
    seen = posts(1 << 32 | 0x71, target(), target(words=elsewhere))
    (_, exit_) = seen.steps[1].outcomes
    assert isinstance(exit_, VmExit)
    assert (exit_.reason, exit_.interruption_information) == (1, 0x800000E1)
    assert (seen.finals[1].pid[1], seen.finals[1].pid[4]) == (1 << 0x31, 0xE1 << 16 | 1)


@pytest.mark.parametrize("bit", [0, 1, 5, 46, 63])
def test_a_pid_pointer_that_is_not_valid_exits(bit: int) -> None:
    seen = posts(1 << 32 | 0x71, target(), target(pid_pointer_flip=bit))
    assert seen.steps[1].outcomes == (VmExit(56, 0x300, rip=Rip.NEXT),)
    assert seen.finals[1].pid[1] == 0


def test_a_pid_pointer_of_nobody_exits() -> None:
    longer = setup(IPI, posted=PostedInterrupts(NV), fields=((Field.LAST_PID_POINTER_INDEX, Number(2)),))
    seen = posts(2 << 32 | 0x71, longer, target())
    assert seen.steps[1].outcomes == (VmExit(56, 0x300, rip=Rip.NEXT),)


@pytest.mark.parametrize(("vectors", "blocking"), [((), Blocking.MOV_SS), ((0x31,), 0)])
def test_bits_are_posted_by_instructions_before_the_notification(
    vectors: tuple[int, ...], blocking: Blocking
) -> None:
    intercepted = setup(POSTED, posted=PostedInterrupts(NV), msr_bitmap=MsrBitmap(writes=((0x830, 0x830),)))
    post = Post(0, frozenset(vectors), NV, outstanding=False)
    seen = together((intercepted,), Step(Plain.MOV_SS), Step(post), Step(Plain.NOP))
    rip = Rip.ELSEWHERE if vectors else Rip.SAME
    assert seen.steps[1].outcomes == (VmExit(32, rip=rip, instruction_length=2, blocking=Blocking(blocking)),)
