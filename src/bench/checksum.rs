//! Agreement of checksums: the guard that two modes did the same work before their times stand side by side.
//!
//! Each measurement covers one fixed unit of work with a checksum. The native column, where there is one, is the
//! reference, because there nothing of ours stands between the kernel and the CPU; else the strict majority of modes is;
//! else nobody is trusted and every mode of the measurement counts as diverged. The column [`UNPATCHED`] has no vote: there
//! some instructions do the wrong thing in silence.

use super::language::terms;
use super::{NATIVE, UNPATCHED};
use std::collections::{BTreeMap, BTreeSet};

/// Checksums seen so far of one measurement, per mode.
#[derive(Debug, Clone, Default)]
pub struct Ballot {
    seen: BTreeMap<String, BTreeSet<u64>>,
}

impl Ballot {
    /// Notes that `mode` produced `checksum`.
    pub fn note(&mut self, mode: &str, checksum: u64) {
        self.seen.entry(mode.to_owned()).or_default().insert(checksum);
    }

    /// The checksum that the others are held against, if there is one.
    pub fn reference(&self) -> Option<u64> {
        if let Some(native) = self.seen.get(NATIVE) {
            return single(native);
        }
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        for sums in self.voters() {
            if let Some(sum) = single(sums) {
                *votes.entry(sum).or_default() += 1;
            }
        }
        votes.into_iter().find(|&(_, n)| n * 2 > self.voters().count()).map(|(sum, _)| sum)
    }

    /// What those saw whose word counts.
    fn voters(&self) -> impl Iterator<Item = &BTreeSet<u64>> {
        self.seen.iter().filter(|(mode, _)| mode.as_str() != UNPATCHED).map(|(_, sums)| sums)
    }

    /// Why the figures of `mode` must not be shown; `None` if it agrees with the reference.
    pub fn objection(&self, mode: &str) -> Option<String> {
        let sums = self.seen.get(mode)?;
        match (self.reference(), single(sums)) {
            (_, None) => Some(terms::NOTE_UNSTEADY.en.to_owned()),
            (None, Some(_)) if self.voters().next().is_none() => Some(terms::NOTE_UNCHECKED.en.to_owned()),
            (None, Some(_)) => Some(terms::NOTE_NO_MAJORITY.en.to_owned()),
            (Some(want), Some(got)) if want != got => {
                Some(format!("diverged: checksum {got:x}, expected {want:x}"))
            }
            _ => None,
        }
    }
}

/// The ballots of all measurements of a run.
#[derive(Debug, Clone, Default)]
pub struct Ballots {
    /// By workload, metric without its ring, and ring.
    ballots: BTreeMap<(String, String), BTreeMap<String, Ballot>>,
}

impl Ballots {
    /// Notes that `mode` produced `checksum` for a metric named as in the CSV (`crc32@ring3`).
    pub fn note(&mut self, workload: &str, metric: &str, mode: &str, checksum: u64) {
        let (base, ring) = metric.split_once("@ring").unwrap_or((metric, ""));
        let rings = self.ballots.entry((workload.to_owned(), base.to_owned())).or_default();
        rings.entry(ring.to_owned()).or_default().note(mode, checksum);
    }

    /// As [`Ballot::objection`]. The host has no ring 0, but a kernel's checksum does not depend on the ring: native's vote
    /// counts for every ring of its metric.
    pub fn objection(&self, workload: &str, metric: &str, mode: &str) -> Option<String> {
        let (base, ring) = metric.split_once("@ring").unwrap_or((metric, ""));
        let rings = self.ballots.get(&(workload.to_owned(), base.to_owned()))?;
        let mut ballot = rings.get(ring)?.clone();
        if !ballot.seen.contains_key(NATIVE)
            && let Some(native) = rings.values().find_map(|b| b.seen.get(NATIVE))
        {
            ballot.seen.insert(NATIVE.to_owned(), native.clone());
        }
        ballot.objection(mode)
    }
}

/// The only member of a set of one.
fn single(set: &BTreeSet<u64>) -> Option<u64> {
    if set.len() == 1 { set.first().copied() } else { None }
}

/// A checksum folded to 32 bits, which a floating-point CSV column holds exactly.
pub fn fold32(checksum: u64) -> u32 {
    (checksum >> 32) as u32 ^ checksum as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_without_patches_has_no_vote_and_needs_another_mode() {
        let alone = ballot(&[(UNPATCHED, 1)]);
        assert!(alone.objection(UNPATCHED).is_some_and(|why| why.starts_with("not checked")));
        let wrong = ballot(&[(UNPATCHED, 1), ("pv", 2)]);
        assert_eq!(wrong.objection("pv"), None);
        assert!(wrong.objection(UNPATCHED).is_some_and(|why| why.starts_with("diverged")));
        assert_eq!(ballot(&[(UNPATCHED, 2), ("pv", 2)]).objection(UNPATCHED), None);
        // It does not help others to a majority either.
        let split = ballot(&[(UNPATCHED, 1), ("emu", 1), ("pv", 2)]);
        assert!(["emu", "pv", UNPATCHED].iter().all(|mode| split.objection(mode).is_some()));
    }

    fn ballot(votes: &[(&str, u64)]) -> Ballot {
        let mut ballot = Ballot::default();
        for &(mode, sum) in votes {
            ballot.note(mode, sum);
        }
        ballot
    }

    #[test]
    fn native_outvotes_the_majority() {
        let b = ballot(&[("native", 1), ("emu", 2), ("pv", 2), ("kvm", 2)]);
        assert!(b.objection("native").is_none());
        assert!(b.objection("pv").unwrap().starts_with("diverged"));
    }

    #[test]
    fn majority_without_native() {
        let b = ballot(&[("emu", 2), ("pv", 3), ("kvm", 2)]);
        assert!(b.objection("emu").is_none());
        assert!(b.objection("pv").is_some());
    }

    #[test]
    fn a_tie_trusts_nobody() {
        let b = ballot(&[("emu", 2), ("pv", 3)]);
        assert!(b.objection("emu").is_some() && b.objection("pv").is_some());
    }

    #[test]
    fn a_mode_that_contradicts_itself_diverges() {
        let b = ballot(&[("native", 1), ("emu", 1), ("emu", 2)]);
        assert!(b.objection("emu").is_some());
        assert!(b.objection("native").is_none());
    }

    #[test]
    fn native_votes_for_every_ring_of_its_metric() {
        let mut ballots = Ballots::default();
        ballots.note("crc32", "crc32@ring3", "native", 1);
        ballots.note("crc32", "crc32@ring0", "emu", 2);
        assert!(ballots.objection("crc32", "crc32@ring0", "emu").is_some());
        assert!(ballots.objection("crc32", "crc32@ring3", "native").is_none());
        assert!(ballots.objection("crc32", "other@ring0", "emu").is_none());
    }

    #[test]
    fn folding_sees_both_halves() {
        assert_ne!(fold32(1 << 40), fold32(0));
        assert_ne!(fold32(1), fold32(0));
    }
}
