"""Evaluation and delivery of virtual interrupts, blocking, HLT, injection, and other events."""

from __future__ import annotations

import pytest
from modelled import (
    DELIVERY,
    DONE,
    OPEN,
    REGISTERS,
    delivered,
    deliveries,
    final,
    last,
    observe,
    page,
    program,
    rules,
    setup,
    stale_request,
)

from backends.model import Model
from backends.model.implementation import Implementation
from runner.apic import VIRR, VISR, VPPR, Fill
from runner.outcome import GP0, Completed, Observation, Rip, StepResult, Stuck, VmExit
from runner.program import (
    EOI_HANDLER,
    Action,
    GuestState,
    Inject,
    Plain,
    Raise,
    Rdmsr,
    ReadCr8,
    Setup,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Activity, Blocking

STI, CLI, NOP, MOV_SS, HLT = Plain.STI, Plain.CLI, Plain.NOP, Plain.MOV_SS, Plain.HLT
WINDOW = f"{DELIVERY} interrupt-window-exiting"


def pending(rvi: int = 0x61, names: str = DELIVERY, **more: object) -> Setup:
    more = {"guest": OPEN, "page": page(irr=[rvi]), **more}
    return setup(names, rvi=rvi, **more)


# Evaluation


@pytest.mark.parametrize(
    ("rvi", "tpr", "taken"),
    [
        (0x51, 0x40, True),
        (0x51, 0x50, False),
        (0x5F, 0x50, False),
        (0x0F, 0, False),
        (0x10, 0, True),
        (0x1F, 0x0F, True),
        (0x1F, 0x10, False),
        (0xFF, 0xEF, True),
    ],
)
def test_rvi_is_recognized_when_its_class_is_above_vppr(rvi: int, tpr: int, taken: bool) -> None:  # noqa: FBT001
    seen = observe(pending(rvi, page=page(tpr=tpr, irr=[rvi])), NOP)
    assert delivered(seen.steps[0]) == ([(rvi, 0)] if taken else [])


def test_evaluation_works_from_rvi_not_from_virr() -> None:
    assert delivered(observe(setup(DELIVERY, guest=OPEN, page=page(irr=[0x71])), NOP).steps[0]) == []
    seen = observe(setup(DELIVERY, guest=OPEN, rvi=0x71), NOP)
    assert delivered(seen.steps[0]) == [(0x71, 0)]


@pytest.mark.parametrize(
    "action",
    [
        NOP,
        STI,
        Rdmsr(0x808),
        Rdmsr(0x80A),
        ReadCr8(),
        Wrmsr(0x808, 0x100),
        Wrmsr(0x80B, 1),
        Wrmsr(0x83F, 0x100),
    ],
)
def test_nothing_else_evaluates(action: Action) -> None:
    seen = stale_request(action, action, NOP)
    assert deliveries(seen) == [[(0x61, 0)], [], []]
    assert (seen.finals[0].rvi, seen.finals[0].svi) == (0x91, 0x61)


@pytest.mark.parametrize(
    "action", [Wrmsr(0x808, 0), WriteCr8(0), Wrmsr(0x83F, 0x21), Wrmsr(0x80B, 0), Plain.VMCALL]
)
def test_what_evaluates_delivers_the_stale_request(action: Action) -> None:
    assert deliveries(stale_request(NOP, action, NOP)) == [[(0x61, 0)], [(0x91, 2)], []]


def test_nothing_is_recognized_in_the_handler_until_its_eoi() -> None:
    handlers = ((0x61, (Step(STI), Step(NOP), Step(Wrmsr(0x80B, 0)), Step(NOP))),)
    seen = stale_request(NOP, handlers=handlers)
    (outer,) = seen.steps[0].delivered
    assert [delivered(step) for step in outer.steps] == [[], [], [(0x91, 3)], []]


def test_each_evaluation_replaces_the_former_result() -> None:
    withdrawn = observe(setup(DELIVERY), Wrmsr(0x83F, 0x51), Wrmsr(0x808, 0x60), STI, NOP, NOP)
    assert deliveries(withdrawn) == [[], [], [], [], []]
    kept = observe(setup(DELIVERY), Wrmsr(0x83F, 0x51), Wrmsr(0x808, 0x40), STI, NOP, NOP)
    assert deliveries(kept) == [[], [], [], [(0x51, 4)], []]


def test_without_delivery_nothing_is_evaluated() -> None:
    seen = observe(pending(names=REGISTERS), NOP, Wrmsr(0x808, 0))
    assert deliveries(seen) == [[], []]
    assert seen.finals[0].rvi == 0x61


def test_physical_and_virtual_priority_do_not_touch() -> None:
    one = setup(DELIVERY, guest=OPEN, page=page(tpr=0xF0))
    assert observe(one, Raise(0x31), NOP).steps[0].outcomes == (DONE, VmExit(1, rip=Rip.NEXT))


# Interrupt-window exiting


def test_window_exiting_prevents_recognition_and_exits_instead() -> None:
    seen = observe(pending(names=WINDOW, page=page({VPPR: 0x77}, irr=[0x61])), NOP, NOP)
    assert seen.steps[0].outcomes == (VmExit(7), DONE)
    assert delivered(seen.steps[0]) == [(0x61, 0)]
    stopped = observe(pending(names=WINDOW, guest=GuestState()), NOP, STI, NOP)
    assert stopped.steps[1].outcomes == (DONE,)
    assert stopped.steps[2].outcomes == (DONE, VmExit(7, rip=Rip.NEXT))
    assert (delivered(stopped.steps[2]), stopped.finals[0].rvi) == ([], 0x61)


def test_the_window_opens_behind_the_instruction_after_sti() -> None:
    seen = observe(setup("use-msr-bitmaps interrupt-window-exiting"), CLI, STI, NOP, NOP)
    assert [step.outcomes for step in seen.steps] == [
        (DONE,),
        (DONE,),
        (DONE, VmExit(7, rip=Rip.NEXT)),
        (DONE,),
    ]


# Delivery


def test_delivery_updates_page_rvi_and_svi() -> None:
    one = setup(
        DELIVERY, guest=OPEN, rvi=0x61, page=page({0x134: 5, 0x234: 6, 0xA4: 7}, tpr=0x2F, irr=[0x31, 0x61])
    )
    after = final(one, NOP)
    expected = {0x130: 1 << 1, 0x230: 0, VPPR: 0x60}
    assert (dict(after.page), after.rvi, after.svi, after.physical) == (expected, 0x31, 0x61, ())
    assert final(setup(DELIVERY, guest=OPEN, rvi=0x35, page=page(tpr=0x2F)), NOP).page[0] == (VPPR, 0x30)


def test_every_vector_is_delivered_with_its_own_bits() -> None:
    for vector in range(0x10, 0x100):
        after = final(pending(vector, page=page(irr=[vector])), NOP)
        words = dict(after.page)
        assert words[VISR + 16 * (vector // 32)] == 1 << vector % 32
        assert words[VIRR + 16 * (vector // 32)] == 0
        assert (after.rvi, after.svi, words[VPPR]) == (0, vector, vector & 0xF0)


def test_a_vector_without_its_virr_bit_is_delivered() -> None:
    seen = observe(setup(DELIVERY, guest=OPEN, rvi=0x61), NOP)
    assert delivered(seen.steps[0]) == [(0x61, 0)]


def test_handlers_with_eoi_take_all_that_is_pending() -> None:
    irr = [0x31, 0x61, 0x91]
    one = setup(DELIVERY, guest=OPEN, rvi=0x91, page=page(irr=irr), eoi=True)
    seen = observe(one, NOP)
    assert delivered(seen.steps[0]) == [(0x91, 0), (0x61, 0), (0x31, 0)]
    assert all(delivery.steps == (StepResult((DONE,)),) for delivery in seen.steps[0].delivered)


def test_if_0_holds_delivery_and_recognition_persists() -> None:
    seen = observe(pending(guest=GuestState()), NOP, STI, NOP, NOP)
    assert deliveries(seen) == [[], [], [(0x61, 3)], []]


def test_cli_holds_delivery() -> None:
    seen = observe(setup(DELIVERY, guest=OPEN), CLI, Wrmsr(0x83F, 0x51), NOP)
    assert deliveries(seen) == [[], [], []]


def test_sti_holds_for_one_instruction_only_if_if_was_0() -> None:
    held = observe(setup(DELIVERY), CLI, Wrmsr(0x83F, 0x51), STI, NOP, NOP)
    assert deliveries(held) == [[], [], [], [(0x51, 4)], []]
    already = observe(
        setup(DELIVERY, guest=OPEN, page=page(tpr=0x60)), Wrmsr(0x83F, 0x51), STI, Wrmsr(0x808, 0)
    )
    assert deliveries(already) == [[], [], [(0x51, 3)]]


def test_mov_ss_holds_for_one_instruction() -> None:
    after_mov_ss = observe(setup(DELIVERY, guest=OPEN), MOV_SS, Wrmsr(0x83F, 0x51), NOP)
    assert deliveries(after_mov_ss) == [[], [(0x51, 2)], []]


@pytest.mark.parametrize(("repeats", "at"), [(True, 3), (False, 2)])
def test_whether_mov_ss_behind_sti_holds_too_is_left_to_the_processor(repeats: bool, at: int) -> None:  # noqa: FBT001
    chosen = Model(Implementation(blocking_repeats=repeats))
    (seen,) = chosen.run([program(pending(guest=GuestState()), STI, MOV_SS, NOP, NOP)])
    assert isinstance(seen, Observation)
    assert [place for step in seen.steps for _, place in delivered(step)] == [at]


@pytest.mark.parametrize(("waits", "rip"), [(True, Rip.NEXT), (False, Rip.SAME)])
def test_whether_blocking_delays_an_external_interrupt_is_too(waits: bool, rip: Rip) -> None:  # noqa: FBT001
    guest = GuestState(interrupt_flag=True, blocking=Blocking.STI)
    chosen = Model(Implementation(external_interrupts_wait_for_blocking=waits))
    self_ipi = setup(f"{REGISTERS} external-interrupt-exiting", guest=GuestState())
    (seen,) = chosen.run([program(self_ipi, STI, Wrmsr(0x83F, 0x51), NOP)])
    assert isinstance(seen, Observation)
    assert seen.steps[1].outcomes[1] == VmExit(1, rip=Rip.NEXT)
    (blocked,) = chosen.run([program(setup(DELIVERY, guest=guest), Raise(0x51), NOP)])
    assert isinstance(blocked, Observation)
    exits = [outcome for step in blocked.steps for outcome in step.outcomes if isinstance(outcome, VmExit)]
    assert [exit_.blocking for exit_ in exits] == [Blocking(0) if rip is Rip.NEXT else Blocking.STI]


@pytest.mark.parametrize("blocking", [Blocking.STI, Blocking.MOV_SS])
def test_blocking_at_entry_holds_for_the_first_instruction(blocking: Blocking) -> None:
    one = pending(guest=GuestState(interrupt_flag=True, blocking=blocking))
    assert deliveries(observe(one, NOP, NOP)) == [[(0x61, 1)], []]


def test_blocking_by_nmi_holds_nothing() -> None:
    one = pending(guest=GuestState(interrupt_flag=True, blocking=Blocking.NMI))
    seen = observe(one, NOP)
    assert deliveries(seen) == [[(0x61, 0)]]


def test_iret_ends_blocking_by_nmi() -> None:
    guest = GuestState(interrupt_flag=True, blocking=Blocking.NMI)
    assert final(setup(DELIVERY, guest=guest), NOP).blocking == Blocking.NMI
    assert final(pending(guest=guest), NOP).blocking == 0
    assert final(setup(DELIVERY, guest=guest), Wrmsr(0x808, 0x100)).blocking == 0


def test_iret_leaves_blocking_by_nmi_with_nmi_exiting() -> None:
    guest = GuestState(interrupt_flag=True, blocking=Blocking.NMI)
    one = pending(names=f"{DELIVERY} nmi-exiting", guest=guest)
    assert final(one, NOP).blocking == Blocking.NMI


def test_blocking_by_an_sti_right_before_iret_ends_with_it() -> None:
    handler = (Step(Wrmsr(0x83F, 0x91)), Step(STI))
    assert deliveries(observe(pending(handlers=((0x61, handler),)), NOP)) == [[(0x61, 0), (0x91, 0)]]


def test_a_faulting_instruction_ends_blocking() -> None:
    seen = observe(setup(DELIVERY, rvi=0x61), STI, Wrmsr(0x808, 0x100), NOP)
    assert seen.steps[1].outcomes == (GP0,)
    assert deliveries(seen) == [[], [(0x61, 2)], []]


def test_the_final_state_shows_blocking_by_sti() -> None:
    assert final(setup(DELIVERY), STI).blocking == Blocking.STI
    assert final(setup(DELIVERY), MOV_SS).blocking == Blocking.MOV_SS
    assert final(setup(DELIVERY), STI, NOP).blocking == Blocking(0)


@pytest.mark.parametrize("action", [STI, CLI, HLT])
def test_privileged_instructions_fault_at_cpl_3(action: Plain) -> None:
    assert observe(setup(DELIVERY), Step(action, cpl=3)).steps[0].outcomes == (GP0,)


# HLT


def test_delivery_ends_hlt() -> None:
    idle = observe(setup(DELIVERY), CLI, Wrmsr(0x83F, 0x51), STI, HLT, NOP)
    assert deliveries(idle) == [[], [], [], [(0x51, 4)], []]
    assert idle.steps[3].outcomes == (DONE,)
    entered = pending(guest=GuestState(interrupt_flag=True, activity=Activity.HLT))
    seen = observe(entered, NOP)
    assert (deliveries(seen), seen.finals[0].activity) == ([[(0x61, 0)]], Activity.ACTIVE)


def test_delivery_comes_before_a_hlt_that_is_not_blocked() -> None:
    seen = observe(setup(DELIVERY, guest=OPEN), Wrmsr(0x83F, 0x51), HLT)
    assert deliveries(seen) == [[(0x51, 1)], []]
    assert seen.steps[1].outcomes == (Stuck.STAYS_HALTED,)
    assert seen.finals[0].activity is Activity.HLT


@pytest.mark.parametrize("steps", [(HLT, NOP), (Wrmsr(0x83F, 0x51), HLT, NOP)])
def test_hlt_with_if_0_stays_halted(steps: tuple[Action, ...]) -> None:
    seen = observe(setup(DELIVERY), *steps)
    assert seen.steps[-2].outcomes == (Stuck.STAYS_HALTED,)
    assert seen.steps[-1].outcomes == (Stuck.NOT_REACHED,)


def test_hlt_exiting() -> None:
    one = setup(f"{DELIVERY} hlt-exiting")
    seen = observe(one, CLI, Wrmsr(0x83F, 0x51), STI, HLT)
    assert seen.steps[3].outcomes == (VmExit(12, instruction_length=1, blocking=Blocking.STI),)
    assert (seen.finals[0].rvi, deliveries(seen)[3]) == (0x51, [])


def test_shutdown_is_not_ended_by_a_virtual_interrupt() -> None:
    seen = observe(pending(guest=GuestState(interrupt_flag=True, activity=Activity.SHUTDOWN)), NOP)
    assert seen.steps[0].outcomes == (Stuck.DID_NOT_RETURN,)
    assert (seen.finals[0].rvi, deliveries(seen)) == (0x61, [[]])


# Event injection


def test_an_injected_interrupt_comes_first_and_is_no_delivery() -> None:
    one = pending(page=page({0x8: 1}, tpr=0x20, irr=[0x61]))
    seen = observe(one, Inject(0x91), NOP)
    assert deliveries(seen) == [[(0x91, 1), (0x61, 1)], []]
    alone = final(setup(DELIVERY, guest=OPEN, page=page(tpr=0x20)), Inject(0x91), NOP)
    assert (dict(alone.page), alone.rvi, alone.svi) == ({VPPR: 0x20}, 0, 0)


def test_an_injection_is_not_repeated() -> None:
    seen = observe(setup(DELIVERY, guest=OPEN), Inject(0x91), NOP, Plain.VMCALL, NOP)
    assert deliveries(seen) == [[(0x91, 1)], [], [], []]


def test_an_injection_ends_hlt() -> None:
    one = setup(DELIVERY, guest=GuestState(interrupt_flag=True, activity=Activity.HLT))
    seen = observe(one, Inject(0x91), NOP)
    assert (deliveries(seen), seen.steps[1].outcomes) == ([[(0x91, 1)], []], (DONE,))


# Physical interrupts


def test_an_external_interrupt_exits_whatever_if_is() -> None:
    for guest in (OPEN, GuestState()):
        seen = observe(setup(DELIVERY, guest=guest), Raise(0x51), NOP)
        assert seen.steps[0].outcomes == (DONE, VmExit(1, rip=Rip.NEXT))
        assert seen.steps[1].outcomes == (DONE,)
        assert seen.finals[0].physical == ()


def test_acknowledge_on_exit_gives_the_vector() -> None:
    names = f"{DELIVERY} acknowledge-interrupt-on-exit"
    seen = observe(setup(names), Raise(0x51), NOP)
    assert seen.steps[0].outcomes[1] == VmExit(1, rip=Rip.NEXT, interruption_information=0x80000051)
    assert seen.finals[0].physical == ()
    self_ipi = f"{REGISTERS} external-interrupt-exiting"
    left = observe(setup(f"{self_ipi} acknowledge-interrupt-on-exit"), Wrmsr(0x83F, 0x51))
    assert left.steps[0].outcomes == (DONE, VmExit(1, rip=Rip.NEXT, interruption_information=0x80000051))
    assert dict(left.finals[0].physical) == {0x812: 1 << 0x11}
    pending_still = observe(setup(self_ipi), Wrmsr(0x83F, 0x51))
    assert dict(pending_still.finals[0].physical) == {0x822: 1 << 0x11}


def test_without_external_interrupt_exiting_the_guest_takes_it() -> None:
    seen = observe(setup(REGISTERS, guest=OPEN, eoi=True), Raise(0x51), NOP)
    assert deliveries(seen) == [[(0x51, 1)], []]
    assert seen.finals[0].physical == ()
    held = observe(setup(REGISTERS), Raise(0x51), NOP, STI, NOP, NOP)
    assert deliveries(held) == [[], [], [], [(0x51, 4)], []]
    assert dict(held.finals[0].physical) == {0x812: 1 << 0x11}


def test_a_virtual_interrupt_comes_before_a_physical_one() -> None:
    seen = observe(pending(), Raise(0x31), NOP)
    assert deliveries(seen) == [[(0x61, 1)], []]
    assert seen.steps[0].outcomes == (DONE, VmExit(1, rip=Rip.ELSEWHERE))
    assert seen.finals[0].svi == 0x61


def test_an_exit_that_ends_hlt_saves_hlt_and_the_guest_halts_again() -> None:
    guest = GuestState(interrupt_flag=True, activity=Activity.HLT)
    seen = observe(setup(DELIVERY, guest=guest), Raise(0x51), NOP)
    assert seen.steps[0].outcomes == (
        DONE,
        VmExit(1, rip=Rip.NEXT, activity=Activity.HLT),
        Stuck.STAYS_HALTED,
    )
    assert seen.finals[0].activity is Activity.HLT


# Other events


def test_a_single_step_trap_comes_before_a_virtual_interrupt() -> None:
    guest = GuestState(interrupt_flag=True, trap_flag=True)
    seen = observe(setup(DELIVERY, guest=guest), Wrmsr(0x83F, 0x51), NOP)
    assert deliveries(seen) == [[(1, 1), (0x51, 1)], []]
    intercepted = GuestState(interrupt_flag=True, trap_flag=True, exception_bitmap=frozenset([1]))
    step = observe(setup(DELIVERY, guest=intercepted), Wrmsr(0x83F, 0x51)).steps[0]
    assert step.outcomes[0] == DONE
    assert step.outcomes[1] == VmExit(0, 0x4000, rip=Rip.NEXT, interruption_information=0x80000301)


def test_mov_ss_holds_the_single_step_trap_back() -> None:
    seen = observe(setup(DELIVERY, guest=GuestState(trap_flag=True)), MOV_SS, NOP, NOP)
    assert deliveries(seen) == [[], [(1, 2)], []]


def test_recognition_ends_with_an_exit_and_the_entry_evaluates_again() -> None:
    seen = observe(pending(guest=GuestState()), Plain.VMCALL, Vmm(interrupt_flag=True), NOP)
    assert deliveries(seen) == [[], [(0x61, 2)], []]
    lowered = observe(pending(guest=GuestState()), Plain.VMCALL, Vmm(rvi=0), STI, NOP, NOP)
    assert deliveries(lowered) == [[], [], [], [], []]


def test_exits_save_rvi_and_svi() -> None:
    seen = observe(pending(page=page(irr=[0x31, 0x61])), Plain.VMCALL)
    assert (seen.finals[0].rvi, seen.finals[0].svi) == (0x31, 0x61)


def test_spin_waits_for_an_interrupt_or_ends() -> None:
    seen = observe(setup(DELIVERY, guest=OPEN), Plain.SPIN, NOP)
    assert [step.outcomes for step in seen.steps] == [(DONE,), (DONE,)]
    assert isinstance(last(setup(DELIVERY), Plain.SPIN, Rdmsr(0x808)), Completed)


def test_spin_is_more_than_one_instruction() -> None:
    seen = observe(pending(guest=GuestState()), STI, Plain.SPIN, NOP)
    assert deliveries(seen) == [[], [(0x61, 1)], []]


def test_a_handlers_exit_is_its_own() -> None:
    handlers = ((0x61, EOI_HANDLER),)
    one = pending(
        handlers=handlers, eoi_exit_bitmap=frozenset([0x61]), page=page(fill=Fill.TAGGED, isr=[], irr=[0x61])
    )
    (delivery,) = observe(one, NOP).steps[0].delivered
    assert delivery.steps[0].outcomes == (VmExit(45, 0x61, rip=Rip.NEXT),)


def test_the_trace_names_what_holds_an_interrupt() -> None:
    assert "delivery.sti-holds-one-instruction" in rules(pending(guest=GuestState()), STI, NOP)
    assert "evaluation.window-exiting-prevents" in rules(pending(names=WINDOW), NOP)
