//! Lockstep: the interpreter and another way to execute run the same guest side by side. Here that is the translator, in
//! [`native`] a mode that runs natively.
//!
//! The interpreter and the translator run the same guest side by side, on two whole machines, and are compared
//! after each block; where they differ, the first instruction that does is found.
//!
//! Time is counted and moves only between blocks, on both machines alike, so that timers and interrupts come at the same
//! instructions. The time-stamp counter is read by `single` in both. After each block of the translator the interpreter
//! makes instructions until it is where the translator is; then the CPUs' whole states must be equal. RAM, devices and
//! console are compared now and then, and at the end.
//!
//! To find the instruction both machines go back to the last checkpoint and on to the block that did it. That one is cut after
//! one instruction, after two, and so on, until it shows. Memory that differs is traced to its block by halves first.
mod bisect;
mod native;
#[cfg(test)]
mod native_tests;
mod report;
mod side;
#[cfg(test)]
mod tests;

pub use native::Beside;
pub use report::{Culprit, Difference, Executed, Register, Verdict};

use super::{BOOT_CPU, MachineError, MachineSpec, Mistake};
use crate::arch::{Activity, CpuState, Rflags};
use crate::clock::ClockSource;
use crate::emulator::single::{Ended, Outcome, Single};
use crate::emulator::translate::session::Translator;
use crate::engine::{Boundary, EngineError, Exit, Mode, Pair};
use crate::loader::Image;
use crate::mem::GuestRam;
use side::{Checkpoint, Side};
use std::sync::Arc;

/// Instructions that the interpreter makes at most to get where the translator's block ended. A block has fewer; each
/// part of a long string instruction is one.
const MOST_STEPS: u32 = 100_000;
/// Blocks between two checkpoints, at which all of both machines is compared.
const STRIDE: u64 = 20_000;

/// How a turn went.
enum Turn {
    Same,
    /// The guest does not go on.
    Ended,
    Differs(Box<Mismatch>),
}

/// States that ought to be equal.
struct Mismatch {
    /// Where the block began; `None` between blocks.
    from: Option<u64>,
    single: CpuState,
    translated: CpuState,
    /// What only one of them did.
    error: Option<String>,
}

/// Both machines.
pub struct Lockstep {
    one: Side,
    single: Single,
    other: Side,
    translator: Translator,
    blocks: u64,
    instructions: u64,
}

impl std::fmt::Debug for Lockstep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lockstep").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Where both stood, after so many blocks.
struct Stand {
    one: Checkpoint,
    other: Checkpoint,
    blocks: u64,
    instructions: u64,
}

impl Lockstep {
    /// Two machines before the first instruction of `image`. Of `spec` what does not concern the engine counts; there is one
    /// CPU, and nothing from the host but its image. With a mistake the translator makes it.
    ///
    /// # Errors
    /// [`MachineError`], if such a machine cannot be built.
    pub fn new(spec: &MachineSpec, image: &Image, mistake: Option<Mistake>) -> Result<Self, MachineError> {
        let mut spec = spec.clone();
        spec.pair = Pair::from(Mode::Emu);
        spec.firmware.log = None;
        spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
        let (one, other) = (Side::new(&spec, image)?, Side::new(&spec, image)?);
        let single = Single::new(BOOT_CPU, Arc::clone(one.ram()));
        let mut translator = Translator::new(BOOT_CPU, Arc::clone(other.ram()));
        translator.budget = Some(1);
        if let Some(mistake) = mistake {
            translator.err(mistake);
        }
        Ok(Self { one, single, other, translator, blocks: 0, instructions: 0 })
    }

    /// Runs both until they differ, the guest ends, so many blocks are done, or `stop` says so, which is asked now and
    /// then. What differs is told then, too, if not after which instruction.
    ///
    /// # Errors
    /// [`MachineError`], if one of the machines cannot go on.
    pub fn run(&mut self, most: u64, stop: &mut dyn FnMut() -> bool) -> Result<Verdict, MachineError> {
        let mut stand = self.stand()?;
        let mut turns = 0_u64;
        while self.blocks < most {
            // A halted CPU makes turns, but no blocks.
            turns += 1;
            if turns.is_multiple_of(256) && stop() {
                break;
            }
            match self.turn()? {
                Turn::Same => {}
                Turn::Ended => {
                    return match self.memory_differs()? {
                        true => self.find_memory(&stand, stop),
                        false => Ok(self.agree(true)),
                    };
                }
                Turn::Differs(mismatch) => return self.find(&stand, &mismatch, stop),
            }
            if self.blocks - stand.blocks >= STRIDE {
                if self.memory_differs()? {
                    return self.find_memory(&stand, stop);
                }
                stand = self.stand()?;
            }
        }
        match self.memory_differs()? {
            true => self.find_memory(&stand, stop),
            false => Ok(self.agree(false)),
        }
    }

