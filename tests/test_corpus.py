"""The scenarios themselves: what the language page asks of all of them, and no schema can see."""

from __future__ import annotations

from collections.abc import Iterator

from backends.model import explaining
from runner.language.loading import load_all, scenario_files
from runner.outcome import Entered
from runner.program import Level

ORDER = "specs/vmx/vm-entry/order.yaml"
"""Asks which of two checks comes first, and so violates both."""


def failing_entries() -> Iterator[tuple[str, list[str]]]:
    """Yield each point whose first VM entry is to fail, with the rules that the model finds violated."""
    for scenario in load_all(scenario_files()):
        if scenario.level is Level.GUEST or scenario.path == ORDER:
            continue
        for case in scenario.cases:
            for point in case.points:
                if not point.expected.from_model and not isinstance(point.expected.entry, Entered):
                    found = [rule for rule, _ in explaining.violations(point.program)]
                    yield f"{scenario.case_id(case)} {point.id}", found


def test_a_vm_entry_violates_one_check() -> None:
    entries = dict(failing_entries())
    assert len(entries) > 500
    assert {name: rules for name, rules in entries.items() if len(rules) > 1} == {}
