"""All that is wrong with a configuration, the cause of a value in hand first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from runner.auditing.causes import cause
from runner.auditing.finding import Audited, Finding, Rank
from runner.auditing.hazards import hazards
from runner.auditing.reaching import misplaced
from runner.auditing.reserved import listed_msrs, reserved_bits

FIXES = {
    "entry.x2apic-needs-tpr-shadow": "Make use TPR shadow (primary bit 21) 1, or virtualize x2APIC mode 0.",
    "entry.registers-need-tpr-shadow": "Make use TPR shadow (primary bit 21) 1.",
    "entry.delivery-needs-tpr-shadow": "Make use TPR shadow (primary bit 21) 1.",
    "entry.ipi-needs-tpr-shadow": "Make use TPR shadow (primary bit 21) 1.",
    "entry.x2apic-excludes-apic-accesses": "For a guest in x2APIC mode make secondary bit 0 be 0.",
    "entry.delivery-needs-external-interrupt-exiting": "Make external-interrupt exiting (pin-based bit 0) 1.",
    "entry.posted-needs-delivery": "Make virtual-interrupt delivery (secondary bit 9) 1, and act.",
    "entry.posted-needs-acknowledge-on-exit": "Make acknowledge interrupt on exit (VM-exit bit 15) 1.",
    "entry.tpr-threshold-above-vtpr-fails": "Lower the TPR threshold to VTPR[7:4] or below before VM entry.",
    "entry.tpr-threshold-reserved-bits": "Write 0 to 15 into the TPR threshold.",
}
"""What to do about an entry check, where its sentence does not say it already."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A finding, and the virtual processors that show it."""

    finding: Finding
    vcpus: tuple[str, ...]


OF_SEVERAL = frozenset({"many.one-page-per-vcpu", "many.descriptor-per-vcpu"})
"""Rules that several virtual processors break together: once said for one, it is said for all."""


def findings(all_audited: Sequence[Audited]) -> tuple[Placed, ...]:
    """Return the findings of all virtual processors in their order, each once, questions last."""
    causes = {audited.state.name: [*_causes(audited, all_audited)] for audited in all_audited}
    everywhere = OF_SEVERAL & {rule for found in causes.values() for each in found for rule in each.rules}
    whose: dict[Finding, list[str]] = {}
    for audited in all_audited:
        own = causes[audited.state.name]
        said = everywhere | {rule for each in own for rule in each.rules[:2]}
        for finding in (*own, *_broken_checks(audited), *_later(audited, all_audited, said)):
            names = whose.setdefault(finding, [])
            if audited.state.name not in names:
                names.append(audited.state.name)
    placed = [Placed(finding, tuple(names)) for finding, names in whose.items()]
    return tuple(sorted(placed, key=lambda each: (each.finding.is_open, each.finding.rank)))


def _causes(audited: Audited, others: Sequence[Audited]) -> Iterator[Finding]:
    for read in audited.state.reads:
        found = cause(audited, read, others)
        if found is not None:
            yield found


def _broken_checks(audited: Audited) -> Iterator[Finding]:
    for rule, sentence in (*reserved_bits(audited.state), *audited.violations):
        fix = FIXES.get(rule, "Change that before VM entry.")
        yield Finding(Rank.ENTRY, f"VM entry fails: {sentence}.", (rule,), fix)
    yield from listed_msrs(audited.state)


def _later(audited: Audited, others: Sequence[Audited], said: AbstractSet[str]) -> Iterator[Finding]:
    """Yield what goes wrong next; what a cause has said is not said again."""
    for found in (*hazards(audited, others), *misplaced(audited)):
        if found.rules[0] not in said:
            yield found
