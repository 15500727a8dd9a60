//! One of the two machines that are compared, without its CPU, and going back to where it stood.
pub(super) use super::report::Executed;
use super::report::Register;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{PagingMode, peek};
use crate::arch::{CpuState, Gva, LONGEST_INSTRUCTION, Rflags};
use crate::clock::SavedClock;
use crate::emulator::single::{Ended, Outcome, Single, step_here};
use crate::emulator::translate::session::Translator;
use crate::engine::{Boundary, EngineError, Exit, Platform};
use crate::host::console::Capture;
use crate::loader::Image;
use crate::machine::{BOOT_CPU, Machine, MachineError, MachineSpec, Pc, SavedPart};
use crate::mem::GuestRam;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of the console's output that are kept.
const CONSOLE: usize = 1 << 20;

/// One side.
pub(super) struct Side {
    pc: Pc,
    pub state: CpuState,
    pub console: Capture,
}

/// Where a side stood.
pub(super) struct Checkpoint {
    state: CpuState,
    clock: SavedClock,
    parts: Vec<SavedPart>,
    console: Capture,
    /// RAM that was ever touched; all else is zero.
    ram: Vec<(u64, Vec<u8>)>,
}

fn failed(source: io::Error) -> MachineError {
    MachineError::Host { what: "cannot copy the guest's memory", source }
}

fn touched(ram: &GuestRam) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let one = |range: std::ops::Range<u64>| {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        ram.file().read_exact_at(&mut bytes, range.start)?;
        Ok((range.start, bytes))
    };
    ram.touched()?.into_iter().map(one).collect()
}

impl Side {
    pub(super) fn new(spec: &MachineSpec, image: &Image) -> Result<Self, MachineError> {
        let console = Capture::new(CONSOLE);
        let (pc, state) = Machine::load(spec, image, Box::new(console.clone()))?;
        Ok(Self { pc, state, console })
    }

    pub(super) fn platform(&self) -> &Platform {
        self.pc.platform()
    }

    pub(super) fn ram(&self) -> &std::sync::Arc<GuestRam> {
        self.pc.platform().ram()
    }

    /// A block, or as many as the translator's budget allows.
    pub(super) fn run(&mut self, translator: &mut Translator) -> Result<Ended, EngineError> {
        // What asked for it is looked at between blocks; it is not to end one before it begins.
        self.platform().kick(BOOT_CPU).take_attention();
        translator.run(&mut self.state, self.pc.platform())
    }

    /// One instruction, at which no time passes.
    pub(super) fn step(&mut self, single: &mut Single) -> Result<Outcome, EngineError> {
        Ok(single.with(&mut self.state, self.pc.platform(), step_here)?.0)
    }

    /// One instruction, or what comes in its place at a boundary: [`Single::step_vcpu`].
    pub(super) fn step_vcpu(&mut self, single: &mut Single) -> Result<Exit, EngineError> {
        single.step_vcpu(&mut self.state, self.pc.platform())
    }

    /// What is done between blocks: an interrupt that is due is delivered; with a halted CPU time goes to the next deadline.
    pub(super) fn boundary(&mut self, single: &mut Single) -> Result<Boundary, EngineError> {
        let platform = self.pc.platform();
        platform.kick(BOOT_CPU).poke();
        let boundary = platform.at_boundary(BOOT_CPU, &self.state);
        match boundary {
            Boundary::Interrupt(vector) => {
                single.deliver_interrupt(&mut self.state, platform, vector)?;
            }
            Boundary::Nmi => {
                single.deliver_nmi(&mut self.state, platform)?;
            }
            Boundary::Leave(_) | Boundary::Execute => {}
        }
        if boundary == Boundary::Leave(Exit::Halted)
            && let Some(deadline) = platform.timers().next_deadline()
        {
            platform.clock().skip_to(deadline);
        }
        Ok(boundary)
    }

