"""Cases of the adapter protocol on this project's reference model.

It wraps the model: it is an example of the protocol, and no second reading of the SDM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backends.adapters.python.observations import observation_json
from backends.model import Model
from backends.model.implementation import Implementation
from runner.apic import PAGE_SIZE, ApicMode, Fill, VirtualApicPage
from runner.descriptor import CONTROL, DESCRIPTOR_BYTES, OUTSTANDING, SUPPRESS, word_at
from runner.outcome import BackendBroken, Unsupported
from runner.program import (
    Action,
    Barrier,
    Cpuid,
    GuestState,
    InitSipi,
    Inject,
    Level,
    MmioRead,
    MsrEntry,
    MsrLists,
    Number,
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

Json = Mapping[str, Any]

MEMORY = 0xF0000
"""Where the reference model's own memory has its structures, in the order of the protocol."""

_IMPLEMENTATION = Implementation()
_CONTROL_MSRS = (0x48D, 0x48E, 0x48B, 0x492, 0x48F, 0x490)
"""Where each control word's allowed settings are, in the order of the implementation's."""


class UnsupportedError(Exception):
    """The model lacks something that a case needs; the text says what."""


def _capability_msrs() -> Iterator[tuple[int, int]]:
    yield 0x480, 1 << 55  # IA32_VMX_BASIC: the MSRs with the true allowed settings exist
    yield 0x485, 0x1C0  # IA32_VMX_MISC: VM entry to HLT, shutdown and wait-for-SIPI
    for msr, allowed in zip(_CONTROL_MSRS, _IMPLEMENTATION.allowed, strict=True):
        yield msr, allowed.permitted if msr == 0x492 else allowed.permitted << 32 | allowed.required


CAPABILITIES: Json = {
    "name": "the reference model, behind an adapter",
    "version": Model().identity().version,
    "levels": ["vmx", "guest"],
    "vcpus": 8,
    "batch": 256,
    "memory": hex(MEMORY),
    "physical-address-width": _IMPLEMENTATION.physical_address_width,
    "x2apic": 1,
    "apic-version": "0x1060015",
    "msrs": [[hex(msr), hex(value)] for msr, value in sorted(_capability_msrs())],
}

_MODEL = Model()


def run(case: Json) -> dict[str, Any]:
    """Return the observation of one case. Raises `UnsupportedError`."""
    [answer] = _MODEL.run([_program(case)])
    if isinstance(answer, Unsupported):
        raise UnsupportedError(answer.reason)
    if isinstance(answer, BackendBroken):
        raise RuntimeError(answer.reason)  # noqa: TRY004 - it is the case's trouble, not its type
    return observation_json(answer)


def _program(case: Json) -> Program:
    vcpus, steps = tuple(map(_setup, case["vcpus"])), tuple(map(_step, case["steps"]))
    if not vcpus or any(step.vcpu >= len(vcpus) for step in steps):
        raise ValueError("a step of a virtual processor that is not there")
    return Program(Level(case["level"]), vcpus, steps)


def _setup(given: Json) -> Setup:
    guest = given["guest"]
    return Setup(
        apic_mode=ApicMode(given["apic-mode"]),
        page=_page(given["virtual-apic-page"]),
        msr_bitmap=_bitmap(given["msr-bitmap"]),
        posted=_posted(given["descriptor"]),
        fields=_fields(given["fields"]),
        msr_lists=MsrLists(
            *(_msr_list(given["msr-lists"][name]) for name in ("entry-load", "exit-store", "exit-load"))
        ),
        guest=GuestState(bool(guest["if"]), bool(guest["tf"]), guest["cpl"]),
        handlers=tuple(
            (_below(256, each["vector"]), tuple(map(_step, each["steps"]))) for each in given["handlers"]
        ),
        eoi=bool(given["eoi"]),
    )


def _page(given: Json) -> VirtualApicPage:
    return VirtualApicPage(Fill(given["fill"]), _number(given["value"]), _words(given["words"]))


def _bitmap(given: Json) -> MsrBitmap:
    return MsrBitmap(_pairs(given["reads"]), _pairs(given["writes"]))


