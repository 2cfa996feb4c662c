"""What an adapter is sent: raw values that are final, and every line as the schema says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hostile_adapter import CAPABILITIES
from programs import DELIVERY, OPEN, REGISTERS, controls, program

from backends.adapter import answers, reading
from backends.adapter.asks import LONGEST_RUN, Asks, line
from backends.adapter.setups import CannotAskError
from runner.apic import ApicMode
from runner.language import loading
from runner.program import (
    Action,
    Barrier,
    BeyondWidth,
    Cpuid,
    FieldValue,
    Flip,
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
    Raise,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Setup,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Field, MsrBitmap

CAN_ALL = {**CAPABILITIES, "levels": ["vmx", "guest"], "vcpus": 8}
CAN_POST = {
    **CAN_ALL,
    "msrs": [
        ["0x481", "0xff00000016"],
        ["0x482", "0xfffbfffe0401e172"],
        *CAN_ALL["msrs"][2:],
        ["0x492", "0x10"],
    ],
}


def asked(what: Program, capabilities: dict[str, Any] = CAN_POST) -> dict[str, Any]:
    text = line(5, 2, Asks(answers.capabilities(capabilities).platform).body(what))
    said: dict[str, Any] = json.loads(text)
    assert reading.first_mistake(said) == ""
    assert (said["seq"], said["left"]) == (5, 2)
    return said


def fields(what: Program, vcpu: int = 0, **changed: Any) -> dict[int, int]:
    return _numbers(asked(what, {**CAN_POST, **changed})["vcpus"][vcpu]["fields"])


def _numbers(listed: list[list[str]]) -> dict[int, int]:
    return {int(encoding, 16): int(value, 16) for encoding, _, value in listed}


@pytest.mark.parametrize(
    ("action", "keys"),
    [
        (Rdmsr(0xC0000080), {"step": "rdmsr", "msr": "0xc0000080", "garbage": 0}),
        (
            Wrmsr(0x808, 1 << 63, garbage=True),
            {"step": "wrmsr", "msr": "0x808", "value": f"{1 << 63:#x}", "garbage": 1},
        ),
        (ReadCr8(), {"step": "read-cr8"}),
        (WriteCr8(16), {"step": "write-cr8", "value": "0x10"}),
        *((plain, {"step": plain.value}) for plain in Plain),
        (Cpuid(0x80000008), {"step": "cpuid", "leaf": "0x80000008"}),
        (MmioRead(0x20), {"step": "mmio-read", "offset": "0x20"}),
        (SetApicBase(0x400), {"step": "set-apic-base", "value": "0x400", "mask": "0xc00"}),
        (SetApicBase(0x1400), {"step": "set-apic-base", "value": "0x1400", "mask": "0xffffffffffffffff"}),
        (InitSipi(1), {"step": "init-sipi", "to": 1}),
        (Inject(0x51), {"step": "inject", "vector": 0x51}),
        (Raise(0x41), {"step": "raise", "vector": 0x41}),
        (Barrier("ready"), {"step": "barrier", "name": "ready", "waiting": 2}),
        (
            Post(1, frozenset((0x71, 0x31)), 0xF2),
            {
                "step": "post",
                "to": 1,
                "vectors": [0x31, 0x71],
                "outstanding": 1,
                "notify": 0xF2,
                "by": "guest",
            },
        ),
        (
            Post(0, frozenset(), None, outstanding=False, by_guest=False),
            {"step": "post", "to": 0, "vectors": [], "outstanding": 0, "notify": None, "by": "vmm"},
        ),
    ],
)
def test_a_step(action: Action, keys: dict[str, Any]) -> None:
    setups = (Setup(), Setup())
    steps = (Step(action, 1), Step(Barrier("ready"), 0), Step(Barrier("other"), 0), Step(Plain.NOP, 1, 3))
    said = asked(Program(Level.VMX, setups, steps))["steps"]
    assert said[0] == {**keys, "vcpu": 1, "cpl": 0}
    assert said[2]["waiting"] == 1
    assert said[3] == {"step": "nop", "vcpu": 1, "cpl": 3}


def test_control_words_have_the_bits_that_must_be_1() -> None:
    written = fields(program(controls=DELIVERY))
    assert written[Field.PIN_BASED_CONTROLS] == 0x16 | 1
    assert written[Field.PRIMARY_PROCESSOR_BASED_CONTROLS] == 0x0401E172 | 1 << 21 | 1 << 28 | 1 << 31
    assert written[Field.SECONDARY_PROCESSOR_BASED_CONTROLS] == 0x310
    assert written[Field.VM_EXIT_CONTROLS] == 0x36DFF | 1 << 9
    assert written[Field.VM_ENTRY_CONTROLS] == 0x11FF | 1 << 9
    assert written[Field.TERTIARY_PROCESSOR_BASED_CONTROLS] == 0


def test_the_true_capability_msrs_say_which_bits_those_are_where_they_exist() -> None:
    true = [["0x480", f"{1 << 55:#x}"], ["0x48e", "0xfffbfffe04006172"], *CAN_POST["msrs"]]
    written = fields(program(controls=DELIVERY), msrs=true)
    assert written[Field.PRIMARY_PROCESSOR_BASED_CONTROLS] == 0x04006172 | 1 << 21 | 1 << 28 | 1 << 31


def test_fields_that_the_capability_msrs_do_not_know_are_left_out() -> None:
    few = [["0x482", "0x7ffdfffe0401e172"], ["0x481", "0x1f00000016"], *CAN_POST["msrs"][2:4]]
    written = fields(program(controls=controls("use-tpr-shadow")), msrs=few)
    assert Field.VIRTUAL_APIC_ADDRESS in written
    for absent in (
        Field.SECONDARY_PROCESSOR_BASED_CONTROLS,
        Field.TERTIARY_PROCESSOR_BASED_CONTROLS,
        Field.GUEST_INTERRUPT_STATUS,
        Field.EOI_EXIT_BITMAP_0,
        Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS,
        Field.PID_POINTER_TABLE_ADDRESS,
        Field.EXIT_REASON,
    ):
        assert absent not in written


@pytest.mark.parametrize(
    ("field", "value", "number"),
    [
        (Field.TPR_THRESHOLD, Number(0x10), 0x10),
        (Field.TPR_THRESHOLD, Flip(31), 0x80000003),
        (Field.VIRTUAL_APIC_ADDRESS, Flip(0), 0x720001),
        (Field.VIRTUAL_APIC_ADDRESS, BeyondWidth(), 1 << 40 | 0x720000),
        (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OWN, add=8), 0x720008),
        (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OF_VCPU, 0), 0x710000),
        (Field.MSR_BITMAP_ADDRESS, PageAddress(Page.OF_VCPU, 0), 0x711000),
        (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.STALE), 0x702000),
        (Field.MSR_BITMAP_ADDRESS, PageAddress(Page.APIC_ACCESS, add=4), 0x701004),
        (Field.PIN_BASED_CONTROLS, Flip(1), 0x15),
    ],
)
def test_a_field_has_its_final_value(field: Field, value: FieldValue, number: int) -> None:
    setup = Setup(controls=DELIVERY, tpr_threshold=3, fields=((field, value),))
    two = Program(Level.VMX, (Setup(), setup), ())
    written = fields(two, 1, memory="0x700000", **{"physical-address-width": 40})
    assert written[field] == number


def test_structures_lie_where_the_adapter_has_memory() -> None:
    posted = PostedInterrupts(0xF3, frozenset((0x31,)), outstanding=True, pid_pointer_flip=1)
    setup = Setup(controls=DELIVERY, posted=posted)
    said = asked(Program(Level.VMX, (Setup(), replace(setup, apic_mode=ApicMode.XAPIC)), ()))
    assert said["shared"] == {
        "pid-pointer-table": "0x100000",
        "apic-access-page": "0x101000",
        "stale-page": "0x102000",
    }
    second = said["vcpus"][1]
    assert second["virtual-apic-page"]["address"] == "0x120000"
    assert second["msr-bitmap"]["address"] == "0x121000"
    assert second["descriptor"] == {
        "address": "0x122000",
        "words": [f"{1 << 0x31:#x}", "0x0", "0x0", "0x0", "0x10000f30001", "0x0", "0x0", "0x0"],
        "pid-pointer": "0x122003",
    }
    assert said["vcpus"][0]["descriptor"] == {"address": "0x112000", "words": [], "pid-pointer": "0x0"}


def test_what_the_vmm_changes() -> None:
    vmm = Vmm(
        words=((0x80, 0x20),),
        controls=REGISTERS,
        msr_bitmap=MsrBitmap(reads=((0x800, 0x8FF),)),
        tpr_threshold=2,
        rvi=0x51,
        eoi_exit_bitmap=frozenset((0x51,)),
        fields=((Field.VIRTUAL_APIC_ADDRESS, Flip(0)),),
        interrupt_flag=True,
    )
    [step] = asked(program(vmm, guest=OPEN))["steps"]
    assert step["words"] == [["0x80", "0x20"]]
    assert step["controls"][-1] == "apic-register-virtualization"
    assert (step["rvi"], step["svi"], step["if"]) == (0x51, None, 1)
    assert step["msr-bitmap"] == {"address": "0x111000", "reads": [["0x800", "0x8ff"]], "writes": []}
    written = _numbers(step["fields"])
    assert written[Field.SECONDARY_PROCESSOR_BASED_CONTROLS] == 0x110
    assert written[Field.TPR_THRESHOLD] == 2
    assert written[Field.EOI_EXIT_BITMAP_1] == 1 << 0x11
    assert written[Field.VIRTUAL_APIC_ADDRESS] == 0x110001
    [nothing] = asked(program(Vmm()))["steps"]
    assert (nothing["fields"], nothing["controls"], nothing["msr-bitmap"]) == ([], None, None)


def test_at_level_guest_there_is_no_vmcs() -> None:
    said = asked(Program(Level.GUEST, (Setup(guest=OPEN),), (Step(Rdmsr(0x802)),)))
    [setup] = said["vcpus"]
    assert (setup["fields"], setup["controls"], setup["guest"]) == ([], [], {"if": 1, "tf": 0, "cpl": 0})


@pytest.mark.parametrize(
    ("what", "capabilities", "reason"),
    [
        (program(Rdmsr(0x802)), {"levels": ["guest"]}, "level vmx: its capabilities do not list it"),
        (Program(Level.VMX, (Setup(), Setup()), ()), {"vcpus": 1}, "2 virtual processors: it has at most 1"),
        (
            program(controls=DELIVERY),
            {"msrs": CAN_POST["msrs"][:4]},
            "IA32_VMX_PROCBASED_CTLS2 does not exist",
        ),
        (program(Rdmsr(0x802)), {"x2apic": 0}, "x2APIC mode: CPUID.01H:ECX[21] = 0"),
        (
            program(fields=((Field.TPR_THRESHOLD, PageAddress(Page.OWN)),)),
            {},
            "the address of a structure in tpr-threshold, which has none",
        ),
    ],
)
def test_what_it_cannot_do_it_is_not_asked(what: Program, capabilities: dict[str, Any], reason: str) -> None:
    with pytest.raises(CannotAskError) as refused:
        asked(what, {**CAN_POST, **capabilities})
    assert reason in str(refused.value)


def test_cases_of_every_file_are_lines_as_the_schema_says() -> None:
    asking = Asks(answers.capabilities(CAN_POST).platform)
    longest = 0
    for scenario in loading.load_all(loading.scenario_files()):
        for case in scenario.cases[::3]:
            try:
                text = line(1, 0, asking.body(case.points[0].program))
            except CannotAskError:
                continue
            longest = max(longest, len(text))
            assert text.isascii()
            assert b"\\" not in text
            assert b" " not in text
            assert reading.first_mistake(json.loads(text)) == "", text
    assert 10_000 < longest < LONGEST_RUN


def test_a_line_that_would_be_too_long_is_not_sent() -> None:
    many = program(*[Wrmsr(0x808, 0)] * 20_000)
    with pytest.raises(CannotAskError, match=r"a case of 1[0-9]{6} bytes"):
        asked(many)
