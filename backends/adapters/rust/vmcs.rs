//! One virtual processor's VMCS and memory, and the checks of VM entry.
//! SDM: VM-Execution Control Fields, Checks on VMX Controls.

use crate::json::{wrong, Value, Wrong};
use std::collections::HashMap;

pub const PAGE_WORDS: usize = 1024;
pub const ADDRESS_WIDTH: u32 = 46;

pub const USE_TPR_SHADOW: u64 = 1 << 21;
pub const USE_MSR_BITMAPS: u64 = 1 << 28;
pub const CR8_LOAD_EXITING: u64 = 1 << 19;
pub const CR8_STORE_EXITING: u64 = 1 << 20;
pub const VIRTUALIZE_APIC_ACCESSES: u64 = 1 << 0;
pub const VIRTUALIZE_X2APIC_MODE: u64 = 1 << 4;
pub const APIC_REGISTER_VIRTUALIZATION: u64 = 1 << 8;
const ACTIVATE_SECONDARY: u64 = 1 << 31;
const INTERRUPT_WINDOW_EXITING: u64 = 1 << 2;
const NMI_WINDOW_EXITING: u64 = 1 << 22;
const NMI_EXITING: u64 = 1 << 3;
const VIRTUAL_NMIS: u64 = 1 << 5;

const PIN: u64 = 0x4000;
const PRIMARY: u64 = 0x4002;
const EXIT: u64 = 0x400c;
const ENTRY: u64 = 0x4012;
const SECONDARY: u64 = 0x401e;
pub const TPR_THRESHOLD: u64 = 0x401c;
const VIRTUAL_APIC_ADDRESS: u64 = 0x2012;
const MSR_BITMAP_ADDRESS: u64 = 0x2004;
const APIC_ACCESS_ADDRESS: u64 = 0x2014;

/// Control word, capability MSR, the bits that must be 1, the bits that may be.
pub const ALLOWED: [(u64, u64, u64, u64); 5] = [
    (PIN, 0x481, 0x16, 0x16 | 1 | NMI_EXITING | VIRTUAL_NMIS),
    (
        PRIMARY,
        0x482,
        0x0401_e172,
        0x0401_e172
            | 1 << 7
            | 7 << 19
            | USE_MSR_BITMAPS
            | ACTIVATE_SECONDARY
            | INTERRUPT_WINDOW_EXITING
            | NMI_WINDOW_EXITING,
    ),
    (EXIT, 0x483, 0x0003_6dff, 0x0003_6dff | 1 << 9 | 1 << 15),
    (ENTRY, 0x484, 0x0000_11ff, 0x0000_11ff | 1 << 9),
    (
        SECONDARY,
        0x48b,
        0,
        VIRTUALIZE_APIC_ACCESSES | VIRTUALIZE_X2APIC_MODE | APIC_REGISTER_VIRTUALIZATION,
    ),
];

/// Fields that must be 0 for this VMM, and what it lacks where they are not.
const LACKING: [(u64, &str); 8] = [
    (0x4004, "exceptions that exit"),
    (0x400e, "MSR areas"),
    (0x4010, "MSR areas"),
    (0x4014, "MSR areas"),
    (0x4016, "event injection"),
    (0x4824, "an interruptibility state"),
    (0x4826, "activity states"),
    (0x6822, "pending debug exceptions"),
];

/// Ranges of MSRs, first and last.
pub type Ranges = Vec<(u64, u64)>;

/// Pages and MSR bitmaps by physical address.
#[derive(Default)]
pub struct Memory {
    pub pages: HashMap<u64, Vec<u32>>,
    pub bitmaps: HashMap<u64, (Ranges, Ranges)>,
}

/// Why a case is not run.
pub enum Not {
    Supported(String),
    ACase(Wrong),
}

impl From<Wrong> for Not {
    fn from(wrong: Wrong) -> Not {
        Not::ACase(wrong)
    }
}

pub fn lacks<T>(what: impl Into<String>) -> Result<T, Not> {
    Err(Not::Supported(what.into()))
}

/// The VMCS fields of one virtual processor, by encoding.
pub struct Vmcs(HashMap<u64, u64>);

