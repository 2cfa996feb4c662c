"""``python -m runner explain``: what the processor does, step by step, and by which rule.

Either for a case, ``FILE::case`` or ``FILE::case[msr=0x802]``, or for a setup and steps given as options.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap

from backends.model import explaining
from backends.model.trace import Place, Reason
from runner.apic import ApicMode
from runner.commands import asked
from runner.language.loading import load, rules
from runner.outcome import Answer, Completed, Final, Observation, StepResult, Unsupported
from runner.program import Page, PageAddress, Program, Setup
from runner.reading.problems import MalformedError, did_you_mean
from runner.rulebook.rules import Catalogue
from runner.scenario import Case, Point, Scenario
from runner.vmx import CONTROL_WORDS, Field, name_of
from runner.words import action_words, entry_words, hexadecimal, result_words

REFUSED = 2
"""Exit status where the line does not name a program."""

WIDTH = 100
_CASE = re.compile(r"(?P<file>.+?)::(?P<case>[^\[]+)(\[(?P<point>.*)\])?")


class UnknownCaseError(Exception):
    """There is no such case or point; the text says which there are."""


def main(arguments: Sequence[str]) -> int:
    """Print the explanation; return 1 where the model does not know a construct, 2 for a wrong line."""
    parser = argparse.ArgumentParser(prog="python -m runner explain", description=__doc__)
    parser.add_argument("case", nargs="?", metavar="FILE::CASE[POINT]", help="a case of a scenario file")
    asked.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        point = _point(options)
    except MalformedError as malformed:
        print(
            *(_said(problem.message, str(problem), options.case) for problem in malformed.problems), sep="\n"
        )
        return REFUSED
    except UnknownCaseError as unknown:
        print(unknown)
        return REFUSED
    answer, reasons = explaining.run_traced(point.program)
    known = isinstance(answer, Observation)
    observed = _observed(point.program, answer) if isinstance(answer, Observation) else ()
    why = _why(point.program, reasons, rules())
    end = () if isinstance(answer, Observation) else (_stop(answer), "")
    print(*_set_up(point.program), *observed, *why, *end, *_rules_in_full(reasons, rules()), sep="\n")
    return 0 if known else 1


def _stop(answer: Answer) -> str:
    return f"Here it ends: {answer.reason}" if isinstance(answer, Unsupported) else f"Here it ends: {answer}"


def _said(message: str, with_place: str, case: str | None) -> str:
    """Leave out the place in a text that nobody has written."""
    return with_place if case else message


def _point(options: argparse.Namespace) -> Point:
    if options.case is None:
        return asked.scenario(options).cases[0].points[0]
    match = _CASE.fullmatch(options.case)
    if match is None:
        raise UnknownCaseError(f"{options.case!r} is no FILE::CASE")
    return _named_point(_named_case(load(Path(match["file"])), match["case"]), match["point"])


def _named_case(scenario: Scenario, name: str) -> Case:
    for case in scenario.cases:
        if case.id == name:
            return case
    known = [case.id for case in scenario.cases]
    raise UnknownCaseError(f"{scenario.path} has no case {name!r}{did_you_mean(name, known)}")


def _named_point(case: Case, name: str | None) -> Point:
    """Return the named point, or the only one: then a name in brackets is that of a subject."""
    if len(case.points) == 1:
        return case.points[0]
    for point in case.points:
        if point.id == name:
            return point
    raise UnknownCaseError(
        f"{case.id} has {len(case.points)} points; name one: {case.id}[{case.points[0].id}]"
    )


def _set_up(program: Program) -> Iterator[str]:
    for setup, vcpus in groupby(range(len(program.vcpus)), key=program.vcpus.__getitem__):
        yield from _setup_words(setup, [*vcpus])


def _why(program: Program, reasons: Sequence[Reason], catalogue: Catalogue) -> Iterator[str]:
    """Yield the decisions place by place; virtual processors that fare alike are told of once."""
    yield from ("", "Why")
    told, places = _told_once(program, reasons)
    for place, decisions in groupby(told, key=lambda reason: reason.place):
        yield from (_place_words(program, each) for each in places.get(place, (place,)))
        for reason in decisions:
            yield from _wrapped(reason.sentence, "  - ", "    ")
            headings = "; ".join(catalogue[reason.rule].section)
            yield f"      {reason.rule} (SDM: {headings})"
        yield ""


def _told_once(
    program: Program, reasons: Sequence[Reason]
) -> tuple[Sequence[Reason], Mapping[Place, tuple[Place, ...]]]:
    """Return the reasons of the first virtual processor, and whose places each of its places stands for.

    All reasons, and no places, where virtual processors fare differently.
    """
    of_each = [
        [reason for reason in reasons if reason.place.vcpu == vcpu] for vcpu in range(len(program.vcpus))
    ]
    first, *others = [[(each.place.action, each.rule, each.sentence) for each in own] for own in of_each]
    if not all(other == first for other in others):
        return reasons, {}
    return of_each[0], {own[0].place: tuple(each.place for each in own) for own in zip(*of_each, strict=True)}


def _rules_in_full(reasons: Sequence[Reason], catalogue: Catalogue) -> Iterator[str]:
    yield "The rules in full"
    for rule in dict.fromkeys(reason.rule for reason in reasons):
        yield f"  {rule}"
        yield from _wrapped(catalogue[rule].says, "    ", "    ")


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=then, break_on_hyphens=False)


def _setup_words(setup: Setup, vcpus: Sequence[int]) -> Iterator[str]:
    """Say what is set; *vcpus* are the virtual processors with this setup."""
    who = f"Virtual processor{'s' * (len(vcpus) > 1)} {', '.join(map(str, vcpus))}"
    names = [name_of(control) for word in CONTROL_WORDS for control in word if setup.controls.has(control)]
    yield f"{who}, the physical APIC {_MODES[setup.apic_mode]}, with these controls:"
    yield from _wrapped(", ".join(names) or "none", "  ", "  ")
    for field, value in setup.fields:
        if (
            field is Field.VIRTUAL_APIC_ADDRESS
            and isinstance(value, PageAddress)
            and value.page is Page.STALE
        ):
            yield "  The virtual-APIC address was never set: it leads to a page that nobody has prepared,"
            yield "  and the guest reads whatever lies there. Each virtual processor needs a page of its own."


_MODES = {
    ApicMode.DISABLED: "globally disabled",
    ApicMode.XAPIC: "in xAPIC mode",
    ApicMode.X2APIC: "in x2APIC mode",
}


def _place_words(program: Program, place: Place) -> str:
    words = place.words(many=len(program.vcpus) > 1)
    return words[0].upper() + words[1:]


def _observed(program: Program, observation: Observation) -> Iterator[str]:
    yield ""
    yield "What happens"
    many = len(program.vcpus) > 1
    for vcpu, entry in enumerate(observation.entries):
        yield f"  {f'virtual processor {vcpu}: ' if many else ''}{entry_words(entry)}"
    for index, (step, result) in enumerate(zip(program.steps, observation.steps, strict=True)):
        whose = f"virtual processor {step.vcpu}, " if many else ""
        happened = f"{result_words(result)}{_decimal(result)}"
        yield f"  {whose}step {index + 1}, {action_words(step.action)}: {happened}"
    for vcpu, final in enumerate(observation.finals):
        yield f"  at the end{f' of virtual processor {vcpu}' if many else ''}: {_final_words(final)}"


def _decimal(result: StepResult) -> str:
    """Return EAX in decimal, in which people write down an ID that puzzles them."""
    match result.outcomes:
        case (Completed(int(value)), *_) if value > 9:
            return f" (EAX {value & 0xFFFFFFFF} in decimal)"
    return ""


def _final_words(final: Final) -> str:
    words = [f"RVI {hexadecimal(final.rvi)}, SVI {hexadecimal(final.svi)}"]
    if final.page:
        changed = ", ".join(f"{offset:03X}H = {hexadecimal(word)}" for offset, word in final.page)
        words.append(f"changed words of its page: {changed}")
    else:
        words.append("its page is unchanged")
    if final.physical:
        changed = ", ".join(f"MSR {msr:X}H = {hexadecimal(value)}" for msr, value in final.physical)
        words.append(f"changed registers of the physical APIC: {changed}")
    return "; ".join(words)
