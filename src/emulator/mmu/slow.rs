//! The slow path of memory accesses: translation, page crossings, device memory, stores into code.
use super::tlb::{Bank, Fill};
use super::{Fault, Mmu};
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, Access, PagingMode, Privilege};
use crate::arch::{Cr4, Efer, Exception, Gpa, Gva, Vector, Width};
use crate::emulator::single::int::Int;
use crate::engine::{Account, Cause};

/// Where one page of an access lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Guest-physical address of the first byte.
    pub gpa: Gpa,
    /// Its host address, if it is RAM; the rest of the page follows it.
    pub host: Option<*mut u8>,
    /// The translation does not depend on the address space.
    pub global: bool,
}

impl Mmu<'_> {
    /// How an access of `bank` is translated.
    pub(super) fn rights(&self, bank: Bank) -> (PagingMode, Privilege) {
        let ac = bank == Bank::SupervisorAc;
        let privilege = match bank {
            Bank::User | Bank::UserAligned => Privilege::User,
            Bank::Supervisor | Bank::SupervisorAc => Privilege::Supervisor,
        };
        (PagingMode { ac, ..self.mode }, privilege)
    }

    /// #GP, or #SS for an access through SS, if the `length` bytes at `at` are not canonical.
    pub(crate) fn check_canonical(&mut self, at: u64, length: usize, stack: bool) -> Result<(), Fault> {
        let last = at.wrapping_add(length as u64 - 1);
        if !self.mode.efer.contains(Efer::LMA) || Gva(at).is_canonical() && Gva(last).is_canonical() {
            return Ok(());
        }
        Err(self.raise(if stack { Exception::SS0 } else { Exception::GP0 }))
    }

    /// Translates one address; RAM is entered into the TLB.
    pub(crate) fn place(&mut self, bank: Bank, at: u64, access: Access) -> Result<Place, Fault> {
        if access != Access::Execute
            && let Some(gpa) = self.tlb.device(bank, at, access == Access::Write)
        {
            return Ok(Place { gpa: Gpa(gpa), host: None, global: false });
        }
        let (mode, privilege) = self.rights(bank);
        let counters = self.platform.counters(self.vcpu);
        counters.count(Cause::SoftMmuFill);
        let _fills = counters.ledger().charge(Account::SoftMmuFill);
        let found = match paging::walk(self.ram, &mode, Gva(at), access, privilege) {
            Ok(found) => found,
            Err(e) => return Err(self.raise(e)),
        };
        let page = found.gpa.page();
        let global = found.global && self.mode.cr4.contains(Cr4::PGE);
        let Some(host) = self.ram.host(page, PAGE_SIZE) else {
            if access != Access::Execute {
                let write = access == Access::Write || found.writable && found.dirty;
                self.tlb.note_large(at, found.page_size);
                self.tlb.fill_device(bank, at & !(PAGE_SIZE - 1), page.0, write);
            }
            return Ok(Place { gpa: found.gpa, host: None, global: false });
        };
        if access == Access::Execute {
            self.tlb.fill_code(bank, at & !(PAGE_SIZE - 1), page.0, global, found.page_size);
        } else if !self.watches.watch_page(at) {
            let code =
                self.ram.offset(page, PAGE_SIZE).is_some_and(|offset| self.ram.code().has_code(offset));
            self.tlb.fill(
                bank,
                &Fill {
                    page: at & !(PAGE_SIZE - 1),
                    gpa: page.0,
                    host: host as usize,
                    write: access == Access::Write || found.writable && found.dirty,
                    code,
                    global,
                    size: found.page_size,
                },
            );
        }
        let host = host.wrapping_add(found.gpa.page_offset() as usize);
        Ok(Place { gpa: found.gpa, host: Some(host), global })
    }

    /// Guest-physical address of the instruction byte at `at`; `None` in the place of a host address if it is not RAM.
    pub(crate) fn fetch_place(&mut self, at: u64) -> Result<Place, Fault> {
        self.check_canonical(at, 1, false)?;
        let bank = match self.bank {
            Bank::UserAligned => Bank::User,
            Bank::SupervisorAc => Bank::Supervisor,
            bank => bank,
        };
        if let Some((gpa, global)) = self.tlb.fetch(bank, at) {
            let gpa = Gpa(gpa);
            return Ok(Place { gpa, host: self.ram.host(gpa, 1), global });
        }
        self.place(bank, at, Access::Execute)
    }

    /// The linear address `offset` bytes after `at`: outside long mode it wraps at 4 GiB.
    fn further(&self, at: u64, offset: usize) -> u64 {
        let at = at.wrapping_add(offset as u64);
        if self.mode.efer.contains(Efer::LMA) { at } else { at & 0xffff_ffff }
    }

    /// Both halves of an access: the bytes in the first page and where the pieces are. Checks everything.
    pub(super) fn places(
        &mut self,
        bank: Bank,
        at: u64,
        length: usize,
        access: Access,
        stack: bool,
    ) -> Result<(usize, Place, Option<Place>), Fault> {
        self.check_canonical(at, 1, stack)?;
        if bank == Bank::UserAligned && !at.is_multiple_of(natural_alignment(length)) {
            return Err(self.raise(Exception::with_code(Vector::AlignmentCheck, 0)));
        }
        self.check_canonical(at, length, stack)?;
        let in_first = length.min((PAGE_SIZE - at % PAGE_SIZE) as usize);
        let first = self.place(bank, at, access)?;
        let second = if in_first < length {
            Some(self.place(bank, self.further(at, in_first), access)?)
        } else {
            None
        };
        Ok((in_first, first, second))
    }

    fn read_piece(&mut self, place: Place, into: &mut [u8]) {
        if place.host.is_some() && self.ram.read(place.gpa, into).is_ok() {
            return;
        }
        let mut done = 0;
        while done < into.len() {
            let (at, width) = device_step(place.gpa, done, into.len());
            let value = self.platform.mmio_read(self.vcpu, at, width);
            into[done..done + width.bytes()].copy_from_slice(&value.to_le_bytes()[..width.bytes()]);
            done += width.bytes();
        }
    }

    fn write_piece(&mut self, place: Place, from: &[u8]) {
        if let Some(offset) = self.ram.offset(place.gpa, from.len() as u64) {
            // `GuestRam::write` tells the code map; this vCPU must also leave the block it is in.
            self.stop |= self.ram.code().has_code(offset);
            if self.ram.write(place.gpa, from).is_ok() {
                return;
            }
        }
        self.stop = true;
        let mut done = 0;
        while done < from.len() {
            let (at, width) = device_step(place.gpa, done, from.len());
            let mut value = [0; 8];
            value[..width.bytes()].copy_from_slice(&from[done..done + width.bytes()]);
            self.platform.mmio_write(self.vcpu, at, width, u64::from_le_bytes(value));
            done += width.bytes();
        }
    }

    /// Reads up to a page of bytes with the rights of `bank`.
    pub(crate) fn read_bytes(
        &mut self,
        bank: Bank,
        at: u64,
        into: &mut [u8],
        stack: bool,
    ) -> Result<(), Fault> {
        if into.is_empty() {
            return Ok(());
        }
        let (split, first, second) = self.places(bank, at, into.len(), Access::Read, stack)?;
        let length = into.len();
        let (low, high) = into.split_at_mut(split);
        self.read_piece(first, low);
        if let Some(second) = second {
            self.read_piece(second, high);
        }
        self.stop |= self.watches.note(at, length, false);
        Ok(())
    }

    /// Writes up to a page of bytes with the rights of `bank`; nothing is written unless all can be.
    pub(crate) fn write_bytes(&mut self, bank: Bank, at: u64, from: &[u8], stack: bool) -> Result<(), Fault> {
        if from.is_empty() {
            return Ok(());
        }
        let (split, first, second) = self.places(bank, at, from.len(), Access::Write, stack)?;
        let (low, high) = from.split_at(split);
        self.write_piece(first, low);
        if let Some(second) = second {
            self.write_piece(second, high);
        }
        self.stop |= self.watches.note(at, from.len(), true);
        Ok(())
    }

    /// What an access of 1–8 bytes is if it is one access to a device whose page is known: where, and how wide. It can
    /// raise nothing: it is aligned, and its page is canonical.
    #[inline]
    fn device_access(&self, at: u64, length: usize, write: bool) -> Option<(Gpa, Width)> {
        let gpa = self.tlb.device(self.bank, at, write)?;
        let width = Width::from_bytes(length)?;
        at.is_multiple_of(length as u64).then_some((Gpa(gpa), width))
    }

    /// Reads 1–8 bytes that missed the TLB.
    #[cold]
    #[inline(never)]
    pub(crate) fn read_slow(&mut self, at: u64, length: usize, stack: bool) -> Result<u64, Fault> {
        if let Some((gpa, width)) = self.device_access(at, length, false) {
            self.stop |= self.watches.note(at, length, false);
            return Ok(self.platform.mmio_read(self.vcpu, gpa, width));
        }
        let mut bytes = [0; 8];
        if self.bank != Bank::UserAligned && at % PAGE_SIZE + length as u64 <= PAGE_SIZE {
            self.check_canonical(at, length, stack)?;
            let place = self.place(self.bank, at, Access::Read)?;
            self.read_piece(place, &mut bytes[..length]);
            self.stop |= self.watches.note(at, length, false);
        } else {
            self.read_bytes(self.bank, at, &mut bytes[..length], stack)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes 1–8 bytes that missed the TLB.
    #[cold]
    #[inline(never)]
    pub(crate) fn write_slow(
        &mut self,
        at: u64,
        length: usize,
        value: u64,
        stack: bool,
    ) -> Result<(), Fault> {
        if let Some((gpa, width)) = self.device_access(at, length, true) {
            self.stop = true;
            self.watches.note(at, length, true);
            self.platform.mmio_write(self.vcpu, gpa, width, value & width.mask());
            return Ok(());
        }
        let bytes = value.to_le_bytes();
        if at % PAGE_SIZE + length as u64 <= PAGE_SIZE
            && let Some((_, gpa)) = self.tlb.code_write(self.bank, at)
            && let Some(offset) = self.ram.offset(Gpa(gpa), length as u64)
            && self.ram.write(Gpa(gpa), &bytes[..length]).is_ok()
        {
            if !self.ram.code().has_code(offset) {
                self.stop = true;
                self.tlb.unprotect(self.bank, at);
            }
            return Ok(());
        }
        self.write_bytes(self.bank, at, &bytes[..length], stack)
    }

    /// Raises what a write of `length` bytes at `at` would raise.
    pub(crate) fn check_write(&mut self, at: u64, length: usize, stack: bool) -> Result<(), Fault> {
        self.places(self.bank, at, length, Access::Write, stack).map(|_| ())
    }

    /// Reads with the rights of `bank`: what the processor itself reads of descriptor tables and TSSs.
    pub(crate) fn read_as<T: Int>(&mut self, bank: Bank, at: u64) -> Result<T, Fault> {
        let before = std::mem::replace(&mut self.bank, bank);
        let result = self.read::<T>(at, false);
        self.bank = before;
        result
    }

    /// Writes with the rights of `bank`: frames of exceptions, accessed bits of descriptors.
    pub(crate) fn write_as<T: Int>(
        &mut self,
        bank: Bank,
        at: u64,
        value: T,
        stack: bool,
    ) -> Result<(), Fault> {
        let before = std::mem::replace(&mut self.bank, bank);
        let result = self.write::<T>(at, value, stack);
        self.bank = before;
        result
    }
}

/// What the alignment check (SDM 6.15, #AC) demands of an access of `length` bytes. Vectors are not checked, as on
/// Intel's CPUs; x87 images are checked as the words they are made of.
fn natural_alignment(length: usize) -> u64 {
    match length {
        2 | 4 | 8 => length as u64,
        10 => 8,
        14 | 94 => 2,
        28 | 108 => 4,
        _ => 1,
    }
}

/// The next aligned piece of a device access: where, and how wide.
fn device_step(start: Gpa, done: usize, length: usize) -> (Gpa, Width) {
    let at = start.offset(done as u64);
    let left = length - done;
    let width = [Width::B8, Width::B4, Width::B2]
        .into_iter()
        .find(|w| w.bytes() <= left && at.0.is_multiple_of(w.bytes() as u64))
        .unwrap_or(Width::B1);
    (at, width)
}
