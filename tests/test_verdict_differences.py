"""One test a kind of difference: the judge notices it, and says where in SDM words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.apic import STALE
from runner.differences import differences
from runner.outcome import (
    Completed,
    Delivery,
    EntryFailure,
    Fault,
    Final,
    Observation,
    Rip,
    StepResult,
    Stuck,
    VmExit,
    VmfailValid,
    VmxAbort,
)
from runner.program import (
    Barrier,
    Cpuid,
    Inject,
    Level,
    Page,
    PageAddress,
    Plain,
    Post,
    PostedInterrupts,
    Program,
    Raise,
    Rdmsr,
    Step,
    Vmm,
    WriteCr8,
    Wrmsr,
)
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
    Point,
    Relative,
    StepExpected,
    Value,
    WordOneOf,
)
from runner.vmx import Activity, Blocking, Field


def found(point: Point, observation: Observation) -> str:
    """All differences, a line each."""
    return "\n".join(
        f"{each.where}: {each.expected} / {each.observed}"
        for each in differences(point.program, point.expected, observation)
    )


def step(observation: Observation, index: int, **changed: Any) -> Observation:
    """The observation with parts of one step's result replaced."""
    steps = list(observation.steps)
    steps[index] = replace(steps[index], **changed)
    return replace(observation, steps=tuple(steps))


def final(observation: Observation, **changed: Any) -> Observation:
    return replace(observation, finals=(replace(observation.finals[0], **changed),))


def exiting(**changed: Any) -> Observation:
    (outcome,) = j.EOI_EXIT_SEEN.steps[0].outcomes
    assert isinstance(outcome, VmExit)
    return step(j.EOI_EXIT_SEEN, 0, outcomes=(replace(outcome, **changed),))


HANDLED = j.DELIVERED_SEEN.steps[0].delivered[0]
GENERAL_PROTECTION = 0x80000B0D


@pytest.mark.parametrize(
    ("point", "observation"),
    [
        (j.READ, j.READ_SEEN),
        (j.EOI_EXIT, j.EOI_EXIT_SEEN),
        (j.DELIVERED, j.DELIVERED_SEEN),
    ],
)
def test_the_expected_observation_shows_no_difference(point: Point, observation: Observation) -> None:
    assert found(point, observation) == ""


