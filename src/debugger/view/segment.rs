//! A segment or system descriptor in words (SDM 3.4.5, 3.5).
use crate::arch::Segment;

/// The descriptor that `segment` holds. In long mode system descriptors have other meanings and limits of code and
/// data do not count.
#[must_use]
pub fn describe(segment: &Segment, long_mode: bool) -> String {
    if !segment.is_present() {
        return "not present".to_owned();
    }
    let mut words =
        vec![format!("base {:#x} limit {:#x}", segment.base, segment.limit), kind(segment, long_mode)];
    if segment.attributes & Segment::CODE_OR_DATA != 0 {
        let size = match (segment.is_long(), segment.is_big()) {
            (true, false) => "64-bit",
            (false, true) => "32-bit",
            (false, false) => "16-bit",
            (true, true) => "impossible size (L and D both set)",
        };
        // A data segment's B bit means nothing in 64-bit code, but it is in the descriptor.
        if segment.is_code() || !long_mode {
            words.push(size.to_owned());
        }
    }
    words.push(format!("ring {}", segment.dpl()));
    words.join(", ")
}

/// The type field in words.
fn kind(segment: &Segment, long_mode: bool) -> String {
    let kind = segment.kind();
    if segment.attributes & Segment::CODE_OR_DATA == 0 {
        return system(kind, long_mode).to_owned();
    }
    let accessed = if kind & 1 != 0 { ", accessed" } else { "" };
    let (second, third) = (kind & 2 != 0, kind & 4 != 0);
    if segment.is_code() {
        let readable = if second { ", readable" } else { ", execute-only" };
        let conforming = if third { ", conforming" } else { "" };
        format!("code{readable}{conforming}{accessed}")
    } else {
        let writable = if second { ", writable" } else { ", read-only" };
        let down = if third { ", expand-down" } else { "" };
        format!("data{writable}{down}{accessed}")
    }
}

/// A system descriptor's type (SDM table 3-2).
#[must_use]
pub const fn system(kind: u8, long_mode: bool) -> &'static str {
    match (kind, long_mode) {
        (2, _) => "LDT",
        (1, false) => "16-bit TSS, available",
        (3, false) => "16-bit TSS, busy",
        (4, false) => "16-bit call gate",
        (5, false) => "task gate",
        (6, false) => "16-bit interrupt gate",
        (7, false) => "16-bit trap gate",
        (9, false) => "32-bit TSS, available",
        (11, false) => "32-bit TSS, busy",
        (12, false) => "32-bit call gate",
        (14, false) => "32-bit interrupt gate",
        (15, false) => "32-bit trap gate",
        (9, true) => "64-bit TSS, available",
        (11, true) => "64-bit TSS, busy",
        (12, true) => "64-bit call gate",
        (14, true) => "64-bit interrupt gate",
        (15, true) => "64-bit trap gate",
        _ => "reserved type",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_spelled_out() {
        let code = Segment::from_descriptor(8, 0x00af_9b00_0000_ffff);
        assert_eq!(
            describe(&code, true),
            "base 0x0 limit 0xffffffff, code, readable, accessed, 64-bit, ring 0"
        );
        let user = Segment::from_descriptor(0x23, 0x00cf_f300_0000_ffff);
        assert_eq!(describe(&user, true), "base 0x0 limit 0xffffffff, data, writable, accessed, ring 3");
        let tss = Segment::from_descriptor(0x30, 0x0000_8b00_1000_0067);
        assert_eq!(describe(&tss, true), "base 0x1000 limit 0x67, 64-bit TSS, busy, ring 0");
        assert_eq!(describe(&Segment::default(), true), "not present");
    }
}
