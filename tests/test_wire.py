"""The two sides of the wire say the same: wire.h and backends/wire.py, vmx.h and runner/vmx.py."""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from backends import events, image, wire
from backends.image import PROBE
from runner import apic, vmx

DEFINE = re.compile(r"^#define (\w+) \(?(0x[0-9a-fA-F]+|\d+)u?(?: << (\d+)\))?(?:\s|$)", re.MULTILINE)
C_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "char": 1}
STRUCTS = {
    "batch": wire.BATCH,
    "wire_case": wire.CASE,
    "wire_vcpu": wire.VCPU,
    "wire_item": wire.ITEM,
    "wire_word": wire.WORD,
    "wire_range": wire.RANGE,
    "wire_op": wire.OP,
    "wire_handler": wire.HANDLER,
    "frame": wire.FRAME,
    "wire_begin": wire.BEGIN,
    "wire_end": wire.END,
    "wire_result": wire.RESULT,
    "wire_final": wire.FINAL,
    "wire_register": wire.REGISTER,
    "wire_event": wire.EVENT,
    "wire_exit": wire.EXIT,
}


def defines(header: str) -> dict[str, int]:
    text = PROBE.joinpath(header).read_text()
    return {name: int(value, 0) << int(shift or 0) for name, value, shift in DEFINE.findall(text)}


def fields(name: str) -> list[int]:
    """Return the sizes of a struct's members in wire.h, arrays member by member."""
    text = PROBE.joinpath("wire.h").read_text()
    constants = defines("wire.h")
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL)
    assert body, f"wire.h has no struct {name}"
    sizes: list[int] = []
    for kind, names in re.findall(r"^\s*(u8|u16|u32|u64|char) ([^;]+);", body[1], re.MULTILINE):
        for member in names.split(","):
            array = re.search(r"\[(\w+)\]", member)
            count = 1 if not array else constants.get(array[1]) or int(array[1])
            sizes += [C_SIZES[kind]] * count
    return sizes


@pytest.mark.parametrize("name", STRUCTS)
def test_each_struct_has_the_layout_of_its_format(name: str) -> None:
    format_sizes = []
    for count, code in re.findall(r"(\d*)([a-zA-Z])", STRUCTS[name].format):
        size = 1 if code == "s" else struct.calcsize("<" + code)
        format_sizes += [size] * int(count or 1)
    assert fields(name) == format_sizes
    offset = 0
    for size in format_sizes:
        assert offset % size == 0, "C would pad here"
        offset += size


def test_every_struct_of_the_header_is_compared() -> None:
    named = set(re.findall(r"^struct (\w+) {", PROBE.joinpath("wire.h").read_text(), re.MULTILINE))
    assert named == set(STRUCTS)


def test_each_number_that_both_sides_name_is_the_same() -> None:
    here = {name: value for name, value in vars(wire).items() if isinstance(value, int)}
    here |= {name: value for name, value in vars(events).items() if isinstance(value, int)}
    header = defines("wire.h")
    common = header.keys() & here.keys()
    assert {name: header[name] for name in common} == {name: here[name] for name in common}
    assert len(common) > 60


@pytest.mark.parametrize("prefix", ["OP_", "HOW_", "ITEM_", "FRAME_", "END_", "EVENT_", "AT_", "RANGE_"])
def test_no_kind_of_record_is_known_to_one_side_only(prefix: str) -> None:
    plain = {f"OP_{plain.name}": op for plain, op in wire.PLAIN_OPS.items()}
    here = {**vars(wire), **vars(events), **plain}
    missing = [name for name in defines("wire.h") if name.startswith(prefix) and name not in here]
    assert [name for name in missing if name != "OP_FIRST_VMM"] == []


def test_modes_levels_and_fills_have_the_numbers_of_the_header() -> None:
    header = defines("wire.h")
    for prefix, table in (("MODE_", wire.MODES), ("LEVEL_", wire.LEVELS), ("FILL_", wire.FILLS)):
        named = {f"{prefix}{member.name}": number for member, number in table.items()}
        assert named == {name: value for name, value in header.items() if name.startswith(prefix)}


def test_vmcs_fields_are_those_of_the_vocabulary() -> None:
    header = defines("vmx.h")
    named = {f"FIELD_{field.name}": field.value for field in vmx.Field}
    common = named.keys() & header.keys()
    assert {name: header[name] for name in common} == {name: named[name] for name in common}
    assert len(common) > 30


