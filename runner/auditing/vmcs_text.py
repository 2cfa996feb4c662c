"""The text that Linux' ``dump_vmcs`` and Xen's debug key ``v`` print, as it stands in a log.

Both print fields as ``Name=hex`` or ``Name = hex``; what a log puts before a line plays no part. A field
that the printing kernel leaves out stays unknown. Neither prints the MSR bitmap or the virtual-APIC page;
Xen prints no virtual-APIC address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from runner.auditing.state import Dump, VcpuState
from runner.program import MsrEntry, MsrLists
from runner.reading.nodes import Mark, Notes
from runner.vmx import Field

GUEST_STATE, CONTROL_STATE = "*** Guest State ***", "*** Control State ***"
RFLAGS, SS = "RFLAGS", "SS attr"
INTERRUPT_FLAG, TRAP_FLAG = 1 << 9, 1 << 8

NAMES: Mapping[str, Field] = MappingProxyType(
    {
        "PinBased": Field.PIN_BASED_CONTROLS,
        "CPUBased": Field.PRIMARY_PROCESSOR_BASED_CONTROLS,
        "SecondaryExec": Field.SECONDARY_PROCESSOR_BASED_CONTROLS,
        "TertiaryExec": Field.TERTIARY_PROCESSOR_BASED_CONTROLS,
        "EntryControls": Field.VM_ENTRY_CONTROLS,
        "ExitControls": Field.VM_EXIT_CONTROLS,
        "ExceptionBitmap": Field.EXCEPTION_BITMAP,
        "TPR Threshold": Field.TPR_THRESHOLD,
        "APIC-access addr": Field.APIC_ACCESS_ADDRESS,
        "virt-APIC addr": Field.VIRTUAL_APIC_ADDRESS,
        "PostedIntrVec": Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR,
        "InterruptStatus": Field.GUEST_INTERRUPT_STATUS,
        "Interruptibility": Field.GUEST_INTERRUPTIBILITY_STATE,
        "ActivityState": Field.GUEST_ACTIVITY_STATE,
        "DebugCtl": Field.IA32_DEBUGCTL,
        "DebugExceptions": Field.GUEST_PENDING_DEBUG_EXCEPTIONS,
        "VMEntry: intr_info": Field.VM_ENTRY_INTERRUPTION_INFORMATION,
    }
)
"""What is printed of a VMCS, and the field it is; Linux and Xen use the same names."""

REQUIRED = ("PinBased", "CPUBased", "SecondaryExec")
"""Without these nothing can be said of a VMCS; each of the kernels always prints them."""

_PRINTED = re.compile(
    rf"(?<![\w-])(?P<name>{'|'.join(map(re.escape, NAMES))}|RFLAGS)\s*=\s*(?P<value>[^\s,]*)"
    r"|SVI\|RVI\s*=\s*(?P<status>\S*)"
    r"|(?<!\w)SS:?\s+(?:sel=\S+\s+attr=(?P<linux>[^\s,]*)|(?P<sel>[0-9a-f]{4})\s+(?P<xen>\S*))"
)
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{1,16}")
_STATUS = re.compile(r"([0-9a-fA-F]{2})\|([0-9a-fA-F]{2})")
_LIST = re.compile(r"MSR (guest autoload|host autoload|autostore):")
_ENTRY = re.compile(r"\d+: msr=(?:0x)?([0-9a-f]{1,8}) value=(?:0x)?([0-9a-f]{1,16})")
_VMCS = re.compile(r"VMCS (\S+), last attempted VM-entry on CPU")
_VPID = re.compile(r"Virtual processor ID = (\S+)")
_DOMAIN = re.compile(r">>> Domain (\d+) <<<")
_OF_XEN = re.compile(r"d(\d+)v(\d+)")
_VCPU = re.compile(r"\bVCPU (\d+)\s*$")


def is_vmcs_text(text: str) -> bool:
    """Whether a file is such a text."""
    return GUEST_STATE in text or CONTROL_STATE in text


class _Block(NamedTuple):
    """The text of one VMCS: who is dumped, and the lines with their numbers."""

    owner: str
    lines: tuple[tuple[int, str], ...]


def parse(text: str, file: str, notes: Notes) -> Dump:
    """Return what a text says; what is wrong with it is noted."""
    lines = list(_unwrapped(list(enumerate(text.splitlines(), 1))))
    last: dict[str, VcpuState] = {}
    blocks = list(_blocks(lines, notes))
    for block in blocks:
        last[block.owner] = _state(block, notes)
    names = _names(list(last))
    form = "Xen's VMCS dump" if "(XEN)" in text or _DOMAIN.search(text) else "the text of dump_vmcs"
    states = tuple(replace(state, name=names[owner]) for owner, state in last.items())
    told = all(map(_OF_XEN.fullmatch, last))
    return Dump(file, form, states, () if told else tuple(_who(blocks, names, states)))


def _unwrapped(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the lines, those that end in ``=`` with the start of the next: where mail programs break them."""
    for (number, line), (_, following) in pairwise([*lines, (0, "")]):
        value = following.lstrip("> ").partition(" ")[0]
        yield (
            number,
            f"{line.rstrip()} {value}" if line.rstrip().endswith("=") and _HEX.fullmatch(value) else line,
        )


