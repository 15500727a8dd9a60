//! The processes of a vCPU with what is mapped in each: one for the guest's kernel, one for each of the address spaces that
//! its user programs ran in last.
//!
//! The kernel's has all that the tables map, a user's only pages that ring 3 may reach: so neither reads, writes or executes
//! what the other's privilege forbids. A user's process belongs to a value of CR3. A switch of address spaces is then the
//! choice of another process, whose mappings are compared with the tables and mostly still right.
//!
//! A RAM page that is text is text in all of them, at one address, and writable in none.
use super::Options;
use super::child::{Awake, Child, Pairing, Start, Who, stub};
use super::layout::{AREAS, COUNTERS, COUNTERS_SIZE, MOST_USERS, POPF_SLOWLY, TEXT_FD, ZONE, at};
use super::space::{Kind, Space};
use super::text::Text;
use super::trap;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::arch::{CpuState, Efer, Rflags, SegmentRegister};
use crate::emulator::single::far;
use crate::engine::{EngineError, HeldSpace, KickCell, Translations};
use crate::mem::GuestRam;
use std::fs::File;
use std::sync::Arc;

/// So many address spaces without a process of their own are met before another process is started for each that there is.
const MISSES: u32 = 8;
/// No program is at this address.
const NOWHERE: u64 = u64::MAX;
/// The bits of CR3 that name a table.
const TABLE: u64 = 0x000f_ffff_ffff_f000;

/// A process and what is mapped in it.
#[derive(Debug)]
pub(super) struct Side {
    /// The process.
    pub(super) child: Child,
    /// Its mappings.
    pub(super) space: Space,
}

/// What a new process maps.
#[derive(Debug)]
struct Objects {
    ram: Arc<GuestRam>,
    text: File,
    start: Start,
    counts: bool,
}

impl Objects {
    fn side(
        &self,
        start: impl FnOnce(&File, &File, Start) -> Result<Child, EngineError>,
        user: bool,
    ) -> Result<Side, EngineError> {
        let mut child = start(self.ram.file(), &self.text, self.start)?;
        if self.counts {
            let rights = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
            let offset = self.start.zone_offset + (COUNTERS - ZONE);
            child
                .request(libc::SYS_mmap, [COUNTERS, COUNTERS_SIZE, rights, flags, TEXT_FD.into(), offset])?;
            child.flush()?;
        }
        Ok(Side { child, space: Space::new(Arc::clone(&self.ram), user) })
    }
}

/// A user's process and the table it belongs to.
#[derive(Debug)]
struct User {
    table: u64,
    side: Side,
}

/// All processes of a vCPU.
#[derive(Debug)]
pub(super) struct Sides {
    objects: Objects,
    kernel: Side,
    users: Vec<User>,
    /// The user's process of the current address space.
    current: Option<usize>,
    pairing: Pairing,
    /// Address spaces met without a process, and whose process is to be taken next.
    misses: u32,
    victim: usize,
    /// Whether the segments of ring 3 in the GDT are ordinary, for this base, limit and STAR. The GDT's memory is looked at
    /// once.
    flat_users: Option<((u64, u16, u64), bool)>,
    /// Of the thunks that the children know.
    generation: u64,
    /// Whether what the current user's process says about where it goes on has been compared with the thunks.
    is_next_checked: bool,
}

/// Whose instructions run at this privilege level.
pub(super) fn who(state: &CpuState) -> Who {
    if state.cpl() == 3 { Who::User } else { Who::Kernel }
}

impl Sides {
    /// The kernel's process, started. `counts` says that sites are counted.
    pub(super) fn new(ram: Arc<GuestRam>, text: &Text, options: Options) -> Result<Self, EngineError> {
        let copy = text
            .file()
            .try_clone()
            .map_err(|source| EngineError::Host { what: "cannot duplicate a descriptor", source })?;
        let start = Start { zone_offset: text.zone_offset(), traps_time: options.traps_time };
        let objects = Objects { ram, text: copy, start, counts: options.counts };
        let kernel = objects.side(Child::start, false)?;
        Ok(Self {
            objects,
            kernel,
            users: Vec::new(),
            current: None,
            pairing: Pairing::new(),
            misses: 0,
            victim: 0,
            flat_users: None,
            generation: 0,
            is_next_checked: true,
        })
    }