@pytest.mark.parametrize(
    ("point", "observation", "said"),
    [
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(Completed(0xABCD0001_00000004),)),
            "step 1, RDMSR APICID (802H): value ABCD0001_00000003H / value ABCD0001_00000004H",
            id="wrong value",
        ),
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(Completed(0x3),)),
            "value ABCD0001_00000003H / value 3H",
            id="upper half from zero",
        ),
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(Completed(j.APICID_VALUE, upper_clear=False),)),
            "bits set in RAX[63:32] or RDX[63:32]",
            id="register bits 63:32 left set",
        ),
        pytest.param(
            j.READ, step(j.READ_SEEN, 0, outcomes=(Fault(13, 0),)), "/ #GP(0)", id="unexpected fault"
        ),
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(VmExit(31, instruction_length=2),)),
            "/ VM exit rdmsr (31)",
            id="unexpected exit",
        ),
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(VmExit(1), Completed(j.APICID_VALUE))),
            "/ VM exit external-interrupt (1), RIP same; then value",
            id="exit before the right value",
        ),
        pytest.param(
            j.READ,
            step(j.READ_SEEN, 0, outcomes=(Stuck.DID_NOT_RETURN,)),
            "/ did not return",
            id="did not return",
        ),
        pytest.param(j.READ, step(j.READ_SEEN, 0, outcomes=()), "/ nothing", id="no outcome"),
        pytest.param(
            j.EOI_EXIT,
            step(j.EOI_EXIT_SEEN, 0, outcomes=(Completed(),)),
            "VM exit virtualized-eoi (45), qualification 51H / completes",
            id="missing exit",
        ),
        pytest.param(
            j.EOI_EXIT,
            step(j.EOI_EXIT_SEEN, 0, outcomes=(VmExit(45, 0x51, Rip.NEXT), Completed())),
            "after the VM exit: nothing more / completes",
            id="more than the exit",
        ),
        pytest.param(
            j.EOI_EXIT, exiting(reason=45 | 1 << 31), "/ VM exit 8000002DH", id="reason with bit 31"
        ),
        pytest.param(
            j.EOI_EXIT, exiting(qualification=0x50), "exit qualification: 51H / 50H", id="wrong qualification"
        ),
        pytest.param(
            j.EOI_EXIT,
            exiting(rip=Rip.SAME),
            "saved RIP: next instruction / same instruction",
            id="wrong RIP",
        ),
        pytest.param(
            j.EOI_EXIT,
            exiting(interruption_information=GENERAL_PROTECTION),
            "VM-exit interruption information: valid bit 0 / 80000B0DH",
            id="interruption information valid",
        ),
        pytest.param(
            j.EOI_EXIT,
            exiting(idt_vectoring=0x80000051),
            "IDT-vectoring information: valid bit 0 / 80000051H",
            id="IDT-vectoring information valid",
        ),
        pytest.param(
            j.DELIVERED,
            step(j.DELIVERED_SEEN, 0, delivered=()),
            "interrupts delivered: 61H at step 2 / none",
            id="missing delivery",
        ),
        pytest.param(
            j.DELIVERED,
            step(j.DELIVERED_SEEN, 1, delivered=(replace(HANDLED, at=2),)),
            "step 2, RDMSR APICID (802H): interrupts delivered: none / 61H at step 3",
            id="extra delivery",
        ),
        pytest.param(
            j.DELIVERED,
            step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, vector=0x62),)),
            "61H at step 2 / 62H at step 2",
            id="wrong vector",
        ),
        pytest.param(
            j.DELIVERED,
            step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, at=0),)),
            "61H at step 2 / 61H at step 1",
            id="delivered too early",
        ),
        pytest.param(
            j.DELIVERED,
            step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, steps=()),)),
            "handler of 61H: 1 steps / 0 steps",
            id="handler without its EOI",
        ),
        pytest.param(
            j.DELIVERED,
            step(
                j.DELIVERED_SEEN,
                0,
                delivered=(replace(HANDLED, steps=(StepResult((VmExit(45, 0x61, Rip.NEXT),)),)),),
            ),
            "handler of 61H, step 1: completes / VM exit virtualized-eoi (45)",
            id="exit in the handler",
        ),
        pytest.param(
            j.READ,
            final(j.READ_SEEN, page=((0x24, 0),)),
            "final state: word 024H (APICID + 4) of the page: ABCD0001H / 0H",
            id="stray write into the page",
        ),
        pytest.param(
            j.EOI_EXIT,
            final(j.EOI_EXIT_SEEN, page=((0xA0, 0), (0x120, 0))),
            "word 0B4H (EOI + 4) of the page: 0H / 7H",
            id="missing write into the page",
        ),
        pytest.param(
            j.DELIVERED,
            final(j.DELIVERED_SEEN, page=((0xA0, 0x60), (0x3F0, 0x61))),
            "word 0A0H (PPR) of the page: 0H / 60H",
            id="VPPR left behind",
        ),
        pytest.param(j.READ, final(j.READ_SEEN, rvi=0x51), "RVI: 0H / 51H", id="RVI changed"),
        pytest.param(j.EOI_EXIT, final(j.EOI_EXIT_SEEN, svi=0x51), "SVI: 0H / 51H", id="SVI kept"),
        pytest.param(
            j.READ,
            final(j.READ_SEEN, pid=(1 << 0x31, 0, 0, 0, 0, 0, 0, 0)),
            "PIR of the posted-interrupt descriptor: none / 31H",
            id="descriptor changed without posted interrupts",
        ),
        pytest.param(
            j.READ,
            replace(j.READ_SEEN, entries=(VmfailValid(7),)),
            "first VM entry: VM entry succeeds / VMfailValid(7, invalid-control-fields)",
            id="VM entry fails",
        ),
        pytest.param(
            j.READ,
            replace(j.READ_SEEN, entries=(EntryFailure(33),)),
            "/ VM-entry failure with exit entry-failure-guest-state (33)",
            id="VM-entry failure",
        ),
        pytest.param(j.READ, replace(j.READ_SEEN, entries=(VmxAbort(4),)), "/ VMX abort 4", id="VMX abort"),
    ],
)
def test_a_difference_is_noticed(point: Point, observation: Observation, said: str) -> None:
    assert said in found(point, observation)
    assert "\n" not in found(point, observation), "one break, one difference"


