//! What a run says at its end: what happened, by cause, and how the guest was moved; for people, or as JSON.
use crate::engine::{Account, Cause, UNATTRIBUTED, time_of};
use crate::machine::{BOOT_CPU, Machine, Moves, Refusal};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// Counts of all CPUs together, those that are not zero.
fn counts(machine: &Machine) -> impl Iterator<Item = (Cause, u64)> {
    let platform = machine.platform();
    let sum = |cause| platform.vcpus().map(|id| platform.counters(id).get(cause)).sum::<u64>();
    Cause::ALL.into_iter().map(move |cause| (cause, sum(cause))).filter(|(_, count)| *count > 0)
}

/// What happened, by cause, a line each.
pub(super) fn stats(machine: &Machine, wall: Duration) -> String {
    let (engine, label) = machine.executor();
    let mut text = format!(
        "mode {}: engine {}, interface {}, {}\n{:>16}  {:.3} s\n",
        machine.pair(),
        engine,
        machine.pair().interface.name(),
        label,
        "wall time",
        wall.as_secs_f64()
    );
    let (mut cycles, mut translated) = (0, 0);
    for (cause, count) in counts(machine) {
        text.push_str(&format!("{:>16}  {count}\n", cause.name()));
        match cause {
            Cause::Rescue => {
                for (instruction, count) in machine.rescues() {
                    text.push_str(&format!("{:>16}    {count} {instruction}\n", ""));
                }
            }
            Cause::TranslateCycles => cycles = count,
            Cause::Translate => translated = count,
            _ => {}
        }
    }
    if cycles > 0 && translated > 0 {
        text.push_str(&format!(
            "translating one guest instruction took {} cycles of the host's TSC\n",
            cycles / translated
        ));
    }
    text
}

/// Where the time of all CPUs went, of a run that took so long: the accounts that hold any, and what the CPUs' threads know nothing
/// of.
fn ledger(machine: &Machine, ran: Duration) -> Vec<(&'static str, Duration)> {
    let platform = machine.platform();
    let ticks: Vec<_> = platform.vcpus().map(|id| platform.counters(id).ledger().read()).collect();
    let sum = |account: Account| ticks.iter().map(|ticks| ticks[account as usize]).sum::<u64>();
    let mut rows: Vec<_> =
        Account::ALL.into_iter().map(|account| (account.name(), time_of(sum(account)))).collect();
    let known: Duration = rows.iter().map(|(_, time)| *time).sum();
    rows.retain(|(_, time)| !time.is_zero());
    rows.push((UNATTRIBUTED, (ran * ticks.len() as u32).saturating_sub(known)));
    rows
}

/// Where the time of all CPUs went, a line for each account; `ran` is how long they ran.
pub(super) fn times(machine: &Machine, ran: Duration) -> String {
    let rows = ledger(machine, ran);
    let whole: Duration = rows.iter().map(|(_, time)| *time).sum();
    let mut text = format!("where {:.3} s of CPU time went\n", whole.as_secs_f64());
    for (name, time) in rows {
        let share = 100.0 * time.as_secs_f64() / whole.as_secs_f64().max(f64::MIN_POSITIVE);
        let _infallible = writeln!(text, "{name:>16}  {:>12.3} ms  {share:>5.1} %", time.as_secs_f64() * 1e3);
    }
    text
}

/// How the guest was moved, a line for each direction.
pub(super) fn moves(moves: &Moves, refusals: &[Refusal]) -> String {
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let mut text = format!("moves between modes: {}\n", moves.count());
    for direction in moves.directions() {
        let way = format!("{} to {}", direction.from, direction.to);
        let _infallible = writeln!(
            text,
            "{way:>16}  {}: median {:.3} ms, worst {:.3} ms",
            direction.count,
            ms(direction.median),
            ms(direction.worst)
        );
    }
    for refusal in refusals {
        let way = format!("{} to {}", refusal.from, refusal.to);
        let times = if refusal.count == 1 { "once".to_owned() } else { format!("{} times", refusal.count) };
        let _infallible = writeln!(text, "{way:>16}  refused {times}: {}", refusal.reason);
    }
    text
}

/// The same and more, as one object on a line.
pub(super) fn json(
    machine: &Machine,
    (wall, ran): (Duration, Duration),
    stop: &str,
    moves: &Moves,
    refusals: &[Refusal],
) -> String {
    let (engine, label) = machine.executor();
    let us = |took: Duration| took.as_secs_f64() * 1e6;
    let by_name = |list: Vec<(String, u64)>| {
        Value::Object(list.into_iter().map(|(name, count)| (name, count.into())).collect::<Map<_, _>>())
    };
    let moves: Vec<_> = moves
        .directions()
        .map(|d| {
            json!({
                "from": d.from.to_string(), "to": d.to.to_string(), "count": d.count,
                "median_us": us(d.median), "worst_us": us(d.worst),
            })
        })
        .collect();
    let refusals: Vec<_> = refusals
        .iter()
        .map(|r| {
            json!({"from": r.from.to_string(), "to": r.to.to_string(), "count": r.count, "reason": r.reason})
        })
        .collect();
    let mut object = json!({
        "mode": machine.pair().to_string(),
        "engine": engine,
        "interface": machine.pair().interface.name(),
        "label": label,
        "stop": stop,
        "wall_s": wall.as_secs_f64(),
        "counts": by_name(counts(machine).map(|(cause, count)| (cause.name().to_owned(), count)).collect()),
        "rescues": by_name(machine.rescues()),
        "moves": moves,
        "refused": refusals,
    });
    if machine.platform().counters(BOOT_CPU).ledger().is_kept() {
        let times = ledger(machine, ran).into_iter().map(|(name, time)| (name.to_owned(), us(time).into()));
        object["ledger_us"] = Value::Object(times.collect());
    }
    format!("{object}\n")
}