    /// The process that executes at this privilege. There must be one: [`Self::enter`].
    pub(super) fn side(&mut self, who: Who) -> &mut Side {
        match (who, self.current) {
            (Who::User, Some(current)) => &mut self.users[current].side,
            _ => &mut self.kernel,
        }
    }

    /// Whose report the engine has.
    pub(super) fn holder(&self) -> Who {
        self.pairing.holder
    }

    /// Whether kernel and user have handed over to each other since the last release: the one that has the vCPU now came to
    /// it by SYSCALL, or by SYSRETQ or IRETQ, which load the same segments.
    pub(super) fn has_crossed(&self) -> bool {
        self.kernel.child.shared().get(at::CROSSED) != 0
    }

    /// The process whose report the engine has.
    pub(super) fn reporter(&mut self) -> &mut Side {
        self.side(self.pairing.holder)
    }

    /// Whether a program can read the key of its process.
    #[cfg(test)]
    pub(super) fn shows_a_key(&self) -> bool {
        self.users.iter().any(|user| user.side.child.shows_its_key())
    }

    /// What is mapped in each process. The user's of an address space that the CPU is not in may hold what its tables no longer
    /// say: it is compared with them before it runs again.
    pub(super) fn held(&self, who: Who) -> Translations {
        let kernel = HeldSpace { name: "kernel".to_owned(), current: who == Who::Kernel };
        let users = self.users.iter().enumerate().map(|(number, user)| HeldSpace {
            name: format!("user of CR3 {:#x}", user.table),
            current: who == Who::User && self.current == Some(number),
        });
        let spaces = std::iter::once(kernel).chain(users).collect();
        let sides = std::iter::once(&self.kernel).chain(self.users.iter().map(|user| &user.side));
        let list = sides.enumerate().flat_map(|(number, side)| side.space.held(number)).collect();
        Translations { what: "mirror of the guest's page tables in its own processes", spaces, list }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Side> {
        std::iter::once(&mut self.kernel).chain(self.users.iter_mut().map(|user| &mut user.side))
    }

    /// The kernel's process and the user's of the current address space, if there is one.
    pub(super) fn at_work(&mut self) -> impl Iterator<Item = &mut Side> {
        let user = self.current.map(|current| &mut self.users[current].side);
        std::iter::once(&mut self.kernel).chain(user)
    }

    /// To be called when the vCPU begins to run: the engine's thread may be on another CPU than before.
    pub(super) fn settle(&mut self) {
        self.all().for_each(|side| side.child.settle());
    }

    /// The user's process of the address space of `cr3`, if there is one, is the current one; it is compared with the
    /// tables. The former one waits in the stub from now on, even if it is the same: another program may be in it.
    pub(super) fn switch(&mut self, mode: &PagingMode) -> Result<(), EngineError> {
        if let Some(current) = self.current {
            self.stand()?;
            let child = &mut self.users[current].side.child;
            child.renew();
            self.pairing.dismiss(child);
        }
        let table = mode.cr3 & TABLE;
        let found = self.users.iter().position(|user| user.table == table);
        self.current = found;
        if let Some(found) = found {
            let Side { child, space } = &mut self.users[found].side;
            space.validate(child, mode)?;
            self.is_next_checked = false;
            self.kernel.child.set_user(&self.users[found].side.child);
            self.pairing.set_looks(&self.kernel.child, &self.users[found].side.child);
        }
        Ok(())
    }

    /// To be called before the guest goes on elsewhere: all processes wait in the stub, and the kernel's maps nothing of the
    /// guest's. What a user's maps goes before it is let go again ([`Self::clear`]).
    pub(super) fn leave(&mut self) -> Result<(), EngineError> {
        if let Some(current) = self.current {
            self.stand()?;
            self.shut_ways();
            let child = &mut self.users[current].side.child;
            child.renew();
            self.pairing.dismiss(child);
            self.current = None;
        }
        let Side { child, space } = &mut self.kernel;
        space.clear(child)?;
        child.flush()
    }

    /// Has the current user's process execute its requests, and wait in the stub.
    fn confine(&mut self) -> Result<(), EngineError> {
        self.shut_ways();
        let Some(current) = self.current else { return Ok(()) };
        self.pairing.confine(&mut self.kernel.child, &mut self.users[current].side.child)
    }

    /// The current user's process.
    fn user(&self) -> Option<&Child> {
        self.current.map(|current| &self.users[current].side.child)
    }

    /// To be called before the vCPU stands: the user's program does, too.
    pub(super) fn stand(&mut self) -> Result<(), EngineError> {
        if self.user().is_some_and(Child::is_at_large) { self.confine() } else { Ok(()) }
    }

    /// To be called before anybody goes on: what the current user's program has lost it cannot reach any more.
    pub(super) fn enforce(&mut self) -> Result<(), EngineError> {
        if self.user().is_some_and(Child::has_requests) { self.stand() } else { Ok(()) }
    }

    /// Makes sure that there is a user's process for the current address space.
    pub(super) fn enter(&mut self, mode: &PagingMode) -> Result<(), EngineError> {
        if self.current.is_some() {
            return Ok(());
        }
        let table = mode.cr3 & TABLE;
        let enough = self.users.len() == MOST_USERS || self.misses < MISSES * self.users.len() as u32;
        self.misses += 1;
        if enough {
            self.victim = (self.victim + 1) % self.users.len();
            let user = &mut self.users[self.victim];
            user.table = table;
        } else {
            let area = 1 + self.users.len();
            debug_assert!(area < AREAS);
            let kernel = &self.kernel.child;
            let start = |ram: &File, text: &File, start| kernel.start_user(area, ram, text, start);
            let side = self.objects.side(start, true)?;
            self.users.push(User { table, side });
            self.misses = 0;
        }
        self.switch(mode)
    }

    /// After a write to a control register.
    pub(super) fn validate(&mut self, mode: &PagingMode) -> Result<(), EngineError> {
        let Side { child, space } = &mut self.kernel;
        space.validate(child, mode)?;
        self.switch(mode)
    }

    /// After INVLPG of `address`.
    pub(super) fn invalidate(&mut self, mode: &PagingMode, address: u64) -> Result<(), EngineError> {
        self.is_next_checked = false;
        self.at_work().try_for_each(|side| side.space.invalidate(&mut side.child, mode, address))
    }

    /// After changes to the tables of `length` bytes from `start` on.
    pub(super) fn refresh(&mut self, mode: &PagingMode, start: u64, length: u64) -> Result<(), EngineError> {
        self.is_next_checked = false;
        self.at_work().try_for_each(|side| side.space.refresh(&mut side.child, mode, start, length))
    }

    /// Unmaps everything everywhere.
    pub(super) fn clear(&mut self) -> Result<(), EngineError> {
        self.all().try_for_each(|side| side.space.clear(&mut side.child))
    }

    /// The RAM page at `offset` becomes text at `page`.
    pub(super) fn make_text(&mut self, page: u64, offset: u64) -> Result<(), EngineError> {
        self.all().try_for_each(|side| side.space.make_text(&mut side.child, page, offset))
    }

    /// The RAM page at `offset` is data again.
    pub(super) fn drop_text(&mut self, offset: u64) -> Result<(), EngineError> {
        self.all().try_for_each(|side| side.space.drop_text(&mut side.child, offset))
    }

    /// To be called before a release of `who`: the user's process executes what there is for it to do, unless it is confined and
    /// the kernel goes on; then the ways must stay shut, which is what `false` says.
    pub(super) fn settle_requests(&mut self, who: Who) -> Result<bool, EngineError> {
        let Some(child) = self.user().filter(|child| child.has_requests()) else { return Ok(true) };
        if who == Who::Kernel && !child.is_at_large() {
            return Ok(false);
        }
        self.confine()?;
        Ok(true)
    }

    /// Lets the process of this privilege go on.
    pub(super) fn release(&mut self, who: Who, commands: u32) -> Result<(), EngineError> {
        self.kernel.child.shared().put(at::CROSSED, 0);
        let user = self.current.map(|current| &mut self.users[current].side.child);
        self.pairing.release(&mut self.kernel.child, user, who, commands)
    }

    /// Waits until a process reports or `kick` is raised.
    pub(super) fn wait(&mut self, kick: &KickCell) -> Result<Awake, EngineError> {
        let user = self.current.map(|current| &mut self.users[current].side.child);
        self.pairing.wait(&mut self.kernel.child, user, kick)
    }

    /// As [`Self::wait`], for a report that must come soon because the processes were told to stop.
    pub(super) fn await_report(&mut self) -> Result<(), EngineError> {
        let user = self.current.map(|current| &mut self.users[current].side.child);
        self.pairing.await_report(&mut self.kernel.child, user)
    }

    /// Has whoever runs come out of the guest's code: at once, or where it next allows interrupts.
    pub(super) fn interrupt(&mut self, at_once: bool) {
        for side in self.at_work() {
            let shared = side.child.shared();
            if at_once {
                shared.set(at::STOP, 1);
            } else {
                shared.set(at::STI_SLOW, 1);
                shared.set(at::POPF_SLOW, POPF_SLOWLY);
            }
        }
        self.close_ways();
        self.pairing.hurry();
        self.at_work().for_each(|side| side.child.signal());
    }

    /// Forgets where programs go on in thunks if those are of another generation.
    pub(super) fn keep_up(&mut self, generation: u64) {
        if std::mem::replace(&mut self.generation, generation) != generation {
            self.users.iter().for_each(|user| user.side.child.shared().set(at::NEXT_GUEST, NOWHERE));
        }
    }

    /// Forgets where the current user's program goes on in a thunk if `native` does not find it there: the page may be gone, and
    /// it may have been written by another program that the process was for.
    pub(super) fn check_next(&mut self, native: impl Fn(u64, u64) -> u64) {
        if std::mem::replace(&mut self.is_next_checked, true) {
            return;
        }
        let Some(current) = self.current else { return };
        let Side { child, space } = &self.users[current].side;
        let (guest, place) = (child.shared().get(at::NEXT_GUEST), child.shared().get(at::NEXT_NATIVE));
        let known = match space.find(guest) {
            Some((Kind::Text, offset)) => native(guest, offset & !(PAGE_SIZE - 1)) == place,
            _ => false,
        };
        if !known {
            child.shared().put(at::NEXT_GUEST, NOWHERE);
        }
    }

    /// The user's program will mostly go on at `guest`, which the child finds at `native`.
    pub(super) fn expect_user_at(&mut self, guest: u64, native: u64) {
        if let Some(current) = self.current {
            let shared = self.users[current].side.child.shared();
            shared.put(at::NEXT_GUEST, guest);
            shared.put(at::NEXT_NATIVE, native);
        }
    }

    /// Takes back that they are to stop at once.
    pub(super) fn stop_no_more(&mut self) {
        // A user's process always stops for a kick.
        self.kernel.child.shared().put(at::STOP, 0);
    }

    /// SYSCALL, SYSRETQ and IRETQ go to the engine.
    pub(super) fn close_ways(&self) {
        let slow = stub::entries().hypercall;
        let kernel = self.kernel.child.shared();
        kernel.put(at::SYSRET_WAY, slow);
        kernel.put(at::IRET_WAY, slow);
        if let Some(current) = self.current {
            self.users[current].side.child.shared().put(at::SYSCALL_WAY, slow);
        }
    }

    /// Before a release for which nothing may go from process to process: the ways are closed, and the kernel's process takes no
    /// SYSCALL up that a program only pretends to have made by them.
    pub(super) fn shut_ways(&mut self) {
        self.close_ways();
        self.kernel.child.shared().put(at::ENTRY, 0);
    }

    /// Before a release in `state`: SYSCALL, SYSRETQ and IRETQ go from process to process if `entry`, where the child goes
    /// on for a SYSCALL, is known and nothing has to be looked at in between; otherwise to the engine.
    pub(super) fn open_ways(&mut self, state: &CpuState, entry: Option<u64>) {
        // A program that cannot be interrupted is unusual, too: the stub leaves its virtual interrupt flag on.
        // So are rings 1 and 2.
        let interruptible = state.cpl() == 0 || state.cpl() == 3 && state.rflags.contains(Rflags::IF);
        let plain = state.efer.contains(Efer::SCE)
            && interruptible
            && !state.rflags.intersects(Rflags::IOPL | Rflags::AC);
        let (Some(current), Some(entry), true) = (self.current, entry, plain) else {
            return self.shut_ways();
        };
        let entries = stub::entries();
        self.users[current].side.child.may_be_let_go();
        let user = self.users[current].side.child.shared();
        let kernel = self.kernel.child.shared();
        let (mask, star) = (state.msrs.sfmask, state.msrs.star);
        kernel.put(at::ENTRY, entry);
        kernel.put(at::ENTRY_KEEP, !mask);
        kernel.put(at::ENTRY_DELTA, 0_u64.wrapping_sub(mask & Rflags::IF.bits()));
        user.put(at::FLAGS_DELTA, 0);
        user.put(at::SYSCALL_WAY, entries.syscall);
        kernel.put(at::SYSRET_WAY, entries.sysret);
        let (cs, ss) = far::sysret_selectors(star);
        kernel.put(at::USER_CS, cs.into());
        kernel.put(at::USER_SS, ss.into());
        let key = (state.gdtr.base, state.gdtr.limit, star);
        if self.flat_users.is_none_or(|(known, _)| known != key) {
            let flat = are_flat_user_segments(state, &self.objects.ram, cs, ss);
            self.flat_users = Some((key, flat));
        }
        let flat = self.flat_users.is_some_and(|(_, flat)| flat);
        let iret = if flat && !state.nmi_blocked && keeps_data_segments(state) {
            entries.iret
        } else {
            entries.hypercall
        };
        kernel.put(at::IRET_WAY, iret);
    }
}

/// Whether IRETQ to ring 3 leaves DS, ES, FS and GS alone: it makes those null that ring 3 may not have (SDM vol. 2, IRET).
fn keeps_data_segments(state: &CpuState) -> bool {
    [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs].into_iter().all(
        |name| {
            let segment = state.segment(name);
            segment.selector & !3 == 0 || segment.dpl() == 3
        },
    )
}

/// Whether the GDT has ordinary 64-bit segments of ring 3 under these selectors, so that IRETQ loads what SYSRET would.
fn are_flat_user_segments(state: &CpuState, ram: &GuestRam, cs: u16, ss: u16) -> bool {
    let mode = PagingMode::of(state);
    let attributes = |selector: u16| {
        let mut bytes = [0; 8];
        let at = u64::from(selector & !7);
        let inside = selector & 4 == 0 && at != 0 && at + 7 <= u64::from(state.gdtr.limit);
        (inside && trap::read(ram, &mode, state.gdtr.base.wrapping_add(at), &mut bytes) == 8)
            .then(|| u64::from_le_bytes(bytes) >> 40)
    };
    // Bytes 5 and 6: present, ring 3, code that is not conforming, long; present, ring 3, writable data that grows upwards.
    attributes(cs).is_some_and(|a| a & 0x60_fc == 0x20_f8) && attributes(ss).is_some_and(|a| a & 0xfe == 0xf2)
}
