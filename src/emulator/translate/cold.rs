//! What lies off the hot path of a block, behind it: calls for help, and ways that are rarely taken.
use super::builder::{Builder, Flags};
use super::number;
use super::windows::Refill;
use crate::emulator::code::context::Context;
use crate::emulator::code::stubs::{field, restore_flags};
use crate::emulator::emit::{Forward, RAX, RCX, RSP};
use crate::engine::Part;
use smallvec::smallvec;

/// A piece of code off the hot path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cold {
    /// `single` executes the instruction of a site, then goes on at `resume`.
    Execute { site: u32, resume: usize, live: bool },
    /// Asks for help with flags saved (or live), after putting RAX into the context's RIP if it is a target.
    Ask { number: u32, live: bool, target: bool },
    /// A branch away that is more than a jump, with live flags; whether attention is looked at.
    Away { rip: u64, heed: bool },
    /// A far link that holds for another mark of jumps, see [`Builder::stale`].
    Stale { link: u32, rip: u64, direct: Forward, back: Option<usize> },
    /// A jump through the jump cache to the address in RAX, which is not where a call came from.
    Astray { site: u32 },
    /// Before the call at `resume`: somebody asks for attention, or the stack of returns is full and is emptied.
    Deep { resume: usize, number: u32, target: bool },
    /// A call whose target the jump cache does not know: help is asked for as if from there, returning to `back`.
    Unknown { number: u32, target: bool, back: usize },
    /// The guest's vector registers are not in the host's yet; on at `resume`.
    Vectors { resume: usize },
    /// An access that missed its window: a while on through the soft TLB.
    /// Flags that were not saved are made again, by the instruction of that number in the block.
    Missed { link: u32, remade: Option<u16> },
    /// As `Missed`, but its window may be moved at once.
    Refill(Refill),
}

impl Cold {
    /// What it is there for.
    fn part(self) -> Part {
        match self {
            Self::Execute { .. } => Part::Interpret,
            Self::Ask { number, .. } if number & number::KIND == number::SITE => Part::Interpret,
            Self::Ask { .. } => Part::Link,
            Self::Away { .. } => Part::Away,
            Self::Stale { .. } | Self::Astray { .. } | Self::Deep { .. } | Self::Unknown { .. } => {
                Part::Astray
            }
            Self::Vectors { .. } => Part::Vectors,
            Self::Missed { .. } | Self::Refill(_) => Part::Missed,
        }
    }
}

impl Builder<'_> {
    /// Writes what lies off the hot path.
    pub(super) fn finish(&mut self) {
        let mut next = 0;
        // Pieces may ask for further ones.
        while next < self.cold.len() {
            let (from, cold) = (std::mem::take(&mut self.cold[next].0), self.cold[next].1);
            next += 1;
            let at = self.asm.position();
            self.mark_cold(from.first(), cold.part());
            for forward in from {
                self.asm.bind(forward);
            }
            match cold {
                Cold::Execute { site, resume, live } => {
                    self.asm.mov_imm(RAX, (number::SITE | site).into());
                    if live {
                        let behind = self.asm.lea_forward(RCX);
                        self.asm.jump_to(self.stubs.execute);
                        self.asm.bind(behind);
                        restore_flags(self.asm);
                        self.asm.jump_back(resume);
                    } else {
                        self.asm.lea_position(RCX, resume);
                        self.asm.jump_to(self.stubs.execute);
                    }
                }
                Cold::Ask { number, live, target } => {
                    if let Some(link) = number::link(number) {
                        self.new_link(link).stub = at;
                    }
                    if target {
                        self.asm.store(field(Context::RIP), RAX);
                    }
                    self.asm.mov_imm(RAX, number.into());
                    self.asm.jump_to(if live { self.stubs.help_with_flags } else { self.stubs.help });
                }
                Cold::Vectors { resume } => {
                    self.asm.call(self.stubs.load_vectors);
                    self.asm.jump_back(resume);
                }
                Cold::Away { rip, heed } => {
                    self.flags = Flags::Live;
                    self.go_on_at(rip, heed);
                }
                Cold::Stale { link, rip, direct, back } => self.stale(link, rip, direct, back),
                Cold::Missed { link, remade } => {
                    if let Some(writer) = remade {
                        self.remake(writer);
                    }
                    self.missed(link);
                }
                Cold::Refill(refill) => self.refill(&refill),
                Cold::Astray { site } => {
                    self.asm.load(RSP, field(Context::RETURNS_BASE));
                    self.look_up(site);
                }
                Cold::Deep { resume, number, target } => {
                    let kicked = self.is_kicked();
                    self.cold.push((smallvec![kicked], Cold::Ask { number, live: false, target }));
                    self.asm.load(RSP, field(Context::RETURNS_BASE));
                    self.asm.jump_back(resume);
                }
                Cold::Unknown { number, target, back } => {
                    if target {
                        self.asm.store(field(Context::RIP), RAX);
                    }
                    self.asm.lea_position(RCX, back);
                    self.asm.push(RCX);
                    self.asm.mov_imm(RAX, number.into());
                    self.asm.jump_to(self.stubs.help);
                }
            }
        }
    }
}
