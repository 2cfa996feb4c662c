"""Collects scenario files and runs their cases: the only file that knows pytest.

One item is one case on one subject; the selected cases of some files are one batch on each subject.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from backends.model import explaining
from reports import allure, summary
from reports.failure import explained
from reports.judged import Judged, tally
from reports.ledger import Ledger, announces_in_vain, packed
from reports.table import table
from runner.commands.benches import Benches
from runner.judging.batch import together
from runner.judging.subject_file import SubjectFile
from runner.judging.verdict import CaseResult, Verdict
from runner.language import loading
from runner.reading.problems import MalformedError, Problem
from runner.rulebook import catalogue
from runner.scenario import Case, Scenario

RECORD = "record"
"""Property of a test report that carries a case's record to the controlling process."""
BATCHES = "batches"
"""What the controlling process tells its workers: the batch that each file belongs to."""
WRONG_FILES = 2
"""Exit status when a scenario or subject file says what cannot be run; nothing has run then."""


class BrokenCase(Exception):  # noqa: N818 - it names a verdict
    """The kit, the machine or the environment failed: nothing is known about conformance."""


class Run:
    """What one process knows: the rules, the subjects asked for, and the records of what ran."""

    def __init__(self, config: pytest.Config) -> None:
        self.rules = catalogue.load()
        self.benches = Benches(config.getoption("backend") or ["model"], self.rules)
        self.files = loading.scenario_files([loading.SPECS, *filter(loading.is_nightly, _asked(config))])
        self.scenarios: dict[Path, Scenario] = {}
        self.batches: dict[str, int] = {}
        self._results: dict[ScenarioItem, CaseResult] = {}

    def result(self, item: ScenarioItem) -> CaseResult:
        """Run the selected cases of the item's batch together, then answer from memory."""
        if item not in self._results:
            found = (each for each in item.session.items if isinstance(each, ScenarioItem))
            batch = [each for each in found if each.batch == item.batch]
            results = self.benches.bench(item.subject).results([each.case for each in batch])
            self._results.update(zip(batch, results, strict=True))
        return self._results.pop(item)


RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of scenarios."""
    group = parser.getgroup("scenarios")
    group.addoption("--backend", action="append", metavar="NAME|FILE", help="subject to test (repeatable)")
    group.addoption("--summary", type=Path, metavar="FILE", help="write what was found, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Read all scenario files and the subjects' before anything runs; refuse them all together."""
    if not _asks_for_scenarios(config):
        return
    try:
        run = config.stash[RUN] = Run(config)
        if not hasattr(config, "workerinput"):
            _refuse_strays()
            run.scenarios = dict(zip(run.files, loading.load_all(run.files), strict=True))
            run.batches = together(run.scenarios.values())
            config.pluginmanager.register(Recorder(run))
        else:
            run.batches = config.workerinput[BATCHES]
    except MalformedError as wrong:
        pytest.exit(str(wrong), returncode=WRONG_FILES)


def _refuse_strays() -> None:
    """Refuse files that nobody would collect, lest a misplaced scenario seem to pass."""
    strays = loading.stray_files([loading.SPECS])
    if strays:
        raise MalformedError(Problem(str(path), 1, 1, "no scenario file stands here") for path in strays)


def _asked(config: pytest.Config) -> list[Path]:
    return [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]


def _asks_for_scenarios(config: pytest.Config) -> bool:
    return any(map(loading.leads_to_specs, _asked(config)))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Collect the scenario files of the four places."""
    run = parent.config.stash.get(RUN, None)
    return ScenarioFile.from_parent(parent, path=file_path) if run and file_path in run.files else None


class ScenarioFile(pytest.File):
    """A scenario file."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = self.config.stash[RUN]

    def collect(self) -> Iterator[pytest.Item]:
        """Yield every case once for each subject."""
        scenario = self.run.scenarios.get(self.path) or loading.load(self.path)
        for subject, case in product(self.run.benches.subjects, scenario.cases):
            yield ScenarioItem.from_parent(
                self, name=f"{case.id}[{subject.name}]", scenario=scenario, case=case, subject=subject
            )