def rdmsr_exit(**changed: Any) -> VmExit:
    return replace(VmExit(31, instruction_length=2), **changed)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (rdmsr_exit(), ""),
        (rdmsr_exit(instruction_length=3), "VM-exit instruction length: 2 / 3"),
        (rdmsr_exit(registers_kept=False), "RAX, RCX and RDX: as before the instruction / changed"),
        (rdmsr_exit(rip=Rip.NEXT), "saved RIP: same instruction / next instruction"),
        (rdmsr_exit(blocking=Blocking.STI), "interruptibility state: none / sti"),
        (rdmsr_exit(activity=Activity.HLT), "activity state: active / hlt"),
    ],
)
def test_fields_of_an_exit(outcome: VmExit, said: str) -> None:
    expected = StepExpected(Exit(31, blocking=Blocking(0), activity=Activity.ACTIVE))
    text = found(j.point(j.program(Rdmsr(0x802)), expected), j.seen(StepResult((outcome,))))
    assert said in text
    assert bool(said) is bool(text)


def test_fields_of_an_exit_that_are_not_judged_in_silence() -> None:
    point = j.point(j.program(Rdmsr(0x802)), StepExpected(Exit(31)))
    outcome = rdmsr_exit(blocking=Blocking.STI, activity=Activity.HLT)
    assert found(point, j.seen(StepResult((outcome,)))) == ""


@pytest.mark.parametrize("reason", [1, 7])
def test_an_exit_between_instructions(reason: int) -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(Exit(reason)))
    before, behind = VmExit(reason), VmExit(reason, rip=Rip.NEXT)
    for outcomes in ((before,), (before, Completed()), (Completed(), behind)):
        assert found(point, j.seen(StepResult(outcomes))) == ""
    for surplus in ((before,), (Fault(13),), (Completed(), Completed())):
        assert "after the VM exit" in found(point, j.seen(StepResult((before, *surplus))))
    assert "after the VM exit" in found(point, j.seen(StepResult((Completed(), behind, Completed()))))
    assert "saved RIP" in found(point, j.seen(StepResult((behind, Completed()))))
    assert "saved RIP" in found(point, j.seen(StepResult((Completed(), before))))
    assert found(point, j.seen(StepResult((Completed(),))))


def test_a_tpr_below_threshold_exit_of_vm_entry_comes_before_the_instruction() -> None:
    outcomes = (VmExit(43), Completed())
    silent = j.point(j.program(Plain.NOP), StepExpected(Exit(43)))
    named = j.point(j.program(Plain.NOP), StepExpected(Exit(43, rip=Rip.SAME)))
    assert "saved RIP: next" in found(silent, j.seen(StepResult(outcomes)))
    assert found(named, j.seen(StepResult(outcomes))) == ""


