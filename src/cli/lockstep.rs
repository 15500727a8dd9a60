//! `trivisor lockstep`: the interpreter and the translator side by side, to the first instruction at which they differ.
use super::error::{self, CliError};
use super::guest::{ImageArguments, Start};
use super::units;
use crate::debugger::symbols::Symbols;
use crate::engine::{Mode, Pair};
use crate::machine::Mistake;
use crate::machine::lockstep::{Beside, Difference, Executed, Lockstep, Verdict};
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
    whole state, and now and then RAM, devices and console. With --modes other modes are compared with the interpreter, one after the other: \
    pv and kvm run natively, and are compared wherever they come out. Time is counted in instructions. The guest gets no input; what \
    it prints is not shown.\n\n\
    Exit status: 0 if both agree, 1 if they differ.")]
pub(super) struct LockstepArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Which modes are compared with the interpreter, each after the other: emu (its translator), pv, kvm; 'single', the
    /// interpreter itself, may be named as one of two
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', default_value = "emu")]
    modes: Vec<Executor>,
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

/// Who executes a side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Executor {
    /// The interpreter, which all are compared with
    Single,
    /// The translator
    Emu,
    /// Patched, natively in a process
    Pv,
    /// In KVM
    Kvm,
}

impl Executor {
    /// What it is called beside the interpreter.
    fn name(self) -> &'static str {
        match self {
            Self::Single => "interpreter",
            Self::Emu => "translator",
            Self::Pv => "pv",
            Self::Kvm => "kvm",
        }
    }

    /// What it is compared after.
    fn pieces(self, count: u64) -> &'static str {
        match (self, count) {
            (Self::Pv | Self::Kvm, 1) => "point",
            (Self::Pv | Self::Kvm, _) => "points",
            (_, 1) => "block",
            _ => "blocks",
        }
    }
}

/// A difference, with what it takes to show it.
struct Found<'a> {
    difference: &'a Difference,
    other: Executor,
    /// Bytes and text of the instruction that is to blame.
    instruction: Option<(String, String)>,
    symbol: Option<String>,
}

/// Bytes and text of an instruction.
fn shown(at: &Executed) -> (String, String) {
    let instruction = Decoder::with_ip(at.bits, &at.bytes, at.rip, DecoderOptions::NONE).decode();
    let mut text = String::new();
    IntelFormatter::new().format(&instruction, &mut text);
    let bytes = at.bytes.iter().take(instruction.len()).map(|byte| format!("{byte:02x}"));
    (bytes.collect::<Vec<_>>().join(" "), text)
}

