"""The probe's records: programs out, frames in. Twin of ``probe/wire.h``, which a test holds against it.

All little-endian. `encode_batch` gives what stands at the start of the ROM, `frames` takes a stream
apart and trusts only what its checksum covers. Programs become records in `backends.encode`,
observations are read from them in `backends.decode`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.apic import ApicMode, Fill
from runner.program import Level, Plain

WIRE_VERSION = 1
BATCH_MAGIC, FRAME_MAGIC = 0x50413258, 0x46413258
BATCH_ROOM = 0xD0000
RECORDS_BASE, RECORDS_ROOM = 0x800000, 0x1000000
MAX_CPUS, MAX_SLOTS = 8, 384
DOOR_MEMORY, DOOR_E9, DOOR_SHARED, DOOR_SERIAL, DOOR_STEPPED = 1, 2, 3, 4, 5
PROGRESS = 0xFE
BEFORE_RAX, BEFORE_RDX = 0x5A5AC3C3, 0x3C3CA5A5
VECTOR_ANY = 0xFFFF
IA32_APIC_BASE = 0x1B

BATCH = struct.Struct("<IHHIIIIIIQQIIQ")
CASE = struct.Struct("<IIBBBBI")
VCPU = struct.Struct("<IHHHHHBBIHH")
ITEM = struct.Struct("<IIQ")
WORD = struct.Struct("<II")
RANGE = struct.Struct("<IIII")
OP = struct.Struct("<BBHIQ")
HANDLER = struct.Struct("<HHI")
FRAME = struct.Struct("<IIII")
BEGIN = struct.Struct("<8I16s19Q")
END = struct.Struct("<IIII")
RESULT = struct.Struct("<II")
FINAL = struct.Struct("<IIHHHHIHH")
REGISTER = struct.Struct("<II")
EVENT = struct.Struct("<BBHIQQ")
EXIT = struct.Struct("<BBHIQIIIIHHIQQQ")
PID = struct.Struct("<8Q")

FRAME_BEGIN, FRAME_CASE, FRAME_END, FRAME_ERROR = 1, 2, 3, 4
END_COMPLETE, END_FULL, END_DIRTY, END_MODE = 0, 1, 2, 3
ABSENT = 0xFFFFFFFF_FFFFFFFF
VMX_ABSENT, VMX_ROOT, VMX_LOCKED_OFF = 0, 1, 2

LEVELS = {Level.VMX: 0, Level.GUEST: 1}
MODES = {ApicMode.XAPIC: 0, ApicMode.X2APIC: 1, ApicMode.DISABLED: 2}
FILLS = {Fill.ZERO: 0, Fill.ONES: 1, Fill.TAGGED: 2, Fill.VALUE: 3}

GUEST_IF, GUEST_TF, GUEST_CPL3, GUEST_INIT = 0x1, 0x2, 0x4, 0x8
ITEM_PID, ITEM_PID_POINTER = 0x10000, 0x10010
ITEM_ENTRY_LOAD, ITEM_EXIT_STORE, ITEM_EXIT_LOAD = 0x10100, 0x10200, 0x10300
HOW_SET, HOW_CONTROL, HOW_FLIP, HOW_OWN, HOW_OF_VCPU = 0, 1, 2, 3, 4
HOW_STALE, HOW_APIC_ACCESS, HOW_BEYOND, HOW_LOW_BYTE, HOW_HIGH_BYTE = 5, 6, 7, 8, 9
RANGE_READ, RANGE_WRITE = 1, 2

OP_RDMSR, OP_WRMSR, OP_READ_CR8, OP_WRITE_CR8 = 1, 2, 3, 4
OP_SPIN, OP_VMCALL, OP_CPUID, OP_MMIO_READ, OP_BARRIER = 10, 11, 12, 13, 14
OP_PID_BIT, OP_SEND_IPI = 15, 16
OP_APIC_MODE, OP_INIT_SIPI, OP_WAIT_FOR_SIPI, OP_AT_RESET = 17, 18, 19, 20
OP_ITEM, OP_WORD, OP_BITMAP_CLEAR, OP_BITMAP_SET = 32, 33, 34, 35
OP_RAISE, OP_INTERRUPT_FLAG, OP_PID_BIT_VMM, OP_DONE, OP_SEND_IPI_VMM = 36, 37, 38, 39, 40
OP_CPL3, OP_GARBAGE = 0x40, 0x80
PLAIN_OPS = {
    Plain.STI: 5,
    Plain.CLI: 6,
    Plain.NOP: 7,
    Plain.MOV_SS: 8,
    Plain.HLT: 9,
    Plain.SPIN: OP_SPIN,
    Plain.VMCALL: OP_VMCALL,
    Plain.DUMP_AT_RESET: OP_AT_RESET,
}
PID_OUTSTANDING = 256


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the stream: its case's sequence number and its payload."""

    seq: int
    payload: bytes

    @property
    def kind(self) -> int:
        """``FRAME_BEGIN``, ``FRAME_CASE``, ``FRAME_END`` or ``FRAME_ERROR``."""
        return int.from_bytes(self.payload[:4], "little")


def frames(stream: bytes) -> Iterator[Frame]:
    """Yield the frames of a stream whose checksum is right; whatever else it holds is log."""
    magic = FRAME_MAGIC.to_bytes(4, "little")
    at = stream.find(magic)
    while at >= 0 and at + FRAME.size <= len(stream):
        _, seq, length, crc = FRAME.unpack_from(stream, at)
        end = at + FRAME.size + length
        payload = stream[at + FRAME.size : end]
        if 4 <= length == len(payload) and crc == zlib.crc32(payload, zlib.crc32(stream[at + 4 : at + 12])):
            yield Frame(seq, payload)
            at = stream.find(magic, end)
        else:
            at = stream.find(magic, at + 1)


def encode_batch(records: Sequence[bytes], *, cpus: int, door: int, limit: int, guard: int) -> bytes:
    """Return the batch of these case records: header, checksum, records."""
    body = b"".join(records)
    size = BATCH.size + len(body)
    return (
        BATCH.pack(
            BATCH_MAGIC,
            WIRE_VERSION,
            BATCH.size,
            size,
            zlib.crc32(body),
            len(records),
            cpus,
            door,
            limit,
            guard,
            0,
            0,
            0,
            0,
        )
        + body
    )


def batch_size(image: bytes) -> int:
    """Return how many bytes the batch has with which an image begins."""
    return int(BATCH.unpack_from(image)[3])


def batch_cpus(batch: bytes) -> int:
    """Return how many processors a batch starts."""
    return int(BATCH.unpack_from(batch)[6])
