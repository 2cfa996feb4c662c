"""Plain values of the scenario language: numbers, vectors, registers, words of the page.

What is read here has passed the schema. Left to find are what a schema cannot see: ranges that run
backwards, one word under two spellings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from runner.apic import FIRST_MSR, REGISTERS_BY_NAME, VECTOR_SETS, vectors_to_words
from runner.reading.nodes import Items, Map, Node, Notes, Scalar
from runner.vmx import HIGH_MSRS, LOW_MSRS, Blocking, MsrRange

Word = TypeVar("Word")


def number(node: Node) -> int:
    """Return a whole number."""
    if isinstance(node, Scalar) and isinstance(node.value, int):
        return int(node.value)
    raise TypeError(f"no number at {node.mark}; the schema lets it pass")


def flag(node: Node) -> bool:
    """Return a truth value."""
    return bool(number(node))


def word(node: Node) -> str:
    """Return a name or a text."""
    if isinstance(node, Scalar):
        return node.text
    raise TypeError(f"no word at {node.mark}; the schema lets it pass")


def items(node: Node | None) -> tuple[Node, ...]:
    """Return the members of a list, none where there is none."""
    return node.nodes if isinstance(node, Items) else ()


def entries(node: Node | None) -> Mapping[str, Node]:
    """Return the members of a mapping, none where there is none."""
    return node.nodes if isinstance(node, Map) else {}


def span(node: Node, notes: Notes) -> tuple[int, int]:
    """Return first and last of ``a..b``, or of a single number; a range must not run backwards."""
    first, dots, last = word(node).partition("..")
    if not dots:
        return number(node), number(node)
    low, high = int(first, 0), int(last, 0)
    if low > high:
        notes.add(node.mark, f"`{word(node)}` runs backwards; write {last}..{first}")
    return low, high


def vectors(node: Node | None, notes: Notes) -> frozenset[int]:
    """Return the vectors of a list with ranges."""
    result: set[int] = set()
    for item in items(node):
        first, last = span(item, notes)
        if last > 0xFF:
            notes.add(item.mark, f"`{word(item)}` does not fit; vectors end at 0xff")
        result.update(range(first, min(last, 0xFF) + 1))
    return frozenset(result)


def msr(node: Node) -> int:
    """Return the number of an MSR given by name or number."""
    return REGISTERS_BY_NAME[word(node)].msr if word(node) in REGISTERS_BY_NAME else number(node)


def msr_ranges(node: Node | None, notes: Notes) -> tuple[MsrRange, ...]:
    """Return sorted ranges that do not touch, for ``none``, ``all`` or a list."""
    if isinstance(node, Scalar):
        return (LOW_MSRS, HIGH_MSRS) if node.text == "all" else ()
    ranges: list[MsrRange] = []
    for item in items(node):
        first, last = (msr(item),) * 2 if word(item) in REGISTERS_BY_NAME else span(item, notes)
        if not any(low <= first and last <= high for low, high in (LOW_MSRS, HIGH_MSRS)):
            notes.add(
                item.mark, f"`{word(item)}`: the MSR bitmap has bits for 0-0x1fff and 0xc0000000-0xc0001fff"
            )
        ranges.append((first, last))
    return tuple(_joined(sorted(ranges)))


def _joined(ranges: Iterable[MsrRange]) -> Iterator[MsrRange]:
    pending: MsrRange | None = None
    for first, last in ranges:
        if pending is None:
            pending = first, last
        elif first <= pending[1] + 1:
            pending = pending[0], max(pending[1], last)
        else:
            yield pending
            pending = first, last
    if pending is not None:
        yield pending


def blocking(node: Node | None) -> Blocking:
    """Return the interruptibility state of ``none``, one name or a list."""
    names = [word(item) for item in items(node)] if isinstance(node, Items) else [word(node)] if node else []
    result = Blocking(0)
    for name in names:
        if name != "none":
            result |= Blocking[name.upper().replace("-", "_")]
    return result


def page_words(
    page: Node | None, notes: Notes, expand: Callable[[str, Node], Mapping[int, Word]]
) -> dict[int, Word]:
    """Return the words that a page's keys name, by offset; no word may have two spellings."""
    result: dict[int, Word] = {}
    spelled: dict[int, str] = {}
    for key, node in entries(page).items():
        if key == "fill":
            continue
        for offset, value in expand(key, node).items():
            if offset in result:
                other = spelled[offset]
                notes.add(
                    node.key or node.mark, f"`{key}` and `{other}` are one word, at {offset:#x}; keep one"
                )
                break
            result[offset], spelled[offset] = value, key
    return result


def offset_of(key: str) -> int:
    """Return the page offset of a register's name or of an offset."""
    return REGISTERS_BY_NAME[key].offset if key in REGISTERS_BY_NAME else int(key, 0)


def numbers_at(key: str, node: Node, notes: Notes) -> Mapping[int, int]:
    """Return the words of one key with the values that a setup gives them."""
    if key in VECTOR_SETS:
        return vectors_to_words(VECTOR_SETS[key], vectors(node, notes))
    if key == "ICR":
        return {offset_of(key): number(node) & 0xFFFFFFFF, offset_of(key) + 4: number(node) >> 32}
    return {offset_of(key): number(node)}


def msr_of_offset(offset: int) -> int:
    """Return the MSR whose register lies at *offset*."""
    return FIRST_MSR + (offset >> 4)


def msr_of_key(key: str) -> int:
    """Return the MSR of a register's name, or of a number."""
    return REGISTERS_BY_NAME[key].msr if key in REGISTERS_BY_NAME else int(key, 0)
