"""What a machine's processor can do, read from its capability MSRs, against what a program needs.

SDM: appendix *VMX Capability Reporting Facility*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from backends import wire
from runner.apic import ApicMode
from runner.program import Level, Number, Program, Setup, Vmm
from runner.vmx import (
    CONTROL_WORDS,
    Activity,
    Control,
    Controls,
    EntryControls,
    ExitControls,
    Field,
    PinBasedControls,
    PrimaryControls,
    SecondaryControls,
    TertiaryControls,
    name_of,
)

CAPABILITY_NAMES = (
    "IA32_VMX_BASIC",
    "IA32_VMX_PINBASED_CTLS",
    "IA32_VMX_PROCBASED_CTLS",
    "IA32_VMX_EXIT_CTLS",
    "IA32_VMX_ENTRY_CTLS",
    "IA32_VMX_MISC",
    "IA32_VMX_CR0_FIXED0",
    "IA32_VMX_CR0_FIXED1",
    "IA32_VMX_CR4_FIXED0",
    "IA32_VMX_CR4_FIXED1",
    "IA32_VMX_VMCS_ENUM",
    "IA32_VMX_PROCBASED_CTLS2",
    "IA32_VMX_EPT_VPID_CAP",
    "IA32_VMX_TRUE_PINBASED_CTLS",
    "IA32_VMX_TRUE_PROCBASED_CTLS",
    "IA32_VMX_TRUE_EXIT_CTLS",
    "IA32_VMX_TRUE_ENTRY_CTLS",
    "IA32_VMX_VMFUNC",
    "IA32_VMX_PROCBASED_CTLS3",
)
"""MSRs 480H-492H, in order."""

_ALLOWED_BY: Mapping[type[Control], str] = MappingProxyType(
    {
        PinBasedControls: "IA32_VMX_PINBASED_CTLS",
        PrimaryControls: "IA32_VMX_PROCBASED_CTLS",
        SecondaryControls: "IA32_VMX_PROCBASED_CTLS2",
        TertiaryControls: "IA32_VMX_PROCBASED_CTLS3",
        ExitControls: "IA32_VMX_EXIT_CTLS",
        EntryControls: "IA32_VMX_ENTRY_CTLS",
    }
)

_EXISTS_WITH: Mapping[Field, Control] = MappingProxyType(
    {
        Field.SECONDARY_PROCESSOR_BASED_CONTROLS: PrimaryControls.ACTIVATE_SECONDARY_CONTROLS,
        Field.TERTIARY_PROCESSOR_BASED_CONTROLS: PrimaryControls.ACTIVATE_TERTIARY_CONTROLS,
        Field.VIRTUAL_APIC_ADDRESS: PrimaryControls.USE_TPR_SHADOW,
        Field.TPR_THRESHOLD: PrimaryControls.USE_TPR_SHADOW,
        Field.MSR_BITMAP_ADDRESS: PrimaryControls.USE_MSR_BITMAPS,
        Field.APIC_ACCESS_ADDRESS: SecondaryControls.VIRTUALIZE_APIC_ACCESSES,
        Field.GUEST_INTERRUPT_STATUS: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        Field.EOI_EXIT_BITMAP_0: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        Field.EOI_EXIT_BITMAP_1: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        Field.EOI_EXIT_BITMAP_2: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        Field.EOI_EXIT_BITMAP_3: SecondaryControls.VIRTUAL_INTERRUPT_DELIVERY,
        Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR: PinBasedControls.PROCESS_POSTED_INTERRUPTS,
        Field.POSTED_INTERRUPT_DESCRIPTOR_ADDRESS: PinBasedControls.PROCESS_POSTED_INTERRUPTS,
        Field.PID_POINTER_TABLE_ADDRESS: TertiaryControls.IPI_VIRTUALIZATION,
        Field.LAST_PID_POINTER_INDEX: TertiaryControls.IPI_VIRTUALIZATION,
    }
)
"""VMCS fields that exist only on processors whose capability MSRs allow a control."""

_ENTRY_ACTIVITY = {Activity.HLT: 6, Activity.SHUTDOWN: 7, Activity.WAIT_FOR_SIPI: 8}
"""Bits of IA32_VMX_MISC that allow VM entry to an activity state."""

LOCKED_OFF = (
    "level vmx: the firmware has locked VMX off (IA32_FEATURE_CONTROL[0] = 1, [2] = 0): change its setup"
)
X2APIC = 1 << 21
"""CPUID.01H:ECX: the local APIC has x2APIC mode."""

TRUE_CONTROLS = 1 << 55
"""IA32_VMX_BASIC: the IA32_VMX_TRUE_* MSRs exist."""


@dataclass(frozen=True)
class Processor:
    """What the probe found: CPUID, the APIC's version register, the capability MSRs that exist.

    ``vmx``: VMX operation was entered. Where it was not, ``locked_off``: the firmware does not let it.
    """

    vmx: bool
    vendor: str
    signature: int
    features: int
    physical_width: int
    apic_version: int
    msrs: Mapping[str, int]
    locked_off: bool = False

    @classmethod
    def from_begin(cls, payload: bytes) -> Processor:
        """Read a BEGIN frame's payload."""
        fields = wire.BEGIN.unpack(payload)
        _, _, _, vmx, signature, features, width, version, vendor = fields[:9]
        msrs = {
            name: value
            for name, value in zip(CAPABILITY_NAMES, fields[9:], strict=True)
            if value != wire.ABSENT
        }
        text = vendor.rstrip(b"\0").decode("ascii", "replace")
        return cls(
            vmx == wire.VMX_ROOT,
            text,
            signature,
            features,
            width,
            version,
            MappingProxyType(msrs),
            locked_off=vmx == wire.VMX_LOCKED_OFF,
        )

    def report(self) -> dict[str, str]:
        """Return everything by name, for reports and for what cases suppose with ``when``."""
        return {
            "vendor": self.vendor,
            "cpuid-signature": f"{self.signature:#x}",
            "x2apic": str(bool(self.features & X2APIC)).lower(),
            "vmx": str(self.vmx).lower(),
            "physical-address-width": str(self.physical_width),
            "lvt-entries": str((self.apic_version >> 16 & 0xFF) + 1),
            "directed-eoi": str(bool(self.apic_version >> 24 & 1)).lower(),
            **{name: f"{value:#x}" for name, value in self.msrs.items()},
        }

    def lacks(self, program: Program) -> str | None:
        """Return what the program needs and the processor has not, with the evidence; or ``None``."""
        return next(self._lacks_of(program), None)

    def _lacks_of(self, program: Program) -> Iterator[str]:
        if program.level is Level.VMX:
            yield from self._lacks_at_level_vmx(program)
        if ApicMode.X2APIC in {setup.apic_mode for setup in program.vcpus} and not self.features & X2APIC:
            yield "x2APIC mode: CPUID.01H:ECX[21] = 0"

    def _lacks_at_level_vmx(self, program: Program) -> Iterator[str]:
        if self.locked_off:
            yield LOCKED_OFF
        elif not self.vmx:
            yield "level vmx: the processor has no VMX (CPUID.01H:ECX[5] = 0)"
        for setup in program.vcpus:
            yield from self._lacks(setup)
        for step in program.steps:
            if isinstance(step.action, Vmm) and step.action.controls is not None:
                yield from self._lacking_controls(step.action.controls)

    @cached_property
    def allowed(self) -> Mapping[type[Control], int]:
        """Return, for each control word, the bits that may be 1."""
        return {kind: self._mask(kind) for kind in CONTROL_WORDS}

    def _mask(self, kind: type[Control]) -> int:
        name, shift = self._word(kind)
        return self.msrs.get(name, 0) >> shift

    def _lacks(self, setup: Setup) -> Iterator[str]:
        yield from self._lacking_controls(setup.controls)
        for field in [field for field, _ in setup.fields] + _implied_fields(setup):
            if not self.has_field(field):
                needs = _EXISTS_WITH[field]
                yield f"VMCS field {field:04X}H, which comes with {name_of(needs)}: {self._evidence(needs)}"
        activity = _activity(setup)
        bit = _ENTRY_ACTIVITY.get(activity)
        if bit is not None and not self.msrs.get("IA32_VMX_MISC", 0) >> bit & 1:
            yield f"VM entry to activity state {name_of(activity)}: IA32_VMX_MISC[{bit}] = 0"

    def _lacking_controls(self, controls: Controls) -> Iterator[str]:
        for kind, allowed in self.allowed.items():
            missing = controls.word(kind) & ~allowed
            if missing:
                yield from (f"{name_of(c)}: {self._evidence(c)}" for c in kind if missing & int(c))

    def allows(self, control: Control) -> bool:
        """Whether the capability MSRs let a control be 1."""
        return bool(self.allowed[type(control)] & int(control))

    def has_field(self, field: Field) -> bool:
        """Whether the capability MSRs say that a VMCS field exists."""
        needs = _EXISTS_WITH.get(field)
        return needs is None or self.allows(needs)

    def required(self, kind: type[Control]) -> int:
        """Return the bits of a control word that must be 1."""
        if kind in {SecondaryControls, TertiaryControls}:
            return 0
        return self.msrs.get(self._word(kind)[0], 0) & 0xFFFFFFFF

    def _word(self, kind: type[Control]) -> tuple[str, int]:
        """Return the MSR with the allowed settings of a control word, and where they begin in it."""
        name = _ALLOWED_BY[kind]
        true_name = name.replace("IA32_VMX_", "IA32_VMX_TRUE_")
        if true_name in self.msrs and self.msrs.get("IA32_VMX_BASIC", 0) & TRUE_CONTROLS:
            name = true_name
        return name, 0 if kind is TertiaryControls else 32

    def _evidence(self, control: Control) -> str:
        name, shift = self._word(type(control))
        bit = int(control).bit_length() - 1 + shift
        return f"{name}[{bit}] = 0" if name in self.msrs else f"{name} does not exist"


def _activity(setup: Setup) -> Activity:
    """Return the activity state at VM entry; one that does not exist is none that a processor could lack."""
    said = dict(setup.fields).get(Field.GUEST_ACTIVITY_STATE)
    states = {int(each) for each in Activity}
    return Activity(said.value) if isinstance(said, Number) and said.value in states else setup.guest.activity


def _implied_fields(setup: Setup) -> list[Field]:
    fields = [Field.GUEST_INTERRUPT_STATUS] if setup.rvi or setup.svi else []
    if setup.eoi_exit_bitmap:
        fields.append(Field.EOI_EXIT_BITMAP_0)
    return fields
