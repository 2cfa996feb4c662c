"""What the SDM leaves to the implementation, as this model chooses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from runner.vmx import (
    Control,
    EntryControls,
    ExitControls,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
)


class AllowedSettings(NamedTuple):
    """The bits of a control word that must be 1 and those that may be. SDM: *VM-Execution Controls*."""

    required: int
    permitted: int


def _allowed(word: type[Control], required: int = 0) -> AllowedSettings:
    permitted = required
    for control in word:
        permitted |= int(control)
    return AllowedSettings(required, permitted)


AllowedWords = tuple[
    AllowedSettings, AllowedSettings, AllowedSettings, AllowedSettings, AllowedSettings, AllowedSettings
]
"""Allowed settings in the order of `CONTROL_WORDS`."""

_SETTINGS: AllowedWords = (
    _allowed(PinBasedControls, 0x16),
    _allowed(PrimaryControls, 0x0400_6172),
    _allowed(SecondaryControls),
    _allowed(TertiaryControls),
    _allowed(ExitControls, 0x0003_6DFB),
    _allowed(EntryControls, 0x0000_11FB),
)
_STORAGE_MSRS = frozenset((0x174, 0x175, 0x176))
_OTHER_MSRS: Mapping[int, int] = MappingProxyType({**dict.fromkeys(_STORAGE_MSRS, 0), 0xC0000080: 0x500})
"""IA32_SYSENTER_CS, ESP and EIP; IA32_EFER with LME and LMA."""

_TERTIARY = "IA32_VMX_PROCBASED_CTLS3"
_CAPABILITY_MSRS = (
    "IA32_VMX_TRUE_PINBASED_CTLS",
    "IA32_VMX_TRUE_PROCBASED_CTLS",
    "IA32_VMX_PROCBASED_CTLS2",
    _TERTIARY,
    "IA32_VMX_TRUE_EXIT_CTLS",
    "IA32_VMX_TRUE_ENTRY_CTLS",
)


@dataclass(frozen=True, slots=True)
class Implementation:
    """The choices of one implementation.

    ``blocking_repeats``: an STI or MOV SS blocks although it stands behind another that blocks it.
    ``external_interrupts_wait_for_blocking``: such blocking delays external interrupts also with
    *external-interrupt exiting* 1. ``other_msrs`` are the guest's values
    of MSRs outside the local APIC, by number; those in ``storage_msrs`` keep what is written.
    """

    physical_address_width: int = 46
    allowed: AllowedWords = _SETTINGS
    hlt_activity_state: bool = True
    shutdown_activity_state: bool = True
    apic_version: int = 0x15
    lvt_entries: int = 7
    directed_eoi: bool = True
    svr_bit_9: bool = False
    blocking_repeats: bool = True
    external_interrupts_wait_for_blocking: bool = False
    other_msrs: Mapping[int, int] = field(default_factory=lambda: _OTHER_MSRS)
    storage_msrs: frozenset[int] = _STORAGE_MSRS

    def capabilities(self) -> Mapping[str, str]:
        """Return the capability MSRs, and the platform properties that a case can suppose, by name."""
        msrs = zip(_CAPABILITY_MSRS, self.allowed, strict=True)
        return {
            **{name: _capability(name, settings) for name, settings in msrs},
            "physical-address-width": str(self.physical_address_width),
            "lvt-entries": str(self.lvt_entries),
            "x2apic": "true",
            "directed-eoi": str(self.directed_eoi).lower(),
        }


def _capability(name: str, settings: AllowedSettings) -> str:
    """Return the value of a capability MSR; of the tertiary controls it is 64 permitted bits."""
    required = settings.required
    return f"{settings.permitted if name == _TERTIARY else settings.permitted << 32 | required:X}H"


MODELLED: Mapping[type[Control], int] = MappingProxyType(
    {
        PinBasedControls: int(
            PinBasedControls.EXTERNAL_INTERRUPT_EXITING
            | PinBasedControls.NMI_EXITING
            | PinBasedControls.PROCESS_POSTED_INTERRUPTS
        ),
        PrimaryControls: ~int(
            PrimaryControls.NMI_WINDOW_EXITING
            | PrimaryControls.USE_IO_BITMAPS
            | PrimaryControls.MONITOR_TRAP_FLAG
            | PrimaryControls.PAUSE_EXITING
        ),
        SecondaryControls: int(
            SecondaryControls.VIRTUALIZE_APIC_ACCESSES
            | SecondaryControls.DESCRIPTOR_TABLE_EXITING
            | SecondaryControls.ENABLE_RDTSCP
            | SecondaryControls.VIRTUALIZE_X2APIC_MODE
            | SecondaryControls.WBINVD_EXITING
            | SecondaryControls.APIC_REGISTER_VIRTUALIZATION
            | SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY
            | SecondaryControls.RDRAND_EXITING
            | SecondaryControls.ENABLE_INVPCID
        ),
        TertiaryControls: int(TertiaryControls.LOADIWKEY_EXITING | TertiaryControls.IPI_VIRTUALIZATION),
        ExitControls: int(
            ExitControls.SAVE_DEBUG_CONTROLS
            | ExitControls.HOST_ADDRESS_SPACE_SIZE
            | ExitControls.ACKNOWLEDGE_INTERRUPT_ON_EXIT
            | ExitControls.SAVE_IA32_PAT
            | ExitControls.SAVE_IA32_EFER
        ),
        EntryControls: int(EntryControls.LOAD_DEBUG_CONTROLS | EntryControls.IA_32E_MODE_GUEST),
    }
)
"""Controls whose effect on the programs of scenarios the model knows, if only that they have none."""
