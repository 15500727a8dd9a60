//! Keeps account of patched instructions, for the site report: what was done to each, and how often it was executed.
//!
//! An execution is counted by whoever completes it: by the thunk, in a counter that the child writes, if nobody else
//! sees it; otherwise by the engine. So the sum is exact. A record outlives its patch: when a patch is taken back the
//! counter's value moves into the record, and when the same instruction is patched there again the record goes on.
//! There is a ledger only where one was asked for; thunks have no counters without.
use super::sensitive::remedy;
use crate::arch::Gva;
use crate::engine::{Cost, Occasion, Patch, Site, Sites};
use crate::pv::layout::{COUNTERS, COUNTERS_SIZE};
use crate::pv::text::Text;
use crate::sys::tsc;
use iced_x86::Instruction;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// Records of patches taken back that are kept: a guest may write new code for ever.
const MOST_PAST: usize = 16_384;

/// What is known of one instruction.
#[derive(Clone, PartialEq, Debug)]
struct Record {
    bytes: Vec<u8>,
    patch: Patch,
    occasion: Occasion,
    start: u64,
    replaced: Vec<u8>,
    /// With a prefix for repetition: the engine may execute it in parts.
    repeats: bool,
    /// Executions in the child that its counter no longer holds.
    counted: u64,
    /// It was patched with a thunk that has no counter.
    uncounted: bool,
    by_engine: u64,
    ticks: u64,
    least: u64,
    timed: u64,
}

/// The account of one vCPU.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    now: BTreeMap<u64, Record>,
    /// By address and bytes.
    past: BTreeMap<(u64, Vec<u8>), Record>,
    /// Numbers of the counters of instructions.
    counters: BTreeMap<u64, u64>,
    free: Vec<u64>,
    /// So many counters were ever given out.
    given: u64,
    dropped: u64,
}

impl Ledger {
    /// The address, in the child, of the counter for the instruction at `address`, if its thunk needs one and one is
    /// left.
    pub(super) fn counter_for(&mut self, i: &Instruction) -> Option<u64> {
        remedy(i).filter(|(remedy, _)| remedy.is_in_process())?;
        let number = match self.counters.get(&i.ip()) {
            Some(&number) => number,
            None => {
                let number = self.free.pop().or_else(|| {
                    let next = self.given;
                    (next < COUNTERS_SIZE / 8).then(|| {
                        self.given += 1;
                        next
                    })
                })?;
                self.counters.insert(i.ip(), number);
                number
            }
        };
        Some(COUNTERS + 8 * number)
    }

    /// The instruction `i`, whose bytes these are, has been patched; `start` and `replaced` say what the patch covers.
    pub(super) fn note(
        &mut self,
        text: &Text,
        i: &Instruction,
        bytes: Vec<u8>,
        (start, replaced): (u64, &[u8]),
        patch: Patch,
        occasion: Occasion,
    ) {
        let at = i.ip();
        if self.now.get(&at).is_some_and(|record| record.bytes != bytes) {
            self.take_back(text, at);
        }
        let known = self.now.remove(&at).or_else(|| self.past.remove(&(at, bytes.clone())));
        let mut record = known.unwrap_or_else(|| Record {
            bytes,
            patch,
            occasion,
            start,
            replaced: Vec::new(),
            repeats: i.has_rep_prefix() || i.has_repne_prefix(),
            counted: 0,
            uncounted: false,
            by_engine: 0,
            ticks: 0,
            least: u64::MAX,
            timed: 0,
        });
        if (record.patch, record.start, record.replaced.as_slice()) != (patch, start, replaced) {
            (record.patch, record.occasion, record.start) = (patch, occasion, start);
            record.replaced = replaced.to_vec();
        }
        if patch == Patch::InProcess {
            record.uncounted |= !self.counters.contains_key(&at);
        } else if patch == Patch::Native {
            record.uncounted = true;
        } else {
            record.counted = record.counted.saturating_add(self.release_counter(text, at));
        }
        self.now.insert(at, record);
    }

    /// Gives the counter for `address` back; what it held.
    fn release_counter(&mut self, text: &Text, address: u64) -> u64 {
        let Some(number) = self.counters.remove(&address) else { return 0 };
        self.free.push(number);
        text.take_counter(number)
    }

    /// The patch of the instruction at `address` is undone. The child waits, and not inside its thunk.
    pub(super) fn take_back(&mut self, text: &Text, address: u64) {
        let held = self.release_counter(text, address);
        let Some(mut record) = self.now.remove(&address) else { return };
        record.counted = record.counted.saturating_add(held);
        if self.past.len() < MOST_PAST {
            self.past.insert((address, record.bytes.clone()), record);
        } else {
            self.dropped += 1;
        }
    }

    /// As [`Self::take_back`], for all instructions in a range.
    pub(super) fn take_back_range(&mut self, text: &Text, range: std::ops::Range<u64>) {
        let mut all: Vec<u64> = self.now.range(range.clone()).map(|(&at, _)| at).collect();
        all.extend(self.counters.range(range).map(|(&at, _)| at));
        all.into_iter().for_each(|at| self.take_back(text, at));
    }

