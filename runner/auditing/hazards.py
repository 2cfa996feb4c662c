"""What goes wrong with a configuration that VM entry accepts: sharing, the page, the interrupt status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.apic import (
    APICID,
    ICR,
    REGISTERS,
    VICR,
    VIRR,
    VISR,
    page_offset,
)
from runner.auditing.causes import ADDRESS, PREPARE, STORE_ICR
from runner.auditing.effects import Reach, can
from runner.auditing.finding import Audited, Finding, Rank
from runner.vmx import Field, PinBasedControls, PrimaryControls, SecondaryControls
from runner.words import hexadecimal

VID = SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY
DESCRIPTOR = Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS


def hazards(audited: Audited, others: Sequence[Audited]) -> Iterator[Finding]:
    """Yield what is wrong beyond VM entry, the worst first."""
    yield from _no_address(audited)
    yield from _shared(audited, others)
    yield from _inactive(audited)
    yield from _own_id(audited, others)
    yield from _icr(audited)
    yield from _upper_halves(audited)
    yield from _interrupt_status(audited)


def _next(says: str, *rules: str, fix: str, is_open: bool = False) -> Finding:
    return Finding(Rank.NEXT, says, rules, fix, is_open=is_open)


def _of_read(audited: Audited, says: str, *rules: str, fix: str) -> Finding:
    """Return a finding that matters where RDMSR does not exit."""
    supposed = (
        "Supposed: RDMSR does not exit. The dump lacks the MSR bitmap." if audited.bitmap_is_open else ""
    )
    return Finding(Rank.NEXT, says, rules, fix, supposed)


def _no_address(audited: Audited) -> Iterator[Finding]:
    state = audited.state
    if state.is_1(PrimaryControls.USE_TPR_SHADOW) is not False and state.lacks_address(ADDRESS):
        yield _next(
            "VMCS field 2012H, the virtual-APIC address, is not set: the processor works on whatever"
            " page its value leads to, reads it to the guest and writes TPR and interrupt state into it.",
            *("many.virtual-apic-address-in-every-vmcs", "page.never-initialized"),
            fix=PREPARE,
        )
    uses_bitmaps = state.is_1(PrimaryControls.USE_MSR_BITMAPS)
    if uses_bitmaps is not False and state.lacks_address(Field.MSR_BITMAP_ADDRESS):
        yield _next(
            "VMCS field 2004H, the MSR-bitmap address, is not set: which accesses exit is decided by"
            " whatever page its value leads to.",
            *("bitmap.four-maps", "bitmap.set-bit-exits"),
            fix="Write the host-physical address of a 4-KByte page with the MSR bitmap into VMCS field"
            " 2004H.",
        )


def _shared(audited: Audited, others: Sequence[Audited]) -> Iterator[Finding]:
    state = audited.state
    if _is_shared(audited, others, ADDRESS) and state.is_1(PrimaryControls.USE_TPR_SHADOW) is not False:
        yield _next(
            f"The virtual-APIC page at {state.fields[ADDRESS]:X}H serves all of these: registers read the"
            " same on each, and the interrupts of one are mixed with those of the others.",
            *("many.one-page-per-vcpu", "many.shared-page-mixes-interrupt-state"),
            fix=PREPARE,
        )
    posts = state.is_1(PinBasedControls.PROCESS_POSTED_INTERRUPTS)
    if _is_shared(audited, others, DESCRIPTOR) and posts is not False:
        yield _next(
            f"The posted-interrupt descriptor at {state.fields[DESCRIPTOR]:X}H serves all of these: who is"
            " notified first takes the interrupts of all.",
            "many.descriptor-per-vcpu",
            fix="Give each virtual processor a 64-byte aligned descriptor of its own, and write its address"
            " into VMCS field 2016H.",
        )


def _is_shared(audited: Audited, others: Sequence[Audited], field: Field) -> bool:
    """Whether another virtual processor has the same address in a field."""
    address = audited.state.fields.get(field)
    return bool(address) and sum(other.state.fields.get(field) == address for other in others) > 1


def _inactive(audited: Audited) -> Iterator[Finding]:
    state = audited.state
    secondary = state.word(SecondaryControls) or 0
    wanted = secondary & (
        SecondaryControls.VIRTUALIZE_X2APIC_MODE | SecondaryControls.APIC_REGISTER_VIRTUALIZATION | VID
    )
    if not wanted:
        return
    if state.is_1(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS) is False:
        yield _next(
            f"The secondary controls are {hexadecimal(secondary)} and do not act: activate secondary"
            " controls is 0.",
            "controls.activate-secondary-controls",
            fix="Make bit 31 of the primary controls 1.",
        )
    elif not wanted & SecondaryControls.VIRTUALIZE_X2APIC_MODE:
        yield _next(
            "Virtualize x2APIC mode is 0: APIC-register virtualization and virtual-interrupt delivery"
            " then do nothing for RDMSR and WRMSR.",
            "controls.no-msr-virtualization-without-x2apic",
            fix="For a guest in x2APIC mode make bit 4 of the secondary controls 1, and virtualize APIC"
            " accesses (bit 0) 0; for one in xAPIC mode this is right.",
            is_open=bool(secondary & SecondaryControls.VIRTUALIZE_APIC_ACCESSES),
        )
    if state.is_1(PrimaryControls.USE_MSR_BITMAPS) is False:
        yield _next(
            "Use MSR bitmaps is 0, so every RDMSR and WRMSR exits: x2APIC virtualization never comes to act.",
            "bitmap.unused-exits-always",
            fix="Make bit 28 of the primary controls 1 and clear the bits of the MSRs that the processor"
            " virtualizes.",
        )


def _own_id(audited: Audited, others: Sequence[Audited]) -> Iterator[Finding]:
    if not can(audited.accesses.reads.get(APICID, ()), Reach.PAGE) or audited.state.lacks_address(ADDRESS):
        return
    offset, own = page_offset(APICID), audited.state.apic_id
    held = audited.state.page.word(offset)
    if held is None:
        yield _next(
            "Which APIC ID stands at 020H of the virtual-APIC page is not in the dump: RDMSR of 802H"
            " gives these bytes as they are.",
            "rdmsr.id-as-stored",
            fix="See that each page has its own processor's 32-bit ID there.",
            is_open=True,
        )
    elif own is not None and held != own:
        yield _of_read(
            audited,
            f"The page has {hexadecimal(held)} at 020H, and this virtual processor's APIC ID is {own:X}H.",
            "rdmsr.id-as-stored",
            fix=f"Store {own:X}H at offset 020H, 32 bits (the xAPIC's bits 31:24 are not the place).",
        )
    elif own is None and sum(other.state.page.word(offset) == held for other in others) > 1:
        yield _of_read(
            audited,
            f"More than one virtual processor has {hexadecimal(held)} at 020H of its page: an APIC ID is"
            " there once.",
            "rdmsr.id-as-stored",
            fix="Store each processor's own 32-bit ID at offset 020H of its page.",
        )


def _icr(audited: Audited) -> Iterator[Finding]:
    high, low = audited.state.page.word(VICR + 4), audited.state.page.word(VICR + 0x10)
    if low and high == 0 and can(audited.accesses.reads.get(ICR, ()), Reach.PAGE):
        yield _of_read(
            audited,
            f"The page has {hexadecimal(low)} at 310H and 0 at 304H: the guest reads the ICR as the 8"
            " bytes from 300H on, so the destination is lost.",
            "rdmsr.icr-from-eight-bytes",
            fix=STORE_ICR,
        )


def _upper_halves(audited: Audited) -> Iterator[Finding]:
    page, reads = audited.state.page, audited.accesses.reads
    bad = [
        register.offset + 4
        for register in REGISTERS
        if register.msr != ICR
        and page.word(register.offset + 4)
        and register.readable
        and can(reads.get(register.msr, ()), Reach.PAGE)
    ]
    if bad:
        places = ", ".join(f"{offset:03X}H" for offset in bad[:6]) + (" and more" if len(bad) > 6 else "")
        yield _of_read(
            audited,
            f"The page is not 0 at {places}: a guest that reads the register before it gets these bytes"
            " in EDX, which a real APIC leaves 0.",
            "rdmsr.upper-half-from-page",
            fix="Fill the page with 0 before registers are stored.",
        )


def _interrupt_status(audited: Audited) -> Iterator[Finding]:
    state = audited.state
    status = state.fields.get(Field.GUEST_INTERRUPT_STATUS)
    if status is None or state.is_1(VID) is not True:
        return
    for name, base, value in (("RVI", VIRR, status & 0xFF), ("SVI", VISR, status >> 8)):
        highest = _highest(audited, base)
        if highest is not None and highest != value:
            register = "VIRR" if base == VIRR else "VISR"
            yield _next(
                f"{name} is {value:02X}H and the highest vector in {register} {highest:02X}H: the"
                f" processor does not look at {register} at VM entry, so interrupts come late, or never.",
                *("page.rvi-svi-in-vmcs", "entry.page-and-interrupt-status-unchecked"),
                fix=f"Write {highest:02X}H into bits {'7:0' if base == VIRR else '15:8'} of VMCS field"
                " 0810H.",
            )


def _highest(audited: Audited, base: int) -> int | None:
    """Return the highest vector of VIRR or VISR, 0 without one; ``None`` where a word is not known."""
    words = [audited.state.page.word(base + 16 * index) for index in range(8)]
    vectors = [32 * index + word.bit_length() - 1 for index, word in enumerate(words) if word]
    return None if None in words else max(vectors, default=0)
