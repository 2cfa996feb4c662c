//! The physical local APIC as nobody has changed it. SDM: x2APIC Register Address Space.

use crate::processor::Outcome::{self, GeneralProtection, Value};
use crate::vmcs::{lacks, Not};

pub const TPR: u64 = 0x808;
pub const VERSION: u64 = 0x0106_0015;
const READ_ONLY: [u64; 6] = [0x802, 0x803, 0x80a, 0x80d, 0x839, 0x830];

pub fn is_x2apic(msr: u64) -> bool {
    (0x800..=0x8ff).contains(&msr)
}

/// A local APIC with this ID; outside x2APIC mode it has no MSRs.
pub struct Apic {
    pub id: u64,
    pub in_x2apic_mode: bool,
}

impl Apic {
    /// What a register holds that RDMSR reads; `None`: there is none to read.
    fn register(&self, msr: u64) -> Option<u64> {
        match msr {
            0x802 => Some(self.id),
            0x803 => Some(VERSION),
            0x808 | 0x80a | 0x810..=0x828 | 0x838 | 0x839 | 0x83e => Some(0),
            0x80d => Some((self.id >> 4) << 16 | 1 << (self.id & 0xf)),
            0x80f => Some(0x1ff),
            0x82f | 0x832..=0x837 => Some(0x1_0000),
            _ => None,
        }
    }

    pub fn rdmsr(&self, msr: u64) -> Result<Outcome, Not> {
        match self.register(msr) {
            _ if !is_x2apic(msr) => lacks(format!("MSR {msr:X}H")),
            _ if !self.in_x2apic_mode => Ok(GeneralProtection),
            _ if msr == 0x830 => lacks("an ICR that can be read"),
            Some(value) => Ok(Value(value)),
            None => Ok(GeneralProtection),
        }
    }

    pub fn wrmsr(&self, msr: u64, _: u64) -> Result<Outcome, Not> {
        let is_there = self.register(msr).is_some() || [0x80b, 0x830, 0x83f].contains(&msr);
        let is_read_only =
            READ_ONLY.contains(&msr) && msr != 0x830 || (0x810..=0x827).contains(&msr);
        match msr {
            _ if !is_x2apic(msr) => lacks(format!("MSR {msr:X}H")),
            _ if !self.in_x2apic_mode || !is_there || is_read_only => Ok(GeneralProtection),
            _ => lacks("a physical APIC that can be written"),
        }
    }
}
