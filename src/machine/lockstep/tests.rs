//! Every workload, a block at a time, and mistakes that must be found. Between stretches that are compared both machines
//! go on by the interpreter, so that much of a workload is seen in little time. `TRIVISOR_LOCKSTEP=full` compares every
//! block to each workload's end, which takes hours; `TRIVISOR_LOCKSTEP=N` makes N stretches of each.
use super::report::differing;
use super::*;
use crate::abi;
use crate::arch::Gpa;
use crate::bench::workload::{self, Workload};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

const MEMORY: u64 = 32 << 20;
/// Blocks in a stretch, and instructions between two stretches.
const BLOCKS: u32 = 150;
const BETWEEN: u32 = 1500;
/// Stretches of a workload.
const STRETCHES: u64 = 40;

fn lockstep(workload: &Workload, mistake: Option<Mistake>) -> Lockstep {
    let mut spec = MachineSpec::new(Mode::Emu);
    spec.memory = MEMORY;
    spec.command_line = format!("{}=1 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    Lockstep::new(&spec, &Image::parse(workload.image).unwrap(), mistake).unwrap()
}

impl Lockstep {
    /// Both by the interpreter; says whether the guest goes on.
    fn skip(&mut self, instructions: u32) -> bool {
        let one = self.one.boundary(&mut self.single).unwrap();
        assert_eq!(one, self.other.boundary(self.translator.single()).unwrap());
        let waits = self.one.platform().timers().next_deadline().is_some();
        if matches!(one, Boundary::Leave(exit) if exit != Exit::Halted || !waits) {
            return false;
        }
        for _ in 0..instructions {
            if self.one.state.activity != Activity::Running {
                break;
            }
            let outcome = self.one.step(&mut self.single).unwrap();
            assert_eq!(self.other.step(self.translator.single()).unwrap(), outcome);
        }
        self.pass(instructions);
        assert_eq!(differing(&self.one.comparable(), &self.other.comparable()), []);
        true
    }
}

/// Makes stretches until the guest ends; gives the blocks that agreed.
fn run(workload: &Workload, stretches: u64, between: u32) -> u64 {
    let mut both = lockstep(workload, None);
    'stretches: for _ in 0..stretches {
        for _ in 0..BLOCKS {
            match both.turn().unwrap() {
                Turn::Same => {}
                Turn::Ended => break 'stretches,
                Turn::Differs(mismatch) => panic!(
                    "{}: single and translator differ after {} blocks, from {:x?}: {:#?}",
                    workload.name,
                    both.blocks,
                    mismatch.from,
                    differing(&mismatch.single, &mismatch.translated)
                ),
            }
        }
        for _ in 0..between.div_ceil(500) {
            if !both.skip(500) {
                break 'stretches;
            }
        }
    }
    assert_eq!(both.one.first_other_byte(&both.other).unwrap(), None, "{}", workload.name);
    assert!(!both.memory_differs().unwrap(), "{}", workload.name);
    both.blocks
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
        let compared = run(workload, bound, between);
        println!("{}: {compared} blocks", workload.name);
        assert!(compared >= 5, "{}", workload.name);
        all += compared;
    }
    println!("{all} blocks agreed");
}

/// The instruction that is to blame.
fn found(both: &Lockstep, verdict: &Verdict) -> Option<Instruction> {
    let culprit = verdict.difference.as_ref()?.culprit.as_ref()?;
    // The workloads' code is mapped one to one.
    let mut bytes = [0; 15];
    both.ram().read(Gpa(culprit.rip), &mut bytes).unwrap();
    Some(Decoder::with_ip(64, &bytes, culprit.rip, DecoderOptions::NONE).decode())
}

#[test]
fn each_mistake_is_found_and_named_to_the_instruction() {
    for mistake in Mistake::ALL {
        let mut names = Vec::new();
        for workload in workload::all().iter().filter(|workload| workload.kind != workload::Kind::Hostile) {
            let mut both = lockstep(workload, Some(mistake));
            let verdict = both.run(30_000, &mut || false).unwrap();
            if verdict.difference.is_none() {
                continue;
            }
            let instruction = found(&both, &verdict).expect("one instruction is to blame");
            println!("{mistake}: {}: {instruction} {verdict:x?}", workload.name);
            match mistake {
                Mistake::Flag => assert_eq!(instruction.mnemonic(), Mnemonic::Inc),
                Mistake::Width => assert_eq!(instruction.mnemonic(), Mnemonic::Movzx),
            }
            names.push(workload.name);
        }
        assert!(!names.is_empty(), "{mistake}: no workload shows it");
    }
}

#[test]
fn a_guest_that_agrees_is_run_to_its_end() {
    let mut both = lockstep(workload::find("hello").unwrap(), None);
    let verdict = both.run(u64::MAX, &mut || false).unwrap();
    assert!(verdict.ended && verdict.difference.is_none() && verdict.blocks > 5, "{verdict:?}");
    assert!(verdict.instructions > verdict.blocks);
    assert!(both.console().contains("Hello"), "{}", both.console());
}

#[test]
fn machines_go_back_to_a_checkpoint_and_the_same_way_on() {
    let mut both = lockstep(workload::find("quicksort").unwrap(), None);
    while both.blocks < 500 {
        assert!(matches!(both.turn().unwrap(), Turn::Same));
    }
    let stand = both.stand().unwrap();
    let mut ends = Vec::new();
    for _ in 0..2 {
        while both.blocks < 3000 {
            assert!(matches!(both.turn().unwrap(), Turn::Same));
        }
        let console = both.console();
        ends.push((both.state().clone(), both.instructions, console));
        assert!(!both.memory_differs().unwrap());
        both.back_to(&stand).unwrap();
        assert_eq!(both.blocks, 500);
    }
    assert!(ends[0] == ends[1]);
}
