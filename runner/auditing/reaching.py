"""Accesses that end in the wrong place: at the physical APIC, in bytes that are no register, in an exit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.apic import EOI, ICR, REGISTERS, REGISTERS_BY_MSR, REGISTERS_BY_NAME, SELF_IPI, VECTOR_SETS
from runner.auditing.causes import VIRTUALIZE_READS, not_virtualized, rule_of_read
from runner.auditing.effects import MSRS, Effects, Reach, can, only, ranges
from runner.auditing.finding import Audited, Finding, Rank
from runner.vmx import Access, PrimaryControls, SecondaryControls

CURRENT_COUNT = REGISTERS_BY_NAME["CURRENT_COUNT"].msr
APIC_BASE = 0x1B
_KEPT_BY_DELIVERY = frozenset(
    register.msr for register in REGISTERS if register.name[:3] in VECTOR_SETS or register.name == "PPR"
)
_NEED_DELIVERY = {EOI: "eoi.physical-without-delivery", SELF_IPI: "self-ipi.physical-without-delivery"}


def misplaced(audited: Audited) -> Iterator[Finding]:
    """Yield what is wrong with where accesses end; a question where the dump does not tell."""
    if not audited.enters:
        return
    yield from _physical_writes(audited)
    yield from _interrupt_writes(audited)
    yield from _physical_reads(audited)
    yield from _stale_writes(audited)
    yield from _no_registers(audited)
    yield from _current_count(audited)
    yield from _stale_reads(audited)
    yield from _apic_base(audited)


def _found(audited: Audited, says: str, question: str, *rules: str, fix: str) -> Finding:
    """Return a finding, or where the dump has no MSR bitmap a question."""
    is_open = audited.bitmap_is_open
    return Finding(Rank.NEXT, question if is_open else says, rules, fix, is_open=is_open)


def _is_physical(effects: Effects) -> bool:
    """Whether an access is not virtualized, and not stopped: it faults only if the physical APIC says so."""
    return (
        bool(can(effects, Reach.PHYSICAL)) and not can(effects, Reach.PAGE) and not can(effects, Reach.EXIT)
    )


def _physical_writes(audited: Audited) -> Iterator[Finding]:
    special = {EOI, SELF_IPI, ICR}
    msrs = [msr for msr, effects in audited.accesses.writes.items() if _is_physical(effects)]
    plain = [msr for msr in msrs if msr not in special]
    if plain:
        yield _found(
            audited,
            f"WRMSR of {ranges(plain)} reaches the physical APIC: the guest masks, moves and makes real"
            " interrupts of the core it runs on.",
            f"WRMSR of {ranges(plain)} reaches the physical APIC unless its write bit is 1; the dump has"
            " no MSR bitmap.",
            *("wrmsr.guest-controls-unintercepted-apic", "wrmsr.others-never-virtualized"),
            fix="Set the write bits of these MSRs in the MSR bitmap, and do the writes in the VMM.",
        )


def _interrupt_writes(audited: Audited) -> Iterator[Finding]:
    writes = audited.accesses.writes
    for msr, rule in _NEED_DELIVERY.items():
        if _is_physical(writes[msr]):
            name = REGISTERS_BY_MSR[msr].name
            does = (
                "ends an interrupt of the physical APIC" if msr == EOI else "makes the core interrupt itself"
            )
            why = f"Virtual-interrupt delivery does not act on WRMSR of {name} ({msr:X}H)"
            yield _found(
                audited,
                f"{why}, which {does}; the guest's own interrupts do not change.",
                f"{why}; it {does} unless its write bit is 1, and the dump has no MSR bitmap.",
                rule,
                fix=f"Set the write bit of {msr:X}H, or make virtual-interrupt delivery (secondary bit 9) 1.",
            )
    if _is_physical(writes[ICR]):
        yield _found(
            audited,
            "WRMSR of ICR (830H) reaches the physical APIC: the guest sends real IPIs, INIT and NMI too,"
            " to APIC IDs that are not its own.",
            "WRMSR of ICR (830H) sends real IPIs unless its write bit is 1; the dump has no MSR bitmap.",
            "ipi.icr-physical-without-ipi-virtualization",
            fix="Set the write bit of 830H and send the IPI in the VMM. Pass it through only to a guest"
            " that is trusted with the real processors, to post interrupts without an exit for instance.",
        )


def _physical_reads(audited: Audited) -> Iterator[Finding]:
    msrs = [msr for msr, effects in audited.accesses.reads.items() if _is_physical(effects)]
    if msrs:
        rule, why = not_virtualized(audited)
        yield _found(
            audited,
            f"{why}: RDMSR of {ranges(msrs)} reaches the physical APIC, so the guest sees the ID, the"
            " priorities and the timer of the core it runs on.",
            f"{why}: RDMSR of {ranges(msrs)} reaches the physical APIC unless its read bit is 1; the"
            " dump has no MSR bitmap.",
            rule,
            fix=VIRTUALIZE_READS,
        )


def _stale(audited: Audited, msrs: Iterable[int], access: Access) -> list[int]:
    """Return those of the MSRs that exit by their bit and would be virtualized without it."""
    bitmap = audited.state.msr_bitmap
    through = audited.through.reads if access is Access.READ else audited.through.writes
    return [msr for msr in msrs if bitmap and bitmap.bit(msr, access) and only(through[msr], Reach.PAGE)]


def _stale_writes(audited: Audited) -> Iterator[Finding]:
    stale = _stale(audited, MSRS, Access.WRITE)
    if stale and audited.state.is_1(PrimaryControls.USE_MSR_BITMAPS) is not False:
        more = (
            " An EOI that exits leaves SVI and VISR as they are: the interrupt stays in service, and"
            " holds back those of its class and below."
        )
        yield Finding(
            Rank.NEXT,
            f"WRMSR of {ranges(stale)} exits, and the processor would virtualize it."
            + (more if EOI in stale else ""),
            ("bitmap.before-apic-virtualization",),
            "Clear the write bits of these MSRs in the MSR bitmap.",
        )


def _stale_reads(audited: Audited) -> Iterator[Finding]:
    delivers = audited.state.is_1(SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY) is True
    kept = [
        register.msr
        for register in REGISTERS
        if register.readable
        and register.msr != CURRENT_COUNT
        and (delivers or register.msr not in _KEPT_BY_DELIVERY)
    ]
    stale = _stale(audited, kept, Access.READ)
    if stale and audited.state.is_1(PrimaryControls.USE_MSR_BITMAPS) is not False:
        yield Finding(
            Rank.NEXT,
            f"RDMSR of {ranges(stale)} exits, and the processor would read the virtual-APIC page.",
            ("bitmap.before-apic-virtualization", rule_of_read(audited)),
            "Clear the read bits of these MSRs in the MSR bitmap; keep them where the VMM computes the"
            " value.",
        )


def _no_registers(audited: Audited) -> Iterator[Finding]:
    reads = audited.accesses.reads
    msrs = [
        msr
        for msr, effects in reads.items()
        if only(effects, Reach.PAGE) and not (msr in REGISTERS_BY_MSR and REGISTERS_BY_MSR[msr].readable)
    ]
    if msrs:
        yield _found(
            audited,
            f"RDMSR of {ranges(msrs)} gives bytes of the virtual-APIC page: there is no such register,"
            " or it is write-only, and a real APIC raises #GP(0).",
            f"RDMSR of {ranges(msrs)} gives bytes of the page where a real APIC raises #GP(0), unless"
            " its read bit is 1; the dump has no MSR bitmap.",
            *("rdmsr.any-msr-of-the-range", "rdmsr.write-only-registers-readable"),
            fix="Set the read bits of these MSRs in the MSR bitmap and raise #GP(0) in the VMM.",
        )


def _current_count(audited: Audited) -> Iterator[Finding]:
    if only(audited.accesses.reads[CURRENT_COUNT], Reach.PAGE):
        yield _found(
            audited,
            "RDMSR of CURRENT_COUNT (839H) gives the word at 390H of the page: no timer runs there, so"
            " it stands still.",
            "RDMSR of CURRENT_COUNT (839H) gives a word of the page that stands still, unless its read"
            " bit is 1; the dump has no MSR bitmap.",
            "rdmsr.current-count-from-page",
            fix="Set the read bit of 839H in the MSR bitmap and give the count in the VMM.",
        )


def _apic_base(audited: Audited) -> Iterator[Finding]:
    bitmap, uses = audited.state.msr_bitmap, audited.state.is_1(PrimaryControls.USE_MSR_BITMAPS)
    if uses and not (bitmap and bitmap.bit(APIC_BASE, Access.WRITE)):
        yield _found(
            audited,
            "WRMSR of IA32_APIC_BASE (1BH) does not exit: the guest changes the mode of the physical APIC.",
            "WRMSR of IA32_APIC_BASE (1BH) changes the mode of the physical APIC unless its write bit is"
            " 1; the dump has no MSR bitmap.",
            "mode.apic-base-never-virtualized",
            fix="Set the write bit of 1BH in the MSR bitmap, and the read bit if the guest's mode is not"
            " the host's.",
        )
