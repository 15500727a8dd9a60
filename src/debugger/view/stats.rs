//! The ledger: what the engine did, by cause.
use crate::engine::{Cause, Counters};
use serde::Serialize;
use std::fmt;

/// Counts of all causes, in the ledger's order.
pub type Counts = [u64; Cause::ALL.len()];

/// One cause.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its word in the ledger.
    pub cause: &'static str,
    /// In all.
    pub count: u64,
    /// Since the counts were shown last.
    pub more: u64,
}

/// The causes that occurred.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// One for each.
    pub rows: Vec<Row>,
}

/// The counts now.
#[must_use]
pub fn counts(counters: &Counters) -> Counts {
    Cause::ALL.map(|cause| counters.get(cause))
}

/// What occurred so far, and since `before`.
#[must_use]
pub fn show(now: &Counts, before: &Counts) -> Stats {
    let rows = Cause::ALL
        .iter()
        .map(|&cause| Row {
            cause: cause.name(),
            count: now[cause as usize],
            more: now[cause as usize].wrapping_sub(before[cause as usize]),
        })
        .filter(|row| row.count > 0)
        .collect();
    Stats { rows }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return f.write_str("nothing was counted yet");
        }
        write!(f, "{:16} {:>14} {:>14}", "cause", "count", "since last")?;
        for row in &self.rows {
            write!(f, "\n{:16} {:>14} {:>14}", row.cause, row.count, row.more)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_all_and_since() {
        let counters = Counters::default();
        counters.add(Cause::PortIo, 5);
        let before = counts(&counters);
        counters.add(Cause::PortIo, 2);
        counters.add(Cause::Idle, 1);
        insta::assert_snapshot!(show(&counts(&counters), &before), @r"
        cause                     count     since last
        port-io                       7              2
        idle                          1              1
        ");
        assert_eq!(
            show(&[0; Cause::ALL.len()], &[0; Cause::ALL.len()]).to_string(),
            "nothing was counted yet"
        );
    }
}