    /// The engine has executed the instruction at `address`, or, if RIP has not `moved`, perhaps only a part of it.
    /// Whether that was an execution of a patched one, which is counted then.
    pub(super) fn count(&mut self, address: u64, moved: bool) -> bool {
        let Some(record) = self.now.get_mut(&address) else { return false };
        let executed = moved || !record.repeats;
        record.by_engine += u64::from(executed);
        executed
    }

    /// The last execution of the instruction at `address` kept the guest waiting for so many ticks of the TSC.
    pub(super) fn time(&mut self, address: u64, ticks: u64) {
        if let Some(record) = self.now.get_mut(&address) {
            record.ticks = record.ticks.saturating_add(ticks);
            record.least = record.least.min(ticks);
            record.timed += 1;
        }
    }

    /// All that is known.
    pub(super) fn report(&self, text: &Text) -> Sites {
        let site = |address: u64, record: &Record, taken_back: bool| {
            let held = self.counters.get(&address).filter(|_| !taken_back);
            let held = held.map_or(0, |&number| text.counter(number).load(Ordering::Relaxed));
            Site {
                address: Gva(address),
                bytes: record.bytes.clone(),
                patch: record.patch,
                occasion: record.occasion,
                start: Gva(record.start),
                replaced: record.replaced.clone(),
                taken_back,
                in_process: (!record.uncounted).then(|| record.counted.saturating_add(held)),
                by_engine: record.by_engine,
                cost: (record.timed > 0).then(|| Cost {
                    mean: tsc::to_nanos(record.ticks) as f64 / record.timed as f64,
                    least: tsc::to_nanos(record.least),
                    timed: record.timed,
                }),
            }
        };
        let past = self.past.iter().map(|((at, _), record)| site(*at, record, true));
        let mut list: Vec<Site> = past.chain(self.now.iter().map(|(&at, r)| site(at, r, false))).collect();
        // Stable: what was taken back stays before what is there now.
        list.sort_by_key(|site| site.address.0);
        Sites { list, dropped: self.dropped }
    }
}

#[cfg(test)]
impl Ledger {
    /// How many counters were ever given out, and how many records of patches taken back are kept.
    pub(super) fn extent(&self) -> (u64, usize) {
        (self.given, self.past.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn cli(at: u64) -> Instruction {
        Decoder::with_ip(64, &[0xfa], at, DecoderOptions::NONE).decode()
    }

    fn note(ledger: &mut Ledger, text: &Text, i: &Instruction) {
        let replaced = (i.ip(), &[0xfa][..]);
        ledger.note(text, i, vec![0xfa], replaced, Patch::InProcess, Occasion::Scan);
    }

    #[test]
    fn a_thunk_without_a_counter_has_no_count_and_counters_are_used_again() {
        const MOST: u64 = COUNTERS_SIZE / 8;
        let text = Text::new(0x1000).unwrap();
        let mut ledger = Ledger::default();
        for at in 0..=MOST {
            let counter = ledger.counter_for(&cli(at));
            assert_eq!(counter, (at < MOST).then_some(COUNTERS + 8 * at));
            note(&mut ledger, &text, &cli(at));
        }
        assert_eq!(ledger.counter_for(&cli(5)), Some(COUNTERS + 40), "it has one already");
        let sites = ledger.report(&text).list;
        assert_eq!((sites[0].count(), sites[MOST as usize].count()), (Some(0), None));

        // What a counter held stays with its record, and the next owner begins at nothing.
        text.counter(7).store(123, Ordering::Relaxed);
        ledger.take_back(&text, 7);
        assert_eq!(ledger.counter_for(&cli(MOST + 1)), Some(COUNTERS + 56));
        note(&mut ledger, &text, &cli(MOST + 1));
        let sites = ledger.report(&text).list;
        let of = |address: u64| sites.iter().find(|s| s.address.0 == address).unwrap();
        assert_eq!((of(7).count(), of(7).taken_back), (Some(123), true));
        assert_eq!((of(MOST + 1).count(), of(MOST + 1).taken_back), (Some(0), false));
        ledger.take_back_range(&text, 0..u64::MAX);
        assert!(ledger.report(&text).list.iter().all(|site| site.taken_back));
    }

    #[test]
    fn what_was_taken_back_is_kept_within_a_bound() {
        let text = Text::new(0x1000).unwrap();
        let mut ledger = Ledger::default();
        for at in 0..MOST_PAST as u64 + 10 {
            ledger.counter_for(&cli(at));
            note(&mut ledger, &text, &cli(at));
            ledger.take_back(&text, at);
        }
        assert_eq!(ledger.extent(), (1, MOST_PAST));
        let sites = ledger.report(&text);
        assert_eq!((sites.list.len(), sites.dropped), (MOST_PAST, 10));
    }

    #[test]
    fn a_part_of_a_repeated_instruction_is_no_execution() {
        let text = Text::new(0x1000).unwrap();
        let mut ledger = Ledger::default();
        let bytes = vec![0xf3, 0x6e];
        let i = Decoder::with_ip(64, &bytes, 0x10, DecoderOptions::NONE).decode();
        ledger.note(&text, &i, bytes, (0x10, &[]), Patch::Fault, Occasion::Trap);
        assert!(!ledger.count(0x10, false));
        assert!(ledger.count(0x10, true));
        assert!(!ledger.count(0x11, true), "nothing is patched there");
        assert_eq!(ledger.report(&text).list[0].count(), Some(1));
    }
}
