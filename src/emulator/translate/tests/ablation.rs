//! The translator without each of its techniques, and without all: random programs agree with the interpreter, block by
//! block and linked.
use super::*;
use crate::emulator::technique::{Technique, Without};
use crate::emulator::{EmuEngine, Emulator};
use crate::engine::{Backend, Cause, Vcpu};
use std::sync::Arc;

fn sets() -> impl Iterator<Item = Without> {
    let random =
        ["chaining,windows,lazy-flags", "return-stack,groups,pinning", "jump-cache,inline-tlb,pinning"];
    let each = Technique::ALL.into_iter().map(Without::only);
    each.chain([Without::EVERYTHING]).chain(random.map(|set| set.parse().unwrap()))
}

#[test]
fn random_programs_agree_block_by_block_without_each_technique() {
    for without in sets() {
        println!("without {without}");
        for seed in 5_000..5_025 {
            assert!(lockstep::compare(seed, 1, without) > 0);
        }
    }
}

fn vcpu(b: &Bench, without: Without) -> Box<dyn Vcpu> {
    let emulator = Emulator::new(Arc::clone(b.machine.ram()), EmuEngine::Translator).without(without);
    emulator.create_vcpu(CPU, &b.state).unwrap()
}

#[test]
fn random_programs_agree_when_blocks_are_linked_without_each_technique() {
    for seed in 6_000..6_040 {
        let mut single = lockstep::bench(seed);
        let mut vcpu_of_single = single.vcpu_of(EmuEngine::Single);
        let _ = run_until_halt(&single, &mut *vcpu_of_single);
        single.state = vcpu_of_single.save().unwrap();
        for without in sets() {
            let translated = lockstep::bench(seed);
            let mut vcpu = vcpu(&translated, without);
            let _ = run_until_halt(&translated, &mut *vcpu);
            let lines = differences(&single.state, &vcpu.save().unwrap());
            assert!(lines.is_empty(), "seed {seed} without {without}:\n{}", lines.join("\n"));
            compare_memory(&single, &translated);
        }
    }
}

/// How often a cause was counted in some programs.
fn count(without: Without, cause: Cause) -> u64 {
    let of = |seed| {
        let b = lockstep::bench(seed);
        let mut vcpu = vcpu(&b, without);
        let _ = run_until_halt(&b, &mut *vcpu);
        b.machine.platform.counters(CPU).get(cause)
    };
    (1..=12).map(of).sum()
}

#[test]
fn what_is_left_out_is_not_done() {
    let full = |cause| count(Without::NOTHING, cause);
    let of = |technique, cause| (full(cause), count(Without::only(technique), cause));
    let (with, without) = of(Technique::Chaining, Cause::HelpLink);
    assert!(without > 2 * with, "ends of blocks come out: {with}, {without}");
    let (with, without) = of(Technique::JumpCache, Cause::HelpJump);
    assert!(without > with, "calls are looked up in vain: {with}, {without}");
    let both = "jump-cache,return-stack".parse().unwrap();
    let (with, without) = (without, count(both, Cause::HelpJump));
    assert!(without > with, "and returns: {with}, {without}");
    let (with, without) = of(Technique::Windows, Cause::HelpWindow);
    assert!(with > 0 && without == 0, "{with}, {without}");
    for technique in [Technique::InlineTlb, Technique::NativeVectors] {
        let (with, without) = of(technique, Cause::HelpSingle);
        assert!(without > with + 50, "{} is left to the interpreter: {with}, {without}", technique.name());
    }
    let (with, without) = of(Technique::Superblocks, Cause::Block);
    assert!(without > with, "blocks are shorter, and more: {with}, {without}");
}

#[test]
fn instructions_are_counted_as_the_interpreter_counts_them() {
    let run = |b: &Bench, mut vcpu: Box<dyn Vcpu>| {
        let _ = run_until_halt(b, &mut *vcpu);
        b.machine.platform.counters(CPU).get(Cause::Instruction)
    };
    for seed in 8_000..8_030 {
        let single = lockstep::bench(seed);
        let expected = run(&single, single.vcpu_of(EmuEngine::Single));
        assert!(expected > 10);
        for without in [Without::NOTHING].into_iter().chain(sets()) {
            let b = lockstep::bench(seed);
            let emulator = Emulator::new(Arc::clone(b.machine.ram()), EmuEngine::Translator);
            let vcpu = emulator.without(without).counting(true).create_vcpu(CPU, &b.state).unwrap();
            assert_eq!(run(&b, vcpu), expected, "seed {seed} without {without}");
        }
    }
}
