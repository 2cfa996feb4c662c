"""Reserved bits of the control words, held against the VMX capability MSRs; x2APIC MSRs in the MSR lists.

SDM: *VMX Capability Reporting Facility*, *Loading MSRs*, *Saving MSRs*.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.apic import is_x2apic, register_name
from runner.auditing.finding import WORD_NAMES, Finding, Rank
from runner.auditing.state import VcpuState
from runner.program import MsrEntry
from runner.vmx import (
    CONTROL_FIELDS,
    CONTROL_WORDS,
    Control,
    EntryControls,
    ExitControls,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
)

RULES: dict[type[Control], str] = {
    PinBasedControls: "entry.pin-based-reserved-bits",
    PrimaryControls: "entry.primary-reserved-bits",
    SecondaryControls: "entry.secondary-reserved-bits",
    TertiaryControls: "entry.tertiary-reserved-bits",
    ExitControls: "fields.vm-exit-and-vm-entry-controls",
    EntryControls: "fields.vm-exit-and-vm-entry-controls",
}
_ACTIVATE: dict[type[Control], Control] = {
    SecondaryControls: PrimaryControls.ACTIVATE_SECONDARY_CONTROLS,
    TertiaryControls: PrimaryControls.ACTIVATE_TERTIARY_CONTROLS,
}
_LOW = 0xFFFFFFFF


def reserved_bits(state: VcpuState) -> Iterator[tuple[str, str]]:
    """Yield a rule and a sentence for each control word whose bits the processor does not take."""
    for kind in CONTROL_WORDS:
        word, capability, activate = state.word(kind), state.capabilities.get(kind), _ACTIVATE.get(kind)
        if word is None or capability is None or (activate and state.is_1(activate) is not True):
            continue
        name, is_listed = WORD_NAMES[CONTROL_FIELDS[kind]], CONTROL_FIELDS[kind] in state.listed
        required, allowed = (
            (0, capability) if kind is TertiaryControls else (capability & _LOW, capability >> 32)
        )
        for bits, must_be in ((0 if is_listed else required & ~word, 1), (word & ~allowed, 0)):
            if bits:
                yield RULES[kind], f"of {name}, {word:X}H, {_bits(bits)} must be {must_be}"


def _bits(bits: int) -> str:
    numbers = [str(bit) for bit in range(bits.bit_length()) if bits >> bit & 1]
    return f"bit {numbers[0]}" if len(numbers) == 1 else f"bits {', '.join(numbers[:-1])} and {numbers[-1]}"


def listed_msrs(state: VcpuState) -> Iterator[Finding]:
    """Yield a finding for each MSR list that names an x2APIC MSR."""
    lists = state.msr_lists
    for name, entries, rank, rule, ends in (
        (
            *("VM-entry MSR-load", lists.entry_load, Rank.ENTRY, "msr-lists.entry-load-of-apic-msr-fails"),
            "VM entry fails with exit reason 34",
        ),
        (
            *("VM-exit MSR-store", lists.exit_store, Rank.NEXT, "msr-lists.exit-store-of-apic-msr-aborts"),
            "the first VM exit ends in a VMX abort, indicator 1",
        ),
        (
            *("VM-exit MSR-load", lists.exit_load, Rank.NEXT, "msr-lists.exit-load-of-apic-msr-aborts"),
            "the first VM exit ends in a VMX abort, indicator 4",
        ),
    ):
        named = _x2apic(entries)
        if named:
            yield Finding(
                rank,
                f"The {name} list has {named}: {ends}.",
                (rule, "msr-lists.whatever-mode-and-controls"),
                "Take these entries out of the list; x2APIC MSRs cannot be switched so.",
            )


def _x2apic(entries: tuple[MsrEntry, ...]) -> str:
    return ", ".join(
        register_name(msr) for msr in sorted({each.msr for each in entries if is_x2apic(each.msr)})
    )
