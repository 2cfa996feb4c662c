"""A batch: one run for many cases, and *broken* for what a failing backend leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import judged as j
import pytest

from runner.judging.batch import POINTS, TIMES, Bench, Run, together
from runner.judging.verdict import CaseResult, Verdict
from runner.outcome import Answer, Completed, Observation, StepResult, Unsupported
from runner.program import Level, Program
from runner.scenario import After, Case, Expected, Scenario

RIGHT: Answer = j.READ_SEEN
ONE = j.case(j.READ)
THREE = j.case(j.READ, j.READ, j.READ)
SWEPT = j.case(replace(j.READ, expected=Expected(from_model=True)))
IRR0 = 0x820
CONFORMS, BROKEN, UNSUPPORTED = Verdict.CONFORMS, Verdict.BROKEN, Verdict.UNSUPPORTED


class Backend:
    """Answers rightly, so many times; then raises or ends."""

    def __init__(self, answers: int = 1000, *, raises: bool = False) -> None:
        self.answers, self.raises = answers, raises
        self.batches: list[int] = []

    def run(self, programs: Sequence[Program]) -> Iterator[Answer]:
        self.batches.append(len(programs))
        yield from [RIGHT] * min(len(programs), self.answers)
        if self.raises:
            raise RuntimeError("wires crossed")


def results(
    backend: Backend, *cases: Case, oracle: Run | None = None, has: Mapping[str, str] | None = None
) -> list[CaseResult]:
    bench = Bench(backend.run, oracle, j.Catalogue(), (), has)
    return list(bench.results(cases))


def verdicts(*given: object, **more: object) -> list[Verdict]:
    return [each.verdict for each in results(*given, **more)]  # type: ignore[arg-type]


def test_all_cases_are_one_run() -> None:
    backend = Backend()
    assert verdicts(backend, ONE, THREE, ONE) == [CONFORMS] * 3
    assert backend.batches == [5]


def test_no_cases_are_no_run() -> None:
    backend = Backend()
    assert verdicts(backend) == []
    assert backend.batches == []


@pytest.mark.parametrize("raises", [False, True])
def test_what_a_backend_leaves_out_is_broken(*, raises: bool) -> None:
    found = results(Backend(2, raises=raises), ONE, THREE, ONE)
    assert [each.verdict for each in found] == [CONFORMS, BROKEN, BROKEN]
    assert found[1].counts == {BROKEN: 2, CONFORMS: 1}
    wanted = "the backend failed: RuntimeError('wires crossed')" if raises else "no more answers"
    assert wanted in found[2].reason


def test_results_come_while_the_backend_runs() -> None:
    bench = Bench(Backend(1, raises=True).run, None, j.Catalogue(), (), None)
    assert next(bench.results([ONE, ONE])).verdict is CONFORMS


@pytest.mark.parametrize(
    ("has", "expected", "batches"),
    [
        ({"lvt-entries": "7", "x2apic": "true"}, CONFORMS, [2]),
        ({"lvt-entries": "0x7", "x2apic": "true"}, CONFORMS, [2]),
        ({"lvt-entries": "6", "x2apic": "true"}, UNSUPPORTED, [1]),
        ({"x2apic": "true"}, UNSUPPORTED, [1]),
        (None, CONFORMS, [2]),
    ],
)
def test_what_a_case_supposes(has: Mapping[str, str] | None, expected: Verdict, batches: list[int]) -> None:
    supposing = replace(ONE, when=(("x2apic", "true"), ("lvt-entries", "7")))
    backend = Backend()
    assert verdicts(backend, supposing, ONE, has=has) == [expected, CONFORMS]
    assert backend.batches == batches


def test_the_reason_names_what_a_case_supposes() -> None:
    supposing = replace(ONE, when=(("lvt-entries", "7"),))
    (six,) = results(Backend(), supposing, has={"lvt-entries": "6"})
    assert six.reason == "lvt-entries: the case supposes 7, the subject has 6"
    (silent,) = results(Backend(), supposing, has={})
    assert silent.reason == "lvt-entries: the subject does not say what it has"


def test_a_sweep_runs_on_the_oracle_too() -> None:
    subject, oracle = Backend(), Backend()
    assert verdicts(subject, ONE, SWEPT, oracle=oracle.run) == [CONFORMS, CONFORMS]
    assert (subject.batches, oracle.batches) == ([2], [1])


def test_a_sweep_does_not_confirm_the_oracle() -> None:
    model = Backend()
    ordinary, swept = results(model, ONE, SWEPT)
    assert (ordinary.verdict, swept.verdict) == (CONFORMS, UNSUPPORTED)
    assert "cannot confirm itself" in swept.reason
    assert model.batches == [1]


def test_a_sweep_is_judged_by_the_oracle() -> None:
    def silent(programs: Sequence[Program]) -> Iterator[Answer]:
        yield from [Unsupported("not modelled")] * len(programs)

    (swept,) = results(Backend(), SWEPT, oracle=silent)
    assert (swept.verdict, swept.reason) == (UNSUPPORTED, "the reference model: not modelled")


def file(name: str, points: int) -> Scenario:
    return Scenario(name, "A file", Level.VMX, (j.case(*[j.READ] * points),))


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ((1, 1, 1), [0, 0, 0]),
        ((POINTS - 1, 1, 1), [0, 0, 1]),
        ((POINTS, 1), [0, 1]),
        ((1, POINTS, 1), [0, 1, 2]),
        ((POINTS + 1, 1), [0, 1]),
        ((), []),
    ],
)
def test_files_in_order_fill_batches(sizes: tuple[int, ...], batches: list[int]) -> None:
    files = [file(str(number), size) for number, size in enumerate(sizes)]
    assert together(files) == {each.path: batch for each, batch in zip(files, batches, strict=True)}


class Sometimes:
    """A `Below`: of every program one more thing may be observed."""

    def __init__(self, allowed: Observation, *, may: bool = True) -> None:
        self.allowed, self.may = allowed, may

    def may_show(self, _: Program) -> bool:
        return self.may

    def observations(self, _: Program) -> Iterator[tuple[str, Observation]]:
        yield "level 0", self.allowed


def read(value: int) -> Observation:
    return j.seen(StepResult((Completed(value),)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([j.APICID_VALUE] * TIMES, CONFORMS),
        ([j.APICID_VALUE, j.APICID_VALUE, 0x51], Verdict.KNOWN_DEVIATION),
        ([0x51] * TIMES, Verdict.KNOWN_DEVIATION),
        ([0x51, 0x52, j.APICID_VALUE], Verdict.DOES_NOT_CONFORM),
    ],
)
def test_what_a_hypervisor_below_may_change_runs_again_and_is_allowed_each_time(
    values: list[int], expected: Verdict
) -> None:
    asked: list[int] = []

    def run(programs: Sequence[Program]) -> Iterator[Answer]:
        asked.append(len(programs))
        yield from map(read, values)

    bench = Bench(run, None, j.Catalogue(), (), {}, Sometimes(read(0x51)))
    assert next(bench.results([ONE])).verdict is expected
    assert asked == [TIMES]


def test_what_a_hypervisor_below_cannot_change_runs_once() -> None:
    backend = Backend()
    bench = Bench(backend.run, None, j.Catalogue(), (), {}, Sometimes(read(0x51), may=False))
    assert [each.verdict for each in bench.results([ONE, THREE])] == [CONFORMS] * 2
    assert backend.batches == [4]


@pytest.mark.parametrize(
    ("after", "expected"),
    [(After(), CONFORMS), (After(physical=((IRR0, 0),)), Verdict.DOES_NOT_CONFORM)],
)
def test_no_re_entry_excuses_a_physical_register_that_is_expected(after: After, expected: Verdict) -> None:
    asked = j.case(replace(j.READ, expected=replace(j.READ.expected, after=(after,))))
    final = replace(j.seen(StepResult((Completed(j.APICID_VALUE),))).finals[0], physical=((IRR0, 0x8000),))
    answer = j.seen(StepResult((Completed(j.APICID_VALUE),)), final=final)
    allowed = j.seen(StepResult((Completed(j.APICID_VALUE),)))
    bench = Bench(lambda _: iter([answer]), None, j.Catalogue(), (), {}, Sometimes(allowed, may=False))
    assert next(bench.results([asked])).verdict is expected
