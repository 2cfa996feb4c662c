"""Programs as records of the probe: descriptors and posts."""

from __future__ import annotations

import pytest

from backends import encode, vmcs_items, wire
from runner.program import (
    Level,
    MsrEntry,
    MsrLists,
    Number,
    Plain,
    Post,
    PostedInterrupts,
    Program,
    Setup,
    Step,
)
from runner.vmx import Field

NV = Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR


def operations(post: Post) -> list[tuple[int, ...]]:
    """The operations of a program that is one post and a NOP, without the NOP."""
    setup = Setup(posted=PostedInterrupts())
    program = Program(Level.VMX, (setup, setup), (Step(post), Step(Plain.NOP)))
    record = encode.encode_case(0, program)
    start = wire.CASE.size
    _, items, words, ranges, ops, *_ = wire.VCPU.unpack_from(record, start)
    at = start + wire.VCPU.size + items * wire.ITEM.size + words * wire.WORD.size + ranges * wire.RANGE.size
    return [wire.OP.unpack_from(record, at + index * wire.OP.size) for index in range(ops - 1)]


def test_a_guest_posts_by_locked_instructions_and_its_icr() -> None:
    assert operations(Post(1, frozenset({0x71, 0x31}), 0xF2)) == [
        (wire.OP_PID_BIT, 0, 0, 1, 0x31),
        (wire.OP_PID_BIT, 0, 0, 1, 0x71),
        (wire.OP_PID_BIT, 0, 0, 1, wire.PID_OUTSTANDING),
        (wire.OP_SEND_IPI, 0, 0, 1, 0xF2),
    ]


def test_a_vmm_posts_in_root_operation() -> None:
    assert operations(Post(1, frozenset({0x71}), 0xF2, outstanding=False, by_guest=False)) == [
        (wire.OP_PID_BIT_VMM, 0, 0, 1, 0x71),
        (wire.OP_SEND_IPI_VMM, 0, 0, 1, 0xF2),
        (wire.OP_DONE, 0, 0, 0, 0),
    ]


def test_a_post_without_notification_sends_nothing() -> None:
    assert operations(Post(0, frozenset(), None)) == [(wire.OP_PID_BIT, 0, 0, 0, wire.PID_OUTSTANDING)]


@pytest.mark.parametrize(
    ("posted", "how", "control"),
    [
        (PostedInterrupts(0xE1, outstanding=True), wire.HOW_OWN, 0xE10001),
        (PostedInterrupts(words=((0x20, 0x5A5A5A00),), suppress=True), wire.HOW_OWN, 0x5A5A5A02),
        (PostedInterrupts(words=((0x24, 0x5),)), wire.HOW_SET, 0x5_00F20000),
    ],
)
def test_ndst_is_the_own_processor_unless_the_setup_says_it(
    posted: PostedInterrupts, how: int, control: int
) -> None:
    items = list(vmcs_items.of_setup(Setup(posted=posted)))
    assert (wire.ITEM_PID + 4, how, control) in items
    assert [item[1] for item in items if item[0] != wire.ITEM_PID + 4] == [wire.HOW_SET] * 8


def test_pir_and_the_other_words_of_a_descriptor_are_items() -> None:
    posted = PostedInterrupts(pir=frozenset({0, 0x71, 0xFF}), words=((0x3C, 0xA5),), pid_pointer_flip=46)
    items = {what: (how, value) for what, how, value in vmcs_items.of_setup(Setup(posted=posted))}
    assert items[NV] == (wire.HOW_SET, 0xF2)
    pir, rest = [1, 1 << 0x31, 0, 1 << 63], [0, 0, 0xA5 << 32]
    assert [items[wire.ITEM_PID + index][1] for index in (0, 1, 2, 3, 5, 6, 7)] == pir + rest
    assert items[wire.ITEM_PID_POINTER] == (wire.HOW_FLIP, 46)


@pytest.mark.parametrize("list_", ["exit_store", "exit_load"])
def test_a_vmx_abort_is_refused_but_not_entries_behind_the_count(list_: str) -> None:
    lists = MsrLists(**{list_: (MsrEntry(0x174, 0), MsrEntry(0x808, 0))})
    aborting = Program(Level.VMX, (Setup(msr_lists=lists),), (Step(Plain.NOP),))
    with pytest.raises(encode.CannotEncodeError, match="VMX abort"):
        encode.encode_case(0, aborting)
    counts = ((Field.VM_EXIT_MSR_STORE_COUNT, Number(1)), (Field.VM_EXIT_MSR_LOAD_COUNT, Number(1)))
    shorter = Setup(msr_lists=lists, fields=counts)
    assert encode.encode_case(0, Program(Level.VMX, (shorter,), (Step(Plain.NOP),)))
