"""A private copy of the package ``backends.model``, some of its modules with another text.

A copy's modules import each other and nothing of the original; ``sys.modules`` knows none of them.
What is not altered comes from the interpreter's own bytecode cache.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PACKAGE = "backends.model"
FOLDER = Path(__file__).parents[1] / "model"


def package(altered: Mapping[str, str]) -> Any:
    """Return a copy of the package; *altered* has the text of modules by file name, ``eoi.py``."""
    return _Copy(altered).module(PACKAGE)


class _Copy:
    """The modules of one copy by full name, each loaded when the first of them imports it."""

    def __init__(self, altered: Mapping[str, str]) -> None:
        self._altered = altered
        self._modules: dict[str, ModuleType] = {}
        self._builtins = {**vars(builtins), "__import__": self._import}

    def module(self, name: str) -> ModuleType:
        """Return a module of the copy."""
        if name not in self._modules:
            self._load(name)
        return self._modules[name]

    def _load(self, name: str) -> None:
        stem = name.removeprefix(PACKAGE).removeprefix(".") or "__init__"
        path = str(FOLDER / f"{stem}.py")
        text = self._altered.get(f"{stem}.py")
        loader = SourceFileLoader(name, path) if text is None else _Altered(name, path, text)
        module = self._modules[name] = ModuleType(name)
        vars(module)["__builtins__"] = self._builtins
        loader.exec_module(module)

    def _import(
        self,
        name: str,
        variables: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Stand for ``__import__`` in the copy's modules, which write ``from … import …``."""
        if name != PACKAGE and not name.startswith(f"{PACKAGE}."):
            return __import__(name, variables, local, fromlist or (), level)
        found = self.module(name)
        for wanted in fromlist or ():
            if name == PACKAGE and not hasattr(found, wanted):
                setattr(found, wanted, self.module(f"{name}.{wanted}"))
        return found


class _Altered(SourceFileLoader):
    """Loads a module from a text instead of from its file."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the loader has one module
        """Return the code of the text."""
        code: CodeType = self.source_to_code(self._text.encode(), self.path)
        return code