impl<'a> Found<'a> {
    fn new(difference: &'a Difference, other: Executor, symbols: &Symbols) -> Self {
        let instruction = difference.culprit.as_ref().map(|culprit| shown(&culprit.at));
        let at = difference.culprit.as_ref().map(|culprit| culprit.rip).or(difference.block);
        Self { difference, other, instruction, symbol: at.and_then(|at| symbols.label(at)) }
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
                    let piece = if self.other == Executor::Emu { "the block" } else { "the run" };
                    writeln!(out, "It is instruction {} of {piece} from {block:#x}.", culprit.number)?;
                }
            }
            _ => match self.difference.block {
                Some(block) if self.other == Executor::Emu => writeln!(
                    out,
                    "They differ after the block from {block:#x}{symbol}, and after none of its instructions alone."
                )?,
                Some(block) => writeln!(
                    out,
                    "They differ after the run from {block:#x}{symbol}; no one instruction of it is to blame alone."
                )?,
                None if self.difference.memory.is_some() || self.other != Executor::Emu => {
                    writeln!(out, "They differ in memory or devices, though the CPUs agreed so far.")?;
                }
                None => writeln!(out, "They differ in what interrupts them, or in how it is delivered.")?,
            },
        }
        if let Some(error) = &self.difference.error {
            writeln!(out, "Only one of them did this: {error}")?;
        }
        let (rows, other) = (&self.difference.registers, self.other.name());
        if !rows.is_empty() {
            let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
            let single = rows.iter().map(|row| row.single.len()).max().unwrap_or(0).max("interpreter".len());
            writeln!(out, "\n{:width$}  {:single$}  {other}", "", "interpreter")?;
            for row in rows {
                writeln!(out, "{:width$}  {:single$}  {}", row.name, row.single, row.other)?;
            }
        }
        if let Some((at, single, its)) = self.difference.memory {
            writeln!(out, "\nRAM at {at:#x}: {single:#04x} by the interpreter, {its:#04x} by {other}.")?;
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let (rows, other) = (self.difference.registers.iter(), self.other.name());
        json!({
            "block": self.difference.block.map(|at| format!("{at:#x}")),
            "rip": self.difference.culprit.as_ref().map(|culprit| format!("{:#x}", culprit.rip)),
            "number": self.difference.culprit.as_ref().map(|culprit| culprit.number),
            "bytes": self.instruction.as_ref().map(|(bytes, _)| bytes),
            "text": self.instruction.as_ref().map(|(_, text)| text),
            "symbol": self.symbol,
            "state": rows.map(|row| json!({"name": row.name, "single": row.single, other: row.other})).collect::<Vec<_>>(),
            "memory": self.difference.memory.map(|(at, single, its)| json!({"address": format!("{at:#x}"), "single": single, other: its})),
            "error": self.difference.error,
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
    let modes: Vec<Executor> =
        arguments.modes.iter().copied().filter(|mode| *mode != Executor::Single).collect();
    if modes.is_empty() {
        return Err(CliError::Usage(
            "--modes wants one that is compared with the interpreter: emu, pv or kvm".to_owned(),
        ));
    }
    if arguments.mistake.is_some() && !modes.contains(&Executor::Emu) {
        return Err(CliError::Usage(
            "--break has the translator make a mistake: --modes has to name emu".to_owned(),
        ));
    }
    let begun = Instant::now();
    let mut over = || signal::interrupted() || arguments.timeout.is_some_and(|most| begun.elapsed() >= most);
    let most = arguments.blocks.unwrap_or(u64::MAX);
    let of_guest = |error| CliError::of_guest(arguments.image.name(), error);
    let mut differ = false;
    let mut out = io::stdout().lock();
    for other in modes {
        let beside = |mode| Beside::new(&spec, image, mode);
        let verdict = match other {
            Executor::Pv => beside(Mode::Pv).and_then(|mut both| both.run(most, &mut over)),
            Executor::Kvm => beside(Mode::Kvm).and_then(|mut both| both.run(most, &mut over)),
            Executor::Emu | Executor::Single => {
                Lockstep::new(&spec, image, arguments.mistake).and_then(|mut both| both.run(most, &mut over))
            }
        };
        let verdict = verdict.map_err(of_guest)?;
        let found = verdict.difference.as_ref().map(|difference| Found::new(difference, other, &symbols));
        differ |= found.is_some();
        tell(&mut out, arguments.json, other, &verdict, found.as_ref()).map_err(CliError::Output)?;
    }
    Ok(match differ {
        true => ExitCode::FAILURE,
        false if signal::interrupted() => error::interrupted(|by| format!("stopped by {by}")),
        false => ExitCode::SUCCESS,
    })
}

fn tell(
    out: &mut impl Write,
    json: bool,
    other: Executor,
    verdict: &Verdict,
    found: Option<&Found>,
) -> io::Result<()> {
    let Verdict { blocks, instructions, ended, unequal, .. } = verdict;
    if json {
        let difference = found.map(Found::json);
        let reads = unequal.as_ref().map(|at| json!({"rip": format!("{:#x}", at.rip), "text": shown(at).1}));
        let all = json!({
            "executor": other.name(), "blocks": blocks, "instructions": instructions, "ended": ended,
            "difference": difference, "unequal": reads,
        });
        return writeln!(out, "{all}");
    }
    let end = if *ended { "; the guest has ended" } else { "" };
    let (name, pieces) = (other.name(), other.pieces(*blocks));
    writeln!(
        out,
        "Interpreter and {name} agree after {blocks} {pieces} ({instructions} instructions){end}."
    )?;
    if let Some(at) = unequal {
        let text = shown(at).1;
        writeln!(
            out,
            "Comparing ends at {:#x}: {text}. {name} reads there what is the host's, which the interpreter cannot know.",
            at.rip
        )?;
    }
    found.map_or(Ok(()), |found| found.print(out))
}
