//! An adapter in Rust, without a crate: a small VMM of its own that virtualizes the x2APIC as far as the TPR and
//! APIC-register virtualization. It says `unsupported` to everything beyond.
//!
//!     rustc --edition 2021 -O -o my-adapter backends/adapters/rust/main.rs
//!     python -m runner adapter-check ./my-adapter
//!     pytest specs --backend backends/adapters/rust/rust-adapter.yaml
//!
//! `json` reads lines, `vmcs` checks VM entry, `processor` executes steps, `apic` is the physical APIC.

mod apic;
mod json;
mod processor;
mod vmcs;

use json::{wrong, Value, Wrong};
use processor::{Outcome, Processor};
use std::io::{self, BufRead, Write};
use vmcs::{lacks, Memory, Not, Vmcs, ALLOWED, PAGE_WORDS};

const STALE: u32 = 0x9c40_1c39;

fn main() -> io::Result<()> {
    let mut line = Vec::new();
    let (mut asked, mut answered) = (io::stdin().lock(), io::stdout().lock());
    while asked.read_until(b'\n', &mut line)? > 0 {
        match answer(&String::from_utf8_lossy(&line)) {
            Ok(Some(text)) => writeln!(answered, "{text}")?,
            Ok(None) => return Ok(()),
            Err(why) => eprintln!("no message: {why}"),
        }
        answered.flush()?;
        line.clear();
    }
    Ok(())
}

