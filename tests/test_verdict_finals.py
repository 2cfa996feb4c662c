"""Final states: what is named, and what silence means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.outcome import (
    Completed,
    Final,
    Observation,
    StepResult,
    VmExit,
    VmfailValid,
)
from runner.program import (
    Level,
    Page,
    PageAddress,
    Plain,
    PostedInterrupts,
    Program,
    Rdmsr,
    Step,
    Vmm,
)
from runner.scenario import (
    After,
    Keep,
    PidExpected,
    Point,
    StepExpected,
    Value,
    WordOneOf,
)
from runner.vmx import Activity, Blocking, Field


def two(page: PageAddress | None = None) -> Point:
    """Two virtual processors that read their own IDs; the second perhaps from another page."""
    base = j.program(Rdmsr(0x802), names=j.DELIVERY).vcpus[0]
    fields = () if page is None else ((Field.VIRTUAL_APIC_ADDRESS, page),)
    asked = Program(Level.VMX, (base, replace(base, fields=fields)), (Step(Rdmsr(0x802)),))
    return j.point(asked, StepExpected(Value(j.APICID_VALUE)))


def finals(first: Final, second: Final) -> Observation:
    return replace(j.READ_SEEN, entries=j.READ_SEEN.entries * 2, finals=(first, second))


def test_each_virtual_processor_is_judged() -> None:
    assert j.found(two(), finals(Final(), Final())) == ""
    assert "virtual processor 1, final state: RVI" in j.found(two(), finals(Final(), Final(rvi=1)))


def test_of_a_page_that_two_use_only_what_is_named_is_judged() -> None:
    stray = Final(page=((0x300, 1),))
    shared = PageAddress(Page.OF_VCPU, 0)
    assert "300H" in j.found(two(), finals(stray, Final()))
    assert j.found(two(shared), finals(stray, Final())) == ""
    assert "300H" in j.found(two(shared), finals(Final(), stray)), "its own page, which nobody uses"


def test_ppr_virtualization_at_vm_entry_is_part_of_silence() -> None:
    page = replace(j.PAGE, words=((0x80, 0x34), (0xA0, 0)))
    for names, svi, vppr in (
        (j.REGISTERS, 0x51, None),
        (j.DELIVERY, 0x51, 0x50),
        (j.DELIVERY, 0x21, 0x34),
    ):
        point = j.point(j.program(Plain.NOP, names=names, svi=svi, page=page), StepExpected())
        words = () if vppr is None else ((0xA0, vppr),)
        nop = StepResult((Completed(),))
        assert j.found(point, j.seen(nop, final=Final(page=words, svi=svi))) == ""
        wrong = () if words else ((0xA0, 0x34),)
        assert "0A0H (PPR)" in j.found(point, j.seen(nop, final=Final(page=wrong, svi=svi)))


def test_what_the_vmm_changes_is_part_of_silence() -> None:
    vmm = Vmm(words=((0x80, 0x60), (0x300, 5)), rvi=0x33, svi=0x21)
    steps = (StepExpected(), StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, vmm, Plain.NOP, names=j.DELIVERY), *steps)
    results = (StepResult((VmExit(18),)), StepResult((Completed(),)), StepResult((Completed(),)))
    words = ((0x80, 0x60), (0xA0, 0x60), (0x300, 5))
    right = j.seen(*results, final=Final(page=words, rvi=0x33, svi=0x21))
    assert j.found(point, right) == ""
    assert "300H" in j.found(point, j.final(right, page=words[:2]))
    assert "RVI" in j.found(point, j.final(right, rvi=0))


def descriptor(pir: int = 0, control: int = 0, rest: int = 0) -> Final:
    return Final(pid=(pir, 0, 0, 0, control, rest, 0, 0))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (descriptor(1 << 0x21, 0x00F2_0001), ""),
        (descriptor(0, 1), "PIR of the posted-interrupt descriptor: 21H / none"),
        (descriptor(), "PIR of the posted-interrupt descriptor: 21H / none"),
        (descriptor(1 << 0x21, 0), "ON of the posted-interrupt descriptor: 1 / 0"),
        (descriptor(1 << 0x21, 3), "SN of the posted-interrupt descriptor: 0 / 1"),
        (descriptor(1 << 0x21, 1, 5), "word 28H of the posted-interrupt descriptor: 0H / 5H"),
    ],
)
def test_a_descriptor_that_nothing_names_is_as_set_up(seen: Final, said: str) -> None:
    posted = PostedInterrupts(pir=frozenset({0x21}), outstanding=True)
    point = j.point(j.program(Plain.NOP, posted=posted), StepExpected())
    text = j.found(point, j.seen(StepResult((Completed(),)), final=seen))
    assert said in text
    assert bool(said) is bool(text)


@pytest.mark.parametrize(
    ("control", "rest", "said"),
    [
        (0x5A5A5A5A_00410001, 0xFFFFFFFF_00000000, ""),
        (
            0x5A5A5A5A_00F20001,
            0xFFFFFFFF_00000000,
            "word 20H of the posted-interrupt descriptor: 410000H / F20000H",
        ),
        (
            0x00000000_00410001,
            0xFFFFFFFF_00000000,
            "word 24H of the posted-interrupt descriptor: 5A5A5A5AH / 0H",
        ),
        (0x5A5A5A5A_00410001, 0, "word 2CH of the posted-interrupt descriptor: FFFFFFFFH / 0H"),
    ],
)
def test_words_of_the_descriptor_that_the_setup_names_stay(control: int, rest: int, said: str) -> None:
    words = ((0x20, 0x410000), (0x24, 0x5A5A5A5A), (0x2C, 0xFFFFFFFF))
    posted = PostedInterrupts(outstanding=True, words=words)
    point = j.point(j.program(Plain.NOP, posted=posted), StepExpected())
    text = j.found(point, j.seen(StepResult((Completed(),)), final=descriptor(0, control, rest)))
    assert said in text
    assert bool(said) is bool(text)


def test_a_descriptor_that_is_named_and_not_there() -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(), after=After(pid=PidExpected(outstanding=True)))
    nop = StepResult((Completed(),))
    assert j.found(point, j.seen(nop, final=descriptor(0, 1))) == ""
    assert "ON of the posted-interrupt descriptor: 1 / 0" in j.found(point, j.seen(nop))


def test_a_descriptor_that_is_named() -> None:
    posted = PostedInterrupts(pir=frozenset({0x21}), outstanding=True)
    after = After(pid=PidExpected(outstanding=False, pir=frozenset()))
    point = j.point(j.program(Plain.NOP, posted=posted), StepExpected(), after=after)
    assert j.found(point, j.seen(StepResult((Completed(),)), final=descriptor())) == ""
    assert "ON" in j.found(point, j.seen(StepResult((Completed(),)), final=descriptor(0, 1)))


@pytest.mark.parametrize(
    ("wanted", "changed", "fits"),
    [
        (Keep.UNCHANGED, (), True),
        (Keep.UNCHANGED, ((0x808, 0x20),), False),
        (0x20, ((0x808, 0x20),), True),
        (0x20, ((0x808, 0x30),), False),
        (0x20, (), False),
        (0x0, (), True),
        (0x0, ((0x808, 0x20),), False),
        (WordOneOf((0x20, Keep.UNCHANGED), "so"), (), True),
        (WordOneOf((0x20, Keep.UNCHANGED), "so"), ((0x808, 0x30),), False),
    ],
)
def test_registers_of_the_physical_apic(wanted: Any, changed: Any, *, fits: bool) -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(), after=After(physical=((0x808, wanted),)))
    text = j.found(point, j.seen(StepResult((Completed(),)), final=Final(physical=changed)))
    assert (text == "") is fits
    assert fits or "physical TPR (808H)" in text


@pytest.mark.parametrize(
    ("wanted", "word", "fits"),
    [
        (Keep.UNCHANGED, None, True),
        (Keep.UNCHANGED, 5, False),
        (WordOneOf((5, Keep.UNCHANGED), "so"), None, True),
        (WordOneOf((5, Keep.UNCHANGED), "so"), 5, True),
        (WordOneOf((5, Keep.UNCHANGED), "so"), 6, False),
        (5, None, False),
    ],
)
def test_words_of_the_page(wanted: Any, word: int | None, *, fits: bool) -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(), after=After(page=((0xB4, wanted),)))
    page = () if word is None else ((0xB4, word),)
    assert (j.found(point, j.seen(StepResult((Completed(),)), final=Final(page=page))) == "") is fits


@pytest.mark.parametrize(
    ("named", "seen"), [({"activity": Activity.HLT}, {}), ({"blocking": Blocking.STI}, {})]
)
def test_activity_and_blocking_are_judged_where_named(named: Any, seen: Any) -> None:
    silent = j.point(j.program(Plain.NOP), StepExpected())
    point = j.point(j.program(Plain.NOP), StepExpected(), after=After(**named))
    nop = StepResult((Completed(),))
    assert j.found(silent, j.seen(nop, final=Final(**named))) == ""
    assert j.found(point, j.seen(nop, final=Final(**named))) == ""
    assert "state" in j.found(point, j.seen(nop, final=Final(**seen)))


def test_ppr_virtualization_is_that_of_each_vm_entry() -> None:
    page = replace(j.PAGE, words=((0x80, 0x34), (0xA0, 0)))
    off = Vmm(words=((0x80, 0x60),), controls=j.controls(j.REGISTERS))
    actions = (Plain.NOP, Plain.VMCALL, off, Plain.NOP)
    point = j.point(j.program(*actions, names=j.DELIVERY, page=page), *[StepExpected()] * 4)
    done = StepResult((Completed(),))
    steps = (done, StepResult((VmExit(18),)), done, done)
    assert j.found(point, j.seen(*steps, final=Final(page=((0x80, 0x60), (0xA0, 0x34))))) == ""


def test_what_the_vmm_wrote_before_an_entry_that_fails_stays() -> None:
    asked = j.program(Vmm(words=((0x300, 5),)), names=j.DELIVERY)
    point = j.point(asked, StepExpected(), entry=VmfailValid(7))
    failed = replace(j.seen(StepResult((Completed(),))), entries=(VmfailValid(7),))
    assert j.found(point, j.final(failed, page=((0x300, 5),))) == ""
    assert "300H" in j.found(point, failed)
