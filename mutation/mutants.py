"""The mutants of the reference model: its modules with one small change each.

What can be changed and into what is mutmut's; what is left alone, since no scenario could see it, stands in
`unseen`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, WhitespaceInclusivePositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

from mutation.mutant import Mutant
from mutation.unseen import TEXTS, is_strict, refuses, unseen

OPERATORS: Final = tuple(pair for pair in mutation_operators if pair[1] is not operator_string)
UNTOUCHED = frozenset({"trace.py", "explaining.py"})
"""Modules that decide nothing: no scenario comes through them."""

TRACE_ARGUMENTS = frozenset({"by", "rule", "sentence", "trace"})
"""Parameters of the model's functions that are for the trace."""


def model(folder: Path) -> Mapping[str, str]:
    """Return the text of each module of the model by file name."""
    paths = sorted(folder.glob("*.py"))
    return {path.name: path.read_text(encoding="utf-8") for path in paths if path.name not in UNTOUCHED}


def mutants(modules: Mapping[str, str]) -> Iterator[Mutant]:
    """Yield every mutant of the modules, in the order of their text."""
    for name, text in modules.items():
        met: Counter[tuple[str, str]] = Counter()
        for mutant in _mutants_of(name, text):
            met[mutant.was, mutant.now] += 1
            yield replace(mutant, number=met[mutant.was, mutant.now])


def _mutants_of(name: str, text: str) -> Iterator[Mutant]:
    tree = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    spans = tree.resolve(WhitespaceInclusivePositionProvider)
    lines = text.splitlines(keepends=True)
    for original, mutated in _changes(tree.module, unseen(tree)):
        changed = _replaced(tree.module, lines, spans[original], original, mutated)
        was, now = _difference(lines, changed)
        if was != now:
            yield Mutant(name, was, now, "".join(changed))


def _replaced(
    module: cst.Module, lines: list[str], span: CodeRange, original: cst.CSTNode, mutated: cst.CSTNode
) -> list[str]:
    """Return the module's lines with a node replaced."""
    if isinstance(original, cst.BaseCompoundStatement):  # its code depends on its indentation
        whole = cst.ensure_type(module.deep_replace(original, mutated), cst.Module)
        return whole.code.splitlines(keepends=True)
    before = lines[: span.start.line - 1]
    head = lines[span.start.line - 1][: span.start.column]
    # A node that ends with its line ends at column 0 of the next one, which the file may not have.
    last = lines[span.end.line - 1] if span.end.line <= len(lines) else ""
    made = head + module.code_for_node(mutated) + last[span.end.column :]
    return [*before, *made.splitlines(keepends=True), *lines[span.end.line :]]


def _difference(was: list[str], now: list[str]) -> tuple[str, str]:
    """Return the lines from the first that differs to the last, of both."""
    first = next((n for n, (one, other) in enumerate(zip(was, now, strict=False)) if one != other), 0)
    after = zip(reversed(was[first:]), reversed(now[first:]), strict=False)
    same = next((n for n, (one, other) in enumerate(after) if one != other), min(len(was), len(now)) - first)
    return _joined(was[first : len(was) - same]), _joined(now[first : len(now) - same])


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def _changes(node: cst.CSTNode, hidden: Container[cst.CSTNode]) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Yield the nodes that are changed, each with what stands there instead."""
    if node in hidden:
        return
    for kind, operator in OPERATORS:
        if isinstance(node, kind):
            yield from ((node, each) for each in operator(node) if not _is_unseen(node, each, hidden))
    for child in node.children:
        yield from _changes(child, hidden)


def _is_unseen(node: cst.CSTNode, mutated: cst.CSTNode, hidden: Container[cst.CSTNode]) -> bool:
    """Whether nobody can see the change: it takes away a text, say, or makes ``None`` of ``False``."""
    match node, mutated:
        case cst.Assign(value=cst.Name(value="False")) | cst.AnnAssign(value=cst.Name(value="False")), _:
            return True
        case cst.Match(), cst.Match():
            dropped = [case for case in node.cases if case not in mutated.cases]
            return any(case in hidden or refuses(case.body) for case in dropped)
        case cst.Call(), cst.Call():
            changed = [argument for argument in node.args if argument not in mutated.args]
            return any(_is_of_trace(each.value) or is_strict(each) for each in changed)
        case _:
            return False


def _is_of_trace(value: cst.BaseExpression) -> bool:
    match value:
        case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
            return name in TRACE_ARGUMENTS
        case _:
            return isinstance(value, TEXTS)
