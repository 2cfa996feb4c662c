"""A file with a dump: what form it has, and what it says."""

from __future__ import annotations

from pathlib import Path

from runner.auditing import vmcs_text, yaml_dump
from runner.auditing.state import Dump
from runner.reading.nodes import Mark, Notes, read
from runner.reading.problems import MalformedError, Problem


class InvalidDump(MalformedError):  # noqa: N818 - what the file is, not what went wrong here
    """A dump that cannot be used, with everything that is wrong with it."""


def load(path: Path) -> Dump:
    """Return what the dump in a file says; `InvalidDump` has everything that is wrong with it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidDump([Problem(str(path), 1, 1, f"cannot be read: {error.strerror}")]) from error
    return parse(data, str(path))


def parse(data: bytes, file: str) -> Dump:
    """Return what a dump says, YAML or the text of a kernel, by what stands in it."""
    notes = Notes(file)
    text = data.decode("utf-8", errors="replace")
    dump = vmcs_text.parse(text, file, notes) if vmcs_text.is_vmcs_text(text) else _yaml(data, notes)
    if dump is None or notes.problems:
        raise InvalidDump(notes.problems)
    return dump


def _yaml(data: bytes, notes: Notes) -> Dump | None:
    if not data.strip():
        notes.add(Mark(1, 1), "the file is empty; an audit reads YAML or the text of a VMCS dump")
        return None
    top = read(data, notes)
    if notes.problems and b"vcpus:" not in data:
        wanted = f"neither YAML with `vcpus` nor a VMCS dump with `{vmcs_text.GUEST_STATE}`"
        notes.problems = [Problem(notes.file, 1, 1, f"{wanted}; see runner/auditing/README.md")]
    return None if top is None or notes.problems else yaml_dump.parse(top, notes)