def _fields(given: Sequence[Sequence[str]]) -> tuple[tuple[Field, Number], ...]:
    """Return the fields that the model knows; it refuses any other, so those that are 0 stay away."""
    fields = ((Field(_number(encoding)), _number(value)) for encoding, _, value in given)
    return tuple(
        (field, Number(value)) for field, value in fields if value or field is not Field.IA32_DEBUGCTL
    )


def _posted(given: Json) -> PostedInterrupts | None:
    if not given["words"]:
        return None
    words = [_number(word) for word in given["words"]]
    wrong = _number(given["pid-pointer"]) ^ (_number(given["address"]) | 1)
    return PostedInterrupts(
        pir=frozenset(bit for bit in range(256) if words[bit // 64] >> bit % 64 & 1),
        outstanding=bool(words[4] & OUTSTANDING),
        suppress=bool(words[4] & SUPPRESS),
        words=tuple((offset, word_at(words, offset)) for offset in range(CONTROL, DESCRIPTOR_BYTES, 4)),
        pid_pointer_flip=wrong.bit_length() - 1 if wrong else None,
    )


def _msr_list(given: Sequence[Sequence[str]]) -> tuple[MsrEntry, ...]:
    return tuple(MsrEntry(msr, value) for msr, value in _pairs(given))


def _step(given: Json) -> Step:
    return Step(_action(given), _below(8, given["vcpu"]), {0: 0, 3: 3}[given["cpl"]])


def _action(given: Json) -> Action:
    kind = given["step"]
    read = _ACTIONS.get(kind)
    return Plain(kind) if read is None else read(given)


def _post(given: Json) -> Post:
    vectors, by_guest = frozenset(_below(256, each) for each in given["vectors"]), given["by"] == "guest"
    return Post(given["to"], vectors, given["notify"], bool(given["outstanding"]), by_guest)


def _vmm(given: Json) -> Vmm:
    bitmap, interrupt_flag = given["msr-bitmap"], given["if"]
    return Vmm(
        words=_words(given["words"]),
        msr_bitmap=None if bitmap is None else _bitmap(bitmap),
        rvi=None if given["rvi"] is None else _below(256, given["rvi"]),
        svi=None if given["svi"] is None else _below(256, given["svi"]),
        fields=_fields(given["fields"]),
        interrupt_flag=None if interrupt_flag is None else bool(interrupt_flag),
    )


_ACTIONS: Mapping[str, Callable[[Json], Action]] = {
    "rdmsr": lambda given: Rdmsr(_number(given["msr"], 32), bool(given["garbage"])),
    "wrmsr": lambda given: Wrmsr(_number(given["msr"], 32), _number(given["value"]), bool(given["garbage"])),
    "read-cr8": lambda _: ReadCr8(),
    "write-cr8": lambda given: WriteCr8(_number(given["value"])),
    "cpuid": lambda given: Cpuid(_number(given["leaf"], 32)),
    "mmio-read": lambda given: MmioRead(_number(given["offset"])),
    "set-apic-base": lambda given: SetApicBase(_number(given["value"])),
    "init-sipi": lambda given: InitSipi(given["to"]),
    "barrier": lambda given: Barrier(given["name"]),
    "inject": lambda given: Inject(_below(256, given["vector"])),
    "raise": lambda given: Raise(_below(256, given["vector"])),
    "post": _post,
    "vmm": _vmm,
}


def _pairs(given: Sequence[Sequence[str]]) -> tuple[tuple[int, int], ...]:
    return tuple((_number(one), _number(other)) for one, other in given)


def _words(given: Sequence[Sequence[str]]) -> tuple[tuple[int, int], ...]:
    return tuple((_below(PAGE_SIZE, _number(offset)), _number(word, 32)) for offset, word in given)


def _number(text: str, bits: int = 64) -> int:
    return _below(1 << bits, int(text, 16))


def _below(limit: int, number: int) -> int:
    if not 0 <= number < limit:
        raise ValueError(f"{number:#x} is no number below {limit:#x}")
    return number
