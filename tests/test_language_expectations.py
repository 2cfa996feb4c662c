"""Each expectation gives exactly the values it stands for."""

from __future__ import annotations

import pytest
from spoken import after, case, entry, expectations, expected

from runner.language.expectations import FAULTS
from runner.language.placement import RESUMED
from runner.outcome import Entered, EntryFailure, Fault, Rip, Stuck, VmfailInvalid, VmfailValid, VmxAbort
from runner.scenario import (
    After,
    Bits,
    Completes,
    Delivers,
    EntryFails,
    Exit,
    Keep,
    OneOf,
    PidExpected,
    Relative,
    StepExpected,
    Value,
    WordOneOf,
)
from runner.vmx import Activity, Blocking, ExitReason, name_of

WORDS = {0x100 + 16 * n: 0 for n in range(8)} | {0x110: 1 << 17, 0x120: 1 << 17}


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("{completes: true}", Completes()),
        ("{value: 0x3}", Value(3)),
        ("{value: from-page}", Relative.FROM_PAGE),
        ("{value: physical}", Relative.PHYSICAL),
        ("{bits: {7:0: 0x10..0x15, 31:31: 1}}", Bits(((7, 0, 0x10, 0x15), (31, 31, 1, 1)))),
        ('{fault: "#GP(0)"}', Fault(13, 0)),
        ('{fault: "#UD"}', Fault(6, None)),
        ("{exit: {reason: rdmsr}}", Exit(31)),
        (
            """{exit: {reason: apic-write, qualification: 0x3f0, rip: next, interruption-information: 1,
                   idt-vectoring: 2, instruction-length: 3, blocking: sti, activity: hlt}}""",
            Exit(56, 0x3F0, Rip.NEXT, 1, 2, 3, Blocking.STI, Activity.HLT),
        ),
        (
            "{one-of: [{value: 1}, {value: 2, delivers: [0x31]}], because: it may}",
            OneOf((StepExpected(Value(1)), StepExpected(Value(2), (Delivers(0x31),))), "it may"),
        ),
    ],
)
def test_outcome(text: str, outcome: object) -> None:
    assert expectations(f"{{rdmsr: TPR, expect: {text}}}") == (StepExpected(outcome),)  # type: ignore[arg-type] - any


def test_silence_completes_and_delivers_nothing() -> None:
    assert expectations("{nop: true}") == (StepExpected(Completes(), ()),)


def test_stays_halted() -> None:
    assert expectations("{hlt: true, expect: {stays-halted: true}}") == (StepExpected(Stuck.STAYS_HALTED),)


def test_a_vmm_step_expects_what_comes_before_the_next_instruction() -> None:
    for text, outcome in (
        ("{exit: {reason: external-interrupt, rip: elsewhere}}", Exit(1, rip=Rip.ELSEWHERE)),
        ("{exit: {reason: tpr-below-threshold}}", Exit(43)),
        ("{stays-halted: true}", Stuck.STAYS_HALTED),
    ):
        read = expectations("{vmcall: true}", f"{{vmm: {{tpr-threshold: 2}}, expect: {text}}}")
        assert read[1] == StepExpected(outcome)  # type: ignore[arg-type] - any outcome


def test_exceptions_have_the_vectors_of_the_manual() -> None:
    vectors = {
        "#DB": 1,
        "#UD": 6,
        "#NM": 7,
        "#DF": 8,
        "#TS": 10,
        "#NP": 11,
        "#SS": 12,
        "#GP": 13,
        "#PF": 14,
        "#AC": 17,
    }
    without_error_code = {"#DB", "#UD", "#NM"}
    assert {
        name if name in without_error_code else f"{name}(0)": Fault(
            vector, None if name in without_error_code else 0
        )
        for name, vector in vectors.items()
    } == FAULTS


def test_all_bits_and_one_bit() -> None:
    text = "{rdmsr: TPR, expect: {bits: {63:0: 0x0..0xffffffffffffffff, 0:0: 1}}}"
    assert expectations(text)[0].outcome == Bits(((63, 0, 0, (1 << 64) - 1), (0, 0, 1, 1)))


def test_values_of_level_guest() -> None:
    for relative in (Relative.OWN_APIC_ID, Relative.LOGICAL_ID):
        text = f"{{rdmsr: APICID, expect: {{value: {relative.value}}}}}"
        assert expectations(text, level="guest") == (StepExpected(relative),)


def test_deliveries() -> None:
    read = expectations(
        "{sti: true, label: a, expect: {delivers: [0x71, {vector: 0x61, at: last}, {vector: 0x51, at: a}]}}",
        "{nop: true, label: last}",
    )
    assert read[0].delivers == (Delivers(0x71, None), Delivers(0x61, 1), Delivers(0x51, 0))


