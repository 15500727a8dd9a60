//! A local APIC in xAPIC and x2APIC form (Intel SDM vol. 3A, chapter 11).
//!
//! The interrupt complex owns one for each vCPU and holds its lock during each call. What concerns others — an IPI, the
//! end of a level-triggered interrupt — is returned as an [`Effect`], so that the complex decides.
//!
//! State after reset. The boot processor's LINT0 is unmasked and in ExtINT mode, as a BIOS leaves it and as QEMU sets
//! it: the 8259s reach a guest that never touches the APIC. On the others LINT0 is masked. As in QEMU, the 8259s are
//! heard if the APIC is globally disabled, or LINT0 is unmasked in ExtINT mode, whatever the software enable says; so
//! clearing the software enable masks all entries of the vector table but LINT0. INIT resets the APIC
//! but for its ID; the complex brings INIT, start-up and NMI messages to the CPUs. SMI messages are dropped.
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;
mod x2apic;

pub use saved::SavedLapic;
pub use spec::{DeliveryMode, Shorthand};
pub use vectors::Vectors;

use crate::arch::{Gpa, layout};
use crate::clock::{Clock, Nanos, Timer};
use spec::{ApicBase, ERROR, Esr, FIRST_VECTOR, LINT0, LVT_COUNT, LVT_WRITABLE, Lvt, Svr, TIMER, offset};
use std::sync::Arc;
use timer::Counter;

/// Whether this IA32_APIC_BASE enables the APIC.
pub(in crate::device) fn is_enabled(base: u64) -> bool {
    ApicBase::from_bits_retain(base).contains(ApicBase::ENABLE)
}

/// Where the register page is with this IA32_APIC_BASE, if it answers at all: not in x2APIC mode.
pub(in crate::device) fn page(base: u64) -> Option<Gpa> {
    let has_page = is_enabled(base) && !ApicBase::from_bits_retain(base).contains(ApicBase::EXTD);
    has_page.then(|| Gpa(base).page())
}

/// An interrupt message on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// APIC ID, [`Message::EVERYONE`], or logical address.
    pub destination: u32,
    /// Whether `destination` is logical.
    pub logical: bool,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// Which vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

impl Message {
    /// The APIC ID that means all.
    pub const EVERYONE: u32 = u32::MAX;

    /// The destination in a field of 8 bits, where 0xff means all APIC IDs.
    #[must_use]
    pub fn narrow_destination(field: u8, logical: bool) -> u32 {
        if field == 0xff && !logical { Self::EVERYONE } else { field.into() }
    }
}

/// What an access asks of the interrupt complex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt ended: tell the I/O APIC.
    Eoi(u8),
    /// Send this.
    Send(Message, Shorthand),
}

/// The registers and their glue.
#[derive(Debug)]
pub struct Lapic {
    // Configuration.
    is_boot: bool,
    /// The APIC ID after reset, which x2APIC mode keeps.
    initial_id: u8,
    // Runtime glue.
    clock: Arc<Clock>,
    timer: Timer,
    /// What `timer` is armed for; `None` also after it has fired.
    armed: Option<Nanos>,
    // Volatile state.
    state: State,
}

/// What one APIC is at: its registers, pins and timer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    base: ApicBase,
    id: u8,
    tpr: u8,
    ldr: u8,
    /// Model bits 31–28 of the DFR: 0xf flat, 0 cluster.
    model: u8,
    svr: Svr,
    isr: Vectors,
    tmr: Vectors,
    irr: Vectors,
    /// What a read of the ESR shows.
    esr: Esr,
    /// Errors since the last write to the ESR.
    errors: Esr,
    icr: [u32; 2],
    lvt: [Lvt; LVT_COUNT],
    lint0: bool,
    counter: Counter,
    /// IA32_TSC_DEADLINE: when the timer runs out, in ticks of the TSC; 0 for never.
    deadline: u64,
    /// The CPU takes a start-up message: after INIT, and none came since. Never the boot processor.
    waits: bool,
}