class ScenarioItem(pytest.Item):
    """One case on one subject."""

    parent: ScenarioFile

    def __init__(self, *, scenario: Scenario, case: Case, subject: SubjectFile, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario, self.case, self.subject = scenario, case, subject
        self.batch = None if subject.boot_is_dear else self.parent.run.batches[scenario.path], subject.name

    def runtest(self) -> None:
        """Run, judge, report."""
        run, name = self.parent.run, self.subject.name
        allure.describe(self.scenario, self.case, name, run.rules)
        result = run.result(self)
        allure.show(result, run.benches.bench(self.subject).capabilities or {})
        file = "" if self.subject.is_shipped else str(self.subject.path)
        judged = Judged(self.scenario, self.case, name, result, file)
        self.user_properties.append((RECORD, packed(judged, run.benches.identities.pop(name, {}))))
        match result.verdict:
            case Verdict.CONFORMS:
                return
            case Verdict.DOES_NOT_CONFORM:
                # A fresh exception each time: a shared one grows with every item that raises it.
                pytest.fail(explained(judged, run.rules, _reasons(self.case, result)), pytrace=False)
            case Verdict.BROKEN:
                raise BrokenCase(explained(judged, run.rules))
            case _:
                pytest.skip(f"{result.verdict.value}: {result.reason}{tally(judged)}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what is broken without this file's traceback."""
        broken = isinstance(excinfo.value, BrokenCase)
        return str(excinfo.value) if broken else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Point at the case's line."""
        return self.path, self.case.line - 1, self.name


def _reasons(case: Case, result: CaseResult) -> Iterator[tuple[str, str, str]]:
    """Yield how the reference model comes to its answer at the first point that does not conform."""
    verdicts = [point.verdict for point in result.points]
    program = case.points[verdicts.index(Verdict.DOES_NOT_CONFORM)].program
    _, reasons = explaining.run_traced(program)
    many = len(program.vcpus) > 1
    yield from ((reason.place.words(many=many), reason.sentence, reason.rule) for reason in reasons)


def pytest_collection_finish() -> None:
    """Keep what was read out of the garbage collector's rounds: a fifth of a run on the model."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Say of a skipped case where it stands, not where it was skipped."""
    report = yield
    if isinstance(item, ScenarioItem) and report.skipped and call.excinfo:
        report.longrepr = (item.parent.nodeid, item.case.line, str(call.excinfo.value))
    return report


class Batches(LoadScopeScheduling):
    """Gives each worker whole batches: a batch is one subject's, and takes as few boots as may be."""

    def _split_scope(self, nodeid: str) -> str:
        run, file, subject = self.config.stash[RUN], nodeid.partition("::")[0], nodeid[nodeid.find("[") :]
        dear = subject in {f"[{each.name}]" for each in run.benches.subjects if each.boot_is_dear}
        return subject if dear else f"{run.batches[file]}{subject}" if file in run.batches else file


class Recorder:
    """Gathers what all processes found, in the controlling one, and says it at the end."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledger = Ledger(run.benches.subjects, tuple(run.scenarios.values()))
        self.found: summary.Summary | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker what runs together."""
        node.workerinput[BATCHES] = self.run.batches

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling:
        """Keep batches together."""
        return Batches(config, log)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note what is to run, where this process runs it."""
        self.ledger.asked.update(item.nodeid for item in session.items if isinstance(item, ScenarioItem))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note what is to run, where workers run it."""
        self.ledger.asked.update(node for node in ids if ".yaml::" in node)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the record out of a case's report; a case whose process died has none."""
        sent = dict(report.user_properties).get(RECORD)
        if sent is not None and report.when == "call":
            self.ledger.take(report.nodeid, str(sent))
        elif sent is None and report.failed and ".yaml::" in report.nodeid:
            self.ledger.lose(report.nodeid, report.longreprtext)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Sum up; a deviation that is announced in vain fails the run."""
        if not self.ledger.asked or session.config.option.collectonly:
            return
        self.found = self.ledger.summary()
        if announces_in_vain(self.found) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.config.getoption("summary"):
            summary.write(self.found, session.config.getoption("summary"))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table of rules and subjects."""
        if self.found:
            terminalreporter.section("rules and subjects")
            terminalreporter.write_line(table(self.found, self.run.rules.areas))
