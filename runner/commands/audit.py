"""``python -m runner audit``: what is wrong with what a VMM has set, and what its guest's accesses then do.

Reads a dump in YAML, the text of Linux' dump_vmcs, or Xen's VMCS dump. Exit status: 0 nothing found,
1 findings, 2 the dump or the line cannot be used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from runner.apic import REGISTERS_BY_NAME, is_x2apic
from runner.auditing.dump import load
from runner.auditing.effects import Accesses, table
from runner.auditing.finding import Audited, Rank
from runner.auditing.findings import Placed, findings
from runner.auditing.state import Dump, Read, VcpuState
from runner.auditing.unsaid import unsaid
from runner.commands.audited import all_audited
from runner.language.loading import rules
from runner.reading.problems import MalformedError, did_you_mean
from runner.rulebook.rules import Catalogue

FOUND, UNUSABLE = 1, 2
WIDTH = 100
_HEADINGS = {
    Rank.CAUSE: "Where the value in hand comes from",
    Rank.ENTRY: "Why VM entry fails",
    Rank.NEXT: "What goes wrong next",
}


class BadReadError(Exception):
    """A ``--read`` that names no register, value or virtual processor; the text says what to write."""


def main(arguments: Sequence[str]) -> int:
    """Print what is found, the cause of a value in hand first; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m runner audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the dump")
    parser.add_argument(
        "--read",
        metavar="[VCPU:]REGISTER=VALUE",
        action="append",
        default=[],
        help="what RDMSR gave the guest, 0x802=2621447225; on every virtual processor, or on one, 1:APICID=0",
    )
    options = parser.parse_args(arguments)
    try:
        dump = _with_reads(load(options.file), options.read)
    except (MalformedError, BadReadError) as error:
        print(error)
        return UNUSABLE
    answers = [*all_audited(dump)]
    placed = findings(answers)
    print(*_report(dump, answers, placed), sep="\n")
    return FOUND if any(not each.finding.is_open for each in placed) else 0


def _with_reads(dump: Dump, texts: Sequence[str]) -> Dump:
    states = list(dump.vcpus)
    for text in texts:
        whose, read = _read(text)
        known = [state.name for state in states]
        if whose is not None and whose not in known:
            raise BadReadError(
                f"--read {text}: the dump has no virtual processor {whose}, but {', '.join(known)}"
            )
        states = [_with_read(state, read) if whose in (None, state.name) else state for state in states]
    return replace(dump, vcpus=tuple(states))


def _with_read(state: VcpuState, read: Read) -> VcpuState:
    return replace(state, reads=(*(each for each in state.reads if each.msr != read.msr), read))


def _read(text: str) -> tuple[str | None, Read]:
    place, equals, value = text.partition("=")
    whose, colon, register = place.rpartition(":")
    msr = REGISTERS_BY_NAME[register].msr if register in REGISTERS_BY_NAME else _number(register)
    number = _number(value)
    if not equals or msr is None or not is_x2apic(msr):
        near = did_you_mean(register, REGISTERS_BY_NAME)
        raise BadReadError(f"--read {text}: write REGISTER=VALUE, 0x802=2621447225 or APICID=0{near}")
    if number is None or number >> 64:
        raise BadReadError(
            f"--read {text}: `{value}` is no number of 64 bits; write 2621447225, or 0x9c401c39"
        )
    return whose if colon else None, Read(msr, number)


def _number(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _report(dump: Dump, answers: Sequence[Audited], placed: Sequence[Placed]) -> Iterator[str]:
    certain = [each for each in placed if not each.finding.is_open]
    many = f"{len(dump.vcpus)} virtual processor{'s' * (len(dump.vcpus) > 1)}"
    yield f"{dump.file}: {dump.form}, {many}, {len(certain) or 'no'} finding{'s' * (len(certain) != 1)}"
    for remark in dump.remarks:
        yield f"  {remark}"
    number = 0
    for rank, group in groupby(certain, key=lambda each: each.finding.rank):
        yield from ("", _HEADINGS[rank])
        for each in group:
            number += 1
            yield from _finding_words(f"{number:3}. ", each, rules())
    yield from _open_words(placed)
    yield from _unsaid_words(answers)
    yield from _tables(answers)


def _finding_words(first: str, placed: Placed, catalogue: Catalogue) -> Iterator[str]:
    finding, rest = placed.finding, "     "
    yield from _wrapped(f"{_whose(placed.vcpus)}: {finding.says}", first, rest)
    if finding.provided:
        yield from _wrapped(finding.provided, rest, rest)
    yield from _wrapped(f"Do: {finding.fix}", rest, rest + "    ")
    rule, *more = finding.rules
    said = f"Rule {rule}: {catalogue[rule].says} (SDM: {'; '.join(catalogue[rule].section)})"
    yield from _wrapped(said + (f" See also {', '.join(more)}." if more else ""), rest, rest + "    ")


def _open_words(placed: Sequence[Placed]) -> Iterator[str]:
    questions = [each for each in placed if each.finding.is_open]
    if questions:
        yield from ("", "What to look at, since the dump does not tell")
    for each in questions:
        said = f"{_whose(each.vcpus)}: {each.finding.says} {each.finding.fix}"
        yield from _wrapped(f"{said} ({each.finding.rules[0]})", "  -  ", "     ")


def _unsaid_words(answers: Sequence[Audited]) -> Iterator[str]:
    yield from ("", "What the dump does not say")
    whose: dict[str, list[str]] = {}
    for answer in answers:
        for said in unsaid(answer):
            whose.setdefault(said, []).append(answer.state.name)
    for said, names in whose.items():
        whom = "" if len(names) == len(answers) else f"of {_whose(names).lower()}: "
        yield from _wrapped(f"{whom}{said}", "  -  ", "     ")


def _tables(answers: Sequence[Audited]) -> Iterator[str]:
    yield from ("", "What an access of the guest does, at CPL 0")
    whose: list[tuple[Accesses, list[str]]] = []
    for answer in answers:
        same = next((names for accesses, names in whose if accesses == answer.accesses), None)
        if same is None:
            whose.append((answer.accesses, [answer.state.name]))
        else:
            same.append(answer.state.name)
    for accesses, names in whose:
        yield f"  {_whose(names)}"
        if not accesses.reads:
            yield "    nothing: VM entry fails, so the guest does not run"
            continue
        rows = [("MSR", "register", "RDMSR", "WRMSR")]
        rows += [(row.msrs, row.name, row.read, row.write) for row in table(accesses)]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
            yield f"    {'  '.join((*cells, row[3]))}".rstrip()


def _whose(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"Virtual processor {names[0]}"
    return f"Virtual processors {', '.join(names[:-1])} and {names[-1]}"


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