impl State {
    fn after_reset(id: u8, is_boot: bool) -> Self {
        let mut lvt = [Lvt::MASKED; LVT_COUNT];
        let mut base = ApicBase::from_bits_retain(layout::LAPIC.0) | ApicBase::ENABLE;
        if is_boot {
            lvt[LINT0] = Lvt::from_bits_retain(7 << 8);
            base |= ApicBase::BSP;
        }
        Self {
            base,
            id,
            tpr: 0,
            ldr: 0,
            model: 0xf,
            svr: Svr::from_bits_retain(0xff),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: Esr::default(),
            errors: Esr::default(),
            icr: [0; 2],
            lvt,
            lint0: false,
            counter: Counter::default(),
            deadline: 0,
            waits: !is_boot,
        }
    }
}

impl Lapic {
    /// The APIC of the CPU with this APIC ID; ID 0 is the boot processor. `timer` is its own.
    #[must_use]
    pub fn new(id: u8, clock: Arc<Clock>, timer: Timer) -> Self {
        let is_boot = id == 0;
        Self { is_boot, initial_id: id, clock, timer, armed: None, state: State::after_reset(id, is_boot) }
    }

    fn is_enabled(&self) -> bool {
        is_enabled(self.base())
    }

    fn is_software_enabled(&self) -> bool {
        self.is_enabled() && self.state.svr.contains(Svr::ENABLE)
    }

