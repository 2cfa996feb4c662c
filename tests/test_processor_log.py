"""Which step an event belongs to, for processors that put the RIP where the SDM does not."""

from __future__ import annotations

import pytest
from programs import program

from backends import decode, events, wire
from backends.events import BadRecordError
from runner.outcome import (
    BETWEEN_STEPS,
    GP0,
    Completed,
    Delivery,
    EntryFailure,
    Observation,
    Rip,
    Stuck,
    VmExit,
    VmfailInvalid,
    VmfailValid,
)
from runner.program import Inject, Plain, Program, Raise, Rdmsr, Step, Vmm, Wrmsr

START, PREVIOUS, INSIDE = events.AT_START, events.AT_PREVIOUS, events.AT_INSIDE
BETWEEN, END, HANDLER, OTHER = events.AT_BETWEEN, events.AT_END, events.AT_HANDLER, events.AT_OTHER
EOI_WRITE, READ = Wrmsr(0x80B, 0), Rdmsr(0x802)


def event(kind: int, at: int, slot: int, a: int = 0, b: int = 0) -> bytes:
    return wire.EVENT.pack(kind, at, slot, 0, a, b)


def left(
    reason: int, at: int, slot: int, *, activity: int = 0, registers: tuple[int, ...] = (0, 0, 0)
) -> bytes:
    return wire.EXIT.pack(
        events.EVENT_EXIT, at, slot, reason, 0, 0x51, 0x52, 2, 0, 0, activity, 0, *registers
    )


def ended(slot: int) -> bytes:
    return event(events.EVENT_END, END | PREVIOUS, slot)


def seen(asked: Program, *log: bytes, lost: int = 0) -> Observation:
    body = b"".join(log)
    final = wire.FINAL.pack(wire.FINAL.size + len(body), len(body), 0, 0, 0, lost, 0, 0, 0)
    return decode.observation(asked, wire.RESULT.pack(wire.FRAME_CASE, 1) + final + body)


def exits(observation: Observation, step: int) -> list[tuple[int, Rip]]:
    return [(o.reason, o.rip) for o in observation.steps[step].outcomes if isinstance(o, VmExit)]


def test_a_trap_like_exit_behind_its_instruction() -> None:
    found = seen(program(EOI_WRITE, Plain.NOP), left(45, START | PREVIOUS, 1), ended(2))
    assert exits(found, 0) == [(45, Rip.NEXT)]
    assert found.steps[1].outcomes == (Completed(),)


def test_a_trap_like_exit_that_points_to_its_own_instruction() -> None:
    found = seen(program(Plain.NOP, EOI_WRITE), left(45, START | PREVIOUS, 1))
    assert exits(found, 1) == [(45, Rip.SAME)]
    assert found.steps[0].outcomes == (Completed(),)


def test_a_fault_like_exit_that_points_behind_its_instruction() -> None:
    found = seen(program(READ, Plain.NOP), left(31, START | PREVIOUS, 1), ended(2))
    assert exits(found, 0) == [(31, Rip.NEXT)]


def test_a_fault_like_exit_with_changed_registers() -> None:
    kept = (wire.BEFORE_RAX, 0x802, wire.BEFORE_RDX)
    changed = (wire.BEFORE_RAX, 0x802, 0)
    outcomes = [
        seen(program(READ), left(31, START, 0, registers=registers)).steps[0].outcomes[0]
        for registers in (kept, changed)
    ]
    assert [isinstance(o, VmExit) and o.registers_kept for o in outcomes] == [True, False]


def test_an_external_interrupt_at_a_boundary_belongs_to_the_step_before() -> None:
    found = seen(program(Plain.STI, Plain.NOP, Plain.NOP), left(1, START | PREVIOUS, 2), ended(3))
    assert found.steps[1].outcomes[0] == Completed()
    assert exits(found, 1) == [(1, Rip.NEXT)]
    assert found.steps[2].outcomes == (Completed(),)


def test_an_external_interrupt_before_the_first_step_belongs_to_it() -> None:
    found = seen(program(Plain.NOP), left(1, START, 0), ended(1))
    assert exits(found, 0) == [(1, Rip.SAME)]


def test_an_external_interrupt_that_a_vmm_step_raised_belongs_to_that_step() -> None:
    performed = event(events.EVENT_PERFORMED, 0, 1)
    found = seen(
        program(Plain.VMCALL, Raise(0x41), Plain.NOP),
        left(18, START, 0),
        performed,
        left(1, START | PREVIOUS, 2),
        ended(3),
    )
    assert exits(found, 0) == [(18, Rip.SAME)]
    assert found.steps[1].outcomes[0] == Completed()
    assert exits(found, 1) == [(1, Rip.NEXT)]