/// The answer to one message; nothing to `stop`.
fn answer(line: &str) -> Result<Option<String>, Wrong> {
    let message = json::parse(line)?;
    match message.at("message")?.text()? {
        "hello" => Ok(Some(capabilities())),
        "stop" => Ok(None),
        "run" => {
            let seq = message.at("seq")?.number(i64::from(i32::MAX))?;
            Ok(Some(match run(&message) {
                Ok(seen) => format!(r#"{{"message":"observation","seq":{seq},{seen}}}"#),
                Err(Not::Supported(what)) => reason("unsupported", seq, &what),
                Err(Not::ACase(Wrong(what))) => reason("broken", seq, &what),
            }))
        }
        other => wrong(format!("`{other}`")),
    }
}

fn reason(message: &str, seq: usize, what: &str) -> String {
    let plain: String = what
        .chars()
        .take(200)
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .collect();
    let plain = plain.replace(['"', '\\'], "'");
    format!(r#"{{"message":"{message}","seq":{seq},"reason":"{plain}"}}"#)
}

fn capabilities() -> String {
    let words = ALLOWED
        .iter()
        .map(|&(_, msr, required, permitted)| (msr, required | permitted << 32));
    let msrs: Vec<String> = words
        .map(|(msr, value)| format!(r#"["{msr:#x}","{value:#x}"]"#))
        .collect();
    format!(
        concat!(
            r#"{{"message":"capabilities","protocol":1,"name":"a small VMM in Rust","version":"1","levels":["vmx"],"#,
            r#""vcpus":8,"batch":256,"memory":"0x100000","physical-address-width":{},"x2apic":1,"#,
            r#""apic-version":"{:#x}","msrs":[{}]}}"#
        ),
        vmcs::ADDRESS_WIDTH,
        apic::VERSION,
        msrs.join(",")
    )
}

/// Run one case; without barriers its virtual processors run one after the other.
fn run(case: &Value) -> Result<String, Not> {
    if case.at("level")?.text()? != "vmx" {
        return Ok(wrong("an unknown level")?);
    }
    let (setups, steps) = (case.at("vcpus")?.list()?, case.at("steps")?.list()?);
    let last = setups.len() as i64 - 1;
    let owners: Vec<usize> = steps
        .iter()
        .map(|step| step.at("vcpu")?.number(last))
        .collect::<Result<_, _>>()?;
    let mut memory = Memory::default();
    memory.pages.insert(
        case.at("shared")?.at("stale-page")?.hex(64)?,
        vec![STALE; PAGE_WORDS],
    );
    for setup in setups {
        add_structures(&mut memory, setup)?;
    }
    let mut results: Vec<String> =
        vec![result(&[r#"{"outcome":"not-reached"}"#.into()], "null"); steps.len()];
    let (mut entries, mut finals) = (Vec::new(), Vec::new());
    for (id, setup) in setups.iter().enumerate() {
        let mut processor = Processor {
            vmcs: Vmcs::read(setup.at("fields")?)?,
            apic: apic::Apic {
                id: id as u64,
                in_x2apic_mode: x2apic_mode(setup)?,
            },
            cpl: cpl(setup)?,
            memory: &mut memory,
        };
        let page = processor
            .memory
            .pages
            .get(&processor.vmcs.virtual_apic_address());
        let enters = processor.vmcs.enters(page)?;
        entries.push(if enters {
            r#"{"outcome":"entered"}"#
        } else {
            r#"{"outcome":"vmfail-valid","error":7}"#
        });
        for (index, step) in steps
            .iter()
            .enumerate()
            .filter(|&(index, _)| owners[index] == id)
        {
            results[index] = one_step(&mut processor, step, enters)?;
        }
    }
    for setup in setups {
        finals.push(final_state(&memory, setup)?);
    }
    let (entries, results, finals) = (entries.join(","), results.join(","), finals.join(","));
    Ok(format!(
        r#""entries":[{entries}],"steps":[{results}],"finals":[{finals}]"#
    ))
}

fn one_step(processor: &mut Processor, step: &Value, entered: bool) -> Result<String, Not> {
    let physical = match step.at("step")?.text()? {
        "rdmsr" => processor
            .apic
            .rdmsr(step.at("msr")?.hex(32)?)
            .map_or("null".into(), |seen| seen.json()),
        _ => "null".into(),
    };
    let outcome = processor.execute(step)?;
    if !entered {
        return Ok(result(&[r#"{"outcome":"not-reached"}"#.into()], &physical));
    }
    if let Outcome::Exit { reason: 43, .. } = outcome {
        processor.vmcs.set(vmcs::TPR_THRESHOLD, 0); // what the VMM does at this exit
    }
    Ok(result(&[outcome.json()], &physical))
}

fn result(outcomes: &[String], physical: &str) -> String {
    let outcomes = outcomes.join(",");
    format!(r#"{{"outcomes":[{outcomes}],"delivered":[],"physical":{physical}}}"#)
}

fn x2apic_mode(setup: &Value) -> Result<bool, Not> {
    match setup.at("apic-mode")?.text()? {
        "x2apic" => Ok(true),
        "xapic" | "disabled" => Ok(false),
        other => Ok(wrong(format!("no APIC mode `{other}`"))?),
    }
}

fn cpl(setup: &Value) -> Result<usize, Not> {
    let guest = setup.at("guest")?;
    if guest.at("tf")?.number(1)? == 1 {
        return lacks("single-stepping");
    }
    Ok(guest.at("cpl")?.number(3)?)
}

/// Put a virtual processor's page and MSR bitmap where they lie, whatever its VMCS says.
fn add_structures(memory: &mut Memory, setup: &Value) -> Result<(), Not> {
    let (page, bitmap) = (setup.at("virtual-apic-page")?, setup.at("msr-bitmap")?);
    memory
        .pages
        .insert(page.at("address")?.hex(64)?, initial(page)?);
    let ranges = |key| bitmap.at(key)?.pairs(32, 32);
    memory.bitmaps.insert(
        bitmap.at("address")?.hex(64)?,
        (ranges("reads")?, ranges("writes")?),
    );
    for handler in setup.at("handlers")?.list()? {
        handler.at("vector")?.number(255)?; // no interrupt comes, so none is performed
    }
    match setup.at("descriptor")?.at("words")?.list()?.len() {
        0 | 8 => Ok(()),
        count => Ok(wrong(format!("a descriptor of {count} words"))?),
    }
}

fn initial(page: &Value) -> Result<Vec<u32>, Not> {
    let value = page.at("value")?.hex(32)? as u32;
    let fill = page.at("fill")?.text()?;
    let word = |at: u32| match fill {
        "zero" => Ok(0),
        "ones" => Ok(u32::MAX),
        "tagged" => Ok(0xa500_0000 | at << 14 | at), // of the offset 4 * at
        "value" => Ok(value),
        other => wrong(format!("no fill `{other}`")),
    };
    let mut words = (0..PAGE_WORDS as u32)
        .map(word)
        .collect::<Result<Vec<u32>, _>>()?;
    words[0x80 / 4] &= 0xff;
    for (offset, word) in page.at("words")?.pairs(12, 32)? {
        words[offset as usize / 4] = word as u32;
    }
    Ok(words)
}

fn final_state(memory: &Memory, setup: &Value) -> Result<String, Not> {
    let page = setup.at("virtual-apic-page")?;
    let now = &memory.pages[&page.at("address")?.hex(64)?];
    let before = initial(page)?;
    let changed: Vec<String> = (0..PAGE_WORDS)
        .filter(|&at| now[at] != before[at])
        .map(|at| format!(r#"["{:#x}","{:#x}"]"#, 4 * at, now[at]))
        .collect();
    let pid: Vec<String> = setup
        .at("descriptor")?
        .at("words")?
        .list()?
        .iter()
        .map(quoted)
        .collect::<Result<_, _>>()?;
    Ok(format!(
        r#"{{"page":[{}],"rvi":0,"svi":0,"pid":[{}],"physical":[],"activity":0,"blocking":0}}"#,
        changed.join(","),
        pid.join(",")
    ))
}

fn quoted(word: &Value) -> Result<String, Wrong> {
    Ok(format!(r#""{:#x}""#, word.hex(64)?))
}
