//! Reads the measurements that a guest prints on its console.
//!
//! The protocol is `crate::abi`'s. The console belongs to the guest, so everything on it is hostile: other text may stand
//! before a record, fields may be missing, repeated, huge or garbage. Nothing panics, memory is bounded, and every record
//! that is refused leaves a typed error, never a made-up figure.

use super::sweep::Size;
use crate::abi;
use std::collections::BTreeSet;

/// Most results that one guest may report.
pub const MAX_RESULTS: usize = 4096;

/// Most errors that are kept; further ones are only counted.
pub const MAX_ERRORS: usize = 64;

/// Longest name of a workload or metric.
const MAX_NAME: usize = 64;

/// One measurement as the guest reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Workload that measured it.
    pub workload: String,
    /// What was measured.
    pub metric: String,
    /// How much one iteration did, if this is a point of a sweep.
    pub size: Option<Size>,
    /// Privilege ring in which the timed code ran, 0 to 3.
    pub ring: u8,
    /// Iterations in the timed region, at least 1.
    pub iterations: u64,
    /// TSC ticks of the timed region, at least 1.
    pub cycles: u64,
    /// Checksum over one fixed unit of work.
    pub checksum: u64,
}

impl Mark {
    /// The metric's name with its size and ring, as the CSV has it: `crc32@ring3`, `rep_outs[bytes=64]@ring0`.
    pub fn metric_at_ring(&self) -> String {
        let size = self.size.as_ref().map(Size::to_string).unwrap_or_default();
        format!("{}{size}@ring{}", self.metric, self.ring)
    }

    /// Nanoseconds of the timed region, with a TSC of `tsc_khz` kHz (0 counts as 1).
    pub fn ns(&self, tsc_khz: u64) -> f64 {
        self.cycles as f64 * 1e6 / tsc_khz.max(1) as f64
    }

    /// Nanoseconds per iteration, with a TSC of `tsc_khz` kHz (0 counts as 1).
    pub fn ns_per_iteration(&self, tsc_khz: u64) -> f64 {
        self.cycles as f64 / self.iterations.max(1) as f64 * 1e6 / tsc_khz.max(1) as f64
    }
}

/// How the guest said it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// `status=ok`.
    Ok,
    /// `status=failed`, with the guest's words.
    Failed(String),
    /// `status=absent`: the machine lacks what was to be measured, or a part of it; with the guest's words.
    Absent(String),
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// The word after the prefix is neither `result` nor `end`.
    #[error("unknown record")]
    UnknownRecord,
    /// A field is not of the form `key=value`.
    #[error("a field is not key=value")]
    NotAField,
    /// A required field is absent.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field stands twice.
    #[error("field `{0}` stands twice")]
    Repeated(&'static str),
    /// A number does not parse or is out of its range.
    #[error("field `{0}` is not a number in its range")]
    BadNumber(&'static str),
    /// A name is empty, too long, or has characters outside `a-z A-Z 0-9 _ . / + -`.
    #[error("field `{0}` is not a name")]
    BadName(&'static str),
    /// The size is not a name and a number of at least 1.
    #[error("field `size` is not WHAT:N")]
    BadSize,
    /// The status is none of `ok`, `failed` and `absent`.
    #[error("unknown status")]
    BadStatus,
    /// The same workload, metric, size and ring were reported before.
    #[error("reported twice")]
    Duplicate,
    /// Something follows the end of the run.
    #[error("a record after the end")]
    AfterEnd,
    /// More than [`MAX_RESULTS`] results.
    #[error("too many results")]
    TooMany,
}

/// All that a console said to the harness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Measurements, in order.
    pub results: Vec<Mark>,
    /// The end record, if one came.
    pub end: Option<End>,
    /// Refused records with their line numbers (from 1); the first [`MAX_ERRORS`].
    pub errors: Vec<(usize, MarkError)>,
    /// How many records were refused in all.
    pub refused: usize,
}

/// Parses a console's bytes.
pub fn parse(console: &[u8]) -> Transcript {
    let mut transcript = Transcript::default();
    let mut known = BTreeSet::new();
    for (index, line) in console.split(|b| *b == b'\n').enumerate() {
        // Firmware and the guest's own messages may share the line, so the prefix counts wherever it stands.
        let prefix = abi::LINE_PREFIX.as_bytes();
        let Some(at) = line.windows(prefix.len()).position(|w| w == prefix) else {
            continue;
        };
        let text = String::from_utf8_lossy(&line[at + prefix.len()..]);
        if let Err(error) = record(text.trim_end(), &mut transcript, &mut known) {
            transcript.refused += 1;
            if transcript.errors.len() < MAX_ERRORS {
                transcript.errors.push((index + 1, error));
            }
        }
    }
    transcript
}

fn record(
    text: &str,
    transcript: &mut Transcript,
    known: &mut BTreeSet<(String, String)>,
) -> Result<(), MarkError> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    if word != abi::RECORD_RESULT && word != abi::RECORD_END {
        return Err(MarkError::UnknownRecord);
    }
    if transcript.end.is_some() {
        return Err(MarkError::AfterEnd);
    }
    if word == abi::RECORD_END {
        transcript.end = Some(end(rest)?);
        return Ok(());
    }
    if transcript.results.len() >= MAX_RESULTS {
        return Err(MarkError::TooMany);
    }
    let mark = result(rest)?;
    if !known.insert((mark.workload.clone(), mark.metric_at_ring())) {
        return Err(MarkError::Duplicate);
    }
    transcript.results.push(mark);
    Ok(())
}

