//! The timer's channels as a person sees them: counts as they stand now, none of them latched.
use super::counter::{Counter, Counting};
use super::spec::{Mode, Status, SystemControl};
use super::{Pit8254, tick_of};
use crate::arch::layout::PIT_HZ;
use crate::device::registers::{Block, Described, names};

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::TerminalCount => "mode 0: interrupt on terminal count",
        Mode::OneShot => "mode 1: one-shot by the gate",
        Mode::Rate => "mode 2: rate generator",
        Mode::Square => "mode 3: square wave",
        Mode::SoftwareStrobe => "mode 4: software triggered strobe",
        Mode::HardwareStrobe => "mode 5: hardware triggered strobe",
    }
}

fn channel(called: &str, number: usize, counter: &Counter, now: u64) -> Block {
    let mut counter = counter.clone();
    counter.catch_up(now);
    let status = counter.status(now);
    let mut words = vec![mode_name(counter.mode).into()];
    words.extend(names(&Status::from_bits_truncate(status)));
    if counter.bcd {
        words.push("BCD".into());
    }
    let counts = match counter.counting {
        Counting::No if counter.awaits_count => "waits for a count to be written",
        Counting::No => "waits for its gate",
        Counting::Held { .. } => "held by its gate",
        Counting::Since { .. } => "counts",
    };
    let hz = PIT_HZ as f64 / f64::from(counter.period);
    let reload = if counter.mode.is_periodic() && counter.counting != Counting::No {
        format!("{hz:.1} Hz")
    } else {
        format!("{:.3} ms", 1000.0 / hz)
    };
    let mut block = Block::new(format!("{called} channel {number}"))
        .put("status", 8, status, words)
        .said("count", 16, counter.count(now), counts)
        .said("reload", 17, counter.reload, reload);
    if let Some(latched) = counter.latched_count {
        block = block.said("latched count", 16, latched, "the next read gives it");
    }
    if let Some(latched) = counter.latched_status {
        block = block.said("latched status", 8, latched, "the next read gives it");
    }
    block
}

impl Described for Pit8254 {
    fn describe(&self, called: &str) -> Vec<Block> {
        let now = tick_of(self.clock.now());
        let channels = self.counters.iter().enumerate();
        let mut blocks: Vec<_> =
            channels.map(|(number, counter)| channel(called, number, counter, now)).collect();
        let control = SystemControl::from_bits_truncate(self.read_system_control(now));
        let known =
            [SystemControl::GATE2, SystemControl::SPEAKER, SystemControl::REFRESH, SystemControl::OUT2];
        let set =
            known.into_iter().filter(|bit| control.contains(*bit)).flat_map(|bit| names(&bit)).collect();
        blocks.push(Block::new(format!("{called} port 0x61")).put("SYSTEM_CONTROL", 8, control.bits(), set));
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Port;
    use crate::clock::{Clock, ClockSource, TimerQueue};
    use crate::device::BytePorts;
    use crate::device::registers::tests::{find, line};
    use std::sync::Arc;

    #[test]
    fn counts_are_those_of_now_and_no_read_is_made() {
        let clock = Arc::new(Clock::new(ClockSource::Counted { nanos_per_instruction: 1 }));
        let mut pit = Pit8254::new(line(), Arc::clone(&clock), TimerQueue::new().add());
        for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
            pit.write_byte(Port(port), value);
        }
        clock.retire(1_000_000);
        let before = pit.saved();
        let blocks = pit.describe("pit8254");
        let count = find(&blocks, "pit8254 channel 0", "count");
        // A millisecond is 1193 ticks.
        assert!(count.value.is_some_and(|value| (11932 - 1194..=11932 - 1192).contains(&value)), "{count:?}");
        assert_eq!(count.words[0], "counts");
        assert_eq!(find(&blocks, "pit8254 channel 0", "reload").words[0], "100.0 Hz");
        assert_eq!(find(&blocks, "pit8254 channel 0", "status").words[0], "mode 2: rate generator");
        assert_eq!(find(&blocks, "pit8254 channel 2", "count").words[0], "waits for a count to be written");
        assert_eq!(pit.saved(), before);
    }
}
