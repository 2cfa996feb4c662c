"""Subject files: what they may say, and what is refused, with its position."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends import subjects
from runner.judging import subject_file
from runner.judging.deviations import Deviation
from runner.judging.subject_file import SubjectFile
from runner.outcome import Entered, Fault, Stuck, VmfailValid
from runner.reading.problems import MalformedError
from runner.rulebook import catalogue
from runner.scenario import Completes, EntryFails, Keep, PidExpected, Value, WordOneOf
from runner.vmx import Activity, Blocking

RULES = catalogue.load()
HEAD = "says: Something\nkind: model\ndeviations:\n"
MACHINE = "says: X\nkind: machine\nstart: {image: rom, records: stdout, %s}\n"
ENTRY = "  - {rules: [eoi.exit-bitmap], instead: %s, why: it does so, link: somewhere%s}\n"


def load(tmp_path: Path, text: str) -> SubjectFile:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return subject_file.load(path, RULES)


def deviation(tmp_path: Path, instead: str, more: str = "") -> Deviation:
    (known,) = load(tmp_path, HEAD + ENTRY % (instead, more)).deviations
    return known


def test_a_whole_file(tmp_path: Path) -> None:
    said = load(tmp_path, "says: Bochs\nkind: bochs\nstart: {unpacked: true, model: penryn}\n")
    assert (said.name, said.says, said.kind) == ("mine", "Bochs", "bochs")
    assert said.start == {"unpacked": True, "model": "penryn"}
    assert said.deviations == ()


def test_a_machine_of_the_users(tmp_path: Path) -> None:
    text = (
        "name: my-vmm\nsays: Mine\nkind: machine\nneeds: [./my-vmm, /dev/kvm, qemu]\n"
        "levels: [guest]\nstart:\n"
        "  command: [./my-vmm, '--rom={image}', '{here}/x', ../y]\n  image: rom\n  records: stdout\n"
    )
    said = load(tmp_path, text)
    assert (said.name, said.levels) == ("my-vmm", ("guest",))
    assert said.needs == (f"{tmp_path}/my-vmm", "/dev/kvm", "qemu")
    assert said.start["command"] == [
        f"{tmp_path}/my-vmm",
        "--rom={image}",
        f"{tmp_path}/x",
        f"{tmp_path}/../y",
    ]


def test_two_subjects_of_one_name(tmp_path: Path) -> None:
    said = [load(folder, "says: X\nkind: model\n") for folder in (tmp_path, _folder(tmp_path / "other"))]
    assert subject_file.distinct([said[0], said[0]]) == (said[0],)
    with pytest.raises(
        MalformedError, match=r"other/mine.yaml:1:1: two subjects are called `mine`: .*/mine.yaml"
    ):
        subject_file.distinct(said)


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("instead", "outcome"),
    [
        ("{completes: true}", Completes()),
        ("{value: 0x10}", Value(16)),
        ("{fault: '#GP(0)'}", Fault(13, 0)),
        ("{stays-halted: true}", Stuck.STAYS_HALTED),
        ("{did-not-return: true}", Stuck.DID_NOT_RETURN),
        ("{entry: {vmfail-valid: 8}}", EntryFails(VmfailValid(8))),
    ],
)
def test_outcomes(tmp_path: Path, instead: str, outcome: object) -> None:
    assert deviation(tmp_path, instead).instead.outcome == outcome


def test_an_exit_names_what_differs(tmp_path: Path) -> None:
    known = deviation(tmp_path, "{exit: {reason: virtualized-eoi, blocking: sti}}").instead
    assert known.outcome is None
    assert dict(known.exit) == {"reason": 45, "blocking": Blocking.STI}


def test_the_first_vm_entry(tmp_path: Path) -> None:
    assert deviation(tmp_path, "{expect-entry: succeeds}").instead.entry == Entered()
    assert deviation(tmp_path, "{expect-entry: {vmfail-valid: 7}}").instead.entry == VmfailValid(7)


def test_deliveries(tmp_path: Path) -> None:
    assert deviation(tmp_path, "{completes: true}").instead.delivers is None
    assert deviation(tmp_path, "{delivers: []}").instead.delivers == ()
    (taken,) = deviation(tmp_path, "{delivers: [0x51]}").instead.delivers or ()
    assert taken.vector == 0x51


@pytest.mark.parametrize(
    ("instead", "after"),
    [
        ("{page: {0xb4: unchanged}}", {"page": ((0xB4, Keep.UNCHANGED),)}),
        ("{page: {ISR: [0x51]}}", {"page": tuple((0x100 + 16 * n, (n == 2) << 0x11) for n in range(8))}),
        (
            "{page: {PPR: {one-of: [1, 2], because: so}}}",
            {"page": ((0xA0, WordOneOf((1, 2), "so")),)},
        ),
        ("{page: unchanged}", {"page": ()}),
        ("{rvi: 0x51, svi: unchanged}", {"rvi": 0x51, "svi": None}),
        ("{pid: {outstanding: true}}", {"pid": PidExpected(outstanding=True)}),
        ("{physical: {TPR: unchanged}}", {"physical": ((0x808, Keep.UNCHANGED),)}),
        ("{activity: hlt, blocking: none}", {"activity": Activity.HLT, "blocking": Blocking(0)}),
    ],
)
def test_final_states(tmp_path: Path, instead: str, after: dict[str, object]) -> None:
    assert dict(deviation(tmp_path, instead).instead.after) == after


def test_which_steps_and_points(tmp_path: Path) -> None:
    known = deviation(
        tmp_path,
        "{completes: true}",
        ", step: wrmsr, msrs: [ICR, 0x832], at: {vector: [0x10..0x12, 0xff], mode: [xapic]}",
    )
    assert known.instead.step == "wrmsr"
    assert known.instead.msrs == {0x830, 0x832}
    assert dict(known.at) == {"vector": {"16", "17", "18", "255"}, "mode": {"xapic"}}


def test_an_entry_says_where_it_stands(tmp_path: Path) -> None:
    assert deviation(tmp_path, "{rvi: 0}").name.endswith("mine.yaml:4")


@pytest.mark.parametrize(
    ("versions", "version", "speaks"),
    [
        ("<3.2", "2.7", True),
        ("<3.2", "3.2", False),
        (">=2.7,<3", "2.7.1", True),
        (">=2.7,<3", "3.0.devel", False),
        ("<3.2", "Bochs 3.0 (Debian)", True),
        ("", "anything", True),
    ],
)
def test_versions(tmp_path: Path, versions: str, version: str, *, speaks: bool) -> None:
    said = load(tmp_path, HEAD + ENTRY % ("{rvi: 0}", f", versions: '{versions}'"))
    assert bool(said.deviations_of(version, {})) is speaks


@pytest.mark.parametrize(
    ("where", "reported", "speaks"),
    [
        ("{enable_apicv: [false]}", {"enable_apicv": "false"}, True),
        ("{enable_apicv: [false]}", {"enable_apicv": "true"}, False),
        ("{enable_apicv: [false]}", {}, False),
        ("{lvt-entries: [6..7]}", {"lvt-entries": "7"}, True),
        ("{IA32_VMX_BASIC: [0x10]}", {"IA32_VMX_BASIC": "0x10"}, True),
        ("{nested: [true], module: [kvm_intel, kvm_amd]}", {"nested": "true", "module": "kvm_amd"}, True),
        ("{nested: [true], module: [kvm_intel, kvm_amd]}", {"nested": "true", "module": "other"}, False),
    ],
)
def test_where(tmp_path: Path, where: str, reported: dict[str, str], *, speaks: bool) -> None:
    said = load(tmp_path, HEAD + ENTRY % ("{rvi: 0}", f", where: {where}"))
    assert bool(said.deviations_of("1.0", reported)) is speaks


def test_what_is_wanted_is_no_name_since_nothing_varies(tmp_path: Path) -> None:
    with pytest.raises(MalformedError) as refused:
        load(tmp_path, HEAD + ENTRY % ("{rvi: 0x100}", ""))
    assert str(refused.value).endswith("`0x100` does not fit; wanted a number of 8 bits (0 to 0xff)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.yaml:1:1: "),
        ("says: X\n", "`kind` is missing"),
        ("says: X\nkind: modle\n", "mine.yaml:2:7: `modle`; wanted a kind of subject; did you mean 'model'?"),
        ("says: X\nkind: model\nstrat: {}\n", "did you mean 'start'?"),
        ("says: X\nkind: model\nsays: Y\n", "mine.yaml:3:1: "),
        ("says: X\nkind: bochs\nstart: {modle: penryn}\n", "in how Bochs is started; did you mean 'model'?"),
        ("says: X\nkind: model\nstart: {model: penryn}\n", "`model` in the start of a subject that nothing"),
        ("says: X\nkind: machine\n", "mine.yaml:1:1: `start` is missing: How it is started"),
        (MACHINE % "command: [x]", "wanted a command with {image} in it: a list of words"),
        (MACHINE % "command: 'x {image}'", "wanted a command with {image} in it: a list of words"),
        (
            MACHINE % "command: [x, '{image}', '{cpu}']",
            "`{cpu}`: no such placeholder; there are {image}, {cpus}",
        ),
        (MACHINE % "command: ['{image}'], version: []", "a list of 0; wanted a command"),
        (MACHINE % "command: ['{image}'], door: e9", "`e9`; wanted debug-console or serial"),
        (MACHINE % "command: ['{image}'], most-cpus: 9", "`9` does not fit; wanted a number of processors"),
        (MACHINE % "command: ['{image}'], deadlines: {boot: 0}", "`0` does not fit; wanted seconds"),
        (
            MACHINE.replace("stdout", "pipe") % "command: ['{image}']",
            "{records} in it, since `records` is not",
        ),
        (
            MACHINE.replace("stdout", "console") % "command: ['{image}']",
            "`console`; wanted stdout, file, pipe",
        ),
        (MACHINE.replace("rom", "bin") % "command: ['{image}']", "`bin`; wanted rom, kernel or iso"),
        ("name: a b\nsays: X\nkind: model\n", "`a b`; wanted a name of letters, digits"),
        ("says: X\nkind: model\nlevels: [host]\n", "`host`; wanted vmx or guest"),
        ("says: X\nkind: model\nneeds: kvm\n", "`kvm`; wanted a list of programs and files"),
        (HEAD + ENTRY % ("{}", ""), "mine.yaml:4:"),
        (HEAD + ENTRY % ("{rvi: 256}", ""), "`256`"),
        (HEAD + ENTRY % ("{value: 1, fault: '#UD'}", ""), "`fault` beside `value`"),
        (HEAD + ENTRY % ("{fault: '#ZZ'}", ""), "`#ZZ`"),
        ("says: X\nkind: adapter\n", "`start`"),
        ("says: X\nkind: adapter\nstart: {build: [make]}\n", "`command`"),
        ("says: X\nkind: adapter\nstart: {command: []}\n", "a list of words"),
        ("says: X\nkind: adapter\nstart: {command: ['{wordir}/a']}\n", "in braces only {suite}, {python}"),
        (
            "says: X\nkind: adapter\nstart: {command: [a], deadline: 0}\n",
            "3:33: `0` does not fit; wanted seconds",
        ),
        (HEAD + ENTRY % ("{value: $n}", ""), "`$n`: nothing varies in a subject file"),
        (HEAD + ENTRY % ("{page: {0xb3: 0}}", ""), "0xb3"),
        (HEAD + ENTRY % ("{exit: {blocking: sti}}", ""), "`reason` is missing"),
        (HEAD + ENTRY % ("{delivers: [{vector: 81, at: somewhere}]}", ""), "somewhere"),
        (HEAD + ENTRY % ("{rvi: 0}", ", versions: new"), "`new` is no version specifier"),
        (HEAD + ENTRY % ("{rvi: 0}", ", at: {v: [9..1]}"), "runs backwards"),
        (HEAD + ENTRY % ("{rvi: 0}", ", where: {}"), "mine.yaml:4:"),
        (HEAD + ENTRY % ("{rvi: 0}", ", where: {nested: false}"), "a list of values and ranges"),
        (HEAD + "  - {rules: [eoi.exit-bitmab], instead: {rvi: 0}, why: w, link: l}", "eoi.exit-bitmap"),
        (HEAD + "  - {rules: [eoi.exit-bitmap], instead: {rvi: 0}, link: l}", "`why` is missing"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MalformedError) as refused:
        load(tmp_path, text)
    assert message in str(refused.value)
    assert "mine.yaml:" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match=r"none.yaml:1:1: cannot be read: No such file"):
        subject_file.load(tmp_path / "none.yaml", RULES)


@pytest.mark.parametrize("name", ["./none", "some/where", "here.yaml"])
def test_what_looks_like_a_file_is_one(name: str) -> None:
    assert subject_file.find(name) == Path(name)


def test_an_alias_of_a_rule_is_that_rule(tmp_path: Path) -> None:
    alias, rule = next(iter(RULES.aliases.items()))
    text = f"{HEAD}  - {{rules: [{alias}], instead: {{rvi: 0}}, why: w, link: l}}"
    assert load(tmp_path, text).deviations[0].rules == (rule,)


@pytest.mark.parametrize("name", sorted(path.stem for path in subject_file.SHIPPED.glob("**/*.yaml")))
def test_subjects_of_the_suite_are_right(name: str) -> None:
    said = subject_file.load(subject_file.find(name), RULES)
    assert subjects.backend(said.kind, said.name, said.start).name == name


def test_the_schema_knows_the_kinds() -> None:
    schema = json.loads(subject_file.SCHEMA.read_text(encoding="utf-8"))
    kinds = schema["properties"]["kind"]
    assert set(kinds["enum"]) == set(subjects.KINDS)
    assert len(kinds["enum"]) == len(kinds["enumDescriptions"])
    assert {each["if"]["properties"]["kind"]["const"] for each in schema["allOf"]} == set(subjects.KINDS)
