"""Programs for the tests of the reference model, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from backends.model import Model, explaining
from runner.apic import VIRR, VISR, VPPR, VTPR, Fill, VirtualApicPage, vectors_to_words
from runner.outcome import Completed, Final, Observation, Outcome, StepResult
from runner.program import Action, GuestState, Level, Program, Setup, Step
from runner.vmx import CONTROLS_BY_NAME, Controls

TPR_ONLY = "use-tpr-shadow use-msr-bitmaps activate-secondary-controls virtualize-x2apic-mode"
REGISTERS = f"{TPR_ONLY} apic-register-virtualization"
DELIVERY = f"{REGISTERS} virtual-interrupt-delivery external-interrupt-exiting"
POSTED = f"{DELIVERY} process-posted-interrupts acknowledge-interrupt-on-exit"
MMIO = "use-tpr-shadow use-msr-bitmaps activate-secondary-controls virtualize-apic-accesses"

DONE = Completed()
OPEN = GuestState(interrupt_flag=True)
"""A guest whose RFLAGS.IF is 1."""


def controls(*names: str) -> Controls:
    """Controls by name; a name may hold several, and ``-NAME`` takes one away."""
    words = [word for name in names for word in name.split()]
    result = Controls().plus(CONTROLS_BY_NAME[word] for word in words if not word.startswith("-"))
    return result.minus(CONTROLS_BY_NAME[word[1:]] for word in words if word.startswith("-"))


def page(  # noqa: PLR0913 -- one argument a kind of word
    words: Mapping[int, int] | None = None,
    *,
    fill: Fill = Fill.ZERO,
    tpr: int = 0,
    ppr: int = 0,
    isr: Iterable[int] = (),
    irr: Iterable[int] = (),
) -> VirtualApicPage:
    every = {VTPR: tpr, VPPR: ppr, **vectors_to_words(VISR, isr), **vectors_to_words(VIRR, irr)}
    return VirtualApicPage(fill, words=tuple(sorted({**every, **(words or {})}.items())))


def setup(names: str, **more: object) -> Setup:
    return Setup(controls(names), **more)  # type: ignore[arg-type]


def steps_of(actions: Iterable[Action | Step], vcpu: int = 0) -> tuple[Step, ...]:
    return tuple(action if isinstance(action, Step) else Step(action, vcpu) for action in actions)


def program(one: Setup, *actions: Action | Step) -> Program:
    return Program(Level.VMX, (one,), steps_of(actions))


def observe(one: Setup, *actions: Action | Step) -> Observation:
    return answer(program(one, *actions))


def answer(asked: Program) -> Observation:
    (seen,) = Model().run([asked])
    assert isinstance(seen, Observation), seen
    return seen


def last(one: Setup, *actions: Action | Step) -> Outcome:
    """The only outcome of the last step."""
    (outcome,) = observe(one, *actions).steps[-1].outcomes
    return outcome


def final(one: Setup, *actions: Action | Step) -> Final:
    return observe(one, *actions).finals[0]


def words_after(one: Setup, *actions: Action | Step) -> dict[int, int]:
    """The words of the page that the program changes."""
    return dict(final(one, *actions).page)


def delivered(result: StepResult) -> list[tuple[int, int]]:
    """Vector and place of each delivery."""
    return [(each.vector, each.at) for each in result.delivered]


def deliveries(seen: Observation) -> list[list[tuple[int, int]]]:
    """The deliveries of each step."""
    return [delivered(step) for step in seen.steps]


def rules(one: Setup, *actions: Action | Step) -> set[str]:
    """The rules by which the model decides."""
    _, reasons = explaining.run_traced(program(one, *actions))
    return {reason.rule for reason in reasons}


def stale_request(*actions: Action | Step, **more: object) -> Observation:
    """Perform steps once 61H is delivered: RVI is 91H then, VPPR 60H, and nothing is recognized.

    The first instruction is in the steps; what it does not evaluate leaves 91H pending.
    """
    more = {"guest": OPEN, "rvi": 0x61, "page": page(irr=[0x61, 0x91]), **more}
    return observe(setup(DELIVERY, **more), *actions)
