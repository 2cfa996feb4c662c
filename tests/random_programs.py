"""Programs put together by chance, the same for the same seed: what nobody thought of when writing a case.

Left out is what the SDM leaves open, or what is the kit's own: single-stepping through a wait or a MOV SS,
CR8 and the registers of a local APIC that is disabled from the start.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from programs import DELIVERY, REGISTERS, TPR_ONLY, page

from runner.apic import ApicMode
from runner.program import (
    Action,
    Cpuid,
    GuestState,
    Inject,
    Level,
    MmioRead,
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
from runner.vmx import CONTROLS_BY_NAME, Activity, Blocking, Controls, MsrBitmap

T = TypeVar("T")

VECTORS = (0x0, 0x5, 0xF, 0x10, 0x1F, 0x20, 0x21, 0x31, 0x41, 0x51, 0x5F, 0x61, 0x71, 0x91, 0xE1, 0xF2, 0xFF)
INTERRUPTS = VECTORS[3:]
POSTED = DELIVERY.plus(
    CONTROLS_BY_NAME[name] for name in ("process-posted-interrupts", "acknowledge-interrupt-on-exit")
)
IPI = POSTED.plus(CONTROLS_BY_NAME[name] for name in ("activate-tertiary-controls", "ipi-virtualization"))
TOGGLED = (
    "interrupt-window-exiting",
    "hlt-exiting",
    "cr8-load-exiting",
    "cr8-store-exiting",
    "use-tpr-shadow",
    "use-msr-bitmaps",
    "activate-secondary-controls",
    "virtualize-x2apic-mode",
    "apic-register-virtualization",
    "virtual-interrupt-delivery",
    "external-interrupt-exiting",
    "acknowledge-interrupt-on-exit",
    "virtualize-apic-accesses",
    "process-posted-interrupts",
)
MSRS = (*range(0x800, 0x840), *(0x808, 0x80B, 0x83F) * 8, 0x8FF, 0x900, 0x1B)
NATIVE_VALUES = (0x0, 0x5, 0xB, 0x51, 0xFF, 0x1FF, 0x11FF, 0x700, 0x10000, 0x10051, 0x10700, 0x11051, 0x14051)
PLAIN = (Plain.STI,) * 4 + (Plain.CLI,) * 2 + (Plain.NOP,) * 5 + (Plain.MOV_SS,)
ENDS = (Plain.HLT, Plain.SPIN, Plain.VMCALL, Cpuid(1))


class Chance(random.Random):
    """Chooses the parts of programs."""

    def some(self, among: Sequence[T], *counts: int) -> list[T]:
        return self.sample(among, self.choice(counts))

    def controls(self) -> Controls:
        chosen = self.choice((TPR_ONLY, REGISTERS, DELIVERY, POSTED, IPI))
        for name in self.some(TOGGLED, 0, 0, 0, 1, 2):
            control = CONTROLS_BY_NAME[name]
            chosen = chosen.minus([control]) if chosen.has(control) else chosen.plus([control])
        return chosen

    def value(self, msr: int) -> int:
        if msr in (0x80B, 0x828, 0x838):
            return self.choice((0, 0, 0, 1)) * (msr != 0x838)
        if msr == 0x830:
            return self.choice((0, 0, 1, 2)) << 32 | self.choice(
                (0x71, 0x51, 0x40F1, 0x44051, 0x10, 0x5, 0x1071, 0x871)
            )
        if msr == 0x1B:
            return self.choice((0xFEE00D00, 0xFEE00900, 0xFEE00100))
        if msr in (0x808, 0x83F):
            return self.choice((self.randrange(256), *VECTORS, 0x151, 1 << 32))
        return self.choice(NATIVE_VALUES)

    def instruction(self) -> Action:
        kind, msr = self.random(), self.choice(MSRS)
        if kind < 0.2:
            return Rdmsr(msr) if msr not in (0x839, 0x900) else ReadCr8()
        if kind < 0.55:
            return Wrmsr(msr, self.value(msr)) if msr not in (0x832, 0x900) else WriteCr8(0)
        if kind < 0.7:
            return self.choice((ReadCr8(), WriteCr8(self.choice((0, 1, 4, 5, 6, 15, 16)))))
        return self.choice(PLAIN)

    def vmm(self) -> Action:
        kind = self.random()
        if kind < 0.4:
            return self.choice((Raise(self.choice(INTERRUPTS)), Raise(0xF2), Inject(self.choice(INTERRUPTS))))
        if kind < 0.5:
            return self.post(by_guest=False)
        changes: dict[str, Any] = {
            "tpr_threshold": self.randrange(16),
            "rvi": self.choice(VECTORS),
            "svi": self.choice(VECTORS),
            "interrupt_flag": self.random() < 0.5,
            "blocking": self.choice((Blocking(0), Blocking.STI, Blocking.MOV_SS, Blocking.NMI)),
            "controls": self.controls(),
            "words": ((0x80, self.choice((0, 0x20, 0x50, 0x60))),),
            "activity": self.choice((Activity.ACTIVE, Activity.HLT)),
        }
        return Vmm(**{name: changes[name] for name in changes if self.random() < 0.2})

    def post(self, *, by_guest: bool) -> Post:
        vectors = frozenset(self.some(VECTORS, 0, 1, 2))
        return Post(0, vectors, self.choice((None, 0xF2, 0x41)), self.random() < 0.7, by_guest)

    def handlers(self) -> tuple[tuple[int, tuple[Step, ...]], ...]:
        return tuple(
            (vector, tuple(Step(self.instruction()) for _ in range(self.randrange(1, 4))))
            for vector in sorted(self.some(INTERRUPTS, 0, 1, 2))
        )

    def setup(self) -> Setup:
        isr, irr, open_ = (
            self.some(INTERRUPTS, 0, 0, 1, 2),
            self.some(INTERRUPTS, 0, 1, 1, 2, 3),
            self.random() < 0.7,
        )
        blocked = (Blocking.MOV_SS, Blocking.NMI, *[Blocking.STI] * 2 * open_)
        guest = GuestState(
            interrupt_flag=open_,
            cpl=self.choice((*[0] * 12, 3)),
            blocking=self.choice((*[Blocking(0)] * 6, *blocked)),
            activity=self.choice((*[Activity.ACTIVE] * 10, Activity.HLT, Activity.SHUTDOWN)),
            exception_bitmap=frozenset(self.some((1, 6, 13), 0, 0, 0, 0, 1)),
        )
        exits = self.some((0x808, 0x80B, 0x830, 0x83F, 0x802), 0, 0, 0, 1)
        return Setup(
            controls=self.controls(),
            msr_bitmap=MsrBitmap(tuple((msr, msr) for msr in exits), tuple((msr, msr) for msr in exits)),
            apic_mode=self.choice((*[ApicMode.X2APIC] * 5, ApicMode.XAPIC)),
            page=page(isr=tuple(isr), irr=tuple(irr), x80=self.choice((0, 0, 0, 0x20, 0x57, 0x60, 0xF0))),
            tpr_threshold=self.choice((0, 0, 0, 2, 4, 15)),
            rvi=self.choice((0, 0, *irr, *VECTORS)),
            svi=self.choice((0, *isr, *VECTORS[:8])),
            eoi_exit_bitmap=frozenset(self.some(VECTORS, 0, 0, 2)),
            posted=PostedInterrupts(0xF2, frozenset(self.some(VECTORS, 0, 1, 2)), self.random() < 0.5),
            guest=guest,
            handlers=self.handlers(),
            eoi=self.random() < 0.4,
        )

    def vmx(self) -> Program:
        steps: list[Step] = []
        for _ in range(self.randrange(1, 8)):
            kind = self.random()
            if kind < 0.12:
                steps += [Step(Plain.VMCALL)] * bool(steps) + [Step(self.vmm())]
            elif kind < 0.2:
                steps.append(Step(self.choice((*ENDS, self.post(by_guest=True)))))
            else:
                action = self.instruction()
                steps.append(Step(action, cpl=3 * (action is not Plain.MOV_SS and self.random() < 0.07)))
        return Program(Level.VMX, (self.setup(),), (*steps, Step(Plain.NOP)))

    def guest(self) -> Program:
        setup = Setup(
            apic_mode=self.choice((*[ApicMode.X2APIC] * 5, ApicMode.XAPIC)),
            guest=GuestState(interrupt_flag=self.random() < 0.6),
            handlers=self.handlers(),
            eoi=self.random() < 0.5,
        )
        own = (
            SetApicBase(0x400),
            SetApicBase(0xC00),
            SetApicBase(0x800),
            *map(MmioRead, range(0x20, 0x3F0, 0x10)),
        )
        steps = [
            self.choice(own) if self.random() < 0.2 else self.instruction()
            for _ in range(self.randrange(2, 12))
        ]
        return Program(Level.GUEST, (setup,), tuple(map(Step, (*steps, Plain.NOP))))
