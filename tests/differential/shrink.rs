//! Makes a failing case smaller: fewer instructions, plainer registers and memory, as long as it fails.
use crate::case::{Case, Registers};

/// The smallest case found for which `fails` still says yes.
pub fn shrink(case: &Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut best = case.clone();
    let mut keep = |candidate: Case, best: &mut Case| {
        let better = candidate != *best && fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    // The end first: what comes behind the difference does not matter. Then any one.
    loop {
        let mut smaller = false;
        for i in (0..best.program.len()).rev() {
            if best.program.len() > 1 {
                let mut candidate = best.clone();
                candidate.program.remove(i);
                smaller |= keep(candidate, &mut best);
            }
        }
        if !smaller {
            break;
        }
    }
    let plain = Registers::zero();
    for i in 0..16 {
        let mut candidate = best.clone();
        candidate.registers.gpr[i] = 0;
        keep(candidate, &mut best);
    }
    let parts = [0..24, 24..28].into_iter().chain((32..160).step_by(16).map(|at| at..at + 16));
    let vectors = (160..416).step_by(16).chain((576..832).step_by(16)).map(|at| at..at + 16);
    for range in parts.chain(vectors) {
        let mut candidate = best.clone();
        candidate.registers.xsave[range.clone()].copy_from_slice(&plain.xsave[range]);
        keep(candidate, &mut best);
    }
    for bit in [0, 2, 4, 6, 7, 10, 11, 18] {
        let mut candidate = best.clone();
        candidate.registers.rflags &= !(1 << bit);
        keep(candidate, &mut best);
    }
    let mut candidate = best.clone();
    (candidate.registers.fs_base, candidate.registers.gs_base) = (0, 0);
    keep(candidate, &mut best);
    let mut candidate = best.clone();
    candidate.patches.clear();
    keep(candidate, &mut best);
    best
}