def test_an_exit_at_the_vm_entry_after_the_vmm() -> None:
    point = j.point(j.program(Plain.VMCALL, Raise(0x61)), StepExpected(), StepExpected(Exit(1)))
    vmcall = StepResult((VmExit(18),))
    assert found(point, j.seen(vmcall, StepResult((Completed(), VmExit(1, rip=Rip.NEXT))))) == ""
    assert found(point, j.seen(vmcall, StepResult((Completed(),))))
    silent = j.point(point.program, StepExpected(), StepExpected())
    assert found(silent, j.seen(vmcall, StepResult((Completed(), VmExit(1, rip=Rip.NEXT)))))


def test_the_information_of_an_acknowledged_interrupt_must_be_named() -> None:
    seen = j.seen(StepResult((VmExit(1, interruption_information=0x80000061),)))
    silent = j.point(j.program(Plain.NOP), StepExpected(Exit(1)))
    named = j.point(j.program(Plain.NOP), StepExpected(Exit(1, interruption_information=0x80000061)))
    assert "interruption information" in found(silent, seen)
    assert found(named, seen) == ""


@pytest.mark.parametrize(("action", "reason"), [(Plain.VMCALL, 18), (Cpuid(0), 10)])
def test_vmcall_and_cpuid_complete_by_their_exit(action: Any, reason: int) -> None:
    point = j.point(j.program(action), StepExpected())
    assert found(point, j.seen(StepResult((VmExit(reason, instruction_length=3),)))) == ""
    assert found(point, j.seen(StepResult((VmExit(reason, 1),))))
    assert found(point, j.seen(StepResult((Completed(),))))


@pytest.mark.parametrize(
    ("value", "fits"), [(0x50015, True), (0x50010, True), (0x5000F, False), (0x50016, False)]
)
def test_bits_are_judged_within_their_bounds(value: int, *, fits: bool) -> None:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Bits(((7, 0, 0x10, 0x15),))))
    assert (found(point, j.seen(StepResult((Completed(value),)))) == "") is fits


def test_any_value_will_do_where_only_completion_is_asked_for() -> None:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Completes()))
    assert found(point, j.seen(StepResult((Completed(0x1234),)))) == ""
    assert found(point, j.seen(StepResult((Completed(0x1234, upper_clear=False),))))
    assert found(point, j.seen(StepResult((Fault(13),))))


def test_one_of_takes_each_choice_and_nothing_else() -> None:
    choices = OneOf(
        (StepExpected(Value(1)), StepExpected(Exit(31)), StepExpected(delivers=(Delivers(0x51),))), "says so"
    )
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(choices))
    assert found(point, j.seen(StepResult((Completed(1),)))) == ""
    assert found(point, j.seen(StepResult((rdmsr_exit(),)))) == ""
    assert found(point, j.seen(StepResult((Completed(7),), (Delivery(0x51, 1),)))) == ""
    assert "value 1H or VM exit rdmsr (31) or" in found(point, j.seen(StepResult((Completed(2),))))
    assert found(point, j.seen(StepResult((rdmsr_exit(),), (Delivery(0x51, 1),))))


def physical(value: Completed | Fault | None, outcome: Completed | Fault) -> str:
    point = j.point(j.program(Rdmsr(0x803)), StepExpected(Relative.PHYSICAL))
    return found(point, j.seen(StepResult((outcome,), physical=value)))


def test_physical_is_what_root_operation_read() -> None:
    assert physical(Completed(0x50014), Completed(0x50014)) == ""
    assert physical(Fault(13, 0), Fault(13, 0)) == ""
    assert "value 50014H (physical) / value 1H" in physical(Completed(0x50014), Completed(1))
    assert "#GP(0) (physical) / value 1H" in physical(Fault(13, 0), Completed(1))
    assert "not known here" in physical(None, Completed(1))


def from_page(point: Point, *results: StepResult) -> str:
    return found(point, j.seen(*results, final=Final(page=((0x80, 0x41), (0x84, 0x9)))))


