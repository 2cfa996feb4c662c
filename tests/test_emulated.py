"""The emulated host without its boot: disk, kernel, batches, and what its subject files say."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path

import pytest
from programs import DELIVERY, OPEN, TPR_ONLY, page, program

from backends import batch, wire
from backends.emulated import EmulatedHost, Host, disk, kernel
from backends.emulated.host import IPS
from backends.emulated.linux import LAYOUTS, Loaded
from backends.emulated.modules import untraced
from backends.model import Model
from backends.reentered import Below
from runner.apic import EOI, SELF_IPI
from runner.commands import doctor, presence
from runner.judging import reentry, subject_file
from runner.language.loading import ROOT, parse
from runner.outcome import Observation, Unsupported
from runner.program import Level, Plain, Program, Rdmsr, SetApicBase, Setup, Step, Wrmsr
from runner.rulebook import catalogue
from runner.vmx import CONTROLS_BY_NAME

HEADER = (ROOT / "backends" / "kvm" / "emulated" / "disk.h").read_text("utf-8")
NAMES = ("kvm-on-bochs", "kvm-on-bochs-3")
WITHOUT_REGISTERS = TPR_ONLY.plus(
    CONTROLS_BY_NAME[name] for name in ("virtual-interrupt-delivery", "external-interrupt-exiting")
)


def number(name: str) -> int:
    found = re.search(rf"#define {name} (\w+?)u?\b", HEADER)
    assert found
    return int(found[1], 0)


def members(name: str) -> int:
    found = re.search(rf"struct {name} {{(.*?)}};", HEADER, re.DOTALL)
    assert found
    return len(re.findall(r"^\s*u32 \w+;", found[1], re.MULTILINE))


def test_the_disk_is_what_init_takes_it_for() -> None:
    assert number("SECTOR") == disk.SECTOR
    assert number("WORK_SECTOR") == disk.WORK_SECTOR
    assert number("WORK_MAGIC") == disk.WORK_MAGIC
    assert number("RESULT_MAGIC") == disk.RESULT_MAGIC
    assert number("MOST_BATCHES") == disk.MOST_BATCHES
    assert members("host_work") * 4 == disk.WORK.size
    assert members("host_batch") * 4 == disk.BATCH.size
    assert members("host_result") * 4 == disk.RESULT.size


def test_a_disk_holds_what_is_to_be_loaded_and_done(tmp_path: Path) -> None:
    linux = Loaded(0x1000000, ((0x1000000, b"kernel" * 9000), (0x20000, b"parameters")))
    path = tmp_path / "disk"
    at = disk.write(path, linux, disk.Work(b"probe", [b"one", b"another"], 5), room=4096)
    written = path.read_bytes()
    assert struct.unpack_from("<QQQ", written) == (0x1000000, 0x20000, 2)
    address, sector, sectors, _ = disk.PIECE.unpack_from(written, disk.DIRECTORY.size)
    assert address == 0x1000000
    assert sectors % disk.PIECE_SECTORS == 0
    assert written[sector * disk.SECTOR :].startswith(b"kernel" * 9000)
    magic, batches, probe, size, results, *_ = disk.WORK.unpack_from(written, disk.SECTOR)
    assert (magic, batches, size, results) == (disk.WORK_MAGIC, 2, 5, at)
    assert written[probe * disk.SECTOR :].startswith(b"probe")
    assert len(written) >= at * disk.SECTOR + 4096


def test_init_hears_how_many_descriptors_are_to_be_aligned(tmp_path: Path) -> None:
    batches = [wire.encode_batch([], cpus=each, door=0, limit=0, guard=0) for each in (1, 4, 2)]
    linux = Loaded(0x1000000, ((0x1000000, b"kernel"), (0x20000, b"parameters")))
    for apicv, aligned in ((True, 4), (False, 0)):
        host = Host(apicv=apicv)
        disk.write(tmp_path / "disk", linux, host.work(b"probe", batches), room=0)
        assert disk.WORK.unpack_from((tmp_path / "disk").read_bytes(), disk.SECTOR)[-1] == aligned


def test_results_end_where_none_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    said = b"launcher: the machine did not end within 5 s\n"
    head = disk.RESULT.pack(disk.RESULT_MAGIC, 1, 2, 30, 4, 256, 600, len(said))
    first = (head + bytes(600) + said).ljust(2 * disk.SECTOR, b"\0")
    second = disk.RESULT.pack(disk.RESULT_MAGIC, 1, 6, 26, 26, 0, 0, 0).ljust(disk.SECTOR, b"\0")
    path.write_bytes(bytes(disk.SECTOR) + first + second + bytes(disk.SECTOR))
    one, two = disk.results(path, 1)
    assert (one.batch, one.first, one.count, one.begun) == (1, 2, 30, 4)
    assert one.booted().trouble == "the machine did not end within 5 s"
    assert (two.first, two.booted().trouble) == (6, "")
    path.write_bytes(path.read_bytes()[: 3 * disk.SECTOR])
    assert [each.first for each in disk.results(path, 1)] == [2]


def test_a_kernel_image_tells_its_version() -> None:
    image = bytearray(0x2000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x1000).to_bytes(2, "little")
    said = b"6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP Debian 6.1.192-2 (2026-11-16)\0"
    image[0x1200 : 0x1200 + len(said)] = said
    assert kernel.version(bytes(image)) == "6.1.192"
    with pytest.raises(ValueError, match="no kernel image of Debian"):
        kernel.version(bytes(0x2000))


TRACING = ("gcc", "-c", "-O2", "-fno-pic", "-pg", "-mfentry", "-mrecord-mcount", "-x", "c")
TRACED = """
int one(int), outside(int);
int one(int n) { return outside(n) + 1; }
__attribute__((section(".init.text"))) int two(int n) { return one(n) + one(n + 1); }
"""


def test_a_module_is_loaded_with_nops_where_the_tracer_would_be_called(tmp_path: Path) -> None:
    module = tmp_path / "module.o"
    subprocess.run([*TRACING, "-o", str(module), "-"], input=TRACED.encode(), check=True, timeout=60)
    before = module.read_bytes()
    module.write_bytes(untraced(before))
    said = subprocess.run(["objdump", "-dr", str(module)], capture_output=True, check=True, timeout=60).stdout
    assert b"__fentry__" in subprocess.run(["nm", str(module)], capture_output=True, check=True).stdout
    assert b"__fentry__" not in said
    assert len(re.findall(rb"<(?:one|two)>:\n +0:\t0f 1f 44 00 00", said)) == 2
    assert b"outside" in said  # other calls stay
    sections = subprocess.run(["readelf", "-SW", str(module)], capture_output=True, check=True).stdout
    assert len(re.findall(rb"__mcount_loc +\w+ +0+ \w+ 0+ ", sections)) == 2  # nothing is left to replace
    assert untraced(module.read_bytes()) == module.read_bytes()
    assert len(before) == module.stat().st_size


def test_a_module_that_begins_its_functions_otherwise_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "module.o"
    command = [
        "gcc",
        "-c",
        "-O2",
        "-pg",
        "-mfentry",
        "-mnop-mcount",
        "-mrecord-mcount",
        "-fno-pic",
        "-x",
        "c",
    ]
    subprocess.run([*command, "-o", str(module), "-"], input=TRACED.encode(), check=True, timeout=60)
    with pytest.raises(ValueError, match="no call of the tracer at 0x0 of section"):
        untraced(module.read_bytes())


def test_without_a_kernel_the_doctors_line_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for series, end in (("6.1", "--emulated-host"), ("6.12", "--emulated-host 6.12")):
        who = EmulatedHost("kvm-on-bochs", Host(series=series)).identity()
        assert isinstance(who, Unsupported)
        assert who.reason.endswith(f"python -m runner doctor {end}") or "no bochs" in who.reason


def test_the_newest_kernel_is_taken(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert kernel.newest(environ) is None
    for name in ("6.1.99", "6.1.192", "6.12.118", "part", "root"):
        kernel.cache(environ).joinpath(name).mkdir(parents=True)
    for series, version in (("6.1", "6.1.192"), ("6.12", "6.12.118")):
        found = kernel.newest(environ, series)
        assert found
        assert found.name == version
    assert kernel.newest(environ, "6.2") is None


def test_a_kernel_that_cannot_be_had_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = doctor.kernel_of_the_emulated_host()
    assert said == "absent: no Linux 6.1 of Debian: no mmdebstrap in the PATH"
    assert [path.name for path in kernel.cache({"XDG_CACHE_HOME": str(tmp_path)}).iterdir()] == ["lock"]


def test_a_dear_boot_is_taken_only_where_it_is_named() -> None:
    assert presence.dear(subject_file.shipped()) == set(NAMES)


def test_deviations_of_what_runs_below_may_show_and_need_not() -> None:
    said = subject_file.named("kvm-on-bochs-3", catalogue.load())
    version = "6.1.192 on Bochs 3.0"
    below = set(said.may_show(version, {})) - set(said.deviations_of(version, {}))
    assert any("bochs.yaml" in each.name for each in below)
    assert not any(each.versions == "<3" for each in below)
    assert any(each.versions == "<3" for each in said.may_show("6.1.192 on Bochs 2.7", {}))


def test_the_local_apic_of_what_runs_below_does_not_show() -> None:
    said = subject_file.named("kvm-on-bochs-3", catalogue.load())
    own = {"apic", "mode"}
    areas = [{rule.partition(".")[0] for rule in each.rules} for each in said.below]
    assert areas
    assert not any(each <= own for each in areas)


def test_what_is_kvms_own_is_said_once() -> None:
    facts = Host().facts()
    assert (facts["kvm-module"], facts["nested"], facts["enable_apicv"]) == ("kvm_intel", "true", "false")
    assert Host(apicv=True).facts()["enable_apicv"] == "true"
    for name in NAMES:
        said = subject_file.named(name, catalogue.load())
        files = {each.name.partition(":")[0] for each in said.deviations_of("6.1.192 on Bochs 3.0", facts)}
        assert "backends/subjects/kvm.yaml" in files
        where = [dict(each.where) for each in said.deviations_of("6.1.192 on Bochs 3.0", facts)]
        assert not any("kvm_pvm" in each.get("kvm-module", ()) for each in where)


def taken(below: Below, asked: Program) -> set[tuple[tuple[int, ...], ...]]:
    """Return what may be taken in each step, and in the end what belongs to none; nothing from below, too."""
    found = set()
    usual = next(iter(Model().run([asked])))
    assert isinstance(usual, Observation)
    other = [seen for _, seen in below.observations(asked)]
    assert usual not in other
    for seen in (usual, *other):
        placed, between = reentry.apart(seen)
        steps = (tuple(each.vector for each in step.delivered) for step in placed.steps)
        found.add((*steps, tuple(sorted(each.vector for each in between.elements()))))
    return found


def test_a_hypervisor_below_evaluates_where_nothing_else_does() -> None:
    both = page(irr=(0x61, 0x91))
    waits = program(Plain.NOP, Plain.NOP, controls=DELIVERY, guest=OPEN, page=both, rvi=0x61)
    assert Below().may_show(waits)
    seen = taken(Below(), waits)
    assert ((0x61,), (), ()) in seen  # where it changes nothing
    assert ((0x61,), (0x91,), ()) in seen  # RVI = 91H waits for an evaluation, and finds one
    assert ((0x61,), (), (0x91,)) in seen  # between the two steps


def test_where_everything_is_evaluated_a_re_entry_shows_nothing() -> None:
    nothing_waits = program(
        Plain.NOP, Plain.NOP, controls=DELIVERY, guest=OPEN, page=page(irr=(0x61,)), rvi=0x61
    )
    assert not Below().may_show(nothing_waits)
    assert taken(Below(), nothing_waits) == {((0x61,), (), ())}


def test_only_bochs_delivers_with_if_0() -> None:
    closed = program(
        Plain.NOP, Rdmsr(0x84A), Plain.NOP, controls=WITHOUT_REGISTERS, page=page(irr=(0x61,)), rvi=0x61
    )
    nothing, as_it_faults = ((), (), (), ()), ((), (), (), (0x61,))
    behind, last = ((), (0x61,), (), ()), ((), (), (0x61,), ())
    assert taken(Below(), closed) == {nothing}
    assert taken(Below(delivers_with_if_0=True), closed) == {nothing, as_it_faults, behind, last}


@pytest.mark.parametrize(("before", "noticed"), [(Plain.NOP, False), (Plain.CLI, True)])
def test_bochs_notices_nothing_with_if_0_before_the_guest_has_changed_it(
    before: Plain, *, noticed: bool
) -> None:
    closed = program(before, Plain.NOP, page=page(irr=(0x61,)), rvi=0x61)
    nothing, behind = ((), (), ()), {((0x61,), (), ()), ((), (0x61,), ()), ((), (), (0x61,))}
    allowed = taken(Below(delivers_with_if_0=True), closed)
    assert allowed == ({nothing, *behind} if noticed else {nothing})


def test_an_interrupt_that_nothing_recognized_is_not_delivered_with_if_0() -> None:
    held = program(Plain.NOP, controls=DELIVERY, page=page(irr=(0x61,), x80=0x70), rvi=0x61)
    assert taken(Below(delivers_with_if_0=True), held) == {((), ())}


def test_in_a_handler_bochs_delivers_what_its_eoi_has_recognized() -> None:
    steps = (Step(Wrmsr(EOI, 0)),)
    nests = program(
        Plain.NOP,
        controls=DELIVERY,
        guest=OPEN,
        page=page(irr=(0x51, 0x61)),
        rvi=0x61,
        handlers=((0x51, ()), (0x61, steps)),
    )
    after, within = ((0x61, 0x51), ()), ((0x61,), (0x51,))
    assert taken(Below(), nests) == {after}
    assert taken(Below(delivers_with_if_0=True), nests) == {after, within}


def test_each_of_several_virtual_processors_may_be_taken_out() -> None:
    setup = program(page=page(irr=(0x61,)), rvi=0x61).vcpus[0]
    both = Program(Level.VMX, (setup, setup), (Step(Plain.CLI), Step(Plain.CLI, vcpu=1)))
    nothing, anywhere = ((), (), ()), {((0x61,), (), ()), ((), (0x61,), ()), ((), (), (0x61,))}
    assert taken(Below(), both) == {nothing}
    assert taken(Below(delivers_with_if_0=True), both) == {nothing, *anywhere}


def test_at_level_guest_bochs_delivers_what_the_local_apic_holds() -> None:
    steps = (Step(Wrmsr(EOI, 0)),)
    setup = Setup(handlers=((0x51, steps), (0x61, steps)))
    asked = (Wrmsr(SELF_IPI, 0x51), Wrmsr(SELF_IPI, 0x61), Plain.STI, Plain.NOP, Plain.NOP)
    waits = Program(Level.GUEST, (setup,), tuple(Step(each) for each in asked))
    within = ((), (), (), (0x61,), (), (0x51,))
    after = ((), (), (), (0x61, 0x51), (), ())
    assert taken(Below(), waits) == {after}
    assert taken(Below(delivers_with_if_0=True), waits) == {after, within}


def test_the_interrupted_host_differs_by_its_clock_alone() -> None:
    usual, other = (
        subject_file.named(name, catalogue.load())
        for name in ("kvm-on-bochs-3", "kvm-on-bochs-3-interrupted")
    )
    assert other.start == {**usual.start, "ips": IPS // 10}
    assert (other.deviations, other.below) == (usual.deviations, usual.below)
    assert (other.re_enters, other.delivers_with_if_0) == (usual.re_enters, usual.delivers_with_if_0)


def test_the_corpus_says_of_some_cases_that_nothing_is_evaluated() -> None:
    file = "specs/vmx/delivery/evaluation.yaml"
    cases = parse(ROOT.joinpath(file).read_bytes(), file).cases
    shows = {case.id for case in cases if any(Below().may_show(point.program) for point in case.points)}
    assert {"instructions-do-not", "reads-do-not", "faulting-writes-do-not"} <= shows


def test_a_hypervisor_below_evaluates_while_the_guest_spins() -> None:
    both = page(irr=(0x61, 0x91))
    waits = program(Plain.NOP, Plain.SPIN, controls=DELIVERY, guest=OPEN, page=both, rvi=0x61)
    seen = {tuple(len(step.delivered) for step in each.steps) for _, each in Below().observations(waits)}
    assert seen == {(2, 0), (1, 1)}


def test_what_moves_the_apics_base_has_a_boot_of_its_own() -> None:
    usual = program(SetApicBase(0x400))
    moves = program(SetApicBase(0xFED00D00), SetApicBase(0xFEE00D00))
    assert batch.groups([usual, moves, program(SetApicBase(0xFEE00D00))], range(3)) == [[0, 2], [1]]


def test_each_kernel_has_a_suite_a_layout_and_a_word_in_the_schema() -> None:
    schema = json.loads(ROOT.joinpath("backends", "subject.schema.json").read_text("utf-8"))
    listed = schema["$defs"]["start-of-kvm-emulated"]["properties"]["kernel"]["enum"]
    assert sorted(kernel.SUITES) == sorted(LAYOUTS) == sorted(listed)