fn end(rest: &str) -> Result<End, MarkError> {
    let rest = rest.trim();
    let status = rest.strip_prefix("status=").ok_or(MarkError::Missing("status"))?;
    match status.split_once(' ').unwrap_or((status, "")) {
        ("ok", _) => Ok(End::Ok),
        (how @ ("failed" | "absent"), tail) => {
            let words = tail.trim().strip_prefix("reason=").unwrap_or("");
            let words = words.chars().filter(|c| !c.is_control()).take(200).collect();
            Ok(if how == "failed" { End::Failed(words) } else { End::Absent(words) })
        }
        _ => Err(MarkError::BadStatus),
    }
}

/// Fields of a result record, in the order of `abi::RECORD_RESULT`; only points of sweeps have the last one.
const FIELDS: [&str; 7] = ["workload", "metric", "ring", "iterations", "cycles", "checksum", "size"];

fn result(rest: &str) -> Result<Mark, MarkError> {
    let mut values: [Option<&str>; FIELDS.len()] = [None; FIELDS.len()];
    for field in rest.split_ascii_whitespace() {
        let (key, value) = field.split_once('=').ok_or(MarkError::NotAField)?;
        // Unknown keys are left for newer guests.
        if let Some(i) = FIELDS.iter().position(|f| *f == key)
            && values[i].replace(value).is_some()
        {
            return Err(MarkError::Repeated(FIELDS[i]));
        }
    }
    let get = |i: usize| values[i].ok_or(MarkError::Missing(FIELDS[i]));
    Ok(Mark {
        workload: name(get(0)?).ok_or(MarkError::BadName(FIELDS[0]))?,
        metric: name(get(1)?).ok_or(MarkError::BadName(FIELDS[1]))?,
        ring: decimal(get(2)?).filter(|r| *r <= 3).map(|r| r as u8).ok_or(MarkError::BadNumber(FIELDS[2]))?,
        iterations: decimal(get(3)?).filter(|n| *n > 0).ok_or(MarkError::BadNumber(FIELDS[3]))?,
        cycles: decimal(get(4)?).filter(|n| *n > 0).ok_or(MarkError::BadNumber(FIELDS[4]))?,
        checksum: hexadecimal(get(5)?).ok_or(MarkError::BadNumber(FIELDS[5]))?,
        size: values[6].map(|text| size(text).ok_or(MarkError::BadSize)).transpose()?,
    })
}

fn name(text: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./+-".contains(&b));
    // A leading sign would make a spreadsheet take the name for a formula.
    (fits && !text.starts_with(['+', '-'])).then(|| text.to_owned())
}

fn size(text: &str) -> Option<Size> {
    let (what, count) = text.split_once(':')?;
    Some(Size { what: name(what)?, count: decimal(count).filter(|n| *n > 0)? })
}

