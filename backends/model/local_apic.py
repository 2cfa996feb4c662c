"""The physical local APIC of one logical processor: its state, and the interrupts it takes and sends.

SDM: *Local APIC State*, *Interrupt, Task, and Processor Priority*, *Issuing Interprocessor Interrupts*.
What the registers do on RDMSR and WRMSR stands in `apic_registers`, IA32_APIC_BASE in `apic_base`.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from backends.model.implementation import Implementation
from backends.model.memory import NotModelled
from runner.apic import ICR, REGISTERS, REGISTERS_BY_NAME, TPR, ApicMode, logical_id, processor_priority

LVTS = tuple(register.msr for register in REGISTERS if register.name.startswith("LVT_"))
SVR, ESR, TIMER, INITIAL_COUNT, DCR = (
    REGISTERS_BY_NAME[name].msr for name in ("SVR", "ESR", "LVT_TIMER", "INITIAL_COUNT", "DCR")
)
TSC_DEADLINE = 0x6E0

MASKED, PERIODIC, ENABLED, BSP = 1 << 16, 1 << 17, 1 << 8, 1 << 8
SEND_ILLEGAL_VECTOR, RECEIVE_ILLEGAL_VECTOR = 1 << 5, 1 << 6
FIXED = 0b000
TO_DESTINATION, TO_SELF, TO_ALL = 0b00, 0b01, 0b10
EVERYBODY = 0xFFFFFFFF

RESET: MappingProxyType[int, int] = MappingProxyType(
    {
        **dict.fromkeys((TPR, ESR, ICR, INITIAL_COUNT, DCR, TSC_DEADLINE), 0),
        **dict.fromkeys(LVTS, MASKED),
        SVR: 0xFF,
    }
)
"""SDM: *Local APIC State After Power-Up or Reset* (rule apic.state-after-reset)."""

BASELINE: MappingProxyType[int, int] = MappingProxyType({**RESET, SVR: 0xFF | ENABLED})
"""What the registers hold before each program: as after RESET, and software-enabled."""


class LocalApic:
    """One local APIC, whose interrupts are all edge-triggered, so that TMR is 0.

    ``irr`` and ``isr`` have a bit a vector; ``errors`` wait for a write of ESR. ``registers`` are those
    that can be written, by MSR number. ``counting``: the timer's count has not run out. Time passes where
    a virtual processor waits, and nowhere else; then every count runs out.
    """

    __slots__ = (
        "base",
        "bus",
        "counting",
        "errors",
        "identity",
        "implementation",
        "irr",
        "isr",
        "mode",
        "registers",
    )

    def __init__(
        self, identity: int, mode: ApicMode, implementation: Implementation, bus: list[LocalApic]
    ) -> None:
        self.identity = identity
        self.mode = mode
        self.base = base_at_reset(identity)
        self.implementation = implementation
        self.bus = bus
        self.registers = BASELINE.copy()
        self.irr = self.isr = self.errors = 0
        self.counting = False

    def reset(self) -> None:
        """Lose every register but the IDs."""
        self.registers = RESET.copy()
        self.irr = self.isr = self.errors = 0
        self.counting = False

    @property
    def logical_identity(self) -> int:
        """Rule apic.ldr-derived-from-id; outside x2APIC mode the LDR as nobody has written it."""
        if self.mode is not ApicMode.X2APIC:
            return 0
        return logical_id(self.identity)

    @property
    def ppr(self) -> int:
        """Rule apic.ppr-from-tpr-and-isr; bits 3:0 for equal classes, which it leaves open, are TPR's."""
        return processor_priority(self.registers[TPR], highest(self.isr))

    @property
    def takes_interrupts(self) -> bool:
        """Rule apic.software-disabled-keeps-irr-and-isr."""
        return self.mode is not ApicMode.DISABLED and bool(self.registers[SVR] & ENABLED)

    def accept(self, vector: int) -> None:
        """Take a fixed, edge-triggered interrupt into IRR."""
        if vector < 16:
            self.errors |= RECEIVE_ILLEGAL_VECTOR
        elif self.takes_interrupts:
            self.irr |= 1 << vector

    def pending(self) -> int:
        """Return the vector that the processor is asked to take, or 0."""
        vector = highest(self.irr)
        return vector if self.takes_interrupts and vector >> 4 > self.ppr >> 4 else 0

    def acknowledge(self, vector: int) -> None:
        """Move a vector from IRR to ISR."""
        self.irr &= ~(1 << vector)
        self.isr |= 1 << vector

    def end_of_interrupt(self) -> None:
        """Rule apic.eoi-retires-highest-in-service."""
        if self.isr:
            self.isr &= ~(1 << highest(self.isr))

    def let_time_pass(self) -> None:
        """Let the timer's count run out; in periodic mode it starts again. SDM: *APIC Timer*."""
        entry = self.registers[TIMER]
        if self.counting and not entry & MASKED:
            self.accept(entry & 0xFF)
        self.counting = self.counting and bool(entry & PERIODIC)

    def send(self, command: int) -> None:
        """Send what an ICR value says. SDM: *ICR Operation in x2APIC Mode*."""
        delivery_mode = command >> 8 & 7
        if delivery_mode != FIXED:
            raise NotModelled(f"an IPI with delivery mode {delivery_mode:03b}B: the model sends fixed ones")
        vector = command & 0xFF
        if vector < 16:
            self.errors |= SEND_ILLEGAL_VECTOR
        for apic in self._targets(command):
            apic.accept(vector)

    def _targets(self, command: int) -> Iterator[LocalApic]:
        shorthand, destination = command >> 18 & 3, command >> 32
        logical = bool(command & 1 << 11)
        for apic in self.bus:
            if shorthand == TO_DESTINATION:
                if apic.answers_to(destination, logical=logical):
                    yield apic
            elif (apic is self and shorthand in (TO_SELF, TO_ALL)) or (
                apic is not self and shorthand >= TO_ALL
            ):
                yield apic

    def answers_to(self, destination: int, *, logical: bool) -> bool:
        """Whether a destination field means this APIC. SDM: *Logical Destination Mode in x2APIC Mode*."""
        if destination == EVERYBODY:
            return True
        if not logical:
            return destination == self.identity
        own = self.logical_identity
        return destination >> 16 == own >> 16 and bool(destination & own & 0xFFFF)


def base_at_reset(identity: int) -> int:
    """Return IA32_APIC_BASE after RESET but for the mode bits. SDM: *Local APIC Status and Location*."""
    return 0xFEE00000 | BSP * (identity == 0)


def highest(bits: int) -> int:
    """Return the highest vector among bits, or 0."""
    return bits.bit_length() - 1 if bits else 0
