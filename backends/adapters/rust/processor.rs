//! What one virtual processor's instructions do in VMX non-root operation.
//! SDM: Virtualizing MSR-Based APIC Accesses, Virtualizing CR8-Based TPR Accesses, TPR Virtualization.

use crate::apic;
use crate::json::{wrong, Value};
use crate::vmcs::{self, lacks, Memory, Not, Vmcs};

/// One thing that happened, as the protocol writes it.
pub enum Outcome {
    Completed,
    Value(u64),
    GeneralProtection,
    Exit {
        reason: u64,
        qualification: u64,
        next: bool,
        length: u64,
    },
}

use Outcome::{Completed, Exit, GeneralProtection};

impl Outcome {
    pub fn json(&self) -> String {
        match self {
            Completed => r#"{"outcome":"completed"}"#.into(),
            Outcome::Value(value) => {
                format!(r#"{{"outcome":"value","value":"{value:#x}","upper-clear":1}}"#)
            }
            GeneralProtection => r#"{"outcome":"fault","vector":13,"error-code":0}"#.into(),
            Exit {
                reason,
                qualification,
                next,
                length,
            } => format!(
                concat!(
                    r#"{{"outcome":"exit","reason":"{:#x}","qualification":"{:#x}","rip":"{}","#,
                    r#""interruption-information":"0x0","idt-vectoring":"0x0","instruction-length":{},"#,
                    r#""blocking":0,"activity":0,"registers-kept":1}}"#
                ),
                reason,
                qualification,
                if *next { "next" } else { "same" },
                length
            ),
        }
    }
}

fn exit(reason: u64, qualification: u64, length: u64) -> Outcome {
    Exit {
        reason,
        qualification,
        next: false,
        length,
    }
}

pub struct Processor<'a> {
    pub vmcs: Vmcs,
    pub apic: apic::Apic,
    pub cpl: usize,
    pub memory: &'a mut Memory,
}

impl Processor<'_> {
    /// Execute one step.
    pub fn execute(&mut self, step: &Value) -> Result<Outcome, Not> {
        let privileged = match step.at("cpl")?.number(3)? {
            0 => self.cpl == 0,
            3 => false,
            cpl => return Ok(wrong(format!("CPL {cpl}"))?),
        };
        match step.at("step")?.text()? {
            "rdmsr" | "wrmsr" | "read-cr8" | "write-cr8" if !privileged => Ok(GeneralProtection),
            "rdmsr" => self.rdmsr(step.at("msr")?.hex(32)?),
            "wrmsr" => self.wrmsr(step.at("msr")?.hex(32)?, step.at("value")?.hex(64)?),
            "read-cr8" => self.read_cr8(),
            "write-cr8" => self.write_cr8(step.at("value")?.hex(64)?),
            "nop" => Ok(Completed),
            "cpuid" => Ok(exit(10, 0, 2)),
            "vmcall" => Ok(exit(18, 0, 3)),
            other => match KNOWN.contains(&other) {
                true => lacks(format!("the step {other}")),
                false => Ok(wrong(format!("no step `{other}`"))?),
            },
        }
    }

    /// Whether RDMSR or WRMSR exits. SDM: Instructions That Cause VM Exits Conditionally.
    fn msr_exits(&self, msr: u64, write: bool) -> Result<bool, Not> {
        let has_bit = msr <= 0x1fff || (0xc000_0000..=0xc000_1fff).contains(&msr);
        if !has_bit || !self.vmcs.primary(vmcs::USE_MSR_BITMAPS) {
            return Ok(true);
        }
        match self.memory.bitmaps.get(&self.vmcs.msr_bitmap_address()) {
            Some((reads, writes)) => {
                let ranges = if write { writes } else { reads };
                Ok(ranges
                    .iter()
                    .any(|&(first, last)| (first..=last).contains(&msr)))
            }
            None => lacks("an MSR bitmap that nobody has set up"),
        }
    }

    fn rdmsr(&mut self, msr: u64) -> Result<Outcome, Not> {
        if self.msr_exits(msr, false)? {
            return Ok(exit(31, 0, 2));
        }
        let virtualized = self.vmcs.secondary(vmcs::VIRTUALIZE_X2APIC_MODE)
            && apic::is_x2apic(msr)
            && (msr == apic::TPR || self.vmcs.secondary(vmcs::APIC_REGISTER_VIRTUALIZATION));
        if !virtualized {
            return self.apic.rdmsr(msr);
        }
        let at = (msr as usize & 0xff) * 4;
        let page = self.page()?;
        Ok(Outcome::Value(
            u64::from(page[at]) | u64::from(page[at + 1]) << 32,
        ))
    }

    fn wrmsr(&mut self, msr: u64, value: u64) -> Result<Outcome, Not> {
        if self.msr_exits(msr, true)? {
            return Ok(exit(32, 0, 2));
        }
        if !self.vmcs.secondary(vmcs::VIRTUALIZE_X2APIC_MODE) || msr != apic::TPR {
            return self.apic.wrmsr(msr, value);
        }
        if value >> 8 != 0 {
            return Ok(GeneralProtection);
        }
        let page = self.page()?;
        page[0x80 / 4] = value as u32;
        page[0x84 / 4] = 0;
        self.virtualize_tpr()
    }

    fn read_cr8(&mut self) -> Result<Outcome, Not> {
        if self.vmcs.primary(vmcs::CR8_STORE_EXITING) {
            return Ok(exit(28, 0x18, 4));
        }
        if !self.vmcs.primary(vmcs::USE_TPR_SHADOW) {
            return Ok(Outcome::Value(0)); // the physical TPR: nothing here writes it
        }
        Ok(Outcome::Value(u64::from(self.page()?[0x80 / 4] >> 4 & 0xf)))
    }

    fn write_cr8(&mut self, value: u64) -> Result<Outcome, Not> {
        if self.vmcs.primary(vmcs::CR8_LOAD_EXITING) {
            return Ok(exit(28, 0x8, 4)); // before the reserved bits are looked at
        }
        if value >> 4 != 0 {
            return Ok(GeneralProtection);
        }
        if !self.vmcs.primary(vmcs::USE_TPR_SHADOW) {
            return lacks("a physical TPR that can be written");
        }
        self.page()?[0x80 / 4] = (value as u32) << 4;
        self.virtualize_tpr()
    }

    /// The exit is trap-like: the saved RIP is that of the next instruction.
    fn virtualize_tpr(&mut self) -> Result<Outcome, Not> {
        let class = u64::from(self.page()?[0x80 / 4] >> 4 & 0xf);
        match class < self.vmcs.field(vmcs::TPR_THRESHOLD) {
            true => Ok(Exit {
                reason: 43,
                qualification: 0,
                next: true,
                length: 0,
            }),
            false => Ok(Completed),
        }
    }

    fn page(&mut self) -> Result<&mut Vec<u32>, Not> {
        match self.memory.pages.get_mut(&self.vmcs.virtual_apic_address()) {
            Some(page) => Ok(page),
            None => lacks("a virtual-APIC page that nobody has set up"),
        }
    }
}

const KNOWN: [&str; 14] = [
    "sti",
    "cli",
    "mov-ss",
    "hlt",
    "spin",
    "mmio-read",
    "barrier",
    "post",
    "vmm",
    "inject",
    "raise",
    "set-apic-base",
    "init-sipi",
    "dump-at-reset",
];
