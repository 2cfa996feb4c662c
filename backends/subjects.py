"""Which backend runs a subject of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from backends import Backend, bochs, command, emulated, faulty, kvm
from backends.adapter.backend import AdapterBackend
from backends.adapter.command import Command
from backends.model import Model
from backends.restricted import Restricted

Factory = Callable[[str, Mapping[str, Any]], Backend]
"""Makes a backend from a subject's name and the ``start`` of its file, which the schema has looked at."""


def _model(_: str, __: Mapping[str, Any]) -> Backend:
    return Model()


def _adapter(name: str, start: Mapping[str, Any]) -> Backend:
    return AdapterBackend(name, Command.of(name, start))


def _faulty(_: str, start: Mapping[str, Any]) -> Backend:
    return faulty.named(start["fault"])


KINDS: Mapping[str, Factory] = MappingProxyType(
    {
        "model": _model,
        "bochs": bochs.backend,
        "kvm": kvm.backend,
        "kvm-emulated": emulated.backend,
        "adapter": _adapter,
        "machine": command.backend,
        "faulty": _faulty,
    }
)
"""By `kind` of a subject file; the file's schema knows the same names."""


def backend(
    kind: str, name: str, start: Mapping[str, Any], needs: Sequence[str] = (), levels: Sequence[str] = ()
) -> Backend:
    """Return the backend of a subject; nothing is started before it is asked to run.

    `MalformedError` for a fault that there is not.
    """
    made = KINDS[kind](name, start)
    return Restricted(made, needs, levels) if needs or levels else made
