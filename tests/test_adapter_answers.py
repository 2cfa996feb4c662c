"""What an adapter writes is read as the schema says, and nothing that is read brings the judge down."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from hostile_adapter import CAPABILITIES

from backends.adapter import answers, reading
from backends.adapter.answers import AnswerError
from backends.adapters.python.observations import observation_json
from backends.model import Model
from runner.judging.verdict import judge
from runner.language import loading
from runner.outcome import (
    Answer,
    BackendBroken,
    Completed,
    Delivery,
    Entered,
    EntryFailure,
    Fault,
    Final,
    Observation,
    Rip,
    StepResult,
    Stuck,
    Unsupported,
    VmExit,
    VmfailInvalid,
    VmfailValid,
    VmxAbort,
)
from runner.program import Level, Program, Rdmsr, Setup, Step, Wrmsr
from runner.rulebook import catalogue
from runner.scenario import Case, Point
from runner.vmx import Activity, Blocking

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 4, 15, 16, 255, 256, 1 << 31, 1 << 64, 0.5),
    *("", "0x", "0x0", "0x1f", "0xffffffff", "0x100000000", "0xffffffffffffffff", "0x10000000000000000"),
    *("0X0F", "1f", "-0x1", "0x1000", "0xffc", "value", "fault", "exit", "entered", "same", "x" * 500),
    *([], {}, [[]], [["0x0", "0x0"]], [["0x4", "0x1"], ["0x4", "0x2"]], {"outcome": "completed"}),
)
MUTANTS_EACH = 40
EVERYTHING = Observation(
    (Entered(),),
    (
        StepResult(
            (
                Completed(),
                Completed(0xFFFFFFFF_FFFFFFFF, upper_clear=False),
                Fault(13, 0),
                Fault(6, None),
                VmExit(31, 7, Rip.ELSEWHERE, 0x80000B0D, 0x80000031, 2, Blocking.STI, Activity.HLT, False),
                VmfailValid(7),
                VmfailInvalid(),
                EntryFailure(33, 4),
                VmxAbort(4),
                *Stuck,
            ),
            (Delivery(0x51, 1, (StepResult((Completed(),), (Delivery(0x61, 1),)),)),),
            Fault(13, 0),
        ),
    ),
    (
        Final(
            ((0x80, 1), (0xFFC, 2)),
            1,
            2,
            (1, 2, 3, 4, 5, 6, 7, 8),
            ((0x1B, 0xFEE00D00),),
            Activity.HLT,
            Blocking(9),
        ),
    ),
)
ASKED = Program(Level.VMX, (Setup(handlers=((0x51, (Step(Wrmsr(0x80B, 0)),)),)),), (Step(Rdmsr(0x802)),))


def message(seen: Observation, seq: int = 1) -> dict[str, Any]:
    return {"message": "observation", "seq": seq, **observation_json(seen)}


def read(given: Any, program: Program) -> Answer:
    return answers.answer(answers.message(json.dumps(given).encode()), 1, program)


def test_everything_that_can_be_observed_arrives() -> None:
    assert read(message(EVERYTHING), ASKED) == EVERYTHING


def test_no_descriptor_is_eight_zeros_and_a_word_as_set_up_is_no_change() -> None:
    given = message(EVERYTHING)
    given["finals"][0] |= {"pid": [], "page": [["0x100", "0x0"], ["0x0090", "0X0A"], ["0x80", "0x0"]]}
    seen = read(given, ASKED)
    assert isinstance(seen, Observation)
    final = seen.finals[0]
    assert final.pid == (0,) * 8
    assert final.page == ((0x90, 10),)


@pytest.mark.parametrize(
    ("at", "vector", "steps", "reason"),
    [
        (2, 0x51, 1, "2 is no number 0-1"),
        (1, 0x51, 0, "steps: 0, where the case has 1"),
        (1, 0x31, 1, "steps: 1, where the case has 0"),
        (1, 0x0D, 1, "steps: 1, where the case has 0"),
    ],
)
def test_an_interrupt_leads_back_into_the_case_and_its_handler_has_its_steps(
    at: int, vector: int, steps: int, reason: str
) -> None:
    given = message(EVERYTHING)
    one = {"outcomes": [{"outcome": "completed"}], "delivered": [], "physical": None}
    given["steps"][0]["delivered"] = [{"vector": vector, "at": at, "steps": [one] * steps}]
    with pytest.raises(AnswerError) as refused:
        read(given, ASKED)
    assert str(refused.value) == reason


def test_a_reason_is_taken_over() -> None:
    lack = read({"message": "unsupported", "seq": 1, "reason": "no timer"}, ASKED)
    assert lack == Unsupported("no timer")
    broken = read({"message": "broken", "seq": 1, "reason": "no memory"}, ASKED)
    assert broken == BackendBroken("the adapter says: no memory")


@pytest.mark.parametrize("reason", ["", "x" * 401, 3, None])
def test_a_reason_is_words(reason: Any) -> None:
    with pytest.raises(AnswerError, match="reason: "):
        read({"message": "broken", "seq": 1, "reason": reason}, ASKED)


@cache
def points() -> tuple[tuple[Case, Point, Observation], ...]:
    """Return points of the corpus with what the model sees of them, all shapes of them."""
    cases = [case for each in loading.load_all(loading.scenario_files()) for case in each.cases]
    some = [(case, case.points[0]) for case in cases[::23]]
    seen = Model().run([point.program for _, point in some])
    return tuple(
        (case, point, answer)
        for (case, point), answer in zip(some, seen, strict=True)
        if isinstance(answer, Observation)
    )


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container within a message, with each of its keys."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def mutants(given: dict[str, Any], chance: random.Random) -> Iterator[dict[str, Any]]:
    for _ in range(MUTANTS_EACH):
        mutant = deepcopy(given)
        for _ in range(chance.choice((1, 1, 1, 2))):
            holder, key = chance.choice(list(places(mutant)))
            match chance.randrange(4):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, list):
                    holder.append(deepcopy(holder[key]))
                case 1:
                    holder["more"] = 1
                case _:
                    holder[key] = deepcopy(chance.choice(ODD))
        mutant.setdefault("message", "observation")
        mutant["seq"] = 1
        if mutant["message"] == "observation":
            yield mutant


def test_the_reader_takes_nothing_that_the_schema_refuses_and_the_judge_bears_the_rest() -> None:
    rules, taken, beyond = catalogue.load(), 0, Counter[str]()
    for number, (case, point, seen) in enumerate(points()):
        for mutant in mutants(message(seen), random.Random(number)):  # noqa: S311 - the same mutants always
            mistake = reading.first_mistake(mutant)
            found = said(mutant, point.program)
            if isinstance(found, str):
                assert mistake in {"", found}
                beyond[found.partition(": ")[0]] += not mistake
            else:
                taken += 1
                assert mistake == "", mutant
                judge(case, [found], rules, oracle=[seen])
    assert taken > 50
    assert beyond.total() > 20
    known = {"entries", "steps", "finals", "page", "physical"}  # how many there are, and what stands twice
    assert {each for each, count in beyond.items() if count} - known <= {
        each
        for each in beyond
        if "is no number 0-" in each  # an `at` behind the last step; 1.0
    }


def said(given: Any, program: Program) -> Answer | str:
    """Return what is read, or why it is refused."""
    try:
        return read(given, program)
    except AnswerError as error:
        return str(error)


def _capabilities(**changed: Any) -> dict[str, Any]:

    return {**CAPABILITIES, **changed}


def test_a_report_says_what_an_adapter_says_of_itself() -> None:
    assert answers.capabilities(_capabilities()).report() == {
        "adapter": "an adapter that does one thing wrong",
        "x2apic": "true",
        "vmx": "true",
        "physical-address-width": "46",
        "lvt-entries": "7",
        "directed-eoi": "true",
        "IA32_VMX_PINBASED_CTLS": "0xff00000016",
        "IA32_VMX_PROCBASED_CTLS": "0xfffbfffe0401e172",
        "IA32_VMX_EXIT_CTLS": "0x7fffff00036dff",
        "IA32_VMX_ENTRY_CTLS": "0xf3ff000011ff",
        "IA32_VMX_PROCBASED_CTLS2": "0x7fff00000000",
    }


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": 2}, "protocol: "),
        ({"levels": []}, "levels: "),
        ({"levels": ["vmx", "vmx"]}, "levels: "),
        ({"levels": ["host"]}, 'levels[0]: found "host", wanted one of "vmx", "guest"'),
        ({"vcpus": 9}, "vcpus: found 9, wanted a number 1-8"),
        ({"batch": 0}, "batch: found 0, wanted a number 1-4096"),
        ({"memory": "0x100800"}, "memory: 0x100800 is no multiple of 0x10000"),
        ({"memory": "0x3fffffff0000"}, "reaches beyond 46 bits"),
        ({"physical-address-width": 64}, "physical-address-width: found 64"),
        ({"msrs": [["0x47f", "0x0"]]}, 'msrs[0][0]: found "0x47f", wanted an MSR 0x480-0x492'),
        ({"msrs": [["0x480", "0x0"], ["0x0480", "0x1"]]}, "msrs: an MSR stands there twice"),
        ({"name": ""}, "name: "),
        ({"message": "hello"}, 'message: "hello", where `capabilities` was due'),
    ],
)
def test_capabilities_that_cannot_be_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(AnswerError) as error:
        answers.capabilities(_capabilities(**changed))
    assert reason in str(error.value)
