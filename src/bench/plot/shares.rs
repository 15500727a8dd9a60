//! What divides the timed regions, stacked, per workload and mode: exits by cause, and time by account.
//!
//! Amounts differ by orders of magnitude between modes, so each bar shows the shares of its parts over the same length and
//! the amount stands beside it in figures: a stack on a log axis would lie about its parts.

use super::axis::LinearAxis;
use super::frame::{Frame, MARGIN, SMALL, WIDTH, label_column};
use super::palette::{self, INK, MUTED};
use super::scene::{Anchor, Scene};
use crate::bench::dataset::{Dataset, ShareBar};
use crate::bench::language::{Language, Text, figures as words};
use std::collections::BTreeMap;

/// Height of one mode's bar with its air.
const LINE: f64 = 15.0;
/// Air between workloads.
const GAP: f64 = 8.0;
/// Width of the column of mode names.
const MODE_ROOM: f64 = 64.0;
/// Width of the column of counts.
const COUNT_ROOM: f64 = 190.0;
/// Parts that get a colour; the rarest beyond it share one.
const MAX_PARTS: usize = 14;

/// What one of the figures says, and how it writes an amount.
struct Words {
    title: Text,
    remark: Text,
    /// What is to be known of kvm.
    kvm_remark: Text,
    axis: Text,
    /// The shared rest.
    others: Text,
    amount: fn(Language, f64) -> String,
}

/// Exits by cause; `None` if nothing was counted.
pub(super) fn exits(data: &Dataset, language: Language) -> Option<Scene> {
    let words = Words {
        title: words::EXITS_SCENE,
        remark: words::EXITS_REMARK,
        kvm_remark: words::EXITS_KVM_REMARK,
        axis: words::EXITS_AXIS,
        others: words::OTHER_CAUSES,
        amount: |language, count| {
            if count < 0.001 { language.number("< 0.001".to_owned()) } else { language.count(count) }
        },
    };
    draw(data, &data.exits, &words, language)
}

/// Time by account; `None` if none was kept.
pub(super) fn times(data: &Dataset, language: Language) -> Option<Scene> {
    let words = Words {
        title: words::LEDGER_SCENE,
        remark: words::LEDGER_REMARK,
        kvm_remark: words::LEDGER_KVM_REMARK,
        axis: words::LEDGER_AXIS,
        others: words::OTHER_ACCOUNTS,
        amount: Language::time,
    };
    draw(data, &data.times, &words, language)
}

fn draw(data: &Dataset, bars: &[ShareBar], words: &Words, language: Language) -> Option<Scene> {
    // A mode that has nothing keeps its line: that it never left the guest is a result too.
    if bars.iter().all(|bar| bar.total == 0.0) {
        return None;
    }
    let parts = ranking(bars, words.others.of(language));
    let mut frame = Frame::begin(words.title, data, language);
    let legend: Vec<(String, usize)> = parts.iter().cloned().zip(0..).collect();
    frame.legend(&legend, |index, x, y| {
        let (colour, hatch) = palette::of_cause(*index);
        palette::bar((x - 8.0, y - 5.0, 16.0, 10.0), colour, hatch)
    });
    frame.remark(words.remark);
    if bars.iter().any(|bar| bar.mode == "kvm") {
        frame.remark(words.kvm_remark);
    }
    frame.y += 28.0;
    let mut groups: Vec<(&str, Vec<&ShareBar>)> = Vec::new();
    for bar in bars {
        match groups.last_mut() {
            Some((workload, group)) if *workload == bar.workload => group.push(bar),
            _ => groups.push((&bar.workload, vec![bar])),
        }
    }
    let labels = label_column(groups.iter().map(|g| g.0));
    let (left, right) = (labels + MODE_ROOM, WIDTH - MARGIN - COUNT_ROOM);
    let axis = LinearAxis::new(0.0, 100.0, left, right);
    let top = frame.y;
    let heights: Vec<f64> = groups.iter().map(|g| g.1.len() as f64 * LINE + GAP).collect();
    let bottom = top + heights.iter().sum::<f64>();
    let mut y = top;
    for (i, height) in heights.iter().enumerate() {
        frame.stripe(i, y, *height);
        y += height;
    }
    let ticks: Vec<(f64, String)> =
        (0..=4).map(|q| (axis.at(f64::from(q) * 25.0), format!("{} %", q * 25))).collect();
    frame.grid(&ticks, top, bottom);
    let mut y = top;
    for ((workload, group), height) in groups.iter().zip(&heights) {
        frame.row_label(workload, labels - 10.0, y + height / 2.0, false);
        for (i, bar) in group.iter().enumerate() {
            draw_bar(&mut frame, bar, y + GAP / 2.0 + i as f64 * LINE, &parts, words, (&axis, left, right));
        }
        y += height;
    }
    frame.y = bottom;
    Some(frame.finish(words.axis, f64::midpoint(left, right)))
}

fn draw_bar(
    frame: &mut Frame,
    bar: &ShareBar,
    top: f64,
    names: &[String],
    words: &Words,
    (axis, left, right): (&LinearAxis, f64, f64),
) {
    let height = LINE - 3.0;
    let baseline = top + height / 2.0 + SMALL * 0.36;
    frame.push(palette::text((left - 8.0, baseline), Anchor::End, SMALL, MUTED, bar.mode.clone()));
    let mut parts = vec![0.0; names.len()];
    for (part, amount) in &bar.parts {
        let at = names.iter().position(|name| name == part).unwrap_or(names.len() - 1);
        parts[at] += amount;
    }
    let mut done = 0.0;
    for (index, part) in parts.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        let from = axis.at(done / bar.total * 100.0);
        done += part;
        let to = axis.at(done / bar.total * 100.0);
        let (colour, hatch) = palette::of_cause(index);
        if to - from >= 0.5 {
            frame.extend(palette::bar((from, top, to - from, height), colour, hatch));
        }
    }
    let language = frame.language;
    let mut text = if bar.total > 0.0 { (words.amount)(language, bar.total) } else { language.count(0.0) };
    if let Some(n) = bar.iterations.filter(|n| *n > 0.0 && bar.total > 0.0) {
        let each = (words.amount)(language, bar.total / n);
        let each = words::PER_ITERATION.with(language, &[("count", &each)]);
        text.push_str(&format!(" · {each}"));
    }
    frame.push(palette::text((right + 10.0, baseline), Anchor::Start, SMALL, INK, text));
}

/// All parts in a fixed order (by name), the rarest merged into one at the end, of the name `others`, if there are too many.
fn ranking(bars: &[ShareBar], others: &str) -> Vec<String> {
    let mut share: BTreeMap<&str, f64> = BTreeMap::new();
    for bar in bars {
        for (part, amount) in &bar.parts {
            *share.entry(part).or_default() += amount / bar.total;
        }
    }
    let mut parts: Vec<(&str, f64)> = share.into_iter().collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    let merged = parts.len() > MAX_PARTS;
    parts.truncate(if merged { MAX_PARTS - 1 } else { MAX_PARTS });
    let mut names: Vec<String> = parts.into_iter().map(|(c, _)| c.to_owned()).collect();
    names.sort();
    if merged {
        names.push(others.to_owned());
    }
    names
}
