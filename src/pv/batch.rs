//! Maps the pages of a batched update before they are touched: as one mapping where they follow each other in RAM.
//!
//! Only pages that a touch would find ready are mapped: accessed already, allowed, and for writing dirty. So accessed and
//! dirty bits stay exact, and whatever is left out is mapped by a fault, as ever. Pages with code are left out, too: what
//! to make of them is the fault's to say.
use super::child::Child;
use super::space::{Kind, Space, is_guest_page};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{PagingMode, Privilege, ready_pages};
use crate::engine::{EngineError, PageRange};
use crate::mem::GuestRam;

/// Pages to be mapped that follow each other.
struct Stretch {
    start: u64,
    length: u64,
    offset: u64,
    kind: Kind,
}

/// What is to be mapped of `range` for accesses at `privilege`.
fn stretches(ram: &GuestRam, mode: &PagingMode, range: &PageRange, privilege: Privilege) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    ready_pages(ram, mode, range.first, range.count, privilege, |gva, page| {
        let Some(page) = page.filter(|_| is_guest_page(gva.0)) else { return };
        let Some(offset) = ram.offset(page.gpa, PAGE_SIZE).filter(|&at| !ram.code().has_code(at)) else {
            return;
        };
        let kind = if page.writable { Kind::Write } else { Kind::Read };
        match found.last_mut() {
            Some(s) if s.kind == kind && s.start + s.length == gva.0 && s.offset + s.length == offset => {
                s.length += PAGE_SIZE;
            }
            _ => found.push(Stretch { start: gva.0, length: PAGE_SIZE, offset, kind }),
        }
    });
    found
}

/// Maps what is ready of `range`. What the tables no longer say has been unmapped before.
pub(super) fn map(
    space: &mut Space,
    child: &mut Child,
    ram: &GuestRam,
    mode: &PagingMode,
    range: &PageRange,
) -> Result<(), EngineError> {
    for s in stretches(ram, mode, range, space.privilege()) {
        if space.is_empty(s.start, s.length) {
            space.map_pages(child, s.start, s.length, s.offset, s.kind)?;
            continue;
        }
        // What is mapped already stays, and what lies between is mapped page by page.
        for into in (0..s.length).step_by(PAGE_SIZE as usize) {
            if space.find(s.start + into).is_none() {
                space.map_pages(child, s.start + into, PAGE_SIZE, s.offset + into, s.kind)?;
            }
        }
    }
    Ok(())
}
