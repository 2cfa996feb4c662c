"""What makes Linux start without a firmware: pieces of memory, and the address of the kernel's entry.

Linux: *The Linux/x86 Boot Protocol*, section *64-bit Boot Protocol*.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from backends.emulated import kernel
from backends.emulated.modules import untraced

MEMORY = 192 << 20
"""Bytes of the emulated machine's memory."""
PARAMETERS = 0x20000
"""Where the kernel's boot parameters stand, and one page on its command line."""
PAGE = 4096
USABLE, RESERVED = 1, 2
MEMORY_MAP = ((0, 0x9FC00, USABLE), (0x9FC00, 0x60400, RESERVED), (0x100000, MEMORY - 0x100000, USABLE))

COMMAND_LINE = (
    "quiet nokaslr mitigations=off rodata=off acpi=off no_timer_check init_on_alloc=0 tsc=reliable"
    " tsc_early_khz={khz} nowatchdog noxsave pci=off cryptomgr.notests lsm= audit=0 debugfs=off"
    " random.trust_cpu=on rcupdate.rcu_expedited=1 initcall_blacklist={skipped} rdinit=/init"
    '{layout} x2apic_kvm="{options}"'
)
SKIPPED = (
    "trace_eval_init,cubictcp_register,init_kprobe_trace,ftrace_check_for_weak_functions,bpf_rstat_kfunc_init,"
    "bpf_key_sig_kfuncs_init,kfunc_init,bpf_tcp_ca_kfunc_init,bpf_prog_test_run_init,tracer_init_tracefs,"
    "slab_sysfs_init,blake2s_mod_init,load_system_certificate_list"
)
"""Steps of the kernel's start that KVM needs nothing of and that take long on an emulated processor."""


LAYOUTS = MappingProxyType(
    {
        "6.1": " slub_debug=ZU,kvm_vcpu slub_max_order=4",
        "6.12": " slub_debug=U,kvm_vcpu slub_max_order=4",
    }
)
"""What lays KVM's posted-interrupt descriptors where Bochs 3.0 takes them: ``kvm/emulated/README.md``."""
HUGE_PAGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """Bytes by the address where they are to stand, and where the kernel is then entered."""

    entry: int
    pieces: tuple[tuple[int, bytes], ...]


def loaded(folder: Path, programs: Iterable[Path], *, khz: int, options: str, layout: str = "") -> Loaded:
    """Return what starts the kernel in *folder*, with programs beside it.

    *khz* are thousands of the processor's cycles a second, *options* the parameters of ``kvm_intel``;
    *layout* is empty or one of `LAYOUTS`.
    """
    vmlinux = folder.joinpath("vmlinux").read_bytes()
    segments = tuple(kernel.segments(vmlinux))
    behind = max(each.address + each.room for each in segments)
    files_at = behind + -behind % HUGE_PAGE
    files = _first_files(folder, programs)
    line = COMMAND_LINE.format(khz=khz, skipped=SKIPPED, layout=layout, options=options)
    page = _parameters(folder.joinpath("vmlinuz").read_bytes(), (files_at, len(files)), line)
    pieces = [(each.address, each.content) for each in segments]
    return Loaded(kernel.entry(vmlinux), (*pieces, (files_at, files), (PARAMETERS, page)))


def _first_files(folder: Path, programs: Iterable[Path]) -> bytes:
    """Return the kernel's first files: KVM's modules in *folder*, and programs (a cpio archive, *newc*)."""
    modules = [(name, 0o100644, untraced(folder.joinpath(name).read_bytes())) for name in kernel.MODULES]
    every = [*modules, *((path.name, 0o100755, path.read_bytes()) for path in programs)]
    return b"".join(_member(*each) for each in [*every, ("TRAILER!!!", 0, b"")])


def _member(name: str, mode: int, content: bytes) -> bytes:
    spelled = name.encode() + b"\0"
    numbers = (_inode(name), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(spelled), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + spelled
    return _padded(head, 4) + _padded(content, 4)


def _inode(name: str) -> int:
    return int.from_bytes(name.encode()[:3], "little")


def _padded(content: bytes, size: int) -> bytes:
    return content + bytes(-len(content) % size)


def _parameters(vmlinuz: bytes, files: tuple[int, int], command_line: str) -> bytes:
    """Return the boot parameters and the command line; *files*: the first files' address and size."""
    page = bytearray(PAGE)
    head = 0x202 + vmlinuz[0x201]
    page[0x1F1:head] = vmlinuz[0x1F1:head]
    page[0x210] = 0xFF  # a loader without a number
    page[0x211] |= 1  # the kernel stands at 1 MiB or higher
    struct.pack_into("<II", page, 0x218, *files)
    struct.pack_into("<I", page, 0x228, PARAMETERS + PAGE)
    page[0x1E8] = len(MEMORY_MAP)
    for index, each in enumerate(MEMORY_MAP):
        struct.pack_into("<QQI", page, 0x2D0 + 20 * index, *each)
    return bytes(page) + command_line.encode().ljust(PAGE, b"\0")
