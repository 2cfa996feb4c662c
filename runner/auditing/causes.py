"""Where a value comes from that RDMSR gave the guest."""

from __future__ import annotations

from collections.abc import Sequence

from runner.apic import APICID, ICR, REGISTERS_BY_MSR, REGISTERS_BY_NAME, VICR, page_offset, register_name
from runner.auditing.effects import Effect, Reach, can, place
from runner.auditing.finding import Audited, Finding, Rank
from runner.auditing.state import Read
from runner.vmx import Field, PrimaryControls, SecondaryControls
from runner.words import hexadecimal

ADDRESS = Field.VIRTUAL_APIC_ADDRESS
CURRENT_COUNT = REGISTERS_BY_NAME["CURRENT_COUNT"].msr
_EAX = 0xFFFFFFFF
_XAPIC_ID = 24

PREPARE = (
    "Give each virtual processor a 4-KByte aligned page of its own, filled with 0; write its host-physical"
    " address into VMCS field 2012H of that processor's VMCS; store the processor's 32-bit x2APIC ID at"
    " offset 020H of it. All that before the first VM entry."
)


def cause(audited: Audited, read: Read, others: Sequence[Audited]) -> Finding | None:
    """Return where a value comes from; ``None`` where it is the one that the guest is to see."""
    if read.msr == APICID and read.value == audited.state.apic_id:
        return None
    if not audited.enters:
        says = f"With this configuration VM entry fails, so {_value(read)} was not read with it"
        return _because(
            audited, says, "entry.control-error-is-vmfail-7", fix="Dump what the guest runs with."
        )
    effects = audited.accesses.reads.get(read.msr, ())
    page = can(effects, Reach.PAGE)
    if page is not None:
        return _from_page(audited, read, page, others)
    if can(effects, Reach.PHYSICAL):
        return _physical(audited, read)
    if can(effects, Reach.EXIT):
        says = (
            f"RDMSR {register_name(read.msr)} exits, so neither the virtual-APIC page nor an APIC gave"
            f" {_value(read)}: the VMM did, in its handler of exit reason 31"
        )
        fix = f"Look there for what it answers, or clear the read bit of MSR {read.msr:X}H in the MSR bitmap."
        return _because(audited, says, "bitmap.before-apic-virtualization", fix=fix)
    says = (
        f"RDMSR {register_name(read.msr)} raises #GP(0): {_value(read)} was not read with this configuration"
    )
    return _because(audited, says, "rdmsr.physical-read-faults", fix="Dump what the guest runs with.")


def _because(audited: Audited, says: str, *rules: str, fix: str) -> Finding:
    unknown = audited.unknown if audited.enters else ""
    provided = (
        f"Supposed: RDMSR does not exit, and is virtualized. The dump lacks {unknown}." if unknown else ""
    )
    return Finding(Rank.CAUSE, f"{says}.", rules, fix, provided)


def _value(read: Read) -> str:
    return f"{hexadecimal(read.value)} ({read.value})"


def _from_page(audited: Audited, read: Read, page: Effect, others: Sequence[Audited]) -> Finding:
    state, rule = audited.state, rule_of_read(audited)
    answers = f"RDMSR {register_name(read.msr)} gives {place(read.msr)} of the virtual-APIC page"
    if state.lacks_address(ADDRESS):
        unset = "was never set" if ADDRESS in state.never_set else "is 0, as if never set"
        says = (
            "Nobody has told the processor where the virtual-APIC page is: the virtual-APIC address (VMCS"
            f" field 2012H) {unset}. {answers}, and thus whatever lies in memory there: {_value(read)} is no"
            f" {'APIC ID' if read.msr == APICID else 'state of a virtual APIC'}"
        )
        if _same_elsewhere(audited, read, others):
            says += ". All who read it look at the same memory"
        rules = "many.virtual-apic-address-in-every-vmcs", "page.never-initialized", rule
        return _because(audited, says, *rules, fix=PREPARE)
    if ADDRESS in state.fields and _sharing(audited, others):
        says = (
            f"{answers}, and more than one virtual processor has the same page, at"
            f" {state.fields[ADDRESS]:X}H: whoever reads gets {_value(read)}"
        )
        return _because(
            audited, says, "many.shared-page-same-registers", "many.one-page-per-vcpu", fix=PREPARE
        )
    if page.low is None:
        return _unknown_content(audited, read, answers, others)
    return _page_content(audited, read, page, answers)


def _unknown_content(audited: Audited, read: Read, answers: str, others: Sequence[Audited]) -> Finding:
    rule, where = rule_of_read(audited), audited.state.fields.get(ADDRESS)
    again = _same_elsewhere(audited, read, others)
    if where is None:
        says = f"{answers}. Where that page is, the dump does not say"
        if again:
            says += (
                ". Several virtual processors read the same: nobody has set the address, or set one for all"
            )
        return _because(audited, says, "many.virtual-apic-address-in-every-vmcs", rule, fix=PREPARE)
    says = f"{answers}. {_value(read)} lies in the page at {where:X}H, whose content is not in the dump"
    if again:
        says += (
            ". Several virtual processors read the same, each from its own page: as if nobody prepared them"
        )
    fix = f"Look at offset {page_offset(read.msr):03X}H there: store what the guest is to read before"
    return _because(
        audited, says, "page.never-initialized", rule, fix=f"{fix} VM entry, and 0 into the 4 bytes after it."
    )