def test_control_bits_and_exit_reasons_are_those_of_the_vocabulary() -> None:
    header = defines("vmx.h")
    words = {
        "PIN": vmx.PinBasedControls,
        "PRIMARY": vmx.PrimaryControls,
        "EXIT": vmx.ExitControls,
        "ENTRY": vmx.EntryControls,
    }
    checked = 0
    for name, value in header.items():
        prefix, _, rest = name.partition("_")
        if prefix in words:
            assert value == words[prefix][rest], name
            checked += 1
        if prefix == "REASON" and rest != "ENTRY_FAILURE":
            assert value == vmx.ExitReason[rest], name
            checked += 1
    assert checked > 12


def test_the_stale_page_holds_the_number_of_the_question() -> None:
    assert defines("page.h")["STALE_WORD"] == apic.STALE == 2621447225


def table(symbol: str, words: int) -> tuple[int, ...]:
    """Return a table out of the probe's image."""
    assert isinstance(image.probe_image(), bytes)
    build = PROBE / "build"
    names = subprocess.run(["nm", build / "probe.elf"], capture_output=True, text=True, check=True).stdout
    address = next(int(line.split()[0], 16) for line in names.splitlines() if line.endswith(f" {symbol}"))
    return struct.unpack_from(f"<{words}I", build.joinpath("probe.bin").read_bytes(), address - 0x100000)


def test_the_tagged_fill_is_the_same_on_both_sides() -> None:
    assert table("tagged_words", 1024) == tuple(apic.tag(offset) for offset in range(0, 4096, 4))


def test_the_checksum_tables_are_those_of_crc_32() -> None:
    def register(data: bytes) -> int:
        """Return what is left of *data* in a register that is neither preset nor inverted."""
        return zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF

    wanted = [register(bytes([byte]) + bytes(zeros)) for zeros in range(8) for byte in range(256)]
    assert table("crc_tables", 2048) == tuple(wanted)


def frame(seq: int, payload: bytes) -> bytes:
    head = struct.pack("<II", seq, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(head))
    return struct.pack("<I", wire.FRAME_MAGIC) + head + struct.pack("<I", crc) + payload


def test_frames_are_found_among_other_output() -> None:
    stream = b"banner X2AF" + frame(3, b"\2\0\0\0abcd") + b"log" + frame(4, b"\3\0\0\0") + b"X2AF"
    assert [(f.seq, f.kind) for f in wire.frames(stream)] == [(3, 2), (4, 3)]


@pytest.mark.parametrize("byte", range(24))
def test_a_flipped_byte_costs_its_frame_and_no_other(byte: int) -> None:
    one, two = frame(1, b"\2\0\0\0abcd"), frame(2, b"\2\0\0\0efgh")
    bad = bytearray(one)
    bad[byte] ^= 0x40
    assert [f.seq for f in wire.frames(bytes(bad) + two)] == [2]


def test_a_truncated_stream_gives_only_whole_frames() -> None:
    one, two = frame(1, b"\2\0\0\0abcd"), frame(2, b"\2\0\0\0efgh")
    for end in range(len(two)):
        assert [f.seq for f in wire.frames(one + two[:end])] == [1]


def test_a_batch_is_what_its_header_says() -> None:
    batch = wire.encode_batch([b"x" * 24], cpus=2, door=wire.DOOR_E9, limit=99, guard=7)
    fields_ = wire.BATCH.unpack_from(batch)
    assert fields_[:9] == (
        wire.BATCH_MAGIC,
        wire.WIRE_VERSION,
        wire.BATCH.size,
        len(batch),
        zlib.crc32(b"x" * 24),
        1,
        2,
        wire.DOOR_E9,
        99,
    )


def test_the_headers_are_where_this_test_looks() -> None:
    assert Path(PROBE, "wire.h").is_file()
    assert Path(PROBE, "vmx.h").is_file()


def test_the_probe_watches_the_registers_that_a_final_state_tells() -> None:
    source = PROBE.joinpath("apic.c").read_text()
    listed = re.search(r"watched\[APIC_WATCHED\] = \{([^}]*)\}", source)
    assert listed
    watched = {0x800 + int(number, 16) for number in re.findall(r"0x\w+", listed[1])}
    assert watched | {0x1B} == apic.OBSERVED_MSRS
