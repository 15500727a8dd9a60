//! From "they differ" to the instruction.
use super::report::{Culprit, Difference, Executed, Verdict, differing};
use super::{Lockstep, Mismatch, Stand, Turn};
use crate::emulator::single::Outcome;
use crate::engine::{Boundary, Exit};
use crate::machine::MachineError;
use std::ops::Range;

/// Says that the person wants no more.
type Stop<'s> = &'s mut dyn FnMut() -> bool;

/// Instructions of a block that are looked at one after the other; none has more.
const MOST_CUTS: usize = 192;
/// Parts of one string instruction that the interpreter makes at most.
const MOST_PARTS: usize = 1 << 16;

fn culprit(at: Option<&Executed>, number: usize) -> Option<Culprit> {
    at.map(|at| Culprit { rip: at.rip, number, at: at.clone() })
}

impl Lockstep {
    /// Goes back to `stand` and on over `blocks` blocks, which are known to agree.
    fn again(&mut self, stand: &Stand, blocks: u64) -> Result<(), MachineError> {
        self.back_to(stand)?;
        while self.blocks < stand.blocks + blocks {
            let Turn::Same = self.turn()? else { break };
        }
        Ok(())
    }

    /// The block after those that agree differs by its CPU: which instruction of it?
    pub(super) fn find(
        &mut self,
        stand: &Stand,
        mismatch: &Mismatch,
        stop: Stop,
    ) -> Result<Verdict, MachineError> {
        let (blocks, instructions) = (self.blocks, self.instructions);
        let mut difference = Difference {
            block: mismatch.from,
            culprit: None,
            registers: differing(&mismatch.single, &mismatch.translated),
            memory: None,
            error: mismatch.error.clone(),
        };
        if mismatch.from.is_some() {
            self.again(stand, blocks - stand.blocks)?;
            self.cut(&mut difference, stop)?;
        }
        Ok(Verdict { blocks, instructions, ended: false, difference: Some(difference), unequal: None })
    }

    /// RAM, or a device, differs since `stand`, though the CPUs do not: after which block first, and which instruction of it?
    pub(super) fn find_memory(&mut self, stand: &Stand, stop: Stop) -> Result<Verdict, MachineError> {
        // After `same` blocks both are equal, after `other` they are not.
        let (mut same, mut other) = (0, self.blocks - stand.blocks);
        while other - same > 1 && !stop() {
            let middle = same + (other - same) / 2;
            self.again(stand, middle)?;
            match self.memory_differs()? {
                true => other = middle,
                false => same = middle,
            }
        }
        self.again(stand, same)?;
        let (blocks, instructions) = (self.blocks, self.instructions);
        let mut difference = Difference {
            block: Some(self.other.state.rip),
            culprit: None,
            registers: Vec::new(),
            memory: None,
            error: None,
        };
        self.cut(&mut difference, stop)?;
        if difference.memory.is_none() && difference.registers.is_empty() {
            self.again(stand, same + 1)?;
            difference.memory = self.one.first_other_byte(&self.other)?;
            difference.registers = self.one.other_parts(&self.other)?;
        }
        Ok(Verdict { blocks, instructions, ended: false, difference: Some(difference), unequal: None })
    }

    /// Both stand before the block that makes them differ. Cuts it shorter and shorter until one instruction is to blame.
    fn cut(&mut self, difference: &mut Difference, stop: Stop) -> Result<(), MachineError> {
        // What the boundary delivers is done before the block is looked at, and a halted CPU woken.
        while let Boundary::Leave(Exit::Halted) = self.one.boundary(&mut self.single)? {
            self.other.boundary(self.translator.single())?;
            if self.one.platform().timers().next_deadline().is_none() {
                return Ok(());
            }
        }
        self.other.boundary(self.translator.single())?;
        difference.block = Some(self.other.state.rip);
        let before = self.stand()?;
        // Instructions after which both were seen to be equal.
        let mut equal = 0;
        for number in 1..=MOST_CUTS {
            if stop() {
                break;
            }
            self.back_to(&before)?;
            self.translator.cut_blocks(Some(number));
            let rips = self.follow(number)?;
            if self.differ_here(difference)? {
                if rips.len() > equal + 1 {
                    self.back_to(&before)?;
                    self.one_by_one(difference, number - 1, equal..rips.len())?;
                } else {
                    difference.culprit = culprit(rips.last(), rips.len());
                }
                break;
            }
            if rips.len() < number {
                // The block is no longer than that.
                break;
            }
            equal = rips.len();
        }
        self.translator.cut_blocks(None);
        Ok(())
    }

    /// Whether both differ where they stand, and in what.
    fn differ_here(&mut self, difference: &mut Difference) -> Result<bool, MachineError> {
        let mut registers = differing(&self.one.comparable(), &self.other.comparable());
        registers.extend(self.one.other_parts(&self.other)?);
        let memory = self.one.first_other_byte(&self.other)?;
        let differs = !registers.is_empty() || memory.is_some();
        if differs {
            (difference.registers, difference.memory) = (registers, memory);
        }
        Ok(differs)
    }

    /// Several instructions came at once, because an access missed its window or a branch was taken wrongly: of these
    /// `range`, in the block. With the block cut after `number` both were equal. Blocks of one instruction say which it
    /// is, if it is one alone.
    fn one_by_one(
        &mut self,
        difference: &mut Difference,
        number: usize,
        range: Range<usize>,
    ) -> Result<(), MachineError> {
        if number > 0 {
            self.translator.cut_blocks(Some(number));
            self.follow(number)?;
        }
        self.translator.cut_blocks(Some(1));
        for behind in range {
            let rips = self.follow(1)?;
            if self.differ_here(difference)? {
                difference.culprit = culprit(rips.first(), behind + 1);
                break;
            }
        }
        Ok(())
    }

    /// The translator's block of at most `number` instructions, and the interpreter up to where it ended: the addresses of
    /// its instructions. There may be more of them, because a block goes on in another one, cut alike, where an access
    /// misses its window.
    fn follow(&mut self, number: usize) -> Result<Vec<Executed>, MachineError> {
        self.other.run(&mut self.translator)?;
        let goal = self.other.comparable();
        let (mut rips, mut parts) = (Vec::new(), 0);
        while self.one.comparable() != goal && parts < MOST_PARTS {
            let rip = self.one.state.rip;
            if rips.last().is_none_or(|last: &Executed| last.rip != rip) {
                // It is where the translator is, with another state, or went another way.
                if !rips.is_empty() && rip == goal.rip || rips.len() > 2 * MOST_CUTS {
                    break;
                }
                rips.push(self.one.next_instruction());
            }
            parts += 1;
            if matches!(self.one.step(&mut self.single)?, Outcome::Halted | Outcome::TripleFault) {
                break;
            }
        }
        if rips.len() > 2 * MOST_CUTS {
            rips.truncate(number);
        }
        Ok(rips)
    }
}
