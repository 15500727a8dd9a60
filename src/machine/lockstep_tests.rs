//! Every workload, a block at a time, on two whole machines: after each block of the translator the interpreter runs to
//! the same instruction, and the CPUs' whole states are compared; all of RAM at the end.
//!
//! Time is counted and moves only between blocks, on both machines alike, so that timers and interrupts come at the same
//! instructions. The time-stamp counter is read by `single` in both. Between stretches that are compared both machines
//! go on by the interpreter, so that much of a workload is seen in little time. `TRIVISOR_LOCKSTEP=full` compares every
//! block to each workload's end, which takes hours; `TRIVISOR_LOCKSTEP=N` makes N stretches of each.
use super::{BOOT_CPU, Capture, MachineSpec, Pc};
use crate::abi;
use crate::arch::{Activity, CpuState, Gpa, Rflags};
use crate::bench::workload::{self, Workload};
use crate::clock::ClockSource;
use crate::emulator::single::{Ended, Outcome, Single, step_here};
use crate::emulator::translate::session::Translator;
use crate::engine::{Boundary, Exit, Mode, Platform};
use crate::loader::Image;
use std::sync::Arc;

const MEMORY: u64 = 32 << 20;
/// Blocks in a stretch, and instructions between two stretches.
const BLOCKS: u32 = 150;
const BETWEEN: u32 = 1500;
/// Stretches of a workload.
const STRETCHES: u64 = 40;
/// Instructions that the interpreter makes at most to get where the translator's block ended. A block has fewer; each
/// part of a long string instruction is one.
const MOST_STEPS: u32 = 100_000;

/// One of the two machines, without its CPU.
struct Side {
    pc: Pc,
    state: CpuState,
    console: Capture,
}

impl Side {
    fn new(workload: &Workload) -> Self {
        let mut spec = MachineSpec::new(Mode::Emu);
        spec.memory = MEMORY;
        spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
        spec.command_line = format!("{}=1 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
        let console = Capture::new(1 << 20);
        let pc = Pc::assemble(&spec, None, Box::new(console.clone()), None).unwrap();
        let image = Image::parse(workload.image).unwrap();
        let state = image.load(pc.platform().ram(), &spec.command_line, spec.screen).unwrap();
        Self { pc, state, console }
    }

    fn platform(&self) -> &Platform {
        self.pc.platform()
    }

    /// One instruction, at which no time passes.
    fn step(&mut self, single: &mut Single) -> Outcome {
        single.with(&mut self.state, self.pc.platform(), step_here).unwrap().0
    }

    fn boundary(&mut self, single: &mut Single) -> Boundary {
        let platform = self.pc.platform();
        platform.kick(BOOT_CPU).poke();
        let boundary = platform.at_boundary(BOOT_CPU, &self.state);
        if let Boundary::Interrupt(vector) = boundary {
            single.deliver_interrupt(&mut self.state, platform, vector).unwrap();
        }
        if boundary == Boundary::Leave(Exit::Halted)
            && let Some(deadline) = platform.timers().next_deadline()
        {
            platform.clock().skip_to(deadline);
        }
        boundary
    }

    /// RF after IRET lasts for an instruction on the one, up to the next block on the other.
    fn comparable(&self) -> CpuState {
        let mut state = self.state.clone();
        state.rflags.remove(Rflags::RF);
        state
    }
}

/// Both machines.
struct Both {
    name: &'static str,
    one: Side,
    single: Single,
    other: Side,
    translator: Translator,
    compared: u64,
}

impl Both {
    fn new(workload: &Workload) -> Self {
        let (one, other) = (Side::new(workload), Side::new(workload));
        let single = Single::new(BOOT_CPU, Arc::clone(one.pc.platform().ram()));
        let mut translator = Translator::new(BOOT_CPU, Arc::clone(other.pc.platform().ram()));
        translator.budget = Some(1);
        Self { name: workload.name, one, single, other, translator, compared: 0 }
    }

