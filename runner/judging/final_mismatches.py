"""Where the final state of a virtual processor is not the expected one.

What an ``after`` does not name is as the program itself left it; see `runner.judging.pages`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from runner.apic import QUIET_MSRS, REGISTERS_BY_MSR, register_name
from runner.descriptor import (
    CONTROL,
    DESCRIPTOR_BYTES,
    DESTINATION,
    OUTSTANDING,
    SUPPRESS,
    descriptor_words,
    word_at,
)
from runner.judging.exit_mismatches import Mismatch
from runner.judging.expectation_words import word_expectation_words
from runner.judging.pages import page_key, untouched
from runner.outcome import Final
from runner.program import PostedInterrupts, Program
from runner.scenario import After, Expected, Keep, PidExpected, WordExpected, WordOneOf
from runner.vmx import name_of
from runner.words import blocking_words, hexadecimal, vectors_words

DESCRIPTOR = ("PIR", "ON and SN")


def final_mismatches(program: Program, expected: Expected, vcpu: int, final: Final) -> Iterator[Mismatch]:
    """Yield everything about one virtual processor's final state that is not as expected."""
    after = expected.after[vcpu]
    silent = untouched(program, expected, vcpu)
    if after.page or silent.words != final.page:
        yield from _page_mismatches(program, vcpu, dict(silent.words), after, final)
    for name, wanted, seen in (
        ("RVI", silent.rvi if after.rvi is None else after.rvi, final.rvi),
        ("SVI", silent.svi if after.svi is None else after.svi, final.svi),
    ):
        if wanted != seen:
            yield name, hexadecimal(wanted), hexadecimal(seen)
    if any(final.pid) or after.pid is not None or program.vcpus[vcpu].posted is not None:
        yield from _descriptor_mismatches(program, vcpu, after.pid or PidExpected(), final)
    if after.physical:
        yield from _physical_mismatches(after, dict(final.physical))
    if after.activity is not None and after.activity is not final.activity:
        yield "activity state", name_of(after.activity), name_of(final.activity)
    if after.blocking is not None and after.blocking != final.blocking:
        yield "interruptibility state", blocking_words(after.blocking), blocking_words(final.blocking)


def state_mismatches(wanted: Final, seen: Final) -> Iterator[Mismatch]:
    """Yield where two final states differ, the first being the reference model's."""
    want_page, seen_page = dict(wanted.page), dict(seen.page)
    for offset in sorted(want_page.keys() | seen_page.keys()):
        want, word = want_page.get(offset), seen_page.get(offset)
        if want != word:
            yield f"word {word_name(offset)} of the page", _changed_words(want), _changed_words(word)
    if (wanted.rvi, wanted.svi) != (seen.rvi, seen.svi):
        yield "RVI and SVI", vectors_words((wanted.rvi, wanted.svi)), vectors_words((seen.rvi, seen.svi))
    for name, want_bits, seen_bits in zip(DESCRIPTOR, _descriptor(wanted), _descriptor(seen), strict=True):
        if want_bits != seen_bits:
            yield f"{name} of the posted-interrupt descriptor", hexadecimal(want_bits), hexadecimal(seen_bits)


def _changed_words(word: int | None) -> str:
    return Keep.UNCHANGED.value if word is None else hexadecimal(word)


def _descriptor(final: Final) -> tuple[int, int]:
    """Return PIR, and ON with SN; NV and NDST are the kit's own."""
    requested = sum(word << 64 * index for index, word in enumerate(final.pid[:4]))
    return requested, final.pid[4] & (OUTSTANDING | SUPPRESS)