def _names(owners: list[str]) -> Mapping[str, str]:
    """Return Xen's numbers, ``0`` in one domain, ``d1v0`` in several; without them places in the text."""
    numbers = [_OF_XEN.fullmatch(owner) for owner in owners]
    if not all(numbers):
        return {owner: str(place) for place, owner in enumerate(owners)}
    one = len({each[1] for each in numbers if each}) == 1
    return {each[0]: each[2] if one else each[0] for each in numbers if each}


def _who(blocks: list[_Block], names: Mapping[str, str], states: tuple[VcpuState, ...]) -> Iterator[str]:
    """Yield whose dump each virtual processor's is, where its number is not printed."""
    for (owner, name), state in zip(names.items(), states, strict=True):
        count = sum(block.owner == owner for block in blocks)
        more = f", the last of {count} dumps" if count > 1 else ""
        yield f"virtual processor {name} is {owner}, line {state.line}{more}"


def _blocks(lines: list[tuple[int, str]], notes: Notes) -> Iterator[_Block]:
    """Yield each VMCS; what belongs to none is passed over."""
    starts = [index for index, (_, line) in enumerate(lines) if GUEST_STATE in line]
    first_control = next((index for index, (_, line) in enumerate(lines) if CONTROL_STATE in line), None)
    if first_control is not None and (not starts or first_control < starts[0]):
        at = lines[first_control]
        notes.add(
            Mark(at[0], at[1].index(CONTROL_STATE) + 1),
            f"a dump without its beginning; copy it from `{GUEST_STATE}` on",
        )
    domain = ""
    for number, (start, end) in enumerate(pairwise([*starts, len(lines)])):
        before = [line for _, line in lines[starts[number - 1] if number else 0 : start]]
        domain = next((found[1] for line in reversed(before) if (found := _DOMAIN.search(line))), domain)
        yield _Block(_owner(before, lines[start:end], domain, number), tuple(lines[start:end]))


def _owner(before: list[str], lines: list[tuple[int, str]], domain: str, number: int) -> str:
    """Return who is dumped: Xen's numbers, the address of the VMCS, its VPID, or the place in the text."""
    nearest = before[-1] if before else ""
    if domain and (vcpu := _VCPU.search(nearest)):
        return f"d{domain}v{vcpu[1]}"
    if vmcs := _VMCS.search(nearest):
        return f"VMCS {vmcs[1]}"
    vpid = next((found[1] for _, line in lines if (found := _VPID.search(line))), None)
    return f"VPID {vpid}" if vpid else f"dump {number + 1}"


def _state(block: _Block, notes: Notes) -> VcpuState:
    found: dict[str, int] = {}
    for number, line in block.lines:
        for match in _PRINTED.finditer(line):
            _note_value(match, number, found, notes)
    first, line = block.lines[0]
    for name in REQUIRED:
        if name not in found and not any(problem.line >= first for problem in notes.problems):
            mark = Mark(first, line.index(GUEST_STATE) + 1)
            notes.add(mark, f"this dump has no {name}; copy it to its last line, `Virtual processor ID`")
    fields = {field: found[name] for name, field in NAMES.items() if name in found}
    flags = found.get(RFLAGS)
    return VcpuState(
        block.owner,
        first,
        MappingProxyType(fields),
        interrupt_flag=None if flags is None else bool(flags & INTERRUPT_FLAG),
        trap_flag=None if flags is None else bool(flags & TRAP_FLAG),
        cpl=None if SS not in found else found[SS] >> 5 & 3,
        msr_lists=_msr_lists(block),
    )


def _msr_lists(block: _Block) -> MsrLists:
    """Return the lists that Linux prints, a heading and a line for each entry."""
    lists: dict[str, list[MsrEntry]] = {"guest autoload": [], "autostore": [], "host autoload": []}
    current: list[MsrEntry] = []
    for _, line in block.lines:
        if heading := _LIST.search(line):
            current = lists[heading[1]]
        elif entry := _ENTRY.search(line):
            current.append(MsrEntry(int(entry[1], 16), int(entry[2], 16)))
    return MsrLists(*(tuple(entries) for entries in lists.values()))


def _note_value(match: re.Match[str], number: int, found: dict[str, int], notes: Notes) -> None:
    """Keep one printed value, or note why it is none."""
    if match["status"] is not None:
        status = _STATUS.fullmatch(match["status"])
        if status:
            found["InterruptStatus"] = int(status[1], 16) << 8 | int(status[2], 16)
        else:
            _refuse(match, "status", number, "two bytes, `51|00`", notes)
        return
    group = "value" if match["name"] else "linux" if match["linux"] is not None else "xen"
    name, text = match["name"] or SS, match[group]
    width = NAMES[name].width if name in NAMES else 64
    if not _HEX.fullmatch(text) or int(text, 16) >> width:
        _refuse(match, group, number, f"a hexadecimal number of at most {width} bits", notes)
    elif name not in (RFLAGS, SS) or name not in found:
        found[name] = int(text, 16)


def _refuse(match: re.Match[str], group: str, number: int, wanted: str, notes: Notes) -> None:
    text = match[group]
    said = f"`{text}`" if text else "nothing"
    what = match["name"] or ("SVI|RVI" if group == "status" else "SS")
    notes.add(
        Mark(number, match.start(group) + 1), f"{said} for {what}; wanted {wanted}: is the line cut off?"
    )
