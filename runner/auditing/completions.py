"""Setups that agree with a dump: what it does not say is taken each way, so that nothing is guessed.

What holds in all of them holds; where they differ, the dump does not tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations, product
from types import MappingProxyType

from runner.apic import VTPR, ApicMode, Fill, VirtualApicPage
from runner.auditing.state import VcpuState
from runner.program import FieldValue, GuestState, Number, PostedInterrupts, Setup
from runner.vmx import (
    CONTROL_FIELDS,
    CONTROL_WORDS,
    Control,
    Controls,
    ExitControls,
    Field,
    MsrBitmap,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
)

RELEVANT: Mapping[type[Control], tuple[Control, ...]] = MappingProxyType(
    {
        PinBasedControls: (
            PinBasedControls.EXTERNAL_INTERRUPT_EXITING,
            PinBasedControls.PROCESS_POSTED_INTERRUPTS,
        ),
        PrimaryControls: (
            PrimaryControls.USE_TPR_SHADOW,
            PrimaryControls.USE_MSR_BITMAPS,
            PrimaryControls.ACTIVATE_SECONDARY_CONTROLS,
            PrimaryControls.ACTIVATE_TERTIARY_CONTROLS,
        ),
        SecondaryControls: (
            SecondaryControls.VIRTUALIZE_APIC_ACCESSES,
            SecondaryControls.VIRTUALIZE_X2APIC_MODE,
            SecondaryControls.APIC_REGISTER_VIRTUALIZATION,
            SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        ),
        TertiaryControls: (TertiaryControls.IPI_VIRTUALIZATION,),
        ExitControls: (ExitControls.ACKNOWLEDGE_INTERRUPT_ON_EXIT,),
    }
)
"""The controls that x2APIC virtualization and its entry checks ask about; others play no part in an audit."""

DECIDE: tuple[Control, ...] = (
    PrimaryControls.USE_MSR_BITMAPS,
    SecondaryControls.VIRTUALIZE_X2APIC_MODE,
    SecondaryControls.APIC_REGISTER_VIRTUALIZATION,
    SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
    TertiaryControls.IPI_VIRTUALIZATION,
)
"""The controls that decide what an access does; the last three only with virtualize x2APIC mode."""

CHECKED = (
    Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR,
    Field.LAST_PID_POINTER_INDEX,
    Field.MSR_BITMAP_ADDRESS,
    Field.APIC_ACCESS_ADDRESS,
    Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
    Field.PID_POINTER_TABLE_ADDRESS,
    Field.TPR_THRESHOLD,
)
"""Fields that the checks on control fields look at, beside the control words and the virtual-APIC address."""

GUEST_CHECKED = (
    Field.GUEST_INTERRUPTIBILITY_STATE,
    Field.GUEST_ACTIVITY_STATE,
    Field.GUEST_PENDING_DEBUG_EXCEPTIONS,
)
EXTERNAL_INTERRUPT = 1 << 31
BTF = 1 << 1
"""Single-step on branches, in IA32_DEBUGCTL."""

_TYPE = 0b111 << 8
_HIGHEST_CLASS = 0xF0


def controls(state: VcpuState) -> Iterator[Controls]:
    """Yield every setting of the relevant controls that the dump allows."""
    choices = [_choices(state, kind) for kind in RELEVANT]
    for chosen in product(*choices):
        yield Controls().plus(chain.from_iterable(chosen))


def _choices(state: VcpuState, kind: type[Control]) -> list[tuple[Control, ...]]:
    word, relevant = state.word(kind), RELEVANT[kind]
    if word is not None:
        return [tuple(control for control in relevant if word & control)]
    return [subset for count in range(len(relevant) + 1) for subset in combinations(relevant, count)]


def control_checks(state: VcpuState) -> Iterator[tuple[Setup, ...]]:
    """Yield, for each way in which the dump can be completed, setups that together make all control checks.

    Why two: the TPR threshold is compared with a page that must be known, the addresses are the VMM's own.
    """
    known = tuple(field for field in CHECKED if field in state.fields)
    vtpr = state.page.word(VTPR)
    for chosen, tpr in product(controls(state), (0, _HIGHEST_CLASS) if vtpr is None else (vtpr,)):
        page = VirtualApicPage(words=((VTPR, tpr),))
        setup = Setup(chosen, page=page, posted=PostedInterrupts(), fields=_numbers(state, known))
        address = _numbers(state, (Field.VIRTUAL_APIC_ADDRESS,)) if _has_address(state) else ()
        yield setup, replace(setup, fields=(*setup.fields, *address))


def _has_address(state: VcpuState) -> bool:
    return Field.VIRTUAL_APIC_ADDRESS in state.fields


def guest_checks(state: VcpuState) -> Iterator[Setup]:
    """Yield a setup for each way in which the guest state can be completed; no control is 1 in it."""
    known = [field for field in GUEST_CHECKED if field in state.fields]
    injection = state.fields.get(Field.VM_ENTRY_INTERRUPTION_INFORMATION, 0)
    if injection & EXTERNAL_INTERRUPT and not injection & _TYPE:
        known.append(Field.VM_ENTRY_INTERRUPTION_INFORMATION)
    both = (False, True)
    traps_branches = bool(state.fields.get(Field.IA32_DEBUGCTL, 0) & BTF)  # BS is then as if TF were 0
    for interrupt_flag, trap_flag, cpl in product(
        both if state.interrupt_flag is None else (state.interrupt_flag,),
        both if state.trap_flag is None else (state.trap_flag and not traps_branches,),
        (0, 3) if state.cpl is None else (state.cpl,),
    ):
        guest = GuestState(interrupt_flag=interrupt_flag, trap_flag=trap_flag, cpl=cpl)
        yield Setup(guest=guest, fields=_numbers(state, known))


def _numbers(
    state: VcpuState, known: list[Field] | tuple[Field, ...]
) -> tuple[tuple[Field, FieldValue], ...]:
    return tuple((field, Number(state.fields[field])) for field in sorted(known))


def access_controls(state: VcpuState) -> Iterator[tuple[Controls, ...]]:
    """Yield the settings that the dump allows, those together under which accesses do the same."""
    alike: dict[tuple[bool, ...], list[Controls]] = {}
    for chosen in controls(state):
        bitmaps, x2apic, *others = map(chosen.active, DECIDE)
        alike.setdefault((bitmaps, x2apic, *(x2apic and each for each in others)), []).append(chosen)
    yield from map(tuple, alike.values())


def accesses(state: VcpuState, chosen: Controls, bitmap: MsrBitmap) -> Iterator[Setup]:
    """Yield a setup for each way in which an access under these controls can meet what the dump leaves open.

    There are two if the page, RVI or SVI is not known whole: what is not is low in one, high in the other.
    The mode of the physical APIC, if not known, is x2APIC: in another, whatever reaches that APIC faults.
    """
    status = state.fields.get(Field.GUEST_INTERRUPT_STATUS)
    is_known = state.page.is_whole and status is not None
    fills = ((Fill.ZERO, 0), (Fill.ONES, _HIGHEST_CLASS))
    for fill, unknown in fills[:1] if is_known else fills:
        yield Setup(
            chosen,
            bitmap,
            state.apic_mode or ApicMode.X2APIC,
            state.page.completed(fill),
            rvi=unknown if status is None else status & 0xFF,
            svi=unknown if status is None else status >> 8,
            posted=PostedInterrupts(),
        )


def unknown_words(state: VcpuState) -> tuple[Field, ...]:
    """Return the control words that matter and are not known."""
    return tuple(
        CONTROL_FIELDS[kind]
        for kind in CONTROL_WORDS
        if kind in RELEVANT and state.word(kind) is None and _matters(state, kind)
    )


def _matters(state: VcpuState, kind: type[Control]) -> bool:
    """Whether a control word acts, or may act."""
    if kind is TertiaryControls:
        return state.is_1(PrimaryControls.ACTIVATE_TERTIARY_CONTROLS) is not False
    if kind is SecondaryControls:
        return state.is_1(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS) is not False
    if kind is ExitControls:
        return state.is_1(PinBasedControls.PROCESS_POSTED_INTERRUPTS) is not False
    return True
