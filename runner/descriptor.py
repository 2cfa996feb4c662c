"""The posted-interrupt descriptor as memory holds it.

SDM: *Posted-Interrupt Processing*; *IPI Virtualization* adds SN, NV and NDST.
"""

from __future__ import annotations

from collections.abc import Sequence

from runner.program import PostedInterrupts

OUTSTANDING, SUPPRESS = 1 << 0, 1 << 1
"""ON and SN: bits 256 and 257 of the descriptor, in its fifth 64-bit word."""

CONTROL, DESTINATION = 0x20, 0x24
"""Offsets of the 32-bit words with ON, SN and NV, and with NDST."""

DESCRIPTOR_BYTES = 64

_NV_SHIFT = 16
_QWORD = (1 << 64) - 1


def descriptor_words(posted: PostedInterrupts, *, destination: int = 0) -> tuple[int, ...]:
    """Return the descriptor's eight 64-bit words; *destination* is NDST where no word of its own says it."""
    pir = sum(1 << vector for vector in posted.pir)
    words = {
        CONTROL: (posted.notification_vector & 0xFF) << _NV_SHIFT,
        DESTINATION: destination,
        **dict(posted.words),
    }
    words[CONTROL] &= ~(OUTSTANDING | SUPPRESS)
    words[CONTROL] |= OUTSTANDING * posted.outstanding | SUPPRESS * posted.suppress
    return (
        *(pir >> 64 * index & _QWORD for index in range(4)),
        *(
            words.get(offset, 0) | words.get(offset + 4, 0) << 32
            for offset in range(CONTROL, DESCRIPTOR_BYTES, 8)
        ),
    )


def word_at(words: Sequence[int], offset: int) -> int:
    """Return the 32-bit word at *offset* of a descriptor's 64-bit words."""
    return words[offset // 8] >> 8 * (offset % 8) & 0xFFFFFFFF


def names_destination(posted: PostedInterrupts) -> bool:
    """Whether the setup itself says what NDST holds."""
    return any(offset == DESTINATION for offset, _ in posted.words)
