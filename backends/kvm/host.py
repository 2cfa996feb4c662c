"""What KVM runs on: the host's kernel and processor, and how its modules are set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from runner import host

MODULES = Path("/sys/module")
PARAMETERS = ("nested", "enable_apicv", "enable_ipiv")
"""Parameters of the module ``kvm_intel`` that decide what its guests see."""
HARDWARE = MappingProxyType({"kvm_intel": "vmx", "kvm_amd": "svm"})
"""Modules that run guests by VT-x or SVM, and the processor's flag that says so."""
SWITCHES = {"Y": "true", "1": "true", "N": "false", "0": "false"}


def facts(modules: Path = MODULES) -> Mapping[str, str]:
    """Return what results say of the host by name.

    ``kvm-module`` is what KVM runs guests with; where it is neither ``kvm_intel`` nor ``kvm_amd``, guests
    at level guest are ``single-stepped``; a parameter that it does not have is ``false``.
    """
    here = host.here()
    return {
        "host-kernel": here.kernel,
        "host-processor": here.processor,
        "host-microcode": here.microcode,
        "kvm-module": module(modules),
        "single-stepped": str(not has_hardware(modules)).lower(),
        **{name: _parameter(modules / "kvm_intel" / "parameters" / name) for name in PARAMETERS},
    }


def has_hardware(modules: Path = MODULES) -> bool:
    """Whether KVM runs guests by VT-x or SVM."""
    return module(modules) in HARDWARE


def module(modules: Path, cpuinfo: Path = host.CPUINFO) -> str:
    """Return the module that KVM runs guests with: a kernel may have those of both makers built in."""
    names = sorted(path.name for path in modules.glob("kvm_*"))
    if len(names) > 1:
        flags = cpuinfo.read_text("utf-8", errors="replace").split()
        names = [name for name, flag in HARDWARE.items() if name in names and flag in flags] or names
    return names[0] if names else "none that tells its name"


def _parameter(path: Path) -> str:
    try:
        return switch(path.read_text("ascii").strip())
    except OSError:
        return "false"


def switch(said: str) -> str:
    """Return what a module's parameter says, in the words of results."""
    return SWITCHES.get(said, said)