def _page_mismatches(
    program: Program, vcpu: int, silent: Mapping[int, int], after: After, final: Final
) -> Iterator[Mismatch]:
    """Compare the own page word by word; of a page that another virtual processor uses, the named ones."""
    page = program.vcpus[vcpu].page
    seen, named = dict(final.page), dict(after.page)
    shared = _used_by_another(program, vcpu)
    for offset in sorted(named if shared else named.keys() | silent.keys() | seen.keys()):
        as_left = silent.get(offset, page.word(offset))
        word = seen.get(offset, page.word(offset))
        wanted = named.get(offset, as_left)
        if not _is_word(wanted, as_left, word):
            yield f"word {word_name(offset)} of the page", _word_words(wanted, as_left), hexadecimal(word)


def _used_by_another(program: Program, vcpu: int) -> bool:
    return any(page_key(setup, other) == vcpu for other, setup in enumerate(program.vcpus) if other != vcpu)


def _is_word(wanted: WordExpected, as_left: int, word: int | None) -> bool:
    match wanted:
        case Keep():
            return word == as_left
        case WordOneOf(choices):
            return any(_is_word(choice, as_left, word) for choice in choices)
        case _:
            return word == wanted


def _word_words(wanted: WordExpected, as_left: int) -> str:
    same = f" ({hexadecimal(as_left)})" if isinstance(wanted, Keep) else ""
    return word_expectation_words(wanted) + same


def word_name(offset: int) -> str:
    """Return ``0A0H (PPR)``, ``0B4H (EOI + 4)``, ``110H (ISR1)``: a word of a virtual-APIC page."""
    register = REGISTERS_BY_MSR.get(0x800 | offset >> 4)
    if register is None:
        return f"{offset:03X}H"
    return f"{offset:03X}H ({register.name}{f' + {offset & 0xF}' if offset & 0xF else ''})"


def _descriptor_mismatches(
    program: Program, vcpu: int, wanted: PidExpected, seen: Final
) -> Iterator[Mismatch]:
    """Compare the whole descriptor; of NV and NDST only what the setup itself names."""
    posted = program.vcpus[vcpu].posted or PostedInterrupts()
    pir = posted.pir if wanted.pir is None else wanted.pir
    outstanding = posted.outstanding if wanted.outstanding is None else wanted.outstanding
    requested, control = _descriptor(seen)
    seen_pir = frozenset(vector for vector in range(256) if requested >> vector & 1)
    if seen_pir != pir:
        yield "PIR of the posted-interrupt descriptor", vectors_words(pir), vectors_words(seen_pir)
    for name, bit, want in (("ON", OUTSTANDING, outstanding), ("SN", SUPPRESS, posted.suppress)):
        if bool(control & bit) != want:
            yield f"{name} of the posted-interrupt descriptor", str(int(want)), str(int(not want))
    yield from _other_descriptor_mismatches(posted, seen.pid)


def _other_descriptor_mismatches(posted: PostedInterrupts, seen: Sequence[int]) -> Iterator[Mismatch]:
    wanted, named = descriptor_words(posted), dict(posted.words)
    for offset in range(CONTROL, DESCRIPTOR_BYTES, 4):
        if offset in (CONTROL, DESTINATION) and offset not in named:
            continue
        ignored = OUTSTANDING | SUPPRESS if offset == CONTROL else 0
        want, word = (word_at(words, offset) & ~ignored for words in (wanted, seen))
        if want != word:
            place = f"word {offset:02X}H of the posted-interrupt descriptor"
            yield place, hexadecimal(want), hexadecimal(word)


def _physical_mismatches(after: After, seen: Mapping[int, int]) -> Iterator[Mismatch]:
    """Compare registers of the physical APIC; one that is not among the changed ones is unchanged."""
    for msr, wanted in after.physical:
        choices = wanted.choices if isinstance(wanted, WordOneOf) else (wanted,)
        word = seen.get(msr, Keep.UNCHANGED)
        still_0 = word is Keep.UNCHANGED and msr in QUIET_MSRS and 0 in choices
        if word not in choices and not still_0:
            said = word_expectation_words(word)
            yield f"physical {register_name(msr)}", word_expectation_words(wanted), said