def test_from_page_is_what_was_last_written() -> None:
    read = StepExpected(Relative.FROM_PAGE)
    asked = j.program(Rdmsr(0x808), Wrmsr(0x808, 0x9_00000041), Rdmsr(0x808))
    point = j.point(asked, read, StepExpected(), read, after=After(page=((0x80, 0x41), (0x84, 0x9))))
    first = StepResult((Completed(j.PAGE.qword(0x80)),))
    written = StepResult((Completed(),))
    assert from_page(point, first, written, StepResult((Completed(0x9_00000041),))) == ""
    assert "(from-page)" in from_page(point, first, written, first)
    faulted = StepResult((Fault(13),))
    assert "step 3" not in from_page(point, first, faulted, first)


def test_from_page_follows_the_virtual_apic_address() -> None:
    asked = j.program(Rdmsr(0x802))
    own, stale, other = (
        replace(asked.vcpus[0], fields=((Field.VIRTUAL_APIC_ADDRESS, address),))
        for address in (PageAddress(Page.OWN), PageAddress(Page.STALE), PageAddress(Page.OF_VCPU, 1))
    )
    second = replace(asked.vcpus[0], page=replace(j.PAGE, words=((0x20, 0x77), (0x24, 0))))
    values = {own: j.APICID_VALUE, stale: STALE << 32 | STALE, other: 0x77}
    for setup, value in values.items():
        point = j.point(replace(asked, vcpus=(setup, second)), StepExpected(Relative.FROM_PAGE))
        assert found(point, j.seen(StepResult((Completed(value),)), vcpus=2)) == ""
        assert found(point, j.seen(StepResult((Completed(value + 1),)), vcpus=2))


def test_from_page_at_an_address_that_is_no_page_is_never_right() -> None:
    fields = ((Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.OWN, add=8)),)
    point = j.point(j.program(Rdmsr(0x802), fields=fields), StepExpected(Relative.FROM_PAGE))
    assert "not known here" in found(point, j.READ_SEEN)


def test_cr8_writes_the_tpr_of_the_page() -> None:
    point = j.point(
        j.program(WriteCr8(5), Rdmsr(0x808)),
        StepExpected(),
        StepExpected(Relative.FROM_PAGE),
        after=After(page=((0x80, 0x50),)),
    )
    upper = j.PAGE.word(0x84) << 32
    steps = (StepResult((Completed(),)), StepResult((Completed(upper | 0x50),)))
    assert found(point, j.seen(*steps, final=Final(page=((0x80, 0x50),)))) == ""


def two(page: PageAddress | None = None) -> Point:
    """Two virtual processors that read their own IDs; the second perhaps from another page."""
    base = j.program(Rdmsr(0x802), names=j.DELIVERY).vcpus[0]
    fields = () if page is None else ((Field.VIRTUAL_APIC_ADDRESS, page),)
    asked = Program(Level.VMX, (base, replace(base, fields=fields)), (Step(Rdmsr(0x802)),))
    return j.point(asked, StepExpected(Value(j.APICID_VALUE)))


def finals(first: Final, second: Final) -> Observation:
    return replace(j.READ_SEEN, entries=j.READ_SEEN.entries * 2, finals=(first, second))


def test_each_virtual_processor_is_judged() -> None:
    assert found(two(), finals(Final(), Final())) == ""
    assert "virtual processor 1, final state: RVI" in found(two(), finals(Final(), Final(rvi=1)))


def test_of_a_page_that_two_use_only_what_is_named_is_judged() -> None:
    stray = Final(page=((0x300, 1),))
    shared = PageAddress(Page.OF_VCPU, 0)
    assert "300H" in found(two(), finals(stray, Final()))
    assert found(two(shared), finals(stray, Final())) == ""
    assert "300H" in found(two(shared), finals(Final(), stray)), "its own page, which nobody uses"


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
        assert found(point, j.seen(nop, final=Final(page=words, svi=svi))) == ""
        wrong = () if words else ((0xA0, 0x34),)
        assert "0A0H (PPR)" in found(point, j.seen(nop, final=Final(page=wrong, svi=svi)))


