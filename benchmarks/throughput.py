"""How many simple cases a second: from Python objects to verdicts, split by stage.

``python benchmarks/throughput.py [model] [bochs] [bochs-3] [c-model]`` prints CPU time, this process's and
its children's together: one core's worth, whatever else runs. *boot* is a boot that runs nothing, or an
adapter's start, shared by all cases of a round. A simple case reads one register or writes one; all must
conform, or it stops. ``c-model`` is the C starter kit's model behind its adapter; *machine* is then all
but making the lines and reading them: both ends of the pipes, and the model.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backends import batch, encode, image, wire
from backends.adapter import answers as adapter_answers
from backends.adapter import asks
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.batch import Booted
from backends.bochs import Bochs
from backends.machine import GUARD_TICKS
from backends.model import Model
from runner.apic import VPPR, VTPR, Fill, VirtualApicPage
from runner.judging import subject_file
from runner.judging.verdict import Verdict, judge
from runner.outcome import Answer, BackendBroken
from runner.program import Action, Level, Program, Rdmsr, Setup, Step, Wrmsr
from runner.rulebook import catalogue
from runner.scenario import After, Case, Completes, Expected, Point, StepExpected, Value
from runner.vmx import CONTROLS_BY_NAME, Controls

T = TypeVar("T")

CASES, ROUNDS = 3000, 5
STAGES = ("boot", "encode", "machine", "decode", "judge")
RULE = "rdmsr.register-virtualization"
CONTROLS = Controls().plus(
    CONTROLS_BY_NAME[name]
    for name in (
        "use-tpr-shadow",
        "use-msr-bitmaps",
        "activate-secondary-controls",
        "virtualize-x2apic-mode",
        "apic-register-virtualization",
        "virtual-interrupt-delivery",
        "external-interrupt-exiting",
    )
)


def read(number: int) -> Point:
    """Return a case that reads one of the page's words, each its own."""
    msr = 0x810 + number % 0xF0
    words = ((VTPR, 0), (VPPR, 0), ((msr & 0xFF) << 4, number))
    upper = VirtualApicPage(Fill.TAGGED).word(((msr & 0xFF) << 4) + 4)
    expected = StepExpected(Value(number | upper << 32))
    return _point(Rdmsr(msr), words, Expected(steps=(expected,), after=(After(),)))


def write(number: int) -> Point:
    """Return a case that writes TPR."""
    tpr = number % 0x100
    after = After(page=((VTPR, tpr), (VTPR + 4, 0), (VPPR, tpr)))
    words = ((VTPR, 0), (VPPR, 0))
    return _point(Wrmsr(0x808, tpr), words, Expected(steps=(StepExpected(Completes()),), after=(after,)))


def _point(action: Action, words: tuple[tuple[int, int], ...], expected: Expected) -> Point:
    page = VirtualApicPage(Fill.TAGGED, 0, tuple(sorted(words)))
    setup = Setup(controls=CONTROLS, page=page)
    return Point((), Program(Level.VMX, (setup,), (Step(action),)), expected)