def test_expectations_of_handlers() -> None:
    handler = "{0x51: [{rdmsr: TPR, expect: {value: 3}}, {nop: true}]}"
    [read] = expected("", f"{{base: delivery, handlers: {handler}}}").handlers
    assert read == ((0x51, (StepExpected(Value(3)), StepExpected())),)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("{vmfail-valid: 7}", VmfailValid(7)),
        ("{vmfail-invalid: true}", VmfailInvalid()),
        ("{exit: {reason: entry-failure-msr-loading, qualification: 2}}", EntryFailure(34, 2)),
        ("{vmx-abort: 4}", VmxAbort(4)),
    ],
)
def test_entry(text: str, outcome: object) -> None:
    assert entry(text) == outcome
    [_, step] = expectations("{vmcall: true}", f"{{vmm: {{rvi: 1}}, expect: {{entry: {text}}}}}")
    assert step == StepExpected(EntryFails(outcome))  # type: ignore[arg-type] - any entry


def test_a_vm_entry_succeeds_unless_said_otherwise() -> None:
    assert expected("").entry == Entered()


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("{}", After()),
        ("{rvi: 1, svi: 2}", After(rvi=1, svi=2)),
        ("{page: {TPR: 0x20, 0x84: unchanged}}", After(page=((0x80, 0x20), (0x84, Keep.UNCHANGED)))),
        ("{page: {ICR: 0x200000001}}", After(page=((0x300, 1), (0x304, 2)))),
        ("{page: {ICR: unchanged}}", After(page=((0x300, Keep.UNCHANGED), (0x304, Keep.UNCHANGED)))),
        ("{page: {ISR: [0x31, 0x51]}}", After(page=tuple(WORDS.items()))),
        ("{page: {ISR: unchanged}}", After(page=tuple((at, Keep.UNCHANGED) for at in WORDS))),
        (
            "{page: {TPR: {one-of: [0, unchanged], because: unclear}}}",
            After(page=((0x80, WordOneOf((0, Keep.UNCHANGED), "unclear")),)),
        ),
        (
            "{physical: {TPR: unchanged, 0x80f: 0x1ff, ISR0: 4}}",
            After(physical=((0x808, Keep.UNCHANGED), (0x80F, 0x1FF), (0x810, 4))),
        ),
        (
            "{physical: {ISR: [0x31, 0x51]}}",
            After(physical=tuple((0x800 + (at >> 4), word) for at, word in WORDS.items())),
        ),
        ("{activity: hlt, blocking: none}", After(activity=Activity.HLT, blocking=Blocking(0))),
    ],
)
def test_after(text: str, state: After) -> None:
    assert after(text) == state


def test_the_descriptor_afterwards() -> None:
    assert after("{pid: {outstanding: false, pir: [0x31]}}", "{base: posted}") == After(
        pid=PidExpected(outstanding=False, pir=frozenset({0x31}))
    )
    assert after("{pid: {pir: []}}", "{base: posted}") == After(pid=PidExpected(pir=frozenset()))


def test_after_of_several() -> None:
    body = "vcpus: {0: {}, 1: {}, 2: {}}\nafter: {2: {rvi: 1}, 0: {svi: 2}}"
    assert expected(body).after == (After(svi=2), After(), After(rvi=1))


def test_the_model_as_oracle() -> None:
    read = expected("expect: model\nsteps: [{rdmsr: TPR}, {vmcall: true}, {inject: 0x31}]")
    assert read.from_model
    assert len(read.steps) == 3


def test_when() -> None:
    assert case("when: {lvt-entries: 7, directed-eoi: false}").when == (
        ("lvt-entries", "7"),
        ("directed-eoi", "false"),
    )


@pytest.mark.parametrize("reason", sorted(RESUMED))
def test_the_guest_goes_on_after_these_exits(reason: ExitReason) -> None:
    text = f"{{nop: true, expect: {{exit: {{reason: {name_of(reason)}}}}}}}"
    assert len(expectations(text, "{nop: true}")) == 2
    assert len(expectations(text, "{inject: 0x31}")) == 2


def test_exit_reasons_are_basic_reasons() -> None:
    for reason in ExitReason:
        if not reason.name.startswith("ENTRY_FAILURE"):
            text = f"{{nop: true, expect: {{exit: {{reason: {reason.name.lower().replace('_', '-')}}}}}}}"
            assert expectations(text) == (StepExpected(Exit(int(reason))),)
