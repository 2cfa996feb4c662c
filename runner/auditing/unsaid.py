"""What a dump does not say, in words: nothing of it is guessed."""

from __future__ import annotations

from collections.abc import Iterator

from runner.apic import APICID, page_offset
from runner.auditing.causes import ADDRESS
from runner.auditing.completions import unknown_words
from runner.auditing.finding import WORD_NAMES, Audited
from runner.vmx import CONTROL_FIELDS, PrimaryControls


def unsaid(audited: Audited) -> Iterator[str]:
    """Yield what is not known of a virtual processor and what that leaves open."""
    state = audited.state
    for field in unknown_words(state):
        yield f"{WORD_NAMES[field]} (VMCS field {field.value:04X}H)"
    if audited.bitmap_is_open:
        yield "the MSR bitmap: the table is that of accesses whose bit is 0; those whose bit is 1 exit"
    if state.is_1(PrimaryControls.USE_TPR_SHADOW) is not False:
        if ADDRESS not in state.fields and ADDRESS not in state.never_set:
            yield "the virtual-APIC address (VMCS field 2012H): set at all, and another one in each VMCS?"
        if state.page.word(page_offset(APICID)) is None and not state.lacks_address(ADDRESS):
            yield "what the virtual-APIC page holds"
    if state.apic_mode is None:
        yield "the mode of the physical APIC: outside x2APIC mode, what reaches it raises #GP(0)"
    if audited.unmade:
        yield f"whether these entry checks pass: {', '.join(sorted(audited.unmade))}"
    unchecked = [
        WORD_NAMES[field]
        for kind, field in CONTROL_FIELDS.items()
        if field in state.fields and (field in state.listed or kind not in state.capabilities)
    ]
    if unchecked:
        yield f"what the processor allows: reserved bits are not checked of {', '.join(unchecked)}"
