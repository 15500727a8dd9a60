//! The real-time clock as a person sees it: register C keeps its flags.
use super::Cmos;
use super::calendar::Date;
use super::spec::{self, B, C, index};
use crate::device::registers::{Block, Described, names};

impl Described for Cmos {
    fn describe(&self, called: &str) -> Vec<Block> {
        let now = self.clock.now();
        // As an access would find it; what it finds goes no further.
        let mut s = self.state.clone();
        s.catch_up(now);
        let held = s.is_held();
        if !held {
            s.show(s.seconds(now));
        }
        let happened = C::from_bits_truncate(s.ram[index::C]) - C::IRQF;
        let irqf = if happened.bits() & s.ram[index::B] == 0 { C::empty() } else { C::IRQF };
        let updates = !held && s.until_update(now) <= spec::UIP_NANOS;
        let a = s.ram[index::A] | if updates { spec::UIP } else { 0 };
        let rate = match s.periodic_ticks() {
            None => "no periodic interrupt".to_owned(),
            Some(ticks) => format!("periodic at {} Hz", spec::CRYSTAL_HZ / ticks),
        };
        let date = Date::from_seconds(s.seconds(now));
        let time = if held {
            "the time is held".to_owned()
        } else {
            let Date { year, month, day, hour, minute, second } = date;
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
        };
        let byte = |name: &'static str, at: usize| (name, s.ram[at]);
        let mut block = Block::new(called).plain("INDEX", 8, s.selected).words("time", vec![time.into()]);
        for (name, value) in [
            byte("SECONDS", index::SECONDS),
            byte("SECONDS_ALARM", index::SECONDS_ALARM),
            byte("MINUTES", index::MINUTES),
            byte("MINUTES_ALARM", index::MINUTES_ALARM),
            byte("HOURS", index::HOURS),
            byte("HOURS_ALARM", index::HOURS_ALARM),
            byte("WEEKDAY", index::WEEKDAY),
            byte("DAY", index::DAY),
            byte("MONTH", index::MONTH),
            byte("YEAR", index::YEAR),
            byte("CENTURY", index::CENTURY),
        ] {
            block = block.plain(name, 8, value);
        }
        let mut words = vec![rate.into()];
        words.extend(updates.then_some("UIP".into()));
        let block = block
            .put("A", 8, a, words)
            .flags("B", B::from_bits_retain(s.ram[index::B]))
            .put("C", 8, (happened | irqf).bits(), names(&(happened | irqf)))
            .said("D", 8, spec::VRT, "VRT")
            .bytes("RAM 0x0e", &s.ram[index::D + 1..0x40])
            .bytes("RAM 0x40", &s.ram[0x40..]);
        vec![block]
    }
}