def test_no_ppr_virtualization_where_vm_entry_fails() -> None:
    page = replace(j.PAGE, words=((0x80, 0x34), (0xA0, 0)))
    point = j.point(j.program(names=j.DELIVERY, page=page), entry=VmfailValid(7))
    failed = replace(j.seen(), entries=(VmfailValid(7),))
    assert found(point, failed) == ""
    assert "0A0H" in found(point, final(failed, page=((0xA0, 0x34),)))
    assert "first VM entry" in found(point, replace(failed, entries=(VmfailValid(8),)))


def test_what_the_vmm_changes_is_part_of_silence() -> None:
    vmm = Vmm(words=((0x80, 0x60), (0x300, 5)), rvi=0x33, svi=0x21)
    steps = (StepExpected(), StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, vmm, Plain.NOP, names=j.DELIVERY), *steps)
    results = (StepResult((VmExit(18),)), StepResult((Completed(),)), StepResult((Completed(),)))
    words = ((0x80, 0x60), (0xA0, 0x60), (0x300, 5))
    right = j.seen(*results, final=Final(page=words, rvi=0x33, svi=0x21))
    assert found(point, right) == ""
    assert "300H" in found(point, final(right, page=words[:2]))
    assert "RVI" in found(point, final(right, rvi=0))


def vmm_fails(*outcomes: Any) -> str:
    steps = (StepExpected(), StepExpected(EntryFails(VmfailValid(7))))
    point = j.point(j.program(Plain.VMCALL, Vmm(tpr_threshold=0x10)), *steps)
    return found(point, j.seen(StepResult((VmExit(18),)), StepResult(outcomes)))


def test_an_entry_that_fails_after_the_vmm() -> None:
    assert vmm_fails(Completed(), VmfailValid(7)) == vmm_fails(VmfailValid(7)) == ""
    assert "VMfailValid(7, invalid-control-fields) / VM entry succeeds" in vmm_fails(Completed())
    assert "/ VMfailValid(8" in vmm_fails(Completed(), VmfailValid(8))
    assert "/ not reached" in vmm_fails(Stuck.NOT_REACHED)


def test_a_first_entry_that_fails_after_the_vmm() -> None:
    point = j.point(j.program(Inject(0x20)), StepExpected(EntryFails(EntryFailure(33))))
    seen = j.seen(StepResult((Completed(),)))
    assert found(point, replace(seen, entries=(EntryFailure(33),))) == ""
    assert "first VM entry" in found(point, seen)


def test_an_unexpected_failure_of_an_entry_after_the_vmm() -> None:
    steps = (StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, Vmm(tpr_threshold=0)), *steps)
    failed = j.seen(StepResult((VmExit(18),)), StepResult((Completed(), VmfailValid(7))))
    assert "VM entry succeeds / VMfailValid(7" in found(point, failed)


@pytest.mark.parametrize(
    ("action", "index", "at"),
    [(Plain.NOP, 0, 2), (Plain.SPIN, 0, 0), (Barrier("here"), 0, 0), (Plain.HLT, 0, 2), (Plain.NOP, 2, 3)],
)
def test_where_a_saved_rip_points(action: Any, index: int, at: int) -> None:
    actions = [Plain.NOP, Inject(0x51), Plain.NOP]
    actions[index] = action
    expected = [StepExpected()] * 3
    expected[index] = StepExpected(delivers=(Delivers(0x51),))
    point = j.point(j.program(*actions), *expected)
    for place in range(4):
        results = [StepResult((Completed(),))] * 3
        results[index] = StepResult((Completed(),), (Delivery(0x51, place),))
        assert (found(point, j.seen(*results)) == "") is (place == at)


