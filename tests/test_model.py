"""The model as a subject: its trace, what it refuses, who it is."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelled import DELIVERY, OPEN, POSTED, REGISTERS, page, program, rules, setup, stale_request

import backends.model
from backends.model import Model, explaining
from backends.model.implementation import Implementation
from runner.language.loading import rules as catalogue
from runner.outcome import Observation, Unsupported, VmExit
from runner.program import (
    Action,
    Flip,
    GuestState,
    InitSipi,
    Inject,
    Level,
    MmioRead,
    Number,
    Page,
    PageAddress,
    Plain,
    Post,
    PostedInterrupts,
    Program,
    Rdmsr,
    Setup,
    Step,
    Wrmsr,
)
from runner.vmx import Activity, Field

SOURCES = sorted(Path(backends.model.__file__).parent.glob("*.py"))
AREAS = {rule.partition(".")[0] for rule in catalogue().rules}


def named(source: Path) -> Iterator[str]:
    """Every string of a module that looks like a rule's id."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            area, _, rest = node.value.partition(".")
            if area in AREAS and rest and " " not in rest:
                yield node.value


def test_every_rule_that_the_model_names_is_in_the_catalogue_and_no_alias() -> None:
    known = catalogue().rules
    ids = [rule for source in SOURCES for rule in named(source)]
    assert len(set(ids)) > 100
    assert [rule for rule in ids if rule not in known or known[rule].id != rule] == []


def test_a_trace_changes_nothing() -> None:
    one = setup(DELIVERY, guest=OPEN, rvi=0x61, page=page(irr=[0x61, 0x91]))
    asked = program(one, Plain.NOP, Wrmsr(0x808, 0x10), Rdmsr(0x808), Wrmsr(0x80B, 0))
    traced, reasons = explaining.run_traced(asked)
    assert [traced] == list(Model().run([asked]))
    assert isinstance(traced, Observation)
    assert reasons


def test_decisions_say_where_they_are_made() -> None:
    asked = program(setup(DELIVERY), Wrmsr(0x808, 0x20), Plain.VMCALL, Rdmsr(0x808))
    _, reasons = explaining.run_traced(asked)
    places = {reason.rule: (reason.place.action, reason.place.index) for reason in reasons}
    assert places["wrmsr.stores-eight-bytes"] == (Wrmsr(0x808, 0x20), 0)
    assert places["rdmsr.register-virtualization"] == (Rdmsr(0x808), 2)
    assert places["page.at-virtual-apic-address"] == (None, 0)


def test_sentences_have_the_numbers_at_hand() -> None:
    _, reasons = explaining.run_traced(program(setup(REGISTERS, page=page({0x20: 0x1234})), Rdmsr(0x802)))
    (sentence,) = (reason.sentence for reason in reasons if reason.rule == "rdmsr.register-virtualization")
    assert "offset 020H" in sentence
    assert "VMCS field 2012H" in sentence
    assert "1234H (4660)" in sentence


STALE = ((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.STALE)),)
OTHERS = ((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OF_VCPU, 1)),)


def test_the_trace_says_whose_page_is_read() -> None:
    assert rules(setup(REGISTERS, fields=STALE), Rdmsr(0x802)) >= {
        "page.never-initialized",
        "many.virtual-apic-address-in-every-vmcs",
        "many.one-page-per-vcpu",
    }
    shared = Program(Level.VMX, (setup(REGISTERS, fields=OTHERS), setup(REGISTERS)), (Step(Rdmsr(0x802)),))
    _, reasons = explaining.run_traced(shared)
    assert "many.shared-page-same-registers" in {reason.rule for reason in reasons}
    assert "many.one-page-per-vcpu" not in rules(setup(REGISTERS), Rdmsr(0x802))


NOT_MODELLED: dict[str, tuple[Setup, Action | Step]] = {
    "enable-ept": (setup(f"{REGISTERS} enable-ept"), Plain.NOP),
    "monitor-trap-flag": (setup(f"{REGISTERS} monitor-trap-flag"), Plain.NOP),
    "pause-exiting": (setup(f"{REGISTERS} pause-exiting"), Plain.NOP),
    "activate-vmx-preemption-timer": (setup(f"{REGISTERS} activate-vmx-preemption-timer"), Plain.NOP),
    "the virtual-APIC page at 0H": (
        setup(REGISTERS, fields=((Field.VIRTUAL_APIC_ADDRESS, Number(0)),)),
        Plain.NOP,
    ),
    "the MSR bitmap at": (setup(REGISTERS, fields=((Field.MSR_BITMAP_ADDRESS, Flip(20)),)), Plain.NOP),
    "VMCS field IA32_DEBUGCTL": (setup(REGISTERS, fields=((Field.IA32_DEBUGCTL, Number(2)),)), Plain.NOP),
    "RDMSR 10H": (setup(REGISTERS), Rdmsr(0x10)),
    "WRMSR C0000080H": (setup(REGISTERS), Wrmsr(0xC0000080, 0)),
    "wait-for-SIPI": (setup(REGISTERS, guest=GuestState(activity=Activity.WAIT_FOR_SIPI)), Plain.NOP),
    "delivery mode 100B": (setup("use-msr-bitmaps"), Wrmsr(0x830, 0x40400)),
    "a timer count of 5H": (setup("use-msr-bitmaps"), Wrmsr(0x838, 5)),
    "a PID pointer at 1F0008H": (
        setup(
            f"{POSTED} activate-tertiary-controls ipi-virtualization",
            posted=PostedInterrupts(),
            fields=(
                (Field.PID_POINTER_TABLE_ADDRESS, Number(0x1F0000)),
                (Field.LAST_PID_POINTER_INDEX, Number(1)),
            ),
        ),
        Wrmsr(0x830, 1 << 32 | 0x31),
    ),
    "the posted-interrupt descriptor": (setup(REGISTERS), Post(0, frozenset([0x31]), None)),
    "InitSipi": (setup(REGISTERS), InitSipi(1)),
    "interruption information": (
        setup(DELIVERY, guest=OPEN, fields=((Field.VM_ENTRY_INTERRUPTION_INFORMATION, Number(0x80000302)),)),
        Plain.NOP,
    ),
    "event injection with interruption information 8000000FH": (setup(DELIVERY, guest=OPEN), Inject(15)),
    "MOV SS at CPL 3": (setup(DELIVERY), Step(Plain.MOV_SS, cpl=3)),
    "an MSR area of 2 entries": (
        setup(REGISTERS, fields=((Field.VM_ENTRY_MSR_LOAD_COUNT, Number(2)),)),
        Plain.NOP,
    ),
    "memory-mapped accesses": (
        setup(
            "activate-secondary-controls virtualize-apic-accesses",
            fields=((Field.APIC_ACCESS_ADDRESS, Number(0xFEE00000)),),
        ),
        MmioRead(0x20),
    ),
}