def cpu() -> float:
    """Return the CPU seconds of this process and of the children it has waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(stage: Callable[[], T]) -> tuple[float, T]:
    """Return the microseconds of CPU a case that a stage takes, and what it gives."""
    start = cpu()
    result = stage()
    return (cpu() - start) / CASES * 1e6, result


def on_machine(name: str, bochs: Bochs, points: Sequence[Point]) -> tuple[dict[str, float], list[Answer]]:
    """Return the time of each stage on a machine, and the answers."""
    programs = [point.program for point in points]
    room = batch.room(programs)

    def boot(records: Sequence[bytes]) -> Booted:
        sent = wire.encode_batch(records, cpus=1, door=bochs.door, limit=room, guard=GUARD_TICKS)
        rom = image.rom(sent)
        if isinstance(rom, BackendBroken):
            raise SystemExit(rom.reason)
        with tempfile.TemporaryDirectory() as folder:
            return bochs.boot(rom, cpus=1, room=room, programs=len(records), folder=Path(folder))

    boot([])
    times: dict[str, float] = {}
    times["boot"], _ = timed(lambda: boot([]))
    times["encode"], records = timed(lambda: [encode.encode_case(i, p) for i, p in enumerate(programs)])
    times["machine"], booted = timed(lambda: boot(records))
    times["machine"] -= times["boot"]
    order = list(range(len(programs)))
    times["decode"], read = timed(lambda: batch.read(booted, order, programs, name))
    return times, [read.answers[index] for index in order]


def on_model(points: Sequence[Point]) -> tuple[dict[str, float], list[Answer]]:
    """Return the time that the reference model takes, and its answers."""
    model = Model()
    list(model.run([point.program for point in points[:10]]))
    times = dict.fromkeys(("boot", "encode", "decode"), 0.0)
    times["machine"], answers = timed(lambda: list(model.run([point.program for point in points])))
    return times, answers


def on_adapter(points: Sequence[Point]) -> tuple[dict[str, float], list[Answer]]:
    """Return the time of each stage on the C starter kit's adapter, and the answers."""
    path = Path(__file__).parents[1] / "backends" / "adapters" / "c" / "c-model.yaml"
    said = subject_file.load(path, catalogue.load())
    command = Command.of(said.name, said.start)
    programs = [point.program for point in points]

    def run(some: Sequence[Program]) -> list[Answer]:
        backend = AdapterBackend(said.name, command)
        found = list(backend.run(some))
        del backend  # its process ends, and its time counts
        return found

    run([])
    times: dict[str, float] = {}
    times["boot"], _ = timed(lambda: run([]))
    whole, found = timed(lambda: run(programs))
    times["encode"], lines = timed(lambda: _asked(command, programs))
    told = subprocess.run(command.words, input=b"".join(lines), stdout=subprocess.PIPE, check=True)
    told_lines = told.stdout.splitlines()[1:]
    times["decode"], _ = timed(
        lambda: [
            adapter_answers.answer(adapter_answers.message(line), seq, program)
            for seq, (line, program) in enumerate(zip(told_lines, programs, strict=True))
        ]
    )
    times["machine"] = whole - times["boot"] - times["encode"] - times["decode"]
    return times, found


def _asked(command: Command, programs: Sequence[Program]) -> list[bytes]:
    """Return all that is sent for programs; the lines are made as if nothing had been sent before."""
    said = subprocess.run(command.words, input=asks.HELLO, stdout=subprocess.PIPE, check=True).stdout
    asking = asks.Asks(adapter_answers.capabilities(adapter_answers.message(said)).platform)
    return [asks.HELLO, *(asks.line(seq, 0, asking.body(program)) for seq, program in enumerate(programs))]


def measure(name: str, points: Sequence[Point]) -> dict[str, float]:
    """Return the stages of one round, judged; stops where a case does not conform."""
    rules = catalogue.load()
    cases = [Case(f"case-{i}", "a simple case", (RULE,), 1, (point,)) for i, point in enumerate(points)]
    if name == "model":
        times, answers = on_model(points)
    elif name == "c-model":
        times, answers = on_adapter(points)
    else:
        times, answers = on_machine(name, Bochs(unpacked=name == "bochs-3"), points)
    times["judge"], results = timed(
        lambda: [judge(case, [answer], rules) for case, answer in zip(cases, answers, strict=True)]
    )
    for result in results:
        if result.verdict is not Verdict.CONFORMS:
            raise SystemExit(f"{name}: {result.verdict.value}: {result.reason}")
    return times


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("subject", nargs="*", default=["model", "bochs", "bochs-3", "c-model"])
    names = parser.parse_args().subject
    points = [read(number) if number % 2 else write(number) for number in range(CASES)]
    print(f"{CASES} simple cases; CPU microseconds a case, median of {ROUNDS} rounds")
    print(f"{'':10}" + "".join(f"{stage:>9}" for stage in (*STAGES, "all", "cases/s")))
    for name in names:
        rounds = [measure(name, points) for _ in range(ROUNDS)]
        middle = [statistics.median(times[stage] for times in rounds) for stage in STAGES]
        whole = statistics.median(sum(times.values()) for times in rounds)
        row = [f"{time:9.1f}" for time in (*middle, whole)]
        print(f"{name:10}{''.join(row)}{1e6 / whole:9.0f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
