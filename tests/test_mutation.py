"""The mutation run, but for the making of mutants: trials, limits, what is kept, what is explained."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from backends.faulty.private import FOLDER
from mutation import equivalent, record, session, trial
from mutation.mutant import Mutant
from mutation.result import Result
from mutation.session import End, Outcome
from runner.language.loading import SPECS, load
from runner.reading.problems import MalformedError

TPR = (FOLDER / "tpr.py").read_text()
KILLED, SURVIVED = Outcome(End.KILLED, "a::b"), Outcome(End.SURVIVED)


def listed() -> tuple[trial.Listed, ...]:
    scenario = load(SPECS / "vmx" / "tpr-threshold" / "exits.yaml")
    return tuple(trial.Listed(scenario.case_id(case), case) for case in scenario.cases)


def mutant(old: str, new: str) -> Mutant:
    assert TPR.count(old) == 1
    return Mutant("tpr.py", old, new, TPR.replace(old, new))


NEVER_BELOW = mutant("if vtpr_class >= threshold:", "if vtpr_class >= 0:")
LOOPS = mutant("    vtpr_class, threshold = class", "    while True: pass\n    vtpr_class, threshold = class")
GREEDY = mutant("    vtpr_class, threshold = class", "    [0] * (1 << 40)\n    vtpr_class, threshold = class")
NO_MODULE = mutant("from backends.model import", "from backends.modle import")
SAME = mutant("if vtpr_class >= threshold:", "if not vtpr_class < threshold:")


def ends(*mutants: Mutant, workers: int = 2, killers: Mapping[str, str] | None = None) -> dict[str, Outcome]:
    tried = session.outcomes(mutants, listed(), killers or {}, seconds=1, workers=workers)
    return {each.id: outcome for each, outcome in tried}


def test_the_cases_conform_on_the_model() -> None:
    assert trial.notice(trial.benches({}), listed()) is None
    assert trial.conforming(listed()) == listed()


def test_how_trials_end() -> None:
    found = ends(NEVER_BELOW, LOOPS, NO_MODULE, SAME, GREEDY)
    assert found[NEVER_BELOW.id].end is End.KILLED
    assert not found[NEVER_BELOW.id].raised
    assert found[LOOPS.id] == Outcome(End.TIMEOUT)
    assert found[NO_MODULE.id] == Outcome(End.ERROR)
    assert found[SAME.id] == Outcome(End.SURVIVED)
    assert found[GREEDY.id].end is End.KILLED
    assert found[GREEDY.id].raised


def test_the_case_that_killed_before_is_tried_first() -> None:
    by = [ends(NEVER_BELOW)[NEVER_BELOW.id].by]
    scenario = load(SPECS / "vmx" / "tpr-threshold" / "exits.yaml")
    other = next(each.id for each in listed() if "no-secondary-controls" in each.id)
    by.append(ends(NEVER_BELOW, killers={NEVER_BELOW.id: other})[NEVER_BELOW.id].by)
    assert by == [f"{scenario.path}::both-sides-of-three-thresholds", other]


def test_one_case_that_comes_to_no_end_ends_its_trial() -> None:
    before = os.times().children_user
    [(_, outcome)] = session.outcomes([LOOPS], listed(), {}, seconds=60, workers=1)
    assert outcome == Outcome(End.TIMEOUT)
    assert os.times().children_user - before < 10


def test_two_trials_at_a_time() -> None:
    tried = session.outcomes([LOOPS, NEVER_BELOW], listed(), {}, seconds=60, workers=2)
    first, _ = next(tried)
    tried.close()
    assert first == NEVER_BELOW


def test_a_trial_in_the_way_is_ended_when_the_run_is_left() -> None:
    tried = session.outcomes([NEVER_BELOW, LOOPS], listed(), {}, seconds=60, workers=2)
    next(tried)
    start = time.monotonic()
    tried.close()
    assert time.monotonic() - start < 5
    assert not [child for child in session.FORK.active_children() if child.is_alive() and child.join(5)]


def test_a_case_that_supposes_another_implementation_is_run_there() -> None:
    scenario = load(SPECS / "guest" / "register-map" / "reads.yaml")
    cases = [trial.Listed(case.id, case) for case in scenario.cases if "entr" in case.id]
    assert {each.id: each.on for each in trial.conforming(cases)} == {
        "seventh-lvt-entry": 0,
        "no-seventh-lvt-entry": 1,
        "version-of-seven-entries": 0,
        "version-of-six-entries": 1,
    }


def test_cases_with_few_points_come_first() -> None:
    points = [len(each.case.points) for each in trial.cases()]
    assert points == sorted(points)
    assert len(points) > 400


def test_what_is_known_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mutants.jsonl"
    kept = record.read(path, "one")
    kept.add(NEVER_BELOW, KILLED)
    kept.add(SAME, SURVIVED)
    with path.open("a") as lines:
        lines.write('{"digest": "one", "muta')
    again = record.read(path, "one")
    assert again.known == {NEVER_BELOW.id: KILLED, SAME.id: SURVIVED}
    assert again.killers == {NEVER_BELOW.id: "a::b"}


def test_after_a_change_only_the_killers_are_known(tmp_path: Path) -> None:
    path = tmp_path / "mutants.jsonl"
    record.read(path, "one").add(NEVER_BELOW, KILLED)
    changed = record.read(path, "two")
    assert changed.known == {}
    assert changed.killers == {NEVER_BELOW.id: "a::b"}


def test_every_survivor_wants_a_reason() -> None:
    result = Result({"m -> n": SURVIVED, **{f"{n}": KILLED for n in range(99)}}, {})
    assert not result.suffices
    assert list(result.words())[:2] == ["survivors without a reason:", "  m -> n"]
    assert Result(result.outcomes, {"m -> n": "because"}).suffices


def test_a_killed_mutant_is_not_equivalent() -> None:
    result = Result({"m -> n": KILLED, "o": KILLED}, {"m -> n": "because"})
    assert not result.suffices
    assert list(result.words())[1] == "  m -> n: killed by a::b"


def test_the_score() -> None:
    outcomes = {"k": KILLED, "t": Outcome(End.TIMEOUT), "e": Outcome(End.ERROR), "s": SURVIVED, "q": SURVIVED}
    result = Result(outcomes, {"q": "because"})
    assert round(result.score, 2) == 66.67
    assert not result.suffices
    assert list(result.words())[-2] == (
        "5 mutants: 1 killed (0 by an exception in the model), 1 timeouts, 1 errors, 2 survived (1 explained)"
    )


def test_of_nothing_nothing_survives() -> None:
    assert Result({}, {}).suffices


REASON = "because: nothing that a scenario sees depends on it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"- {{mutant: 'n', {REASON}}}", "1:12: no mutant has this id; remove it"),
        (f"- {{mutant: m, {REASON}}}\n- {{mutant: m, {REASON}}}", "2:12: a second time; keep one"),
        ("- {mutant: m}", "`because`"),
        ("- {mutant: m, because: so}", "a reason of 20 to 300 characters"),
        ("{}", "wanted a list of mutants that no scenario can kill"),
    ],
)
def test_a_mistake_among_the_equivalent_mutants(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "equivalent.yaml"
    path.write_text(text)
    with pytest.raises(MalformedError) as malformed:
        equivalent.load({"m"}, path)
    assert message in str(malformed.value)


def test_equivalent_mutants(tmp_path: Path) -> None:
    path = tmp_path / "equivalent.yaml"
    path.write_text(f"- {{mutant: m, {REASON}}}")
    assert equivalent.load({"m"}, path) == {"m": "nothing that a scenario sees depends on it"}


def test_a_case_that_killed_another_mutant_of_the_module_is_tried_first() -> None:
    again = Mutant("tpr.py", "again", "again", NEVER_BELOW.text)
    other = next(each.id for each in listed() if "no-secondary-controls" in each.id)
    found = ends(NEVER_BELOW, again, killers={NEVER_BELOW.id: other}, workers=1)
    assert found[again.id].by == other


def test_a_trial_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> Callable[[], None]:
        raise SystemExit(3)

    monkeypatch.setattr(session, "notice", dies)
    with pytest.raises(session.TrialError, match="vtpr_class >= threshold"):
        ends(SAME)


def test_a_model_that_cannot_be_read_is_no_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> Callable[[], None]:
        raise FileNotFoundError

    monkeypatch.setattr(session, "benches", gone)
    with pytest.raises(session.TrialError):
        ends(SAME)
