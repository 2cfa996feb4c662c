"""What the runner sends to an adapter. It is made of programs alone, which hold no expectation.

Text is put together by hand: the shape is fixed, most of it is the same from case to case, and nothing
in it needs an escape. A test holds each line against ``adapters/protocol.schema.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from backends.adapter.platform import SHARED_STRUCTURES, Platform
from backends.adapter.setups import (
    CannotAskError,
    Vmcs,
    bitmap_json,
    controls_json,
    descriptor_json,
    fields_json,
    joined,
    msr_list_json,
    page_json,
    pairs,
)
from runner.program import (
    Barrier,
    Cpuid,
    Handler,
    InitSipi,
    Inject,
    Level,
    MmioRead,
    Plain,
    Post,
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
from runner.vmx import Field

PROTOCOL = 1
HELLO = f'{{"message":"hello","protocol":{PROTOCOL}}}\n'.encode()
STOP = b'{"message":"stop"}\n'
LONGEST_RUN = 1 << 20
"""Bytes of the longest case that the runner sends."""

_Instruction = (
    Rdmsr | Wrmsr | ReadCr8 | WriteCr8 | Plain | Cpuid | MmioRead | SetApicBase | Inject | Raise | InitSipi
)
"""Actions that need no look at the program around them."""

_MODE_BITS = 0xC00
_EVERY_BIT = (1 << 64) - 1
_MOST_KEPT = 4096


class Asks:
    """Makes the run lines for one adapter; what comes again is kept."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._texts: dict[Hashable, str] = {}
        shared = {
            "pid-pointer-table": platform.memory + SHARED_STRUCTURES[Field.PID_POINTER_TABLE_ADDRESS],
            "apic-access-page": platform.memory + SHARED_STRUCTURES[Field.APIC_ACCESS_ADDRESS],
            "stale-page": platform.stale_page,
        }
        self._shared = "{" + ",".join(f'"{name}":"{at:#x}"' for name, at in shared.items()) + "}"

    def body(self, program: Program) -> str:
        """Return a run line from its level on, which `line` completes. Raises `CannotAskError`."""
        if lack := self._platform.lacks(program):
            raise CannotAskError(lack)
        count = len(program.vcpus)
        setups = ",".join(
            [self._setup(program.level, setup, vcpu, count) for vcpu, setup in enumerate(program.vcpus)]
        )
        steps = ",".join([self._step(step, program) for step in program.steps])
        level, shared = program.level.value, self._shared
        text = f'"level":"{level}","shared":{shared},"vcpus":[{setups}],"steps":[{steps}]}}\n'
        if len(text) > LONGEST_RUN:
            raise CannotAskError(f"a case of {len(text)} bytes, {LONGEST_RUN} is the most")
        return text

    def _setup(self, level: Level, setup: Setup, vcpu: int, count: int) -> str:
        return self._kept((level, setup, vcpu, count), lambda: self._new_setup(level, setup, vcpu, count))

    def _kept(self, key: Hashable, make: Callable[[], str]) -> str:
        """Return a text that comes again, made once."""
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) >= _MOST_KEPT:
                self._texts.clear()
            text = self._texts[key] = make()
        return text

    def _fields(self, setup: Setup, vcpu: int, count: int) -> str:
        """Return the VMCS fields; most setups differ only in their pages."""
        of_vmcs = (setup.controls, setup.tpr_threshold, setup.rvi, setup.svi, setup.eoi_exit_bitmap)
        key = (*of_vmcs, setup.fields, setup.guest, setup.posted, setup.msr_lists, vcpu, count)
        return self._kept(key, lambda: fields_json(Vmcs(self._platform, setup, vcpu, count).fields()))

    def _new_setup(self, level: Level, setup: Setup, vcpu: int, count: int) -> str:
        platform, lists, guest = self._platform, setup.msr_lists, setup.guest
        at_vmx = level is Level.VMX
        fields = self._fields(setup, vcpu, count) if at_vmx else "[]"
        page = platform.address(Field.VIRTUAL_APIC_ADDRESS, vcpu) or 0
        return (
            f'{{"apic-mode":"{setup.apic_mode.value}",'
            f'"controls":{controls_json(setup.controls) if at_vmx else "[]"},'
            f'"fields":{fields},'
            f'"virtual-apic-page":{page_json(setup.page, page)},'
            f'"msr-bitmap":{bitmap_json(setup.msr_bitmap, self._bitmap_address(vcpu))},'
            f'"descriptor":{descriptor_json(setup.posted, vcpu, setup.apic_mode, platform)},'
            f'"msr-lists":{{"entry-load":{msr_list_json(lists.entry_load)},'
            f'"exit-store":{msr_list_json(lists.exit_store)},'
            f'"exit-load":{msr_list_json(lists.exit_load)}}},'
            f'"guest":{{"if":{guest.interrupt_flag:d},"tf":{guest.trap_flag:d},"cpl":{guest.cpl}}},'
            f'"handlers":{joined(self._handler(handler) for handler in setup.handlers)},'
            f'"eoi":{setup.eoi:d}}}'
        )

    def _bitmap_address(self, vcpu: int) -> int:
        return self._platform.address(Field.MSR_BITMAP_ADDRESS, vcpu) or 0

    def _handler(self, handler: Handler) -> str:
        vector, steps = handler
        return f'{{"vector":{vector},"steps":{joined(self._step(step, None) for step in steps)}}}'

    def _step(self, step: Step, program: Program | None) -> str:
        name, rest = self._action(step, program)
        return f'{{"step":"{name}","vcpu":{step.vcpu},"cpl":{step.cpl}{rest}}}'

    def _action(self, step: Step, program: Program | None) -> tuple[str, str]:
        """Return a step's name and its own keys; *program* is what VMM steps and barriers look at."""
        match step.action:
            case Post() as post:
                return "post", _post(post)
            case Barrier(name) if program is not None:
                return "barrier", f',"name":"{name}","waiting":{_waiting(program, name)}'
            case Vmm() as vmm if program is not None:
                return "vmm", self._vmm(vmm, step.vcpu, program)
            case Vmm() | Barrier():
                raise CannotAskError(f"the step {step.action!r} in a handler")
            case instruction:
                return _instruction(instruction)

    def _vmm(self, vmm: Vmm, vcpu: int, program: Program) -> str:
        vmcs = Vmcs(self._platform, program.vcpus[vcpu], vcpu, len(program.vcpus))
        bitmap = vmm.msr_bitmap
        return (
            f',"words":{pairs(vmm.words)}'
            f',"controls":{"null" if vmm.controls is None else controls_json(vmm.controls)}'
            f',"fields":{fields_json(vmcs.changes(vmm))}'
            f',"rvi":{_or_null(vmm.rvi)},"svi":{_or_null(vmm.svi)},"if":{_or_null(vmm.interrupt_flag)}'
            f',"msr-bitmap":{"null" if bitmap is None else bitmap_json(bitmap, self._bitmap_address(vcpu))}'
        )