def _page_content(audited: Audited, read: Read, page: Effect, answers: str) -> Finding:
    rule, low = rule_of_read(audited), page.low or 0
    if low != read.value & _EAX or (read.value >> 32 and page.high not in (None, read.value >> 32)):
        held = hexadecimal(low | (page.high or 0) << 32)
        says = f"{answers}. The dump has {held} there, not {_value(read)}: another page, or another moment"
        return _because(
            audited, says, rule, "bitmap.changes-act-at-next-entry", fix="Dump both at one VM exit."
        )
    return _held(audited, read, page, answers)


def _held(audited: Audited, read: Read, page: Effect, answers: str) -> Finding:
    """Say why the page holds what was read."""
    own, state = audited.state.apic_id, audited.state
    if read.msr == ICR and state.page.word(VICR + 0x10) and not page.high:
        says = f"{answers}. The destination stands at 310H, where the xAPIC has it, and is not among them"
        return _because(audited, says, "rdmsr.icr-from-eight-bytes", fix=STORE_ICR)
    if read.msr == APICID and own and read.value & _EAX == own << _XAPIC_ID & _EAX:
        says = (
            f"{answers}, as they are: they hold the ID {own:X}H in bits 31:24, which is the form of the xAPIC"
        )
        return _because(audited, says, "rdmsr.id-as-stored", fix=f"Store {own:X}H, 32 bits, at offset 020H.")
    if read.value >> 32 and read.msr != ICR and read.msr in REGISTERS_BY_MSR:
        at = page_offset(read.msr) + 4
        says = f"{answers}: EDX comes from memory too, and {at:03X}H-{at + 3:03X}H are not 0"
        fix = f"Store 0 at offset {at:03X}H."
        return _because(audited, says, "rdmsr.upper-half-from-page", fix=fix)
    if read.msr == CURRENT_COUNT:
        says = f"{answers}, and no timer runs there: {_value(read)} stands still"
        fix = "Set the read bit of MSR 839H in the MSR bitmap and give the count in the VMM."
        return _because(audited, says, "rdmsr.current-count-from-page", fix=fix)
    wanted = f", and the APIC ID is {own:X}H" if read.msr == APICID and own is not None else ""
    says = (
        f"{answers}. {_value(read)} stands there{wanted}: the processor gives what the VMM, or nobody, stored"
    )
    fix = f"Store the register's value at offset {page_offset(read.msr):03X}H, and 0 in the 4 bytes after it."
    rule = "rdmsr.id-as-stored" if read.msr == APICID else rule_of_read(audited)
    return _because(audited, says, rule, "page.never-initialized", fix=fix)


STORE_ICR = "Store the ICR as 64 bits at 300H-307H: the destination at 304H, nothing at 310H."


def _physical(audited: Audited, read: Read) -> Finding:
    rule, why = not_virtualized(audited)
    says = (
        f"{why}: RDMSR {register_name(read.msr)} reaches the physical APIC, and {_value(read)} is the"
        " register of the core that the guest runs on"
    )
    return _because(audited, says, rule, fix=VIRTUALIZE_READS)


VIRTUALIZE_READS = (
    "Make virtualize x2APIC mode (secondary bit 4) and APIC-register virtualization (bit 8) 1, with"
    " activate secondary controls; or set the read bits in the MSR bitmap and answer in the VMM."
)


def not_virtualized(audited: Audited) -> tuple[str, str]:
    """Return the rule by which reads are not virtualized, and why in words."""
    state = audited.state
    if state.is_1(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS) is False:
        return (
            "controls.activate-secondary-controls",
            "Activate secondary controls is 0, so no secondary one acts",
        )
    if state.is_1(SecondaryControls.VIRTUALIZE_X2APIC_MODE) is False:
        return "rdmsr.physical-without-x2apic-virtualization", "Virtualize x2APIC mode is 0"
    return "rdmsr.others-physical-without-registers", "APIC-register virtualization is 0"


def rule_of_read(audited: Audited) -> str:
    """Return the rule by which reads come from the page."""
    registers = audited.state.is_1(SecondaryControls.APIC_REGISTER_VIRTUALIZATION)
    return "rdmsr.tpr-from-page" if registers is False else "rdmsr.register-virtualization"


def _sharing(audited: Audited, others: Sequence[Audited]) -> bool:
    own = audited.state.fields[ADDRESS]
    return sum(other.state.fields.get(ADDRESS) == own for other in others) > 1


def _same_elsewhere(audited: Audited, read: Read, others: Sequence[Audited]) -> bool:
    return any(read in other.state.reads for other in others if other is not audited)
