"""KVM's modules as the emulated machine loads them: without the calls that only the function tracer wants.

Every function of a module begins with one. Linux replaces it by a NOP when it loads the module, and looks
each one's name up among all symbols before: a quarter of the instructions of a boot. Here the same NOPs
stand there already. System V ABI: *Sections*, *Relocation*.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

CALLS = b"__mcount_loc\0"
"""The section that lists the places of these calls."""
CALL, NOP = b"\xe8\x00\x00\x00\x00", b"\x0f\x1f\x44\x00\x00"
RELOCATIONS = 4
"""``sh_type`` of a section of relocations."""
NO_RELOCATION = bytes(8)
"""``r_info`` of a relocation that changes nothing."""
ROW = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
RELOCATION = struct.Struct("<QQq")


class Section(NamedTuple):
    """A row of the table of sections, in the file's order."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


def untraced(module: bytes) -> bytes:
    """Return a module whose functions begin with NOPs; ValueError where one begins with something else."""
    table, sections = _sections(module)
    listed = _listed(module, sections)
    if listed is None:
        return module
    result = bytearray(module)
    places = _places(module, sections, listed)
    for section, offset in places:
        at = sections[section].offset + offset
        if result[at : at + len(CALL)] != CALL:
            raise ValueError(f"no call of the tracer at {offset:#x} of section {section}")
        result[at : at + len(NOP)] = NOP
    for each in sections:
        if each.kind == RELOCATIONS:
            for at, (offset, _, _) in _relocations(module, each):
                if (each.info, offset - 1) in places:  # of the call's displacement
                    result[at + 8 : at + 16] = NO_RELOCATION
    for index, each in enumerate(sections):
        if index == listed or (each.kind == RELOCATIONS and each.info == listed):
            ROW.pack_into(result, table + index * ROW.size, *each._replace(size=0))
    return bytes(result)


def _sections(module: bytes) -> tuple[int, list[Section]]:
    """Return where the table of sections stands, and its rows."""
    (table,), (count,) = struct.unpack_from("<Q", module, 40), struct.unpack_from("<H", module, 60)
    return table, [Section(*ROW.unpack_from(module, table + index * ROW.size)) for index in range(count)]


def _listed(module: bytes, sections: list[Section]) -> int | None:
    """Return the number of the section that lists the calls."""
    (names,) = struct.unpack_from("<H", module, 62)
    found = (module.startswith(CALLS, sections[names].offset + each.name) for each in sections)
    return next((index for index, is_it in enumerate(found) if is_it), None)


def _places(module: bytes, sections: list[Section], listed: int) -> set[tuple[int, int]]:
    """Return where calls stand, by section and offset in it."""
    places = set()
    for each in sections:
        if each.kind == RELOCATIONS and each.info == listed:
            for _, (_, info, addend) in _relocations(module, each):
                symbol = sections[each.link].offset + (info >> 32) * SYMBOL.size
                _, _, _, section, value, _ = SYMBOL.unpack_from(module, symbol)
                places.add((section, value + addend))
    return places


def _relocations(module: bytes, section: Section) -> list[tuple[int, tuple[int, int, int]]]:
    """Return where in the file each relocation stands, and its fields."""
    content = module[section.offset : section.offset + section.size]
    return [
        (section.offset + index * RELOCATION.size, each)
        for index, each in enumerate(RELOCATION.iter_unpack(content))
    ]
