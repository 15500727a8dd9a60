//! `trivisor lockstep`: the interpreter and the translator side by side, to the first instruction at which they differ.
use super::error::{self, CliError};
use super::guest::{ImageArguments, Start};
use super::units;
use crate::arch::LONGEST_INSTRUCTION;
use crate::debugger::memory::{GuestMemory, Space};
use crate::debugger::symbols::Symbols;
use crate::engine::{Mode, Pair};
use crate::machine::Mistake;
use crate::machine::lockstep::{Difference, Lockstep, Verdict};
use crate::sys::signal;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes of RAM that a guest has at most: there are two machines, and up to four copies.
const MOST_MEMORY: u64 = 1 << 30;
/// Guest kilohertz: an instruction takes a nanosecond.
const TSC_KHZ: u64 = 1_000_000;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
    trivisor lockstep hello                      both to the guest's end\n  \
    trivisor lockstep --blocks 100k quicksort\n  \
    trivisor lockstep --break flag quicksort     the translator makes a mistake, which is found\n  \
    trivisor lockstep --kernel bzImage --initrd rd --append console=ttyS0 --timeout 5m\n\n\
    The interpreter and the translator of mode emu run the guest on two machines and are compared after each block: the CPU's \
    whole state, and now and then RAM, devices and console. Time is counted in instructions. The guest gets no input; what it \
    prints is not shown.\n\n\
    Exit status: 0 if both agree, 1 if they differ.")]
pub(super) struct LockstepArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Compare so many blocks at most (k, M and G count in thousands)
    #[arg(long, value_name = "NUMBER", value_parser = units::number)]
    blocks: Option<u64>,
    /// Stop after so long (10s, 500ms, 2m)
    #[arg(long, value_name = "TIME", value_parser = units::duration, allow_hyphen_values = true)]
    timeout: Option<Duration>,
    /// Have the translator make this mistake: 'flag' (INC turns the carry over), 'width' (MOVZX of 16 bits takes eight)
    #[arg(long = "break", value_name = "MISTAKE", value_parser = PossibleValuesParser::new(Mistake::ALL.map(Mistake::name))
        .try_map(|name| Mistake::ALL.into_iter().find(|mistake| mistake.name() == name).ok_or("no such mistake")))]
    mistake: Option<Mistake>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A difference, with what it takes to show it.
struct Found<'a> {
    difference: &'a Difference,
    /// Bytes and text of the instruction that is to blame.
    instruction: Option<(String, String)>,
    symbol: Option<String>,
}

