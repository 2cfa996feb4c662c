"""Level *guest*: programs on logical processors and their local APICs, without VMX.

SDM: *Local APIC*, *Interrupt, Task, and Processor Priority*, *Masking Maskable Hardware Interrupts*.
"""

from __future__ import annotations

from backends.model import apic_base, apic_registers, instructions
from backends.model.apic_base import EN, EXTD, IA32_APIC_BASE
from backends.model.instructions import Result
from backends.model.local_apic import RESET, base_at_reset
from backends.model.memory import NotModelled
from backends.model.processor import Processor
from backends.model.waiting import Run
from runner.apic import TPR, ApicMode, is_x2apic
from runner.outcome import GP0, Completed, Fault
from runner.program import (
    Action,
    Cpuid,
    GuestState,
    InitSipi,
    MmioRead,
    Plain,
    Rdmsr,
    ReadCr8,
    SetApicBase,
    WriteCr8,
    Wrmsr,
)
from runner.vmx import Activity

COMPLETED = Completed()
_FEATURES, _TOPOLOGY = 0x1, 0xB
_X2APIC, _APIC = 1 << 21, 1 << 9 + 32


class NativeProcessor(Processor):
    """One logical processor outside VMX operation; of its VMCS only RFLAGS and the like are in use.

    ``peers`` are all processors of the machine.
    """

    peers: list[Processor]

    def run(self) -> Run:
        """Perform the program's steps on this processor, to its end."""
        guest = self.setup.guest
        if guest != GuestState(interrupt_flag=guest.interrupt_flag):
            raise NotModelled("at level guest, a start with TF, CPL, blocking or activity state")
        for step, record in zip(self.program.steps, self.program.records, strict=True):
            if isinstance(step.action, Rdmsr):
                record.physical = Completed(self.cpu.apic.identity)
        yield from self.perform()

    def execute(self, action: Action) -> Result:
        """Execute one instruction; nothing exits."""
        if isinstance(action, Rdmsr | Wrmsr | SetApicBase | ReadCr8 | WriteCr8):
            return self._privileged(action)
        match action:
            case Cpuid(leaf):
                return self._cpuid(leaf)
            case MmioRead(offset):
                return self._load(offset)
            case InitSipi(to):
                return self._start(self.peers[to])
            case Plain.DUMP_AT_RESET:
                self.cpu.trace.by("apic.state-after-reset", "the registers as they were after RESET")
                return COMPLETED
            case Plain() if action is not Plain.VMCALL:
                return instructions.perform(self.cpu, action)
            case _:
                raise NotModelled(f"at level guest, the step {action!r}")

    def _privileged(self, action: Rdmsr | Wrmsr | SetApicBase | ReadCr8 | WriteCr8) -> Completed | Fault:
        cpu, apic = self.cpu, self.cpu.apic
        if cpu.cpl:
            of_cr8 = isinstance(action, ReadCr8 | WriteCr8)
            rule = "apic.cr8-write-faults" if of_cr8 else "apic.msr-access-needs-cpl0"
            cpu.trace.by(rule, "CPL is {}: #GP(0)", cpu.cpl)
            return GP0
        match action:
            case Rdmsr(msr):
                return self._rdmsr(msr)
            case Wrmsr(msr, value):
                return self._wrmsr(msr, value)
            case SetApicBase(value):
                return apic_base.write(apic, _over(apic.base, value), cpu.trace)
            case ReadCr8():
                cpu.trace.by("apic.cr8-is-tpr-class", "the TPR is {:02X}H", apic.registers[TPR])
                return Completed(apic.registers[TPR] >> 4)
            case WriteCr8(value):
                return self._write_cr8(value)

    def _rdmsr(self, msr: int) -> Completed | Fault:
        if msr == IA32_APIC_BASE:
            self.cpu.trace.by("mode.state-from-en-and-extd", "the APIC's mode is in bits 11:10")
            return Completed(apic_base.read(self.cpu.apic))
        if is_x2apic(msr):
            return apic_registers.rdmsr(self.cpu.apic, msr, self.cpu.trace)
        raise NotModelled(f"at level guest, RDMSR {msr:X}H")

    def _wrmsr(self, msr: int, value: int) -> Completed | Fault:
        if msr == IA32_APIC_BASE:
            return apic_base.write(self.cpu.apic, value, self.cpu.trace)
        if is_x2apic(msr):
            return apic_registers.wrmsr(self.cpu.apic, msr, value, self.cpu.trace)
        raise NotModelled(f"at level guest, WRMSR {msr:X}H")

    def _write_cr8(self, value: int) -> Completed | Fault:
        by = self.cpu.trace.by
        if value >> 4:
            by("apic.cr8-write-faults", "{:X}H sets bits 63:4: #GP(0)", value)
            return GP0
        by("apic.cr8-is-tpr-class", "the TPR becomes {:02X}H", value << 4)
        self.cpu.apic.registers[TPR] = value << 4
        return COMPLETED

    def _load(self, offset: int) -> Completed:
        if self.cpu.apic.mode is ApicMode.X2APIC:
            self.cpu.trace.by("apic.no-mmio-in-x2apic-mode", "the load does not reach the APIC")
        return Completed(apic_registers.load(self.cpu.apic, offset))

    def _cpuid(self, leaf: int) -> Completed:
        """Return EDX:ECX, as far as the local APIC decides it."""
        apic, by = self.cpu.apic, self.cpu.trace.by
        if leaf == _TOPOLOGY:
            return Completed(apic.identity << 32)
        if leaf != _FEATURES:
            return COMPLETED
        by("apic.x2apic-announced-by-cpuid", "ECX bit 21 is 1")
        if apic.mode is ApicMode.DISABLED:
            by("mode.disabled-clears-cpuid-bit", "the APIC is globally disabled: EDX bit 9 is 0")
            return Completed(_X2APIC)
        return Completed(_X2APIC | _APIC)

    def _start(self, target: Processor) -> Completed:
        """Send INIT, then start-up IPIs that lead the processor behind the HLT that it is in or before."""
        cpu, stream = target.cpu, target.stream
        before_hlt = not stream.at_end and stream.step.action is Plain.HLT
        if not cpu.halted and not before_hlt:
            raise NotModelled("INIT to a processor that does not wait for it in HLT")
        keeps_mode = {ApicMode.X2APIC: "mode.init-keeps-x2apic"}
        rule = keeps_mode.get(cpu.apic.mode, "mode.init-keeps-xapic-and-disabled")
        self.cpu.trace.by(rule, "INIT leaves the APIC of processor {} its mode and its ID", cpu.index)
        cpu.apic.reset()
        cpu.vmcs.interrupt_flag = False
        if before_hlt:
            stream.record.add(COMPLETED)
            stream.next += 1
        cpu.vmcs.guest_activity_state = int(Activity.ACTIVE)
        return COMPLETED

    @property
    def at_reset(self) -> tuple[tuple[int, int], ...]:
        """IA32_APIC_BASE and the watched registers as RESET leaves them, if the program asks for them.

        SDM: *Local APIC State After Power-Up or Reset*, *x2APIC State Transitions From RESET*.
        """
        if all(step.action is not Plain.DUMP_AT_RESET for step in self.program.steps):
            return ()
        registers = ((msr, RESET.get(msr, 0)) for msr in apic_registers.WATCHED)
        return (IA32_APIC_BASE, base_at_reset(self.cpu.index) | EN), *registers

    def _external_interrupt(self) -> Run:
        vector = self.cpu.apic.pending()
        self.cpu.trace.by("apic.ppr-from-tpr-and-isr", "vector {:02X}H has a class above the PPR's", vector)
        self.cpu.apic.acknowledge(vector)
        yield from self._interrupt(vector)


def _over(base: int, value: int) -> int:
    """Return what set-apic-base writes: mode bits go over the address and the BSP flag."""
    return value if value & ~(EN | EXTD) else base | value
