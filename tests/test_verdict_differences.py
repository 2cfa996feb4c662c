"""One test a kind of difference: the judge notices it, and says where in SDM words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import judged as j
import pytest

from runner.outcome import (
    Completed,
    EntryFailure,
    Fault,
    Observation,
    Rip,
    StepResult,
    Stuck,
    VmExit,
    VmfailValid,
    VmxAbort,
)
from runner.scenario import (
    Point,
)


def exiting(**changed: Any) -> Observation:
    (outcome,) = j.EOI_EXIT_SEEN.steps[0].outcomes
    assert isinstance(outcome, VmExit)
    return j.step(j.EOI_EXIT_SEEN, 0, outcomes=(replace(outcome, **changed),))


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
    assert j.found(point, observation) == ""


@pytest.mark.parametrize(
    ("point", "observation", "said"),
    [
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(Completed(0xABCD0001_00000004),)),
            "step 1, RDMSR APICID (802H): value ABCD0001_00000003H / value ABCD0001_00000004H",
            id="wrong value",
        ),
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(Completed(0x3),)),
            "value ABCD0001_00000003H / value 3H",
            id="upper half from zero",
        ),
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(Completed(j.APICID_VALUE, upper_clear=False),)),
            "bits set in RAX[63:32] or RDX[63:32]",
            id="register bits 63:32 left set",
        ),
        pytest.param(
            j.READ, j.step(j.READ_SEEN, 0, outcomes=(Fault(13, 0),)), "/ #GP(0)", id="unexpected fault"
        ),
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(VmExit(31, instruction_length=2),)),
            "/ VM exit rdmsr (31)",
            id="unexpected exit",
        ),
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(VmExit(1), Completed(j.APICID_VALUE))),
            "/ VM exit external-interrupt (1), RIP same; then value",
            id="exit before the right value",
        ),
        pytest.param(
            j.READ,
            j.step(j.READ_SEEN, 0, outcomes=(Stuck.DID_NOT_RETURN,)),
            "/ did not return",
            id="did not return",
        ),
        pytest.param(j.READ, j.step(j.READ_SEEN, 0, outcomes=()), "/ nothing", id="no outcome"),
        pytest.param(
            j.EOI_EXIT,
            j.step(j.EOI_EXIT_SEEN, 0, outcomes=(Completed(),)),
            "VM exit virtualized-eoi (45), qualification 51H / completes",
            id="missing exit",
        ),
        pytest.param(
            j.EOI_EXIT,
            j.step(j.EOI_EXIT_SEEN, 0, outcomes=(VmExit(45, 0x51, Rip.NEXT), Completed())),
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
            j.step(j.DELIVERED_SEEN, 0, delivered=()),
            "interrupts delivered: 61H at step 2 / none",
            id="missing delivery",
        ),
        pytest.param(
            j.DELIVERED,
            j.step(j.DELIVERED_SEEN, 1, delivered=(replace(HANDLED, at=2),)),
            "step 2, RDMSR APICID (802H): interrupts delivered: none / 61H at step 3",
            id="extra delivery",
        ),
        pytest.param(
            j.DELIVERED,
            j.step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, vector=0x62),)),
            "61H at step 2 / 62H at step 2",
            id="wrong vector",
        ),
        pytest.param(
            j.DELIVERED,
            j.step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, at=0),)),
            "61H at step 2 / 61H at step 1",
            id="delivered too early",
        ),
        pytest.param(
            j.DELIVERED,
            j.step(j.DELIVERED_SEEN, 0, delivered=(replace(HANDLED, steps=()),)),
            "handler of 61H: 1 steps / 0 steps",
            id="handler without its EOI",
        ),
        pytest.param(
            j.DELIVERED,
            j.step(
                j.DELIVERED_SEEN,
                0,
                delivered=(replace(HANDLED, steps=(StepResult((VmExit(45, 0x61, Rip.NEXT),)),)),),
            ),
            "handler of 61H, step 1: completes / VM exit virtualized-eoi (45)",
            id="exit in the handler",
        ),
        pytest.param(
            j.READ,
            j.final(j.READ_SEEN, page=((0x24, 0),)),
            "final state: word 024H (APICID + 4) of the page: ABCD0001H / 0H",
            id="stray write into the page",
        ),
        pytest.param(
            j.EOI_EXIT,
            j.final(j.EOI_EXIT_SEEN, page=((0xA0, 0), (0x120, 0))),
            "word 0B4H (EOI + 4) of the page: 0H / 7H",
            id="missing write into the page",
        ),
        pytest.param(
            j.DELIVERED,
            j.final(j.DELIVERED_SEEN, page=((0xA0, 0x60), (0x3F0, 0x61))),
            "word 0A0H (PPR) of the page: 0H / 60H",
            id="VPPR left behind",
        ),
        pytest.param(j.READ, j.final(j.READ_SEEN, rvi=0x51), "RVI: 0H / 51H", id="RVI changed"),
        pytest.param(j.EOI_EXIT, j.final(j.EOI_EXIT_SEEN, svi=0x51), "SVI: 0H / 51H", id="SVI kept"),
        pytest.param(
            j.READ,
            j.final(j.READ_SEEN, pid=(1 << 0x31, 0, 0, 0, 0, 0, 0, 0)),
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
    assert said in j.found(point, observation)
    assert "\n" not in j.found(point, observation), "one break, one difference"