    /// Whether the 8259s' interrupts reach this CPU (see the head of the file).
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        let lint0 = self.state.lvt[LINT0];
        !self.is_enabled() || !lint0.contains(Lvt::MASKED) && lint0.mode() == DeliveryMode::ExtInt
    }

    /// Processor priority (11.8.3.1).
    #[must_use]
    pub fn ppr(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0) & 0xf0;
        if self.state.tpr >> 4 >= in_service >> 4 { self.state.tpr } else { in_service }
    }

    /// The vector that [`Self::acknowledge`] would return.
    #[must_use]
    pub fn deliverable(&self) -> Option<u8> {
        if !self.is_software_enabled() {
            return None;
        }
        self.state.irr.highest().filter(|v| v & 0xf0 > self.ppr() & 0xf0)
    }

    /// Hands the vector to be entered to the CPU: it is in service until its EOI.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.state.irr.set(vector, false);
        self.state.isr.set(vector, true);
        Some(vector)
    }

    /// Takes in an interrupt.
    pub fn accept(&mut self, vector: u8, level: bool) {
        if vector < FIRST_VECTOR {
            self.error(Esr::RECEIVE_ILLEGAL_VECTOR);
        } else if self.is_software_enabled() {
            self.state.irr.set(vector, true);
            self.state.tmr.set(vector, level);
        }
    }

    /// INIT (11.4.7.3): the state after reset, with the ID and IA32_APIC_BASE as they are. All but the boot processor
    /// wait for a start-up.
    pub fn init(&mut self) {
        let State { base, id, lint0, .. } = self.state;
        self.state = State { base, lint0, ..State::after_reset(id, self.is_boot) };
        self.sync();
    }

    /// Whether a start-up message is taken: one after each INIT is.
    pub fn take_start_up(&mut self) -> bool {
        std::mem::take(&mut self.state.waits)
    }

    /// Whether it can take in interrupts: enabled by its CPU, too.
    #[must_use]
    pub fn takes_interrupts(&self) -> bool {
        self.is_software_enabled()
    }

    /// Whether a message with this destination is for this APIC (11.6.2).
    #[must_use]
    pub fn is_addressed(&self, destination: u32, logical: bool) -> bool {
        let s = &self.state;
        if !self.is_enabled() {
            return false;
        }
        if !logical {
            return destination == Message::EVERYONE || destination == u32::from(s.id);
        }
        if self.is_x2apic() {
            let own = self.logical_x2apic_id();
            return destination >> 16 == own >> 16 && destination & own & 0xffff != 0;
        }
        let Ok(destination) = u8::try_from(destination) else { return false };
        match s.model {
            0xf => destination & s.ldr != 0,
            0 => {
                let cluster = destination >> 4;
                (cluster == 0xf || cluster == s.ldr >> 4) && destination & s.ldr & 0xf != 0
            }
            _ => false,
        }
    }

    /// Drives LINT0, the 8259s' output. Only its fixed mode needs the pin; ExtINT is asked for by the complex.
    pub fn set_lint0(&mut self, level: bool) {
        let rose = level && !std::mem::replace(&mut self.state.lint0, level);
        let entry = self.state.lvt[LINT0];
        if entry.mode() != DeliveryMode::Fixed {
            return;
        }
        if !entry.contains(Lvt::LEVEL) {
            if rose {
                self.deliver_local(LINT0);
            }
        } else if level && !entry.contains(Lvt::REMOTE_IRR) {
            self.deliver_local(LINT0);
        }
    }

    /// Delivers the interrupt of an entry of the vector table.
    fn deliver_local(&mut self, index: usize) {
        let entry = self.state.lvt[index];
        if entry.contains(Lvt::MASKED) || !self.is_software_enabled() {
            return;
        }
        // The timer and error entries have no mode field: their bits read as fixed.
        if entry.mode() == DeliveryMode::Fixed {
            let level = index == LINT0 && entry.contains(Lvt::LEVEL);
            if level {
                self.state.lvt[index] |= Lvt::REMOTE_IRR;
            }
            self.accept(entry.vector(), level);
        }
    }

    fn error(&mut self, error: Esr) {
        let is_new = !self.state.errors.contains(error);
        self.state.errors |= error;
        // An error entry that is itself illegal must not report itself for ever.
        if is_new && self.state.lvt[ERROR].vector() >= FIRST_VECTOR {
            self.deliver_local(ERROR);
        }
    }

    fn is_periodic(&self) -> bool {
        self.state.lvt[TIMER].contains(Lvt::PERIODIC) && !self.waits_for_deadline()
    }

    fn waits_for_deadline(&self) -> bool {
        self.state.lvt[TIMER].contains(Lvt::DEADLINE)
    }

    /// IA32_TSC_DEADLINE; 0 once it has passed.
    fn deadline(&mut self) -> u64 {
        self.run_timer();
        self.sync();
        self.state.deadline
    }

    /// Sets IA32_TSC_DEADLINE; without effect in the other modes of the timer (11.5.4.1).
    fn set_deadline(&mut self, ticks: u64) {
        if !self.waits_for_deadline() {
            return;
        }
        let nanos = |ticks: u64| {
            let hz = u128::from(self.clock.tsc_hz().max(1));
            u64::try_from((u128::from(ticks) * 1_000_000_000).div_ceil(hz)).unwrap_or(u64::MAX)
        };
        let left = nanos(ticks.saturating_sub(self.clock.tsc()));
        self.state.deadline = ticks;
        self.state.counter.expiry = (ticks != 0).then(|| self.clock.now().after(left));
        self.run_timer();
        self.sync();
    }

    /// Brings the timer up to date: delivers its interrupt if it ran out.
    pub fn timer_fired(&mut self) {
        self.armed = None;
        self.run_timer();
        self.sync();
    }

    /// The clock is read only while the timer runs: to read it costs as much as an access does otherwise.
    fn run_timer(&mut self) {
        let periodic = self.is_periodic();
        if self.state.counter.expiry.is_some() && self.state.counter.expired(periodic, self.clock.now()) {
            self.state.deadline = 0;
            self.deliver_local(TIMER);
        }
    }

    /// Arms the host's timer for what the registers say, if it is not armed for that.
    fn sync(&mut self) {
        let wanted = !self.state.lvt[TIMER].contains(Lvt::MASKED) && self.is_software_enabled();
        let wake = match wanted && self.state.counter.expiry.is_some() {
            true => self.state.counter.wake(self.is_periodic(), self.clock.now()),
            false => None,
        };
        if wake == self.armed {
            return;
        }
        self.armed = wake;
        match wake {
            Some(at) => self.timer.arm(at),
            None => self.timer.cancel(),
        }
    }

    /// Reads the 32-bit register at `at` (a multiple of 16 below 0x1000).
    pub fn read(&mut self, at: u64) -> u32 {
        let s = &self.state;
        match at {
            offset::ID => u32::from(s.id) << 24,
            offset::VERSION => spec::VERSION,
            offset::TPR => s.tpr.into(),
            offset::APR => 0,
            offset::PPR => self.ppr().into(),
            offset::EOI => 0,
            offset::LDR => u32::from(s.ldr) << 24,
            offset::DFR => u32::from(s.model) << 28 | 0x0fff_ffff,
            offset::SVR => s.svr.bits(),
            offset::ISR..offset::TMR => s.isr.word((at - offset::ISR) as usize / 16),
            offset::TMR..offset::IRR => s.tmr.word((at - offset::TMR) as usize / 16),
            offset::IRR..offset::ESR => s.irr.word((at - offset::IRR) as usize / 16),
            offset::ESR => s.esr.bits(),
            offset::ICR_LOW => s.icr[0],
            offset::ICR_HIGH => s.icr[1],
            offset::LVT_TIMER..=offset::LVT_ERROR => s.lvt[(at - offset::LVT_TIMER) as usize / 16].bits(),
            offset::INITIAL_COUNT => s.counter.initial,
            offset::CURRENT_COUNT if self.waits_for_deadline() => 0,
            offset::CURRENT_COUNT => {
                self.run_timer();
                self.sync();
                self.state.counter.current(self.clock.now())
            }
            offset::DIVIDE => s.counter.divide,
            _ => {
                self.error(Esr::ILLEGAL_ADDRESS);
                0
            }
        }
    }

    /// Writes the 32-bit register at `at` (a multiple of 16 below 0x1000).
    pub fn write(&mut self, at: u64, value: u32) -> Effect {
        let s = &mut self.state;
        match at {
            offset::ID => s.id = (value >> 24) as u8,
            offset::TPR => s.tpr = value as u8,
            offset::EOI => return self.end_of_interrupt(),
            offset::LDR => s.ldr = (value >> 24) as u8,
            offset::DFR => s.model = (value >> 28) as u8,
            offset::SVR => self.write_svr(value),
            offset::ESR => s.esr = std::mem::take(&mut s.errors),
            offset::ICR_LOW => {
                s.icr[0] = value & spec::ICR_LOW_WRITABLE;
                return self.command();
            }
            offset::ICR_HIGH => s.icr[1] = value & 0xff00_0000,
            offset::LVT_TIMER..=offset::LVT_ERROR => {
                self.write_lvt((at - offset::LVT_TIMER) as usize / 16, value);
            }
            offset::INITIAL_COUNT if self.waits_for_deadline() => {}
            offset::INITIAL_COUNT => {
                self.run_timer();
                let now = self.clock.now();
                self.state.counter.start(value, now);
                self.sync();
            }
            offset::DIVIDE => {
                self.run_timer();
                let now = self.clock.now();
                self.state.counter.set_divide(value, now);
                self.sync();
            }
            offset::VERSION | offset::APR | offset::PPR | offset::CURRENT_COUNT => {}
            offset::ISR..offset::ESR => {}
            _ => self.error(Esr::ILLEGAL_ADDRESS),
        }
        Effect::None
    }

    fn write_svr(&mut self, value: u32) {
        self.run_timer();
        self.state.svr = Svr::from_bits_retain(value & 0x1ff);
        if !self.state.svr.contains(Svr::ENABLE) {
            let not_lint0 = self.state.lvt.iter_mut().enumerate().filter(|(i, _)| *i != LINT0);
            not_lint0.for_each(|(_, entry)| *entry |= Lvt::MASKED);
        }
        self.sync();
    }

    fn write_lvt(&mut self, index: usize, value: u32) {
        if index == TIMER {
            // What ran out by now was under the old entry.
            self.run_timer();
        }
        let read_only = self.state.lvt[index].bits() & !LVT_WRITABLE[index];
        let mut entry = Lvt::from_bits_retain(value & LVT_WRITABLE[index] | read_only);
        if !self.state.svr.contains(Svr::ENABLE) && index != LINT0 {
            // 11.4.7.2: the mask bits cannot be cleared while the APIC is software-disabled.
            entry |= Lvt::MASKED;
        }
        if !entry.contains(Lvt::LEVEL) {
            entry -= Lvt::REMOTE_IRR;
        }
        if index == TIMER && (entry ^ self.state.lvt[index]).contains(Lvt::DEADLINE) {
            // What was set in the other mode is void.
            (self.state.deadline, self.state.counter.expiry) = (0, None);
        }
        self.state.lvt[index] = entry;
        if index == TIMER {
            self.sync();
        }
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.state.isr.highest() else {
            return Effect::None;
        };
        self.state.isr.set(vector, false);
        if !self.state.tmr.contains(vector) {
            return Effect::None;
        }
        let lint0 = &mut self.state.lvt[LINT0];
        if lint0.contains(Lvt::REMOTE_IRR) && lint0.vector() == vector {
            *lint0 -= Lvt::REMOTE_IRR;
        }
        Effect::Eoi(vector)
    }

    /// A write to the interrupt command register sends.
    fn command(&mut self) -> Effect {
        let [low, high] = self.state.icr;
        let logical = low & 1 << 11 != 0;
        let message = Message {
            destination: if self.is_x2apic() {
                high
            } else {
                Message::narrow_destination((high >> 24) as u8, logical)
            },
            logical,
            mode: DeliveryMode::from_bits(low >> 8),
            vector: low as u8,
            // IPIs are edge-triggered, whatever bit 15 says (11.6.1).
            level: false,
        };
        match message.mode {
            // The de-assertion of INIT only mattered to buses of old (11.6.1, "Level").
            DeliveryMode::Init if low & (spec::ICR_ASSERT | spec::ICR_LEVEL) == spec::ICR_LEVEL => {
                Effect::None
            }
            _ => self.checked(message, Shorthand::from_icr(low)),
        }
    }

    /// Sends a message, unless it has a vector that none can have.
    fn checked(&mut self, message: Message, to: Shorthand) -> Effect {
        if matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority)
            && message.vector < FIRST_VECTOR
        {
            self.error(Esr::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        Effect::Send(message, to)
    }

    /// Whether the register page answers: not while IA32_APIC_BASE disables the APIC, nor in x2APIC mode.
    #[must_use]
    pub fn has_page(&self) -> bool {
        page(self.base()).is_some()
    }

    /// CR8.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        self.state.tpr >> 4
    }

    /// Sets CR8 (11.8.6).
    pub fn set_cr8(&mut self, class: u8) {
        self.state.tpr = class << 4;
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.state.base.bits()
    }

    /// Writes IA32_APIC_BASE; `None` means #GP. Disabling and enabling again resets the APIC (11.4.3).
    #[must_use]
    pub fn set_base(&mut self, value: u64) -> Option<()> {
        if value & !spec::APIC_BASE_WRITABLE != 0 {
            return None;
        }
        let new = ApicBase::from_bits_retain(value);
        // From x2APIC mode the only way is to be disabled, and to it from being enabled (11.12.5).
        let (both, extended) = (ApicBase::ENABLE | ApicBase::EXTD, new.contains(ApicBase::EXTD));
        if extended && !(new.contains(both) && self.is_enabled())
            || !extended && self.is_x2apic() && new.contains(ApicBase::ENABLE)
        {
            return None;
        }
        if extended && !self.is_x2apic() {
            self.state.id = self.initial_id;
            self.state.icr[1] = 0;
        }
        if new.contains(ApicBase::ENABLE) && !self.is_enabled() {
            let State { id, lint0, waits, .. } = self.state;
            self.state = State { lint0, waits, ..State::after_reset(id, self.is_boot) };
        }
        self.state.base = new;
        self.sync();
        Some(())
    }
}