/// Digits only: `u64::from_str` alone would also take a leading `+`.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    (digits.len() <= 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "@trivisor result workload=crc32 metric=crc32 ring=3 iterations=10 cycles=2000 checksum=00000000deadbeef";

    fn one_error(line: &str) -> MarkError {
        let t = parse(line.as_bytes());
        assert!(t.results.is_empty() && t.end.is_none(), "{t:?}");
        assert_eq!(t.refused, 1);
        t.errors[0].1.clone()
    }

    #[test]
    fn a_whole_console() {
        let text = format!("SeaBIOS\x1bc\r\nhello\r\n\x1b[2J{GOOD}\r\n@trivisor end status=ok\r\n");
        let t = parse(text.as_bytes());
        assert_eq!(t.refused, 0);
        assert_eq!(t.end, Some(End::Ok));
        let mark = &t.results[0];
        assert_eq!(mark.metric_at_ring(), "crc32@ring3");
        assert_eq!(mark.checksum, 0xdead_beef);
        assert_eq!(mark.ns_per_iteration(2_000_000), 100.0);
    }

    #[test]
    fn hostile_records_have_names() {
        assert_eq!(one_error("@trivisor dance now"), MarkError::UnknownRecord);
        assert_eq!(one_error("@trivisor result nonsense"), MarkError::NotAField);
        assert_eq!(one_error("@trivisor result workload=a"), MarkError::Missing("metric"));
        assert_eq!(one_error(&format!("{GOOD} ring=3")), MarkError::Repeated("ring"));
        for (from, to, want) in [
            ("ring=3", "ring=4", MarkError::BadNumber("ring")),
            ("iterations=10", "iterations=0", MarkError::BadNumber("iterations")),
            ("iterations=10", "iterations=99999999999999999999999", MarkError::BadNumber("iterations")),
            ("cycles=2000", "cycles=-1", MarkError::BadNumber("cycles")),
            ("cycles=2000", "cycles=+1", MarkError::BadNumber("cycles")),
            ("00000000deadbeef", "00000000000000000", MarkError::BadNumber("checksum")),
            ("00000000deadbeef", "", MarkError::BadNumber("checksum")),
            ("workload=crc32", "workload==1+1", MarkError::BadName("workload")),
            ("workload=crc32", "workload=<b>", MarkError::BadName("workload")),
        ] {
            assert_eq!(one_error(&GOOD.replace(from, to)), want, "{to}");
        }
        for bad in ["bytes", "bytes:", "bytes:0", ":4", "bytes:-4", "by[tes:4", "bytes:4:4"] {
            assert_eq!(one_error(&format!("{GOOD} size={bad}")), MarkError::BadSize, "{bad}");
        }
        assert_eq!(one_error(&format!("{GOOD} size=bytes:1 size=bytes:1")), MarkError::Repeated("size"));
        assert_eq!(one_error("@trivisor end status=maybe"), MarkError::BadStatus);
    }

    #[test]
    fn failed_keeps_the_words() {
        let t = parse(b"@trivisor end status=failed reason=no such metric\n");
        assert_eq!(t.end, Some(End::Failed("no such metric".to_owned())));
        let t = parse(b"@trivisor end status=absent reason=no hypercalls\n");
        assert_eq!(t.end, Some(End::Absent("no hypercalls".to_owned())));
    }

    #[test]
    fn repeats_and_late_records_are_refused() {
        let t = parse(format!("{GOOD}\n{GOOD}\n@trivisor end status=ok\n{GOOD}\n").as_bytes());
        assert_eq!(t.results.len(), 1);
        assert_eq!(t.errors, [(2, MarkError::Duplicate), (4, MarkError::AfterEnd)]);
    }

    #[test]
    fn points_of_a_sweep_differ_in_their_size() {
        let t = parse(
            format!("{GOOD} size=bytes:512\n{GOOD}\n{GOOD} size=bytes:4096\n{GOOD} size=bytes:512\n")
                .as_bytes(),
        );
        let names: Vec<_> = t.results.iter().map(Mark::metric_at_ring).collect();
        assert_eq!(names, ["crc32[bytes=512]@ring3", "crc32@ring3", "crc32[bytes=4096]@ring3"]);
        assert_eq!(t.errors, [(4, MarkError::Duplicate)]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut flood = String::new();
        for i in 0..MAX_RESULTS + 500 {
            flood.push_str(&GOOD.replace("metric=crc32", &format!("metric=m{i}")));
            flood.push('\n');
        }
        let t = parse(flood.as_bytes());
        assert_eq!((t.results.len(), t.refused, t.errors.len()), (MAX_RESULTS, 500, MAX_ERRORS));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn garbage_after_the_prefix_yields_no_result(tail in "[ -~]{0,80}") {
            let t = parse(format!("@trivisor {tail}").as_bytes());
            // A well-formed result needs all six fields; 80 random characters do not make them.
            prop_assert!(t.results.is_empty());
        }

        #[test]
        fn what_the_protocol_allows_comes_back(workload in "[a-z][a-z0-9_.-]{0,20}", metric in "[a-z][a-z0-9_.-]{0,20}", ring in 0u8..4,
                                               size in prop::option::of(("[a-z]{1,8}", 1u64..)), iterations in 1u64.., cycles in 1u64.., checksum: u64) {
            let line = format!("@trivisor result workload={workload} metric={metric} ring={ring} \
                                iterations={iterations} cycles={cycles} checksum={checksum:016x}{}\r\n",
                               size.as_ref().map(|(what, n)| format!(" size={what}:{n}")).unwrap_or_default());
            let size = size.map(|(what, count)| Size { what, count });
            let t = parse(line.as_bytes());
            prop_assert_eq!(&t.errors, &[]);
            prop_assert_eq!(&t.results, &[Mark { workload, metric, size, ring, iterations, cycles, checksum }]);
            prop_assert!(t.results[0].ns_per_iteration(0).is_finite());
            prop_assert_eq!(crate::bench::sweep::is_point(&t.results[0].metric_at_ring()), t.results[0].size.is_some());
        }
    }
}
