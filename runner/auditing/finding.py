"""One thing that is wrong with a configuration, and what it is found in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from runner.auditing.completions import unknown_words
from runner.auditing.effects import Accesses
from runner.auditing.state import VcpuState
from runner.vmx import CONTROL_FIELDS, Field, PrimaryControls

WORD_NAMES = {
    Field.PIN_BASED_CONTROLS: "the pin-based controls",
    Field.PRIMARY_PROCESSOR_BASED_CONTROLS: "the primary controls",
    Field.SECONDARY_PROCESSOR_BASED_CONTROLS: "the secondary controls",
    Field.TERTIARY_PROCESSOR_BASED_CONTROLS: "the tertiary controls",
    Field.VM_EXIT_CONTROLS: "the VM-exit controls",
    Field.VM_ENTRY_CONTROLS: "the VM-entry controls",
}
assert set(WORD_NAMES) == set(CONTROL_FIELDS.values())  # noqa: S101 -- one name each


_DECIDE_READS = (Field.PRIMARY_PROCESSOR_BASED_CONTROLS, Field.SECONDARY_PROCESSOR_BASED_CONTROLS)


class Rank(IntEnum):
    """What comes first: the cause of a value in hand, a VM entry that fails, what would go wrong next."""

    CAUSE = 0
    ENTRY = 1
    NEXT = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence for the author of a VMM, the rules it rests on (the first is broken), and what to do.

    ``provided`` names what the sentence supposes and the dump does not tell; ``is_open``: not even that
    something is wrong is known, so it is a question and no finding.
    """

    rank: Rank
    says: str
    rules: tuple[str, ...]
    fix: str
    provided: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Audited:
    """One virtual processor, and what the processor does with it.

    ``violations`` are the entry checks that fail, a rule and a sentence each; ``unmade`` those of which the
    dump does not tell. ``through`` is what accesses do that the MSR bitmap lets through; ``accesses`` the
    same with the bitmap of the dump, if it has one.
    """

    state: VcpuState
    violations: tuple[tuple[str, str], ...]
    unmade: tuple[str, ...]
    accesses: Accesses
    through: Accesses

    @property
    def enters(self) -> bool:
        """Whether VM entry can pass the checks on the control fields."""
        return bool(self.accesses.reads)

    @property
    def bitmap_is_open(self) -> bool:
        """Whether an access may exit or not because the dump has no MSR bitmap."""
        uses = self.state.is_1(PrimaryControls.USE_MSR_BITMAPS)
        return self.state.msr_bitmap is None and uses is not False

    @property
    def unknown(self) -> str:
        """What the dump does not tell and decides where RDMSR ends, in words."""
        words = [WORD_NAMES[field] for field in unknown_words(self.state) if field in _DECIDE_READS]
        return " and ".join([*(["the MSR bitmap"] if self.bitmap_is_open else []), *words])