def test_a_delivery_may_be_expected_elsewhere() -> None:
    point = j.point(j.program(Plain.NOP), StepExpected(delivers=(Delivers(0x51, 0),)))
    assert found(point, j.seen(StepResult((Completed(),), (Delivery(0x51, 0),)))) == ""
    assert found(point, j.seen(StepResult((Completed(),), (Delivery(0x51, 1),))))


def test_steps_of_a_named_handler_are_judged() -> None:
    handler = (Step(Rdmsr(0x80A)),)
    asked = j.program(Plain.NOP, handlers=((0x51, handler),))
    expected = StepExpected(delivers=(Delivers(0x51),))
    point = j.point(asked, expected, handlers=((((0x51, (StepExpected(Value(0x50)),)),),)))
    for value, fits in ((0x50, True), (0x40, False)):
        inner = (StepResult((Completed(value),)),)
        seen = j.seen(StepResult((Completed(),), (Delivery(0x51, 1, inner),)))
        assert (found(point, seen) == "") is fits


def descriptor(pir: int = 0, control: int = 0, rest: int = 0) -> Final:
    return Final(pid=(pir, 0, 0, 0, control, rest, 0, 0))


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (descriptor(1 << 0x21, 0x00F2_0001), ""),
        (descriptor(0, 1), "PIR of the posted-interrupt descriptor: 21H / none"),
        (descriptor(1 << 0x21, 0), "ON of the posted-interrupt descriptor: 1 / 0"),
        (descriptor(1 << 0x21, 3), "SN of the posted-interrupt descriptor: 0 / 1"),
        (descriptor(1 << 0x21, 1, 5), "bits 511:320"),
    ],
)
def test_a_descriptor_that_nothing_names_is_as_set_up(seen: Final, said: str) -> None:
    posted = PostedInterrupts(pir=frozenset({0x21}), outstanding=True)
    point = j.point(j.program(Plain.NOP, posted=posted), StepExpected())
    text = found(point, j.seen(StepResult((Completed(),)), final=seen))
    assert said in text
    assert bool(said) is bool(text)


def test_a_descriptor_that_is_named() -> None:
    posted = PostedInterrupts(pir=frozenset({0x21}), outstanding=True)
    after = After(pid=PidExpected(outstanding=False, pir=frozenset()))
    point = j.point(j.program(Plain.NOP, posted=posted), StepExpected(), after=after)
    assert found(point, j.seen(StepResult((Completed(),)), final=descriptor())) == ""
    assert "ON" in found(point, j.seen(StepResult((Completed(),)), final=descriptor(0, 1)))


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
    text = found(point, j.seen(StepResult((Completed(),)), final=Final(physical=changed)))
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
    assert (found(point, j.seen(StepResult((Completed(),)), final=Final(page=page))) == "") is fits


@pytest.mark.parametrize(
    ("named", "seen"), [({"activity": Activity.HLT}, {}), ({"blocking": Blocking.STI}, {})]
)
def test_activity_and_blocking_are_judged_where_named(named: Any, seen: Any) -> None:
    silent = j.point(j.program(Plain.NOP), StepExpected())
    point = j.point(j.program(Plain.NOP), StepExpected(), after=After(**named))
    nop = StepResult((Completed(),))
    assert found(silent, j.seen(nop, final=Final(**named))) == ""
    assert found(point, j.seen(nop, final=Final(**named))) == ""
    assert "state" in found(point, j.seen(nop, final=Final(**seen)))


def test_a_post_of_the_vmm_is_no_place_for_a_saved_rip() -> None:
    post = Post(0, frozenset({0x51}), None, by_guest=False)
    expected = (StepExpected(delivers=(Delivers(0x51),)), StepExpected(), StepExpected())
    point = j.point(j.program(Plain.VMCALL, post, Plain.NOP), *expected)
    results = [StepResult((VmExit(18),), (Delivery(0x51, 2),)), *[StepResult((Completed(),))] * 2]
    assert found(point, j.seen(*results)) == ""
