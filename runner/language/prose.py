"""What is wrong with the words of a scenario file: its titles and ids, and what its cases say."""

from __future__ import annotations

import re
from collections.abc import Iterable

from runner.language.values import word
from runner.reading.nodes import Map, Node, Notes

NOT_PRESENT = re.compile(r"\b(should|shall|will|would|ought|going to|has to be)\b", re.IGNORECASE)


def check_prose(title: Node | None, cases: Iterable[Map], notes: Notes) -> None:
    """Note titles and sentences that do not state what is, and ids and sentences that two cases share."""
    if title:
        _check_sentence(title, notes)
    ids: dict[str, int] = {}
    sentences: dict[str, int] = {}
    for case in cases:
        says = case.nodes["says"]
        _check_sentence(says, notes)
        _check_unique(case.nodes["id"], "id", ids, notes)
        _check_unique(says, "sentence", sentences, notes)


def _check_sentence(node: Node, notes: Notes) -> None:
    if found := NOT_PRESENT.search(word(node)):
        notes.add(node.mark, f"`{found[0]}` in a sentence; say in the present tense what is true")
    if word(node).rstrip() != word(node).rstrip(" ."):
        notes.add(node.mark, "a full stop at the end; leave it out, reports print many of these in a column")


def _check_unique(node: Node, kind: str, seen: dict[str, int], notes: Notes) -> None:
    first = seen.setdefault(word(node).casefold(), node.mark.line)
    if first != node.mark.line:
        notes.add(
            node.mark, f"{kind} `{word(node)}` a second time (first on line {first}); each case has its own"
        )
