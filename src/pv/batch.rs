//! Maps the pages of a batched update before they are touched: as one mapping where they follow each other in RAM.
//!
//! Only pages that a touch would find ready are mapped: accessed already, allowed, and for writing dirty. So accessed and
//! dirty bits stay exact, and whatever is left out is mapped by a fault, as ever.
use super::child::Child;
use super::space::{Kind, Space, is_guest_page};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access, PagingMode, Privilege};
use crate::engine::{EngineError, PageRange};
use crate::mem::GuestRam;

/// Pages to be mapped that follow each other.
struct Stretch {
    start: u64,
    length: u64,
    offset: u64,
    kind: Kind,
}

/// How a small page at `page` is to be mapped, and its RAM offset.
fn ready(ram: &GuestRam, mode: &PagingMode, page: u64) -> Option<(Kind, u64)> {
    let known = |access| paging::known(ram, mode, crate::arch::Gva(page), access, Privilege::Supervisor);
    let (kind, translation) = match known(Access::Write) {
        Some(translation) => (Kind::Write, translation),
        None => (Kind::Read, known(Access::Read)?),
    };
    // A page that may be written but is not dirty is mapped for reading only.
    (translation.page_size == PAGE_SIZE).then_some(())?;
    Some((kind, ram.offset(translation.gpa.page(), PAGE_SIZE)?))
}

/// Maps what is ready of `range`. What the tables no longer say has been unmapped before.
pub(super) fn map(
    space: &mut Space,
    child: &mut Child,
    ram: &GuestRam,
    mode: &PagingMode,
    range: &PageRange,
) -> Result<(), EngineError> {
    let mut stretch: Option<Stretch> = None;
    let first = range.first.0 & !(PAGE_SIZE - 1);
    for n in 0..range.count {
        let page = first.wrapping_add(n * PAGE_SIZE);
        let found = is_guest_page(page)
            .then(|| ready(ram, mode, page))
            .flatten()
            .filter(|&(_, offset)| space.text_at(offset).is_none() && space.find(page).is_none());
        match (&mut stretch, found) {
            (Some(s), Some((kind, offset))) if kind == s.kind && offset == s.offset + s.length => {
                s.length += PAGE_SIZE;
            }
            (_, found) => {
                let next =
                    found.map(|(kind, offset)| Stretch { start: page, length: PAGE_SIZE, offset, kind });
                if let Some(s) = std::mem::replace(&mut stretch, next) {
                    space.map_pages(child, s.start, s.length, s.offset, s.kind)?;
                }
            }
        }
    }
    match stretch {
        Some(s) => space.map_pages(child, s.start, s.length, s.offset, s.kind),
        None => Ok(()),
    }
}