impl Vmcs {
    pub fn read(fields: &Value) -> Result<Vmcs, Not> {
        let mut vmcs = Vmcs(HashMap::new());
        for field in fields.list()? {
            match field.list()? {
                [encoding, _, value] => vmcs.0.insert(encoding.hex(32)?, value.hex(64)?),
                _ => return Ok(wrong("a VMCS field is [encoding, name, value]")?),
            };
        }
        for (encoding, what) in LACKING {
            if vmcs.field(encoding) != 0 {
                return lacks(what);
            }
        }
        if vmcs.field(PRIMARY) & INTERRUPT_WINDOW_EXITING != 0 {
            return lacks("interrupt windows");
        }
        Ok(vmcs)
    }

    pub fn field(&self, encoding: u64) -> u64 {
        self.0.get(&encoding).copied().unwrap_or(0)
    }

    pub fn set(&mut self, encoding: u64, value: u64) {
        self.0.insert(encoding, value);
    }

    pub fn primary(&self, control: u64) -> bool {
        self.field(PRIMARY) & control != 0
    }

    /// Secondary controls act as 0 while nothing activates them.
    pub fn secondary(&self, control: u64) -> bool {
        self.primary(ACTIVATE_SECONDARY) && self.field(SECONDARY) & control != 0
    }

    pub fn virtual_apic_address(&self) -> u64 {
        self.field(VIRTUAL_APIC_ADDRESS)
    }

    pub fn msr_bitmap_address(&self) -> u64 {
        self.field(MSR_BITMAP_ADDRESS)
    }

    /// Whether the controls pass VM entry; `page` is the virtual-APIC page, where it is known.
    pub fn enters(&self, page: Option<&Vec<u32>>) -> Result<bool, Not> {
        Ok(self.controls_are_allowed() && self.controls_fit() && self.tpr_threshold_fits(page)?)
    }

    fn controls_are_allowed(&self) -> bool {
        ALLOWED.iter().all(|&(word, _, required, permitted)| {
            let value = self.field(word);
            let acts = word != SECONDARY || self.primary(ACTIVATE_SECONDARY);
            !acts || value & required == required && value & !permitted == 0
        })
    }

    fn controls_fit(&self) -> bool {
        let is_page = |encoding| {
            let address = self.field(encoding);
            address & 0xfff == 0 && address >> ADDRESS_WIDTH == 0
        };
        let pin = |control| self.field(PIN) & control != 0;
        let shadow = self.primary(USE_TPR_SHADOW);
        let x2apic = self.secondary(VIRTUALIZE_X2APIC_MODE);
        let accesses = self.secondary(VIRTUALIZE_APIC_ACCESSES);
        (pin(NMI_EXITING) || !pin(VIRTUAL_NMIS))
            && (pin(VIRTUAL_NMIS) || !self.primary(NMI_WINDOW_EXITING))
            && (!self.primary(USE_MSR_BITMAPS) || is_page(MSR_BITMAP_ADDRESS))
            && (!shadow || is_page(VIRTUAL_APIC_ADDRESS))
            && (shadow || !x2apic && !self.secondary(APIC_REGISTER_VIRTUALIZATION))
            && (!accesses || is_page(APIC_ACCESS_ADDRESS))
            && !(x2apic && accesses)
    }

    fn tpr_threshold_fits(&self, page: Option<&Vec<u32>>) -> Result<bool, Not> {
        let threshold = self.field(TPR_THRESHOLD);
        if !self.primary(USE_TPR_SHADOW) {
            return Ok(true);
        }
        if threshold >> 4 != 0 {
            return Ok(false);
        }
        let class = match page {
            Some(words) => u64::from(words[0x80 / 4] >> 4 & 0xf),
            None if threshold == 0 => 0,
            None => return lacks("a virtual-APIC page that nobody has set up"),
        };
        match self.secondary(VIRTUALIZE_APIC_ACCESSES) {
            true if threshold > class => lacks("the VM exit that follows such a VM entry"),
            accesses => Ok(accesses || threshold <= class),
        }
    }
}
