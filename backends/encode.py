"""Programs become the probe's records: what each virtual processor's VMCS and pages hold, and its steps.

A step becomes one operation, or a few that share its *slot*, its place in its processor's list; the
slots of the handlers' steps follow those of the main ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backends import vmcs_items, wire
from runner.apic import is_x2apic
from runner.program import (
    EOI_HANDLER,
    Action,
    Barrier,
    Cpuid,
    GuestState,
    InitSipi,
    Inject,
    Level,
    MmioRead,
    Number,
    Plain,
    Post,
    Program,
    Raise,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Setup,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Access, Field, MsrBitmap

MODE_BITS = 0xC00
"""EN and EXTD of IA32_APIC_BASE; a step that sets no other bits leaves those as they are."""


class CannotEncodeError(Exception):
    """The program has a construct that the probe's records do not carry; the text says which."""


def encode_case(seq: int, program: Program) -> bytes:
    """Return the record of one program. Raises `CannotEncodeError`."""
    barriers = _barriers(program.steps)
    blocks = b"".join(_vcpu(setup, program, vcpu, barriers) for vcpu, setup in enumerate(program.vcpus))
    mode = program.vcpus[0].apic_mode
    if any(setup.apic_mode is not mode for setup in program.vcpus):
        raise CannotEncodeError("virtual processors with different physical APIC modes")
    head = wire.CASE.pack(
        wire.CASE.size + len(blocks),
        seq,
        wire.LEVELS[program.level],
        len(program.vcpus),
        wire.MODES[mode],
        0,
        0,
    )
    return head + blocks


def _barriers(steps: Iterable[Step]) -> dict[str, tuple[int, int]]:
    """Return each barrier's number and how many virtual processors wait there."""
    waiting: dict[str, set[int]] = {}
    for step in steps:
        if isinstance(step.action, Barrier):
            waiting.setdefault(step.action.name, set()).add(step.vcpu)
    return {name: (number, len(vcpus)) for number, (name, vcpus) in enumerate(waiting.items())}


def _refuse_vmx_abort(setup: Setup) -> None:
    """Refuse VM-exit lists that name an APIC MSR: a processor in VMX abort shows nothing any more."""
    counts, lists = dict(setup.fields), setup.msr_lists
    for entries, field in (
        (lists.exit_store, Field.VM_EXIT_MSR_STORE_COUNT),
        (lists.exit_load, Field.VM_EXIT_MSR_LOAD_COUNT),
    ):
        count = counts.get(field)
        looked_at = entries[: count.value] if isinstance(count, Number) else entries
        if any(is_x2apic(entry.msr) for entry in looked_at):
            raise CannotEncodeError("a VMX abort, behind which its processor shows nothing")


def _vcpu(setup: Setup, program: Program, vcpu: int, barriers: dict[str, tuple[int, int]]) -> bytes:
    _refuse_vmx_abort(setup)
    items = list(vmcs_items.of_setup(setup)) if program.level is Level.VMX else []
    own = [step for step in program.steps if step.vcpu == vcpu]
    started = any(step.action == InitSipi(vcpu) for step in program.steps)
    ops = [op for slot, step in enumerate(own) for op in _ops(step, slot, barriers, started=started)]
    handlers, slots = _handlers(setup, len(own), barriers)
    ranges = [
        wire.RANGE.pack(first, last, access, 0)
        for access, some in (
            (wire.RANGE_READ, setup.msr_bitmap.reads),
            (wire.RANGE_WRITE, setup.msr_bitmap.writes),
        )
        for first, last in some
    ]
    guest = setup.guest
    if program.level is Level.GUEST and guest != GuestState(interrupt_flag=guest.interrupt_flag):
        raise CannotEncodeError("a start at level guest with TF, CPL, blocking or activity state")
    flags = (
        wire.GUEST_IF * guest.interrupt_flag
        | wire.GUEST_TF * guest.trap_flag
        | wire.GUEST_CPL3 * (guest.cpl == 3)
        | wire.GUEST_INIT * started
    )
    words = [wire.WORD.pack(offset, word) for offset, word in setup.page.words]
    body = b"".join([*(wire.ITEM.pack(*item) for item in items), *words, *ranges, *ops, *handlers])
    if slots > wire.MAX_SLOTS:
        raise CannotEncodeError(f"{slots} steps on one virtual processor, {wire.MAX_SLOTS} is the most")
    return (
        wire.VCPU.pack(
            wire.VCPU.size + len(body),
            len(items),
            len(words),
            len(ranges),
            len(ops),
            len(handlers),
            wire.FILLS[setup.page.fill],
            flags,
            setup.page.value,
            len(own),
            slots,
        )
        + body
    )


def _handlers(setup: Setup, first_slot: int, barriers: dict[str, tuple[int, int]]) -> tuple[list[bytes], int]:
    """Return the handlers' blocks, and the number of slots with theirs."""
    blocks, slot = [], first_slot
    every = [*setup.handlers, *([(wire.VECTOR_ANY, EOI_HANDLER)] if setup.eoi else [])]
    for vector, steps in every:
        ops = [op for at, step in enumerate(steps) for op in _ops(step, slot + at, barriers)]
        blocks.append(wire.HANDLER.pack(vector, len(ops), 0) + b"".join(ops))
        slot += len(steps)
    return blocks, slot


