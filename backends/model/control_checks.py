"""Checks on the control words at VM entry: reserved bits, and controls that need or exclude others.

SDM: *VM-Execution Control Fields*.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from backends.model.implementation import AllowedSettings, AllowedWords
from backends.model.vmcs import ActiveControls, ControlWords, active_controls
from runner.vmx import (
    CONTROL_WORDS,
    Control,
    EntryControls,
    ExitControls,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
)

Violation = tuple[str, str]
"""A rule, and what it means here."""

_RESERVED_RULES: dict[type[Control], str] = {
    PinBasedControls: "entry.pin-based-reserved-bits",
    PrimaryControls: "entry.primary-reserved-bits",
    SecondaryControls: "entry.secondary-reserved-bits",
    TertiaryControls: "entry.tertiary-reserved-bits",
    ExitControls: "fields.vm-exit-and-vm-entry-controls",
    EntryControls: "fields.vm-exit-and-vm-entry-controls",
}


@lru_cache
def violations(words: ControlWords, allowed: AllowedWords) -> tuple[Violation, ...]:
    """Return every violation of the checks on control words alone."""
    active = active_controls(words)
    return (*_reserved_bits(words, allowed), *_without_tpr_shadow(active), *_combinations(active))


def _reserved_bits(words: ControlWords, allowed: AllowedWords) -> Iterator[Violation]:
    for kind, word, settings in in_force(words, allowed):
        if word & ~settings.permitted:
            yield _RESERVED_RULES[kind], f"{kind.__name__} {word:X}H has bits that must be 0"
        if settings.required & ~word:
            yield _RESERVED_RULES[kind], f"{kind.__name__} {word:X}H lacks bits that must be 1"


def in_force(
    words: ControlWords, allowed: AllowedWords
) -> Iterator[tuple[type[Control], int, AllowedSettings]]:
    """Yield the control words that act; rules entry.secondary- and entry.tertiary-reserved-bits."""
    active = active_controls(words)
    for kind, word, settings in zip(CONTROL_WORDS, words, allowed, strict=True):
        if kind is SecondaryControls and not active.activate_secondary_controls:
            continue
        if kind is TertiaryControls and not active.activate_tertiary_controls:
            continue
        yield kind, word, settings


def _without_tpr_shadow(active: ActiveControls) -> Iterator[Violation]:
    if active.use_tpr_shadow:
        return
    if active.virtualize_x2apic_mode:
        yield "entry.x2apic-needs-tpr-shadow", "virtualize x2APIC mode is 1 and use TPR shadow 0"
    if active.apic_register_virtualization:
        yield "entry.registers-need-tpr-shadow", "APIC-register virtualization is 1 and use TPR shadow 0"
    if active.virtual_interrupt_delivery:
        yield "entry.delivery-needs-tpr-shadow", "virtual-interrupt delivery is 1 and use TPR shadow 0"
    if active.ipi_virtualization:
        yield "entry.ipi-needs-tpr-shadow", "IPI virtualization is 1 and use TPR shadow 0"


def _combinations(active: ActiveControls) -> Iterator[Violation]:
    if active.virtualize_x2apic_mode and active.virtualize_apic_accesses:
        yield (
            "entry.x2apic-excludes-apic-accesses",
            "virtualize x2APIC mode and virtualize APIC accesses are 1",
        )
    if active.virtual_interrupt_delivery and not active.external_interrupt_exiting:
        rule = "entry.delivery-needs-external-interrupt-exiting"
        yield rule, "virtual-interrupt delivery is 1 and external-interrupt exiting 0"
    if active.process_posted_interrupts and not active.virtual_interrupt_delivery:
        yield "entry.posted-needs-delivery", "process posted interrupts is 1 and virtual-interrupt delivery 0"
    if active.process_posted_interrupts and not active.acknowledge_interrupt_on_exit:
        rule = "entry.posted-needs-acknowledge-on-exit"
        yield rule, "process posted interrupts is 1 and acknowledge interrupt on exit 0"
