"""Each step gives exactly the action it stands for."""

from __future__ import annotations

import pytest
from spoken import (
    TPR_ONLY,
    case,
    controls,
    file,
    mistakes,
    point,
    steps,
)

from runner.program import (
    Barrier,
    Cpuid,
    InitSipi,
    Inject,
    Level,
    MmioRead,
    Number,
    Plain,
    Post,
    Raise,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Activity, Blocking, Field, MsrBitmap


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("{rdmsr: TPR}", Rdmsr(0x808)),
        ("{rdmsr: 0xc0000080}", Rdmsr(0xC0000080)),
        ("{rdmsr: 2050, upper: garbage}", Rdmsr(0x802, garbage=True)),
        ("{wrmsr: {ICR: 0x100000031}}", Wrmsr(0x830, 0x1_0000_0031)),
        ("{wrmsr: {0x8FF: 0}, upper: garbage}", Wrmsr(0x8FF, 0, garbage=True)),
        ("{read-cr8: true}", ReadCr8()),
        ("{write-cr8: 5}", WriteCr8(5)),
        ("{cpuid: 0xb}", Cpuid(0xB)),
        ("{mmio-read: 0x20}", MmioRead(0x20)),
        ("{inject: 0x51}", Inject(0x51)),
        ("{raise: 0x41}", Raise(0x41)),
        *((f"{{{plain.value}: true}}", plain) for plain in Plain if plain is not Plain.DUMP_AT_RESET),
    ],
)
def test_step(text: str, action: object) -> None:
    assert steps(text) == (Step(action),)  # type: ignore[arg-type] - any action


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("{set-apic-base: disabled}", SetApicBase(0)),
        ("{set-apic-base: xapic}", SetApicBase(0x800)),
        ("{set-apic-base: x2apic}", SetApicBase(0xC00)),
        ("{set-apic-base: 0x400}", SetApicBase(0x400)),
        ("{dump-at-reset: true}", Plain.DUMP_AT_RESET),
    ],
)
def test_step_at_level_guest(text: str, action: object) -> None:
    assert steps(text, level="guest") == (Step(action),)  # type: ignore[arg-type] - any action


def test_a_processor_that_is_started_goes_on_behind_its_hlt() -> None:
    body = "vcpus: {0: {}, 1: {}}\nsteps:\n  - {vcpu: 0, init-sipi: {to: 1}}\n"
    asked = case(body + "  - {vcpu: 1, hlt: true}", level="guest")
    assert asked.points[0].program.steps[0] == Step(InitSipi(1))
    for halts in (["nop"], ["hlt", "hlt"]):
        steps_of_1 = "".join(f"  - {{vcpu: 1, {name}: true}}\n" for name in halts)
        assert mistakes(file(body + steps_of_1, level="guest")) == [
            "9:9: `init-sipi` to 1; it starts another processor behind its one hlt"
        ]


def test_cpuid_has_a_value_at_level_guest_only() -> None:
    body = "steps: [{cpuid: 0x1, expect: {bits: {21:21: 0x1..0x1}}}]"
    assert mistakes(file(body, level="guest")) == []
    assert len(mistakes(file(body))) == 1


def test_step_at_cpl_3() -> None:
    assert steps("{rdmsr: TPR, cpl: 3}") == (Step(Rdmsr(0x808), cpl=3),)


def test_vmm_step_changes_what_the_setup_gave() -> None:
    setup = "{base: registers, msr-bitmap: {write: [EOI]}}"
    changes = (
        "{vmm: {virtual-apic-page: {TPR: 0x20}, set: [hlt-exiting], clear: [apic-register-virtualization],"
        " msr-bitmap: {read: [TPR]}, tpr-threshold: 2, rvi: 3, svi: 4, eoi-exit-bitmap: [0x51],"
        " fields: {exception-bitmap: 1}, guest: {if: 1, blocking: none, activity: hlt}}}"
    )
    assert steps("{vmcall: true}", changes, setup=setup)[1].action == Vmm(
        words=((0x80, 0x20),),
        controls=controls(*TPR_ONLY, "hlt-exiting"),
        msr_bitmap=MsrBitmap(reads=((0x808, 0x808),), writes=((0x80B, 0x80B),)),
        tpr_threshold=2,
        rvi=3,
        svi=4,
        eoi_exit_bitmap=frozenset({0x51}),
        fields=((Field.EXCEPTION_BITMAP, Number(1)),),
        interrupt_flag=True,
        blocking=Blocking(0),
        activity=Activity.HLT,
    )


def test_vmm_steps_add_up() -> None:
    one, other = steps(
        "{vmm: {set: [hlt-exiting]}}", "{vmm: {clear: [use-msr-bitmaps]}}", setup="{base: tpr-only}"
    )
    assert isinstance(one.action, Vmm)
    assert isinstance(other.action, Vmm)
    assert one.action.controls == controls(*TPR_ONLY, "hlt-exiting")
    assert other.action.controls == controls(*(n for n in TPR_ONLY if n != "use-msr-bitmaps"), "hlt-exiting")
    assert other.action.msr_bitmap is None


def test_post() -> None:
    full = "{post: {to: 0, vectors: [0x31, 0x71], notify: none, by: vmm, outstanding: false}}"
    short = "{post: {to: 0, vectors: [0x31], notify: 0xf2}}"
    assert steps(full, short, setup="{base: posted}") == (
        Step(Post(0, frozenset({0x31, 0x71}), None, outstanding=False, by_guest=False)),
        Step(Post(0, frozenset({0x31}), 0xF2)),
    )


def test_a_barrier_without_vcpu_is_everybodys() -> None:
    body = "vcpus: {0: {}, 1: {}}\nsteps:\n  - {barrier: ready}\n  - {vcpu: 1, nop: true, label: end}"
    assert point(body).program.steps == (
        Step(Barrier("ready"), 0),
        Step(Barrier("ready"), 1),
        Step(Plain.NOP, 1),
    )
    assert case(body).step_lines[0] == case(body).step_lines[1] == case(body).step_lines[2] - 1


def test_level() -> None:
    assert point("steps: [{nop: true}]", level="guest").program.level is Level.GUEST
    assert point("steps: [{nop: true}]").program.level is Level.VMX
