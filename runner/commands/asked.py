"""A scenario from the command line: options become the text of a scenario file, which is then read as one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from runner.language.loading import parse
from runner.scenario import Scenario

WORD_STEPS = ("read-cr8", "sti", "cli", "nop", "mov-ss", "hlt", "spin", "vmcall")
VALUE_STEPS = {
    "rdmsr": "REGISTER",
    "write-cr8": "VALUE",
    "cpuid": "LEAF",
    "mmio-read": "OFFSET",
    "inject": "VECTOR",
    "raise": "VECTOR",
}
NAME = "command line"


class _AppendStep(argparse.Action):
    """Append a step in the order of the line; ``const`` is what stands before the option's value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 -- argparse calls it so
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002 -- and so
    ) -> None:
        steps = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*steps, self.const.format(values)])


class _AppendWrite(_AppendStep):
    """Append a WRMSR from ``REGISTER=VALUE``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        register, _, value = values.partition("=")
        super().__call__(parser, namespace, f"{register}: {value or '0x0'}", option_string)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a setup and of steps."""
    setup = parser.add_argument_group("setup", "what a scenario file says under `setup`")
    setup.add_argument("--base", metavar="NAME", help="a named setup of specs/setups.yaml")
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    setup.add_argument("--set", metavar="CONTROL", help="controls that are 1", **several)
    setup.add_argument("--clear", metavar="CONTROL", help="controls that are 0", **several)
    setup.add_argument("--fill", metavar="FILL", help="zero, ones, tagged or a word")
    setup.add_argument("--page", metavar="OFFSET=WORD", help="words of the page", **several)
    setup.add_argument("--no-page-address", action="store_true", help="nobody set the virtual-APIC address")
    setup.add_argument("--exits-on-read", metavar="REGISTER", help="read bits that are 1", **several)
    setup.add_argument("--exits-on-write", metavar="REGISTER", help="write bits that are 1", **several)
    setup.add_argument("--guest", metavar="KEY=VALUE", help="if=1, cpl=3 and the like", **several)
    for name in ("apic-mode", "tpr-threshold", "rvi", "svi", "eoi-exit-bitmap"):
        setup.add_argument(f"--{name}", metavar="VALUE", help="as in a scenario file")
    setup.add_argument("--vcpus", type=int, default=1, metavar="N", help="each performs all steps")
    steps = parser.add_argument_group("steps", "repeatable; their order is that of the line")
    append: dict[str, Any] = {"dest": "steps", "action": _AppendStep, "default": []}
    for word in WORD_STEPS:
        steps.add_argument(f"--{word}", nargs=0, const=f"{word}: true", **append)
    for word, metavar in VALUE_STEPS.items():
        steps.add_argument(f"--{word}", metavar=metavar, const=f"{word}: {{}}", **append)
    write = {**append, "action": _AppendWrite}
    steps.add_argument("--wrmsr", metavar="REGISTER=VALUE", const="wrmsr: {{{}}}", **write)
    steps.add_argument("--step", metavar="YAML", const="{}", help="any step, `barrier: ready`", **append)


def scenario(options: argparse.Namespace) -> Scenario:
    """Return the scenario that the options describe; `InvalidScenario` says what is wrong with them."""
    steps = [f"{{vcpu: {vcpu}, {step}}}" for vcpu in range(options.vcpus) for step in options.steps]
    vcpus = ", ".join(f"{vcpu}: {{}}" for vcpu in range(options.vcpus))
    lines = (
        "title: A setup given on the command line",
        "level: vmx",
        f"setup: {{{', '.join(_setup(options))}}}",
        "cases:",
        "  - id: asked",
        "    says: The processor does what follows",
        "    rules: [rdmsr.three-conditions]",
        f"    vcpus: {{{vcpus}}}",
        *(["    steps:", *(f"      - {step}" for step in steps)] if steps else []),
    )
    return parse("\n".join(lines).encode(), NAME)


def _setup(options: argparse.Namespace) -> Iterator[str]:
    for key in ("base", "apic_mode", "tpr_threshold", "rvi", "svi", "eoi_exit_bitmap"):
        value = getattr(options, key)
        if value is not None:
            yield f"{key.replace('_', '-')}: {value}"
    for key in ("set", "clear"):
        if getattr(options, key):
            yield f"{key}: [{', '.join(getattr(options, key))}]"
    fill = [f"fill={options.fill}"] if options.fill else []
    for key, pairs in (("virtual-apic-page", [*fill, *options.page]), ("guest", options.guest)):
        if pairs:
            yield f"{key}: {{{_pairs(pairs)}}}"
    if options.no_page_address:
        yield "fields: {virtual-apic-address: {page: stale}}"
    bits = (("read", options.exits_on_read), ("write", options.exits_on_write))
    named = [f"{access}: [{', '.join(registers)}]" for access, registers in bits if registers]
    if named:
        yield f"msr-bitmap: {{{', '.join(named)}}}"


def _pairs(pairs: Sequence[str]) -> str:
    return ", ".join(": ".join(pair.split("=", 1)) for pair in pairs)