def test_a_threshold_exit_of_a_vm_entry_is_not_the_write_before() -> None:
    asked = program(Wrmsr(0x808, 0x20), Vmm(tpr_threshold=3), Plain.NOP)
    performed = event(events.EVENT_PERFORMED, 0, 1)
    found = seen(asked, left(43, START | PREVIOUS, 2), performed, left(43, START | PREVIOUS, 2), ended(3))
    assert exits(found, 0) == [(43, Rip.NEXT)]
    assert exits(found, 1) == [(43, Rip.NEXT)]


def test_a_read_that_an_interrupt_cuts_off_from_its_note_keeps_its_value() -> None:
    interrupted = left(1, PREVIOUS | BETWEEN, 1, registers=(5, 0x802, 6))
    noted = event(events.EVENT_VALUE, 0, 0, 5, 6)
    for log in ((interrupted,), (interrupted, noted, ended(2))):
        first = seen(program(READ, READ), *log).steps[0].outcomes
        assert first[0] == Completed(5 | 6 << 32)
        assert [o.rip for o in first[1:] if isinstance(o, VmExit)] == [Rip.NEXT]
        assert len(first) == 2


def test_the_exit_of_a_single_step_trap_belongs_to_the_step_before() -> None:
    trap = wire.EXIT.pack(events.EVENT_EXIT, START | PREVIOUS, 1, 0, 0, 0x80000301, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    found = seen(program(Plain.NOP, Plain.NOP), trap)
    assert exits(found, 0) == [(0, Rip.NEXT)]
    assert found.steps[1].outcomes == (Stuck.NOT_REACHED,)


def test_a_delivery_names_the_step_that_its_rip_points_to() -> None:
    found = seen(
        program(Inject(0x91), Plain.NOP, Plain.NOP),
        event(events.EVENT_PERFORMED, 0, 0),
        event(events.EVENT_DELIVERY, START, 1, 0x91),
        event(events.EVENT_RETURN, 0, 1, 0x91),
        event(events.EVENT_DELIVERY, END | PREVIOUS, 3, 0x61),
        event(events.EVENT_RETURN, 0, 3, 0x61),
        ended(3),
    )
    assert [step.delivered for step in found.steps] == [(Delivery(0x91, 1),), (), (Delivery(0x61, 3),)]


def test_a_delivery_on_the_probes_own_loads_is_late() -> None:
    found = seen(
        program(EOI_WRITE, READ),
        event(events.EVENT_DELIVERY, BETWEEN, 1, 0x61),
        event(events.EVENT_RETURN, 0, 1, 0x61),
        ended(2),
    )
    assert found.steps[0].delivered == (Delivery(0x61, BETWEEN_STEPS),)


def test_an_exit_on_a_handlers_first_instruction_belongs_to_the_step_of_its_delivery() -> None:
    found = seen(
        program(Plain.NOP, Plain.NOP),
        left(1, HANDLER, 0x61),
        event(events.EVENT_DELIVERY, START | PREVIOUS, 1, 0x61),
        event(events.EVENT_RETURN, 0, 1, 0x61),
        ended(2),
    )
    assert exits(found, 0) == [(1, Rip.ELSEWHERE)]
    assert found.steps[0].delivered == (Delivery(0x61, 1),)


def test_the_steps_of_a_handler_are_its_own() -> None:
    handler: tuple[Step, ...] = (Step(READ), Step(EOI_WRITE))
    found = seen(
        program(Plain.NOP, handlers=((0x61, handler),)),
        event(events.EVENT_DELIVERY, START, 0, 0x61),
        event(events.EVENT_VALUE, 0, 1, 5, 6),
        event(events.EVENT_FAULT, START, 2, 13),
        event(events.EVENT_RETURN, 0, 0, 0x61),
        ended(1),
    )
    (delivery,) = found.steps[0].delivered
    assert [step.outcomes for step in delivery.steps] == [(Completed(5 | 6 << 32),), (GP0,)]


def test_a_handler_that_did_not_return_leaves_its_last_steps_unreached() -> None:
    handler: tuple[Step, ...] = (Step(Plain.NOP), Step(EOI_WRITE), Step(Plain.NOP))
    found = seen(
        program(Plain.NOP, handlers=((0x61, handler),)),
        event(events.EVENT_DELIVERY, START, 0, 0x61),
        left(45, PREVIOUS | BETWEEN, 3),
    )
    (delivery,) = found.steps[0].delivered
    assert delivery.steps[0].outcomes == (Completed(),)
    assert isinstance(delivery.steps[1].outcomes[0], VmExit)
    assert delivery.steps[2].outcomes == (Stuck.NOT_REACHED,)


@pytest.mark.parametrize(("activity", "stuck"), [(0, Stuck.DID_NOT_RETURN), (1, Stuck.STAYS_HALTED)])
def test_the_guard_says_how_a_step_is_stuck(activity: int, stuck: Stuck) -> None:
    found = seen(program(Plain.HLT, Plain.NOP), left(52, START | PREVIOUS, 1, activity=activity))
    assert [step.outcomes for step in found.steps] == [(stuck,), (Stuck.NOT_REACHED,)]


def test_a_vmm_step_whose_exit_never_came_was_not_reached() -> None:
    halted = seen(program(Plain.HLT, Inject(0x61), Plain.NOP), left(52, START | PREVIOUS, 2, activity=1))
    went_on = seen(program(Plain.NOP, Inject(0x61), Plain.NOP), ended(3))
    assert [step.outcomes for step in halted.steps] == [(Stuck.STAYS_HALTED,), *[(Stuck.NOT_REACHED,)] * 2]
    assert [step.outcomes for step in went_on.steps] == [(Completed(),), (Stuck.NOT_REACHED,), (Completed(),)]


def test_a_loop_that_does_not_return_is_the_step_it_is_in() -> None:
    found = seen(program(Plain.NOP, Plain.SPIN), left(52, INSIDE, 1))
    assert [step.outcomes for step in found.steps] == [(Completed(),), (Stuck.DID_NOT_RETURN,)]


@pytest.mark.parametrize(
    ("log", "entry"),
    [
        (event(events.EVENT_ENTRY, 0, 0, 2, 7), VmfailValid(7)),
        (event(events.EVENT_ENTRY, 0, 0, 1), VmfailInvalid()),
        (left(0x80000021, START, 0), EntryFailure(33)),
    ],
)
def test_the_first_vm_entry_fails(log: bytes, entry: object) -> None:
    found = seen(program(Raise(0x41), Plain.NOP), event(events.EVENT_PERFORMED, 0, 0), log)
    assert found.entries == (entry,)
    assert [step.outcomes for step in found.steps] == [(Completed(),), (Stuck.NOT_REACHED,)]


def test_a_later_vm_entry_fails() -> None:
    found = seen(
        program(Plain.VMCALL, Vmm(tpr_threshold=99), Plain.NOP),
        left(18, START, 0),
        event(events.EVENT_PERFORMED, 0, 1),
        event(events.EVENT_ENTRY, 0, 0, 2, 7),
    )
    assert found.steps[1].outcomes == (Completed(), VmfailValid(7))
    assert found.steps[2].outcomes == (Stuck.NOT_REACHED,)


def test_a_value_behind_a_fault_or_an_intercept_is_the_probes_own() -> None:
    faulted = seen(
        program(READ),
        event(events.EVENT_FAULT, START, 0, 13),
        event(events.EVENT_VALUE, 0, 0, 1, 2),
        ended(1),
    )
    exited = seen(program(READ), left(31, START, 0), event(events.EVENT_VALUE, 0, 0, 1, 2), ended(1))
    assert faulted.steps[0].outcomes == (GP0,)
    assert exits(exited, 0) == [(31, Rip.SAME)]
    assert len(exited.steps[0].outcomes) == 1


def test_upper_halves_that_rdmsr_leaves_are_seen() -> None:
    found = seen(program(READ), event(events.EVENT_VALUE, 0, 0, 1 << 32 | 5, 6), ended(1))
    assert found.steps[0].outcomes == (Completed(5 | 6 << 32, upper_clear=False),)


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (event(events.EVENT_FAULT, OTHER, 0, 14), "exception 14 outside"),
        (event(77, START, 0), "kind 77"),
        (event(events.EVENT_VALUE, 0, 9), "slot 9"),
    ],
)
def test_what_no_probe_sends_is_no_observation(log: bytes, why: str) -> None:
    with pytest.raises(BadRecordError, match=why):
        seen(program(READ), log)


def test_a_log_that_ran_over_is_no_observation() -> None:
    with pytest.raises(BadRecordError, match="more events"):
        seen(program(READ), lost=1)


def test_nothing_undefined_is_observed() -> None:
    (outcome,) = seen(program(EOI_WRITE, Plain.NOP), left(45, START | PREVIOUS, 1)).steps[0].outcomes
    assert isinstance(outcome, VmExit)
    assert (outcome.interruption_information, outcome.idt_vectoring, outcome.instruction_length) == (0, 0, 0)
