//! Signs that the host was busy while it was measured.

use super::super::language::{Language, terms};
use super::super::record;
use super::Dataset;

/// Load average per CPU at the start from which on something else was running.
const BUSY: f64 = 0.5;
/// Relative half width from which on an interval is wide.
const WIDE: f64 = 0.1;

impl Dataset {
    /// What says that the figures were disturbed, in one sentence; `None` if nothing does.
    pub fn disturbance(&self, language: Language) -> Option<String> {
        let mut signs = Vec::new();
        let load = self.fact(record::LOAD).and_then(|l| l.split(' ').next()?.parse::<f64>().ok());
        let cpus = self.fact("cpus").map_or(1, count);
        if let Some(load) = load.filter(|load| *load > BUSY * cpus as f64) {
            let values = [("load", &*language.number(format!("{load:.1}"))), ("cpus", &*cpus.to_string())];
            signs.push(terms::BUSY_LOAD.with(language, &values));
        }
        let cells = self.measures.iter().flat_map(|m| m.cells.values()).filter(|c| c.samples.len() > 2);
        let widths: Vec<f64> = cells.filter_map(|c| Some(c.time?.relative_half_width())).collect();
        let wide = widths.iter().filter(|w| **w > WIDE).count();
        if wide * 4 > widths.len() {
            let values = [("wide", &*wide.to_string()), ("count", &*widths.len().to_string())];
            signs.push(terms::BUSY_INTERVALS.with(language, &values));
        }
        (!signs.is_empty())
            .then(|| terms::BUSY.with(language, &[("signs", &signs.join(terms::AND.of(language)))]))
    }
}

/// How many CPUs a list of the kernel's names (`0-3,8`); at least one.
fn count(list: &str) -> usize {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((number(last)?.checked_sub(number(first)?)?).saturating_add(1))
    };
    list.split(',').filter_map(range).fold(0, usize::saturating_add).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, synthetic, text};
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, cpus) in [("0", 1), ("0-1", 2), ("0-3,8", 5), ("unknown", 1), ("3-1", 1), ("", 1)] {
            assert_eq!(count(list), cpus, "{list}");
        }
    }

    #[test]
    fn load_and_wide_intervals_are_told_and_a_quiet_host_is_not() {
        let mut rows = synthetic(6);
        assert_eq!(Dataset::from_rows(&rows).unwrap().disturbance(Language::English), None);
        rows.push(text(record::WHOLE_RUN, "cpus", "", "0-1"));
        rows.push(text(record::WHOLE_RUN, record::LOAD, "", "0.90 at the start"));
        assert_eq!(Dataset::from_rows(&rows).unwrap().disturbance(Language::English), None);
        rows.pop();
        rows.push(text(record::WHOLE_RUN, record::LOAD, "", "3.00 at the start"));
        let told = Dataset::from_rows(&rows).unwrap().disturbance(Language::English).unwrap();
        assert!(told.contains("load average was 3.0 on 2 CPUs") && !told.contains("intervals"), "{told}");
        let wild: Vec<_> =
            (1..=9).map(|r| row("a", "a@ring3", record::UNIT_TASK, "emu", r, f64::from(r))).collect();
        let told = Dataset::from_rows(&wild).unwrap().disturbance(Language::English).unwrap();
        assert!(told.contains("1 of 1 intervals"), "{told}");
    }
}