    /// The instruction at RIP, as it is now.
    pub(super) fn next_instruction(&self) -> Executed {
        let mode = PagingMode::of(&self.state);
        let mut bytes = Vec::with_capacity(LONGEST_INSTRUCTION);
        while bytes.len() < LONGEST_INSTRUCTION {
            let at = self.state.linear_rip().wrapping_add(bytes.len() as u64);
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let mut piece = vec![0; in_page.min(LONGEST_INSTRUCTION - bytes.len())];
            let place = peek(&**self.ram(), &mode, Gva(at));
            if place.is_none_or(|place| self.ram().read(place, &mut piece).is_err()) {
                break;
            }
            bytes.extend_from_slice(&piece);
        }
        Executed { rip: self.state.rip, bits: self.state.code_bits(), bytes }
    }

    /// RF after IRET lasts for an instruction on the one, up to the next block on the other.
    pub(super) fn comparable(&self) -> CpuState {
        let mut state = self.state.clone();
        state.rflags.remove(Rflags::RF);
        state
    }

    /// The devices' states, as they are.
    pub(super) fn parts(&self) -> Result<Vec<SavedPart>, MachineError> {
        self.pc.parts().save().map_err(|error| MachineError::Unsaved(error.to_string()))
    }

    pub(super) fn checkpoint(&self) -> Result<Checkpoint, MachineError> {
        let clock = self.platform().clock();
        clock.pause();
        let saved = clock.saved();
        clock.resume();
        Ok(Checkpoint {
            state: self.state.clone(),
            clock: saved,
            parts: self.parts()?,
            console: self.console.separate(),
            ram: touched(self.ram()).map_err(failed)?,
        })
    }

    /// Goes back. Whoever holds code or translations of this side is to forget them.
    pub(super) fn back_to(&mut self, checkpoint: &Checkpoint) -> Result<(), MachineError> {
        self.state.clone_from(&checkpoint.state);
        let clock = self.platform().clock();
        clock.pause();
        clock.restore(&checkpoint.clock);
        self.pc.parts().restore(&checkpoint.parts)?;
        self.console.go_back_to(&checkpoint.console);
        clock.resume();
        let ram = self.ram();
        ram.clear().map_err(failed)?;
        for (at, bytes) in &checkpoint.ram {
            ram.file().write_all_at(bytes, *at).map_err(failed)?;
        }
        ram.forget_code();
        self.platform().forget_power_request();
        Ok(())
    }

    /// What differs of devices and console.
    pub(super) fn other_parts(&self, other: &Self) -> Result<Vec<Register>, MachineError> {
        let (one, two) = (self.parts()?, other.parts()?);
        let mut list = Vec::new();
        for (a, b) in one.iter().zip(&two).filter(|(a, b)| a != b) {
            let at = a.state.iter().zip(&b.state).position(|(a, b)| a != b).unwrap_or(0);
            let show = |state: &[u8]| {
                let bytes = state.iter().skip(at).take(8).map(|byte| format!("{byte:02x}"));
                format!("{} (byte {at})", bytes.collect::<Vec<_>>().join(" "))
            };
            let (single, other) = (show(&a.state), show(&b.state));
            list.push(Register { name: a.name.clone(), single, other });
        }
        let (a, b) = (self.console.text(), other.console.text());
        if a != b {
            let last = |text: &str| format!("{:?}", text.lines().next_back().unwrap_or(""));
            list.push(Register { name: "console".to_owned(), single: last(&a), other: last(&b) });
        }
        Ok(list)
    }

    /// The first address at which this side's RAM is not the other's, and the bytes there.
    pub(super) fn first_other_byte(&self, other: &Self) -> Result<Option<(u64, u8, u8)>, MachineError> {
        const PIECE: usize = 1 << 20;
        let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
        let mut ranges = self.ram().touched().map_err(failed)?;
        ranges.extend(other.ram().touched().map_err(failed)?);
        ranges.sort_by_key(|range| range.start);
        for range in ranges {
            for at in range.clone().step_by(PIECE) {
                let length = (range.end - at).min(PIECE as u64) as usize;
                let (a, b) = (&mut a[..length], &mut b[..length]);
                self.ram().file().read_exact_at(a, at).map_err(failed)?;
                other.ram().file().read_exact_at(b, at).map_err(failed)?;
                if let Some(i) = (0..length).find(|&i| a[i] != b[i]) {
                    return Ok(Some((at + i as u64, a[i], b[i])));
                }
            }
        }
        Ok(None)
    }
}