def _ops(
    step: Step, slot: int, barriers: dict[str, tuple[int, int]], *, started: bool = False
) -> Iterator[bytes]:
    """Yield the operations of one step; HLT waits for INIT where the processor is *started* again."""
    action = step.action
    if isinstance(action, Post):
        yield from _post(action, slot)
    elif isinstance(action, Vmm | Inject | Raise):
        for op, flags, arg, value in _vmm(action):
            yield wire.OP.pack(op, flags, slot, arg, value)
        yield wire.OP.pack(wire.OP_DONE, 0, slot, 0, 0)
    elif isinstance(action, Barrier):
        number, count = barriers[action.name]
        yield wire.OP.pack(wire.OP_BARRIER, 0, slot, number, count)
    else:
        op, arg, value = _guest_op(action)
        if started and action is Plain.HLT:
            op = wire.OP_WAIT_FOR_SIPI
        flags = wire.OP_CPL3 if step.cpl == 3 else 0
        if isinstance(action, Rdmsr | Wrmsr) and action.garbage:
            flags |= wire.OP_GARBAGE
        yield wire.OP.pack(op, flags, slot, arg, value)


def _guest_op(action: Action) -> tuple[int, int, int]:
    """Return operation, argument and value of one guest instruction."""
    match action:
        case Rdmsr(msr):
            return wire.OP_RDMSR, msr, 0
        case Wrmsr(msr, value):
            return wire.OP_WRMSR, msr, value
        case SetApicBase(value):
            raw = value & ~MODE_BITS
            return (wire.OP_WRMSR, wire.IA32_APIC_BASE, value) if raw else (wire.OP_APIC_MODE, 0, value)
        case InitSipi(to):
            return wire.OP_INIT_SIPI, to, 0
        case ReadCr8():
            return wire.OP_READ_CR8, 0, 0
        case WriteCr8(value):
            return wire.OP_WRITE_CR8, 0, value
        case Cpuid(leaf):
            return wire.OP_CPUID, leaf, 0
        case MmioRead(offset):
            return wire.OP_MMIO_READ, offset, 0
        case Plain() as plain if plain in wire.PLAIN_OPS:
            return wire.PLAIN_OPS[plain], 0, 0
    raise CannotEncodeError(f"the step {action!r}")


def _post(post: Post, slot: int) -> Iterator[bytes]:
    set_bit, send = (
        (wire.OP_PID_BIT, wire.OP_SEND_IPI) if post.by_guest else (wire.OP_PID_BIT_VMM, wire.OP_SEND_IPI_VMM)
    )
    bits = sorted(post.vectors) + [wire.PID_OUTSTANDING] * post.outstanding
    for bit in bits:
        yield wire.OP.pack(set_bit, 0, slot, post.to, bit)
    if post.notify is not None:
        yield wire.OP.pack(send, 0, slot, post.to, post.notify)
    if not post.by_guest:
        yield wire.OP.pack(wire.OP_DONE, 0, slot, 0, 0)


INJECT_EXTERNAL_INTERRUPT = 0x80000000
"""Valid, type 0. SDM: *VM-Entry Controls for Event Injection*."""


def _vmm(action: Vmm | Inject | Raise) -> Iterator[tuple[int, int, int, int]]:
    if isinstance(action, Raise):
        yield wire.OP_RAISE, 0, action.vector, 0
    elif isinstance(action, Inject):
        information = INJECT_EXTERNAL_INTERRUPT | action.vector
        yield wire.OP_ITEM, wire.HOW_SET, Field.VM_ENTRY_INTERRUPTION_INFORMATION, information
    else:
        yield from _vmm_changes(action)


def _vmm_changes(vmm: Vmm) -> Iterator[tuple[int, int, int, int]]:
    for offset, word in vmm.words:
        yield wire.OP_WORD, 0, offset, word
    for what, how, value in vmcs_items.of_vmm(vmm):
        if how > 0xFF:
            raise CannotEncodeError("a VMM step that gives a field another virtual processor's page")
        yield wire.OP_ITEM, how, what, value
    if vmm.interrupt_flag is not None:
        yield wire.OP_INTERRUPT_FLAG, 0, 0, int(vmm.interrupt_flag)
    if vmm.msr_bitmap is not None:
        yield from _new_bitmap(vmm.msr_bitmap)


def _new_bitmap(bitmap: MsrBitmap) -> Iterator[tuple[int, int, int, int]]:
    yield wire.OP_BITMAP_CLEAR, 0, 0, 0
    for kind, access in ((Access.READ, wire.RANGE_READ), (Access.WRITE, wire.RANGE_WRITE)):
        for first, last in bitmap.reads if kind is Access.READ else bitmap.writes:
            yield wire.OP_BITMAP_SET, 0, access, first | last << 32