    /// The interpreter's CPU, where the machines stand: behind the instruction that a difference was found after.
    #[must_use]
    pub fn state(&self) -> &CpuState {
        &self.one.state
    }

    /// The interpreter's RAM.
    #[must_use]
    pub fn ram(&self) -> &Arc<GuestRam> {
        self.one.ram()
    }

    /// What the guest printed, on the interpreter's machine.
    #[must_use]
    pub fn console(&self) -> String {
        self.one.console.text()
    }

    fn agree(&self, ended: bool) -> Verdict {
        Verdict {
            blocks: self.blocks,
            instructions: self.instructions,
            ended,
            difference: None,
            unequal: None,
        }
    }

    fn stand(&self) -> Result<Stand, MachineError> {
        Ok(Stand {
            one: self.one.checkpoint()?,
            other: self.other.checkpoint()?,
            blocks: self.blocks,
            instructions: self.instructions,
        })
    }

    fn back_to(&mut self, stand: &Stand) -> Result<(), MachineError> {
        self.one.back_to(&stand.one)?;
        self.other.back_to(&stand.other)?;
        self.single.flush();
        self.translator.flush();
        (self.blocks, self.instructions) = (stand.blocks, stand.instructions);
        Ok(())
    }

    /// Whether RAM, devices or what was printed differ.
    fn memory_differs(&self) -> Result<bool, MachineError> {
        Ok(self.one.first_other_byte(&self.other)?.is_some()
            || !self.one.other_parts(&self.other)?.is_empty())
    }

    /// What lies between two blocks, and a block.
    fn turn(&mut self) -> Result<Turn, MachineError> {
        // The frame of an interrupt shows RF, which one of them may have taken down later: see `Side::comparable`.
        self.other.state.rflags.set(Rflags::RF, self.one.state.rflags.contains(Rflags::RF));
        let one = self.one.boundary(&mut self.single)?;
        let other = self.other.boundary(self.translator.single())?;
        if one != other || self.one.comparable() != self.other.comparable() {
            return Ok(Turn::Differs(self.mismatch(None, None)));
        }
        match one {
            Boundary::Interrupt(_) | Boundary::Nmi | Boundary::Execute => self.block(),
            // Time went on to the next deadline, if there is one.
            Boundary::Leave(Exit::Halted) if self.one.platform().timers().next_deadline().is_some() => {
                Ok(Turn::Same)
            }
            Boundary::Leave(_) => Ok(Turn::Ended),
        }
    }

    fn mismatch(&self, from: Option<u64>, single: Option<CpuState>) -> Box<Mismatch> {
        let single = single.unwrap_or_else(|| self.one.comparable());
        Box::new(Mismatch { from, single, translated: self.other.comparable(), error: None })
    }

    /// One block.
    fn block(&mut self) -> Result<Turn, MachineError> {
        if self.one.state.activity != Activity::Running {
            return Ok(Turn::Same);
        }
        let from = self.other.state.rip;
        let ended = match self.other.run(&mut self.translator) {
            Ok(ended) => ended,
            Err(error) => return self.only_the_translator(from, error),
        };
        let goal = self.other.comparable();
        let (mut steps, mut met) = (0, None);
        // An interrupt may be due before the first instruction.
        loop {
            if self.one.state.rip == goal.rip {
                let here = self.one.comparable();
                if here == goal {
                    break;
                }
                met.get_or_insert(here);
            }
            if steps == MOST_STEPS {
                return Ok(Turn::Differs(self.mismatch(Some(from), met)));
            }
            let outcome = match self.one.step(&mut self.single) {
                Ok(outcome) => outcome,
                Err(error) => {
                    let mut mismatch = self.mismatch(Some(from), met);
                    mismatch.error = Some(format!("interpreter: {error}"));
                    return Ok(Turn::Differs(mismatch));
                }
            };
            steps += 1;
            if matches!(outcome, Outcome::Halted | Outcome::TripleFault) {
                if self.one.comparable() != goal {
                    return Ok(Turn::Differs(self.mismatch(Some(from), met)));
                }
                break;
            }
        }
        self.blocks += 1;
        self.instructions += u64::from(steps);
        self.pass(steps.max(1));
        Ok(if ended == Ended::TripleFault { Turn::Ended } else { Turn::Same })
    }

    /// The translator cannot go on. If the interpreter cannot either, where it is to do the same, that is no difference.
    fn only_the_translator(&mut self, from: u64, error: EngineError) -> Result<Turn, MachineError> {
        for _ in 0..MOST_STEPS {
            let there = self.one.state.rip == self.other.state.rip;
            if self.one.step(&mut self.single).is_err() {
                return Err(error.into());
            }
            if there {
                break;
            }
        }
        let mut mismatch = self.mismatch(Some(from), None);
        mismatch.error = Some(format!("translator: {error}"));
        Ok(Turn::Differs(mismatch))
    }

    fn pass(&self, instructions: u32) {
        for side in [&self.one, &self.other] {
            side.platform().clock().retire(instructions.into());
        }
    }
}