    /// What both do between blocks; says whether the guest goes on.
    fn boundary(&mut self) -> bool {
        let one = self.one.boundary(&mut self.single);
        let other = self.other.boundary(self.translator.single());
        assert_eq!(one, other, "{} at {:#x}", self.name, self.one.state.rip);
        assert_eq!(self.one.platform().clock().now(), self.other.platform().clock().now());
        self.check("interrupts");
        match one {
            Boundary::Interrupt(_) | Boundary::Nmi | Boundary::Execute => true,
            // Time went on to the next deadline, if there is one.
            Boundary::Leave(Exit::Halted) => self.one.platform().timers().next_deadline().is_some(),
            Boundary::Leave(_) => false,
        }
    }

    fn check(&self, what: &str) {
        let (one, other) = (self.one.comparable(), self.other.comparable());
        if one == other {
            return;
        }
        let (single, translated) = (format!("{one:#x?}"), format!("{other:#x?}"));
        let lines: Vec<_> = single.lines().zip(translated.lines()).filter(|(a, b)| a != b).take(40).collect();
        panic!(
            "{} {what}: single and translator differ after {} blocks: {lines:#?}",
            self.name, self.compared
        );
    }

    fn pass(&self, instructions: u32) {
        for side in [&self.one, &self.other] {
            side.platform().clock().retire(instructions.into());
        }
    }

    /// One block.
    fn block(&mut self) {
        if self.one.state.activity != Activity::Running {
            return;
        }
        let from = self.other.state.rip;
        let ended = self.translator.run(&mut self.other.state, self.other.pc.platform()).unwrap();
        assert!(matches!(ended, Ended::Attention | Ended::Halted | Ended::TripleFault), "{ended:?}");
        let goal = self.other.comparable();
        let mut steps = 0;
        // An interrupt may be due before the first instruction.
        let arrived = |one: &Side| one.state.rip == goal.rip && one.comparable() == goal;
        while !arrived(&self.one) && steps < MOST_STEPS {
            let outcome = self.one.step(&mut self.single);
            steps += 1;
            if matches!(outcome, Outcome::Halted | Outcome::TripleFault) {
                break;
            }
        }
        self.compared += 1;
        self.check(&format!("from {from:#x} to {:#x}, {steps} steps", goal.rip));
        self.pass(steps.max(1));
    }

    /// Both by the interpreter.
    fn skip(&mut self, instructions: u32) {
        for _ in 0..instructions {
            if self.one.state.activity != Activity::Running {
                break;
            }
            let outcome = self.one.step(&mut self.single);
            assert_eq!(self.other.step(self.translator.single()), outcome, "{}", self.name);
        }
        self.pass(instructions);
        self.check("by the interpreter");
    }

    fn compare_memory(&self) {
        let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..MEMORY).step_by(1 << 20) {
            self.one.platform().ram().read(Gpa(at), &mut a).unwrap();
            self.other.platform().ram().read(Gpa(at), &mut b).unwrap();
            if let Some(i) = (0..a.len()).find(|&i| a[i] != b[i]) {
                panic!("{}: memory at {:#x}: {:#x}, {:#x}", self.name, at + i as u64, a[i], b[i]);
            }
        }
        assert_eq!(self.one.console.text(), self.other.console.text(), "{}", self.name);
    }

    /// Makes stretches until the guest ends.
    fn run(mut self, stretches: u64, between: u32) -> u64 {
        'stretches: for _ in 0..stretches {
            for _ in 0..BLOCKS {
                if !self.boundary() {
                    break 'stretches;
                }
                self.block();
            }
            for _ in 0..between.div_ceil(500) {
                if !self.boundary() {
                    break 'stretches;
                }
                self.skip(500);
            }
        }
        self.compare_memory();
        self.compared
    }
}

#[test]
fn every_workload_agrees_block_by_block() {
    let (stretches, between) = match std::env::var("TRIVISOR_LOCKSTEP").as_deref() {
        Ok("full") => (u64::MAX, 0),
        Ok(number) => (number.parse().unwrap(), BETWEEN),
        Err(_) => (STRETCHES, BETWEEN),
    };
    let mut all = 0;
    for workload in workload::all() {
        // Not a word of the guests that never end by themselves, if it is asked for the whole of them.
        let bound =
            if stretches == u64::MAX && workload.kind == workload::Kind::Hostile { 100 } else { stretches };
        let compared = Both::new(workload).run(bound, between);
        println!("{}: {compared} blocks", workload.name);
        assert!(compared >= 5, "{}", workload.name);
        all += compared;
    }
    println!("{all} blocks agreed");
}
