//! Saved state of the hypercalls: where the guest has its pages.
use super::{ClockPage, Hypercalls};
use crate::abi;
use crate::arch::Gpa;
use crate::arch::address::PAGE_SIZE;
use crate::engine::saved::BadOffers;
use crate::mem::GuestRam;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// State of the hypercalls.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedHypercalls {
    /// The MSR that names the hypercall page.
    pub page: u64,
    /// The clock page: its address, what the guest's TSC is ahead of the clock's, and its version.
    pub clock_page: Option<(u64, u64, u32)>,
}

impl SavedHypercalls {
    pub(in crate::engine) fn check(&self, ram: &GuestRam) -> Result<(), BadOffers> {
        let is_page = |at: u64| at.is_multiple_of(PAGE_SIZE) && ram.offset(Gpa(at), PAGE_SIZE).is_some();
        let Self { page, clock_page } = self;
        let is_on = page & abi::PAGE_ON != 0;
        if page & (PAGE_SIZE - 1) & !abi::PAGE_ON != 0 || is_on && !is_page(page & !abi::PAGE_ON) {
            return Err(BadOffers("the hypercall page is none of RAM"));
        }
        if clock_page.is_some_and(|(at, ..)| !is_page(at)) {
            return Err(BadOffers("the clock page is none of RAM"));
        }
        Ok(())
    }
}

impl Hypercalls {
    pub(in crate::engine) fn saved(&self) -> SavedHypercalls {
        let Self { console: _, way_in: _, page, clock } = self;
        let clock = clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        SavedHypercalls {
            page: page.load(Ordering::Relaxed),
            clock_page: clock.as_ref().map(ClockPage::saved),
        }
    }

    /// Takes on a state that was checked. The hypercall page holds the way into this engine afterwards, whichever it held.
    pub(in crate::engine) fn restore(&self, saved: &SavedHypercalls, ram: &GuestRam) {
        // It was checked, so it is taken.
        let _taken = self.set_page(ram, saved.page);
        *self.clock() = saved.clock_page.map(ClockPage::restored);
    }
}

impl ClockPage {
    fn saved(&self) -> (u64, u64, u32) {
        let Self { at, tsc_adjust, version } = self;
        (at.0, *tsc_adjust, *version)
    }

    fn restored((at, tsc_adjust, version): (u64, u64, u32)) -> Self {
        Self { version, ..Self::new(Gpa(at), tsc_adjust) }
    }
}