def line(seq: int, left: int, body: str) -> bytes:
    """Return a run line: the *seq*-th case, behind which *left* of its batch follow."""
    return f'{{"message":"run","seq":{seq},"left":{left},{body}'.encode("ascii")


def _instruction(action: _Instruction) -> tuple[str, str]:
    match action:
        case Rdmsr(msr, garbage):
            return "rdmsr", f',"msr":"{msr:#x}","garbage":{garbage:d}'
        case Wrmsr(msr, value, garbage):
            return "wrmsr", f',"msr":"{msr:#x}","value":"{value:#x}","garbage":{garbage:d}'
        case Plain() as plain:
            return plain.value, ""
        case Raise(vector) | Inject(vector):
            return "raise" if isinstance(action, Raise) else "inject", f',"vector":{vector}'
        case ReadCr8():
            return "read-cr8", ""
        case WriteCr8(value):
            return "write-cr8", f',"value":"{value:#x}"'
        case rare:
            return _rare(rare)


def _rare(action: Cpuid | MmioRead | SetApicBase | InitSipi) -> tuple[str, str]:
    match action:
        case Cpuid(leaf):
            return "cpuid", f',"leaf":"{leaf:#x}"'
        case MmioRead(offset):
            return "mmio-read", f',"offset":"{offset:#x}"'
        case SetApicBase(value):
            mask = _EVERY_BIT if value & ~_MODE_BITS else _MODE_BITS
            return "set-apic-base", f',"value":"{value:#x}","mask":"{mask:#x}"'
        case InitSipi(to):
            return "init-sipi", f',"to":{to}'


def _post(post: Post) -> str:
    by = "guest" if post.by_guest else "vmm"
    vectors = joined(map(str, sorted(post.vectors)))
    return (
        f',"to":{post.to},"vectors":{vectors},"outstanding":{post.outstanding:d}'
        f',"notify":{_or_null(post.notify)},"by":"{by}"'
    )


def _waiting(program: Program, barrier: str) -> int:
    return len({step.vcpu for step in program.steps if step.action == Barrier(barrier)})


def _or_null(number: int | None) -> str:
    return "null" if number is None else str(int(number))
