"""Scenario files in few words, for the tests of the language."""

from __future__ import annotations

from runner.language.loading import InvalidScenario, parse
from runner.outcome import Entry
from runner.program import Setup, Step
from runner.scenario import After, Case, Expected, Point, StepExpected
from runner.vmx import CONTROLS_BY_NAME, Controls

CASE = """
  - id: {id}
    says: Something is true of {id}
    rules: [rdmsr.register-virtualization]
"""


def file(*cases: str, setup: str = "", level: str = "vmx") -> bytes:
    """Return a file whose cases say this beside id, says and rules."""
    head = f"title: A question\nlevel: {level}\n" + (f"setup: {setup}\n" if setup else "") + "cases:"
    bodies = (CASE.format(id=f"case-{n}") + _indented(body) for n, body in enumerate(cases))
    return (head + "".join(bodies)).encode()


def _indented(body: str) -> str:
    if "steps:" not in body and "expect-entry:" not in body:
        body += "\nsteps: [{nop: true}]"
    return "".join(f"    {line}\n" for line in body.strip().splitlines())


def case(body: str = "", setup: str = "", level: str = "vmx") -> Case:
    [read] = parse(file(body, setup=setup, level=level), "spoken.yaml").cases
    return read


def point(body: str = "", setup: str = "", level: str = "vmx") -> Point:
    [read] = case(body, setup, level).points
    return read


def setup(text: str) -> Setup:
    return point(setup=text).program.vcpus[0]


def steps(*texts: str, setup: str = "{base: registers}", level: str = "vmx") -> tuple[Step, ...]:
    return _steps(texts, setup, level).program.steps


def expectations(
    *texts: str, setup: str = "{base: registers}", level: str = "vmx"
) -> tuple[StepExpected, ...]:
    return _steps(texts, setup, level).expected.steps


def _steps(texts: tuple[str, ...], setup: str, level: str) -> Point:
    body = "steps:\n" + "".join(f"  - {text}\n" for text in texts)
    return point(body, setup if level == "vmx" else "", level)


def after(text: str, setup: str = "{base: registers}") -> After:
    [read] = point(f"after: {text}", setup).expected.after
    return read


def entry(text: str) -> Entry:
    return expected(f"expect-entry: {text}").entry


def expected(body: str, setup: str = "") -> Expected:
    return point(body, setup).expected


def mistakes(data: bytes) -> list[str]:
    """Return what is wrong with a file, without its name."""
    try:
        parse(data, "spoken.yaml")
    except InvalidScenario as invalid:
        return [message.removeprefix("spoken.yaml:") for message in invalid.messages]
    return []


def controls(*names: str) -> Controls:
    return Controls().plus(CONTROLS_BY_NAME[name] for name in names)


TPR_ONLY = ("use-tpr-shadow", "use-msr-bitmaps", "activate-secondary-controls", "virtualize-x2apic-mode")
REGISTERS = (*TPR_ONLY, "apic-register-virtualization")
DELIVERY = (*REGISTERS, "virtual-interrupt-delivery", "external-interrupt-exiting")
POSTED = (*DELIVERY, "process-posted-interrupts", "acknowledge-interrupt-on-exit")
IPI = (*POSTED, "activate-tertiary-controls", "ipi-virtualization")