impl<'a> Found<'a> {
    fn new(difference: &'a Difference, both: &Lockstep, symbols: &Symbols) -> Self {
        let memory = GuestMemory::new(both.ram(), both.state());
        let bits = both.state().code_bits();
        let instruction = difference.culprit.as_ref().map(|culprit| {
            let bytes = memory.read_prefix(Space::Virtual, culprit.rip, LONGEST_INSTRUCTION);
            let instruction = Decoder::with_ip(bits, &bytes, culprit.rip, DecoderOptions::NONE).decode();
            let mut text = String::new();
            IntelFormatter::new().format(&instruction, &mut text);
            let bytes = bytes.iter().take(instruction.len()).map(|byte| format!("{byte:02x}"));
            (bytes.collect::<Vec<_>>().join(" "), text)
        });
        let at = difference.culprit.as_ref().map(|culprit| culprit.rip).or(difference.block);
        Self { difference, instruction, symbol: at.and_then(|at| symbols.label(at)) }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let symbol = self.symbol.as_ref().map(|name| format!(" <{name}>")).unwrap_or_default();
        match (&self.difference.culprit, &self.instruction) {
            (Some(culprit), Some((bytes, text))) => {
                writeln!(
                    out,
                    "They differ after this instruction:\n\n  {:#x}{symbol}  {bytes}  {text}\n",
                    culprit.rip
                )?;
                if let Some(block) = self.difference.block {
                    writeln!(out, "It is instruction {} of the block from {block:#x}.", culprit.number)?;
                }
            }
            _ => match self.difference.block {
                Some(block) => writeln!(
                    out,
                    "They differ after the block from {block:#x}{symbol}, and after none of its instructions alone."
                )?,
                None => writeln!(out, "They differ in what interrupts them, or in how it is delivered.")?,
            },
        }
        let rows = &self.difference.registers;
        if !rows.is_empty() {
            let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
            let single = rows.iter().map(|row| row.single.len()).max().unwrap_or(0).max("interpreter".len());
            writeln!(out, "\n{:width$}  {:single$}  translator", "", "interpreter")?;
            for row in rows {
                writeln!(out, "{:width$}  {:single$}  {}", row.name, row.single, row.translator)?;
            }
        }
        if let Some((at, single, translator)) = self.difference.memory {
            writeln!(
                out,
                "\nRAM at {at:#x}: {single:#04x} by the interpreter, {translator:#04x} by the translator."
            )?;
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let rows = self.difference.registers.iter();
        json!({
            "block": self.difference.block.map(|at| format!("{at:#x}")),
            "rip": self.difference.culprit.as_ref().map(|culprit| format!("{:#x}", culprit.rip)),
            "number": self.difference.culprit.as_ref().map(|culprit| culprit.number),
            "bytes": self.instruction.as_ref().map(|(bytes, _)| bytes),
            "text": self.instruction.as_ref().map(|(_, text)| text),
            "symbol": self.symbol,
            "state": rows.map(|row| json!({"name": row.name, "single": row.single, "translator": row.translator})).collect::<Vec<_>>(),
            "memory": self.difference.memory.map(|(at, single, translator)| json!({"address": format!("{at:#x}"), "single": single, "translator": translator})),
        })
    }
}

pub(super) fn main(arguments: &LockstepArguments) -> Result<ExitCode, CliError> {
    let (start, spec) = arguments.image.prepare(Pair::from(Mode::Emu), || TSC_KHZ)?;
    let Start::Image(image) = &start else {
        return Err(CliError::Usage("lockstep begins with an image, not with a snapshot".to_owned()));
    };
    if spec.cpus > 1 {
        return Err(CliError::Usage("lockstep compares machines of one CPU; leave --cpus out".to_owned()));
    }
    if spec.memory > MOST_MEMORY {
        let most = crate::mem::amount(MOST_MEMORY);
        return Err(CliError::Usage(format!("lockstep keeps several copies of RAM; give it {most} at most")));
    }
    signal::catch_interrupts().map_err(|source| CliError::Host { what: "cannot catch Ctrl-C", source })?;
    let symbols = Symbols::new(image.symbols().iter().map(|s| (s.address, s.size, s.name.as_str())));
    let of_guest = |error| CliError::of_guest(arguments.image.name(), error);
    let mut both = Lockstep::new(&spec, image, arguments.mistake).map_err(of_guest)?;
    let begun = Instant::now();
    let mut over = || signal::interrupted() || arguments.timeout.is_some_and(|most| begun.elapsed() >= most);
    let verdict = both.run(arguments.blocks.unwrap_or(u64::MAX), &mut over).map_err(of_guest)?;
    let found = verdict.difference.as_ref().map(|difference| Found::new(difference, &both, &symbols));
    let mut out = io::stdout().lock();
    tell(&mut out, arguments.json, &verdict, found.as_ref()).map_err(CliError::Output)?;
    Ok(match found {
        Some(_) => ExitCode::FAILURE,
        None if signal::interrupted() => error::interrupted(|by| format!("stopped by {by}")),
        None => ExitCode::SUCCESS,
    })
}

fn tell(out: &mut impl Write, json: bool, verdict: &Verdict, found: Option<&Found>) -> io::Result<()> {
    let Verdict { blocks, instructions, ended, .. } = verdict;
    if json {
        let difference = found.map(Found::json);
        let all =
            json!({"blocks": blocks, "instructions": instructions, "ended": ended, "difference": difference});
        return writeln!(out, "{all}");
    }
    let end = if *ended { "; the guest has ended" } else { "" };
    let blocks_of = if *blocks == 1 { "block" } else { "blocks" };
    writeln!(
        out,
        "Interpreter and translator agree after {blocks} {blocks_of} ({instructions} instructions){end}."
    )?;
    found.map_or(Ok(()), |found| found.print(out))
}
