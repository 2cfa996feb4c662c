"""Small programs that tests put together by hand."""

from __future__ import annotations

from typing import Any

from runner.apic import VIRR, VISR, Fill, VirtualApicPage, vectors_to_words
from runner.program import Action, GuestState, Level, Program, Setup, Step
from runner.vmx import CONTROLS_BY_NAME, Controls


def controls(*names: str) -> Controls:
    return Controls().plus(CONTROLS_BY_NAME[name] for name in names)


TPR_ONLY = controls(
    "use-tpr-shadow", "use-msr-bitmaps", "activate-secondary-controls", "virtualize-x2apic-mode"
)
REGISTERS = TPR_ONLY.plus([CONTROLS_BY_NAME["apic-register-virtualization"]])
DELIVERY = REGISTERS.plus(
    CONTROLS_BY_NAME[name] for name in ("virtual-interrupt-delivery", "external-interrupt-exiting")
)
OPEN = GuestState(interrupt_flag=True)


def page(*, isr: tuple[int, ...] = (), irr: tuple[int, ...] = (), **words: int) -> VirtualApicPage:
    """Return a zero page with vectors in VISR and VIRR, and words by ``x80`` for 080H."""
    named = {int(name[1:], 16): word for name, word in words.items()}
    every = vectors_to_words(VISR, isr) | vectors_to_words(VIRR, irr) | named
    return VirtualApicPage(Fill.ZERO, 0, tuple(sorted(every.items())))


def program(*steps: Action | Step, controls: Controls = DELIVERY, **setup: Any) -> Program:
    """Return a program of one virtual processor."""
    listed = tuple(step if isinstance(step, Step) else Step(step) for step in steps)
    return Program(Level.VMX, (Setup(controls=controls, **setup),), listed)
