"""The C starter kit: its model is a subject of its own, and its header says what it cannot read."""

from __future__ import annotations

import subprocess
from functools import cache

import pytest

from backends.adapter import asks
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.model import Model
from runner.judging import subject_file
from runner.judging.batch import Bench
from runner.judging.verdict import Verdict
from runner.language import loading
from runner.rulebook import catalogue

KIT = loading.ROOT / "backends" / "adapters" / "c"
BUILT = loading.ROOT / ".cache" / "adapters" / "c-model" / "model"


@cache
def subject() -> AdapterBackend:
    said = subject_file.load(KIT / "c-model.yaml", catalogue.load())
    backend = AdapterBackend(said.name, Command.of(said.name, said.start))
    backend.identity()
    return backend


def spoken(*lines: str | bytes) -> subprocess.CompletedProcess[bytes]:
    """Return what the model's process makes of these lines."""
    subject()
    sent = b"".join(line.encode() if isinstance(line, str) else line for line in lines)
    return subprocess.run([BUILT], input=sent, capture_output=True, timeout=60, check=False)


def test_every_case_conforms_or_supposes_another_platform() -> None:
    """The two readings of the SDM meet: what scenarios want, and what the model in C does."""
    identity = subject().identity()
    bench = Bench(subject().run, Model().run, catalogue.load(), (), identity.capabilities)  # type: ignore[union-attr]
    found: dict[Verdict, list[str]] = {}
    for scenario in loading.load_all(loading.scenario_files()):
        for case, result in zip(scenario.cases, bench.results(scenario.cases), strict=True):
            found.setdefault(result.verdict, []).append(f"{scenario.case_id(case)}: {result.reason}")
    others = {verdict: cases for verdict, cases in found.items() if verdict is not Verdict.CONFORMS}
    assert set(others) == {Verdict.UNSUPPORTED}, others
    assert all("the case supposes" in case for case in others[Verdict.UNSUPPORTED]), others
    assert len(found[Verdict.CONFORMS]) > 900


def test_it_ends_when_told_to_and_at_the_end_of_its_input() -> None:
    for last in ((asks.STOP,), ()):
        done = spoken(asks.HELLO, *last)
        assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (0, b"", 1)


NOPS = '{"step":"nop","vcpu":0,"cpl":0},'
SETUP = (
    '{"apic-mode":"x2apic","controls":[],"fields":[],"virtual-apic-page":{"address":"0x110000","fill":"zero",'
    '"value":"0x0","words":[]},"msr-bitmap":{"address":"0x111000","reads":[],"writes":[]},'
    '"descriptor":{"address":"0x112000","words":[],"pid-pointer":"0x0"},'
    '"msr-lists":{"entry-load":[],"exit-store":[],"exit-load":[]},"guest":{"if":0,"tf":0,"cpl":0},'
    '"handlers":[],"eoi":0}'
)
RUN = (
    '{"message":"run","seq":7,"left":0,"level":"guest","shared":{"pid-pointer-table":"0x100000",'
    '"apic-access-page":"0x101000","stale-page":"0x102000"},"vcpus":[' + SETUP + '],"steps":[]}\n'
)


def test_a_line_may_have_blanks_and_its_keys_in_any_order() -> None:
    head, _, steps = RUN.strip().rpartition(',"steps":[]}')
    assert not steps
    turned = (
        head.replace('{"message":"run",', '{ "steps" : [ ] , ').replace(",", " , ") + ' , "message":"run"}\n'
    )
    assert spoken(turned).stdout == spoken(RUN).stdout != b""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("\n", "'{' expected"),
        ("[]\n", "'{' expected"),
        ("{}\n", "no message"),
        ('{"message":"rum"}\n', "message: an unknown word"),
        ('{"message":"run"}\n', "a run without seq, vcpus or steps"),
        ('{"message":"hello","protocol":2}\n', "a protocol that is not 1"),
        ('{"message":"hello","protocol":1,"more":0}\n', "more: an unknown key"),
        ('{"message":"hello" "protocol":1}\n', "',' or the end"),
        ('{"message":"hello","protocol":1}}\n', "something behind the object"),
        ('{"message":"hello","protocol":-1}\n', "protocol: a number expected"),
        ('{"message":"hello","protocol":99999999999999999999}\n', "protocol: a number that is too large"),
        ('{"message":"he\\u006clo","protocol":1}\n', "message: a string that"),
        ('{"message":"hello', "a line that is too long, or does not end"),
        (b'{"message":"\xff\xfe"}\n', "message: an unknown word"),
        (b'{"message":"hello\0","protocol":1}\n', "a line that is too long, or does not end"),
        ("{" * 100_000 + "\n", "'\"' expected"),
        ("[" * 2_000_000 + "\n", "a line that is too long, or does not end"),
        (RUN.replace('"0x110000"', '"0x11111111111111111"'), "address: a number that is too large"),
        (RUN.replace('"0x110000"', '"110000"'), "address: a hexadecimal string expected"),
        (RUN.replace('"words":[]}', '"words":[["0xffd","0x0"]]}', 1), "an offset that is not in a page"),
        (RUN.replace('"reads":[]', '"reads":[["0x2000","0x2001"]]'), "reads: MSRs without a bit"),
        (RUN.replace('"reads":[]', '"reads":[["0x0","0xffffffff"]]'), "reads: MSRs without a bit"),
        (RUN.replace('"words":[]}', '"words":[["0x0","0x100000000"]]}', 1), "a number that is too large"),
        (RUN.replace('"steps":[]}\n', '"steps":[{"step":"cpuid","vcpu":0,"cpl":0}]}\n'), "what it is"),
        (RUN.replace('"steps":[]}\n', '"steps":[{"step":"nop","vcpu":0,"cpl":2}]}\n'), "neither 0 nor 3"),
        (RUN.replace('"steps":[]}\n', '"steps":[{"step":"init-sipi","vcpu":0,"to":7}]}\n'), "not there"),
        (RUN.replace('"words":[],"pid', '"words":["0x0"],"pid'), "neither 8 words nor none"),
        (RUN.replace('"vcpus":[', '"vcpus":[' + f"{SETUP}," * 8), "more virtual processors than"),
        (RUN.replace('"steps":[]}\n', '"steps":[{"step":"nop","vcpu":1,"cpl":0}]}\n'), "that is not there"),
        (
            RUN.replace('"steps":[]}\n', '"steps":[' + NOPS * 1025 + "]}\n"),
            "more steps than",
        ),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(line: str | bytes, says: str) -> None:
    done = spoken(asks.HELLO, line)
    assert done.returncode == 2
    assert done.stderr.startswith(b"line 2, byte "), done.stderr
    assert says in done.stderr.decode()
    assert done.stdout.count(b"\n") == 1  # nothing but the capabilities


def test_the_longest_list_of_steps_fits() -> None:
    steps = ",".join(['{"step":"rdmsr","vcpu":0,"cpl":0,"msr":"0x808","garbage":0}'] * 1024)
    done = spoken(RUN.replace('"steps":[]}\n', f'"steps":[{steps}]}}\n'))
    assert done.returncode == 0
    assert done.stdout.count(b'"physical":{') == 1024