@pytest.mark.parametrize("what", NOT_MODELLED)
def test_what_the_model_does_not_know_is_unsupported_and_says_so(what: str) -> None:
    one, action = NOT_MODELLED[what]
    before = (Wrmsr(0x832, 0x31),) if "timer" in what else ()
    (seen,) = Model().run([program(one, *before, action)])
    assert isinstance(seen, Unsupported)
    assert seen.reason.startswith("the model does not know ")
    assert what in seen.reason


def test_a_violation_is_known_whatever_lies_in_unknown_memory() -> None:
    nowhere = ((Field.VIRTUAL_APIC_ADDRESS, Number(0)),)
    asked = program(setup(f"{REGISTERS} virtualize-apic-accesses", fields=nowhere), Plain.NOP)
    assert [rule for rule, _ in explaining.violations(asked)] == ["entry.x2apic-excludes-apic-accesses"]
    (seen,) = Model().run([asked])
    assert isinstance(seen, Observation)


def test_the_stale_page_as_an_msr_bitmap() -> None:
    stale = setup(REGISTERS, fields=((Field.MSR_BITMAP_ADDRESS, PageAddress(Page.STALE)),))
    asked = program(stale, Rdmsr(0x800), Rdmsr(0x801), Rdmsr(0x803), Wrmsr(0x802, 0))
    (seen,) = Model().run([asked])
    assert isinstance(seen, Observation)
    assert _exits(seen) == [bool(0x9C401C39 >> bit & 1) for bit in (0, 1, 3, 2)]
    high = program(stale, Rdmsr(0xC0000200), Rdmsr(0xC0000201), Wrmsr(0xC0000202, 0), Wrmsr(0xC0000203, 0))
    (seen,) = Model().run([high])
    assert isinstance(seen, Observation)
    assert _exits(seen) == [True, False, False, True]


def _exits(seen: Observation) -> list[bool]:
    return [isinstance(step.outcomes[0], VmExit) for step in seen.steps]


def test_level_guest_is_unsupported_beyond_the_local_apic() -> None:
    for one, step in (
        (Setup(guest=GuestState(trap_flag=True)), Step(Plain.NOP)),
        (Setup(), Step(Plain.VMCALL)),
        (Setup(), Step(Rdmsr(0x10))),
        (Setup(), Step(Wrmsr(0x10, 0))),
    ):
        (seen,) = Model().run([Program(Level.GUEST, (one,), (step,))])
        assert isinstance(seen, Unsupported)


def test_one_answer_a_program_and_no_memory_of_the_one_before() -> None:
    asked = program(setup(DELIVERY, page=page(tpr=0x20)), Wrmsr(0x808, 0x50), Rdmsr(0x808))
    other = program(setup("use-msr-bitmaps"), Wrmsr(0x808, 0x50))
    alone = [answer for one in (asked, other, asked) for answer in Model().run([one])]
    assert list(Model().run([asked, other, asked])) == alone


def test_nothing_is_left_to_the_garbage_collector() -> None:
    asked = program(setup(DELIVERY, guest=OPEN, rvi=0x61), Plain.NOP, Plain.VMCALL, Plain.HLT)
    native = Program(Level.GUEST, (Setup(), Setup()), (Step(Rdmsr(0x802)),))
    gc.collect()
    gc.disable()
    try:
        answers = list(Model().run([asked, native] * 10))
        assert (len(answers), gc.collect()) == (20, 0)
    finally:
        gc.enable()


def test_the_stale_request_state_is_what_it_says() -> None:
    final = stale_request(Plain.NOP).finals[0]
    assert (final.rvi, final.svi, dict(final.page)[0xA0]) == (0x91, 0x61, 0x60)


def test_identity() -> None:
    identity = Model().identity()
    assert identity.name == "model"
    assert identity.capabilities["lvt-entries"] == "7"
    assert Model(Implementation(lvt_entries=6)).identity().capabilities["lvt-entries"] == "6"
    assert int(identity.capabilities["IA32_VMX_PROCBASED_CTLS2"].removesuffix("H"), 16) >> 32 & 0x310 == 0x310
