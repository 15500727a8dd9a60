//! Small guests that run on the interpreter and on the translator: registers, flags, vectors and memory must be equal at
//! the end, and be what the test says. A file per subject.
mod ablation;
mod awkward;
mod carriers;
mod contexts;
mod exceptions;
mod interrupts;
mod keys;
mod levels;
mod listing;
mod lockstep;
mod ports;
mod remade;
mod rewriting;
mod self_modifying;
mod smap;
mod spaces;
mod store;
mod strings;
mod tables;
mod vectors;
mod windows;

use crate::arch::{CpuState, Gpa};
use crate::emulator::EmuEngine;
use crate::emulator::single::tests::*;
use crate::engine::{Exit, Vcpu, VcpuId};
use iced_x86::code_asm::CodeAssembler;

/// RAM of a bench.
const RAM: usize = 4 << 20;
const ENGINES: [EmuEngine; 2] = [EmuEngine::Single, EmuEngine::Translator];

/// The same guest on both engines.
struct Pair {
    benches: [Bench; 2],
}

impl Pair {
    /// Two machines with this program, see [`Bench::new`].
    fn new(program: impl Fn(&mut CodeAssembler)) -> Self {
        Self { benches: ENGINES.map(|_| Bench::new(|a| program(a))) }
    }

    /// Changes both.
    fn set_up(mut self, change: impl Fn(&mut Bench)) -> Self {
        self.benches.iter_mut().for_each(change);
        self
    }

    /// Runs both until they halt (or shut down) and compares them; gives the translator's.
    fn run(mut self) -> Bench {
        for (bench, engine) in self.benches.iter_mut().zip(ENGINES) {
            let mut vcpu = bench.vcpu_of(engine);
            let _ = run_until_halt(bench, &mut *vcpu);
            bench.state = vcpu.save().unwrap();
        }
        let [single, translated] = self.benches;
        let lines = differences(&single.state, &translated.state);
        assert!(lines.is_empty(), "state (single, translated):\n{}", lines.join("\n"));
        compare_memory(&single, &translated);
        translated
    }
}

fn run_until_halt(bench: &Bench, vcpu: &mut dyn Vcpu) -> Exit {
    loop {
        let exit = vcpu.run(&bench.machine.platform).unwrap();
        if matches!(exit, Exit::Halted | Exit::TripleFault) {
            return exit;
        }
    }
}

/// The lines in which two states differ.
fn differences(single: &CpuState, translated: &CpuState) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, (a, b)) in single.gpr.iter().zip(&translated.gpr).enumerate() {
        if a != b {
            lines.push(format!("gpr {i}: {a:#x}, {b:#x}"));
        }
    }
    let (a, b) = (&single.xsave.0, &translated.xsave.0);
    if let Some(at) = (0..a.len()).find(|&i| a[i] != b[i]) {
        let end = (at + 16).min(a.len());
        lines.push(format!("xsave at {at}: {:02x?}, {:02x?}", &a[at..end], &b[at..end]));
    }
    let bare = |state: &CpuState| CpuState { gpr: [0; 16], xsave: CpuState::reset().xsave, ..state.clone() };
    let (a, b) = (bare(single), bare(translated));
    if a != b {
        let (a, b) = (format!("{a:#?}"), format!("{b:#?}"));
        lines.extend(a.lines().zip(b.lines()).filter(|(a, b)| a != b).map(|(a, b)| format!("{a}, {b}")));
    }
    lines
}

fn memory(bench: &Bench) -> Vec<u8> {
    let mut bytes = vec![0; RAM];
    bench.machine.ram().read(Gpa(0), &mut bytes).unwrap();
    bytes
}

fn compare_memory(single: &Bench, translated: &Bench) {
    let (a, b) = (memory(single), memory(translated));
    if let Some(at) = (0..RAM).find(|&i| a[i] != b[i]) {
        panic!(
            "memory at {at:#x}: {:#x}, {:#x}",
            single.peek(at as u64 & !7),
            translated.peek(at as u64 & !7)
        );
    }
}

/// The CPU, the only one.
const CPU: VcpuId = VcpuId(0);
