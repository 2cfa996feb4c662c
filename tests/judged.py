"""Programs, expectations and right observations, built by hand for the tests of the judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runner.apic import SELF_IPI, Fill, VirtualApicPage
from runner.judging.differences import differences
from runner.outcome import Completed, Delivery, Entered, Final, Observation, Rip, StepResult, VmExit
from runner.program import Action, GuestState, Level, Program, Rdmsr, Setup, Step, Wrmsr
from runner.scenario import After, Case, Delivers, Exit, Expected, Point, StepExpected, Value
from runner.vmx import CONTROLS_BY_NAME, Controls, ExitReason

REGISTERS = (
    "use-tpr-shadow",
    "use-msr-bitmaps",
    "activate-secondary-controls",
    "virtualize-x2apic-mode",
    "apic-register-virtualization",
)
DELIVERY = (*REGISTERS, "virtual-interrupt-delivery", "external-interrupt-exiting")
RULE = "rdmsr.register-virtualization"
PAGE = VirtualApicPage(Fill.TAGGED, words=((0x20, 0x3), (0x24, 0xABCD0001), (0x80, 0x20), (0xA0, 0x20)))
APICID_VALUE = 0xABCD0001_00000003


@dataclass(frozen=True)
class Rule:
    settled: bool = True


@dataclass(frozen=True)
class Catalogue:
    settled: bool = True

    def __getitem__(self, rule: str, /) -> Rule:
        return Rule(self.settled)


def controls(names: Sequence[str] = REGISTERS) -> Controls:
    return Controls().plus(CONTROLS_BY_NAME[name] for name in names)


def program(*actions: Action, names: Sequence[str] = REGISTERS, **setup: object) -> Program:
    base = Setup(controls=controls(names), page=PAGE)
    return Program(Level.VMX, (replace(base, **setup),), tuple(Step(action) for action in actions))  # type: ignore[arg-type]


def point(asked: Program, *steps: StepExpected, after: After | None = None, **more: object) -> Point:
    afters = (after or After(),) * len(asked.vcpus)
    return Point((), asked, Expected(steps=steps, after=afters, **more))  # type: ignore[arg-type]


def case(*points: Point, rules: tuple[str, ...] = (RULE,)) -> Case:
    return Case("asked", "Something is so", rules, 4, points, step_lines=(6, 7, 8))


def seen(*results: StepResult, final: Final | None = None, vcpus: int = 1) -> Observation:
    return Observation((Entered(),) * vcpus, results, (final or Final(),) * vcpus)


READ = point(program(Rdmsr(0x802)), StepExpected(Value(APICID_VALUE)))
READ_SEEN = seen(StepResult((Completed(APICID_VALUE),)))

EOI_EXIT = point(
    program(
        Wrmsr(0x80B, 0),
        names=DELIVERY,
        svi=0x51,
        eoi_exit_bitmap=frozenset({0x51}),
        page=VirtualApicPage(Fill.ZERO, words=((0xA0, 0x50), (0xB4, 7), (0x120, 1 << 0x11))),
    ),
    StepExpected(Exit(ExitReason.VIRTUALIZED_EOI, 0x51)),
    after=After(page=((0xA0, 0), (0xB4, 0), (0x120, 0)), svi=0),
)
EOI_EXIT_SEEN = seen(
    StepResult((VmExit(45, 0x51, Rip.NEXT),)),
    final=Final(page=((0xA0, 0), (0xB4, 0), (0x120, 0))),
)

DELIVERED = point(
    program(
        Wrmsr(SELF_IPI, 0x61),
        Rdmsr(0x802),
        names=DELIVERY,
        page=VirtualApicPage(Fill.ZERO),
        guest=GuestState(interrupt_flag=True),
        eoi=True,
    ),
    StepExpected(delivers=(Delivers(0x61),)),
    StepExpected(Value(0)),
    after=After(page=((0x3F0, 0x61),)),
)
DELIVERED_SEEN = seen(
    StepResult((Completed(),), (Delivery(0x61, 1, (StepResult((Completed(),)),)),)),
    StepResult((Completed(0),)),
    final=Final(page=((0x3F0, 0x61),)),
)


def found(point: Point, observation: Observation) -> str:
    """All differences, a line each."""
    return "\n".join(
        f"{each.where}: {each.expected} / {each.observed}"
        for each in differences(point.program, point.expected, observation)
    )


def step(observation: Observation, index: int, **changed: Any) -> Observation:
    """The observation with parts of one step's result replaced."""
    steps = list(observation.steps)
    steps[index] = replace(steps[index], **changed)
    return replace(observation, steps=tuple(steps))


def final(observation: Observation, **changed: Any) -> Observation:
    return replace(observation, finals=(replace(observation.finals[0], **changed),))


def rdmsr_exit(**changed: Any) -> VmExit:
    return replace(VmExit(31, instruction_length=2), **changed)
