//! The interrupt complex: the two 8259s, the I/O APIC and a local APIC for each vCPU, behind one lock.
//!
//! Devices drive its lines ([`IrqSink`]); CPUs ask it for vectors ([`InterruptController`]). Every change ends in
//! [`InterruptComplex::sync`], which moves what waits from chip to chip and recomputes for each vCPU whether an
//! interrupt could be taken. That answer lies in an atomic, so that [`InterruptController::pending`] is one load. A vCPU
//! for which it turns true is poked, under the lock. INIT, start-up and NMI messages lie in an atomic for each vCPU, too
//! ([`Signals`]), until the CPU takes them at an instruction boundary.
//!
//! Lock order: a device's lock, then this one, then the timer queue's and whatever the poke takes. Nothing in here
//! calls a device. The local APICs' timers are armed under the lock; they fire through [`LapicTimer`], without it.
mod pages;
#[cfg(test)]
mod tests;
mod waiting;

pub use pages::{IoApicPage, LapicPage, PicPorts};
pub use waiting::{Offer, Way};

use super::BadState;
use super::ioapic::{IoApic, SavedIoApic};
use super::lapic::{self, DeliveryMode, Effect, Lapic, Message, SavedLapic, Shorthand};
use super::pic8259::{PicPair, SavedPicPair};
use crate::arch::layout::{IOAPIC_PIN_PIT, IRQ_CASCADE, IRQ_PIT};
use crate::arch::msr::APIC_BASE;
use crate::bus::{CpuSignal, InterruptController, IrqSink, Lock, Locked, MsiSink, VcpuId};
use crate::clock::{Clock, Nanos, TimerClient, TimerQueue};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Called when an interrupt has become deliverable to a vCPU; may be called under the lock of a device.
pub type Poke = Box<dyn Fn(VcpuId) + Send + Sync>;

#[derive(Debug)]
struct Chips {
    pics: PicPair,
    ioapic: IoApic,
    lapics: Vec<Lapic>,
    signals: Arc<[Signals]>,
    /// A bit for each vCPU that something came for which is no interrupt: it is to be poked.
    called: u64,
}

/// Messages of one vCPU that are no interrupts. Added to with the chips locked, taken by the vCPU without.
#[derive(Debug, Default)]
struct Signals(AtomicU32);

impl Signals {
    const INIT: u32 = 1 << 0;
    const NMI: u32 = 1 << 1;
    /// A start-up, whose vector is in bits 15:8.
    const START_UP: u32 = 1 << 2;
    const START_UP_ALL: u32 = Self::START_UP | 0xff << 8;
    const ALL: u32 = Self::INIT | Self::NMI | Self::START_UP_ALL;

    fn add(&self, bits: u32) {
        self.0.fetch_or(bits, Ordering::SeqCst);
    }

    fn take(&self, bits: u32) -> u32 {
        // Nearly always there is nothing.
        match self.0.load(Ordering::Acquire) & bits {
            0 => 0,
            _ => self.0.fetch_and(!bits, Ordering::SeqCst) & bits,
        }
    }
}

/// All interrupt chips of a machine.
pub struct InterruptComplex {
    chips: Lock<Chips>,
    /// For each vCPU, whether an interrupt can be taken.
    pending: Box<[AtomicBool]>,
    /// For each vCPU, IA32_APIC_BASE: where its page is, and whether it has one.
    bases: Box<[AtomicU64]>,
    signals: Arc<[Signals]>,
    poke: Poke,
    /// The timer queue keeps no client alive; these do.
    _timers: Vec<Arc<Mutex<LapicTimer>>>,
}

impl std::fmt::Debug for InterruptComplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InterruptComplex").field("pending", &self.pending).finish_non_exhaustive()
    }
}

/// Where the timer of one local APIC fires.
#[derive(Debug)]
pub struct LapicTimer {
    complex: Weak<InterruptComplex>,
    vcpu: VcpuId,
}

impl TimerClient for LapicTimer {
    fn timer_fired(&mut self, _: Nanos) {
        if let Some(complex) = self.complex.upgrade() {
            complex.with_lapic(self.vcpu, Lapic::timer_fired);
        }
    }
}

/// State of all interrupt chips.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedInterrupts {
    /// The 8259s.
    pub pics: SavedPicPair,
    /// The I/O APIC.
    pub ioapic: SavedIoApic,
    /// The local APICs, by vCPU.
    pub lapics: Vec<SavedLapic>,
    /// INIT (bit 0), NMI (1) and start-up messages (2, with the vector in bits 15:8) that no vCPU has taken yet, by vCPU.
    pub signals: Vec<u32>,
}

impl InterruptComplex {
    /// Chips for as many CPUs as there are queues of deadlines (at least one, at most 64), in the state after reset: the
    /// timer of each local APIC is in its own vCPU's queue. The APIC ID of a vCPU is its number.
    #[must_use]
    pub fn new(clock: &Arc<Clock>, timers: &[Arc<TimerQueue>], poke: Poke) -> Arc<Self> {
        Arc::new_cyclic(|complex| {
            let (mut lapics, mut clients) = (vec![], vec![]);
            for (id, timers) in (0_u8..64).zip(timers) {
                let timer = timers.add();
                let client =
                    Arc::new(Mutex::new(LapicTimer { complex: Weak::clone(complex), vcpu: VcpuId(id) }));
                timer.connect(&(Arc::clone(&client) as Arc<Mutex<dyn TimerClient>>));
                lapics.push(Lapic::new(id, Arc::clone(clock), timer));
                clients.push(client);
            }
            let signals: Arc<[Signals]> = lapics.iter().map(|_| Signals::default()).collect();
            let (pics, ioapic) = (PicPair::default(), IoApic::default());
            Self {
                pending: lapics.iter().map(|_| AtomicBool::new(false)).collect(),
                bases: lapics.iter().map(|lapic| AtomicU64::new(lapic.base())).collect(),
                signals: Arc::clone(&signals),
                chips: Lock::new(Chips { pics, ioapic, lapics, signals, called: 0 }),
                poke,
                _timers: clients,
            }
        })
    }

    fn lock(&self) -> Locked<'_, Chips> {
        self.chips.lock()
    }

    /// Does something with the chips and brings everything up to date.
    fn with<R>(&self, act: impl FnOnce(&mut Chips) -> R) -> R {
        let mut chips = self.lock();
        let result = act(&mut chips);
        self.sync(&mut chips);
        result
    }

    fn with_lapic<R>(&self, vcpu: VcpuId, act: impl FnOnce(&mut Lapic) -> R) -> Option<R> {
        self.with(|chips| chips.lapics.get_mut(usize::from(vcpu.0)).map(act))
    }

    fn sync(&self, chips: &mut Chips) {
        while let Some(message) = chips.ioapic.next_message() {
            chips.deliver(message);
        }
        let intr = chips.pics.output();
        let called = std::mem::take(&mut chips.called);
        for (i, (lapic, pending)) in chips.lapics.iter_mut().zip(&self.pending).enumerate() {
            lapic.set_lint0(intr);
            let now = intr && lapic.accepts_extint() || lapic.deliverable().is_some();
            let changed = now != pending.load(Ordering::Relaxed);
            if changed {
                pending.store(now, Ordering::SeqCst);
            }
            if changed && now || called >> i & 1 != 0 {
                (self.poke)(VcpuId(i as u8));
            }
        }
    }

    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedInterrupts {
        let chips = self.lock();
        let Chips { pics, ioapic, lapics, signals, called: _ } = &*chips;
        SavedInterrupts {
            signals: signals.iter().map(|signals| signals.0.load(Ordering::SeqCst)).collect(),
            pics: pics.saved(),
            ioapic: ioapic.saved(),
            lapics: lapics.iter().map(Lapic::saved).collect(),
        }
    }

    /// Takes on a saved state. The clock has been restored before.
    ///
    /// # Errors
    /// [`BadState`], if the chips cannot be in that state, or it is one of a machine with another number of vCPUs. They
    /// are unchanged then.
    pub fn restore(&self, saved: &SavedInterrupts) -> Result<(), BadState> {
        let SavedInterrupts { pics, ioapic, lapics, signals } = saved;
        // All that can be refused comes before anything is changed.
        let (pics, ioapic) = (PicPair::restored(pics)?, IoApic::restored(ioapic)?);
        let states = lapics.iter().map(lapic::State::restored).collect::<Result<Vec<_>, _>>()?;
        let mut chips = self.lock();
        if states.len() != chips.lapics.len() || signals.len() != chips.lapics.len() {
            return Err(BadState { device: "interrupts", what: "another number of vCPUs" });
        }
        if signals.iter().any(|bits| bits & !Signals::ALL != 0) {
            return Err(BadState { device: "interrupts", what: "a message that does not exist" });
        }
        for (i, bits) in signals.iter().enumerate() {
            chips.signals[i].0.store(*bits, Ordering::SeqCst);
            chips.called |= u64::from(*bits != 0) << i;
        }
        for ((lapic, state), base) in chips.lapics.iter_mut().zip(states).zip(&self.bases) {
            lapic.take_on(state);
            base.store(lapic.base(), Ordering::Release);
        }
        (chips.pics, chips.ioapic) = (pics, ioapic);
        self.sync(&mut chips);
        Ok(())
    }
}

impl Chips {
    /// Brings a message to the local APICs it is meant for.
    fn deliver(&mut self, message: Message) {
        let Message { destination, logical, .. } = message;
        self.deliver_to(message, |_, lapic| lapic.is_addressed(destination, logical));
    }

    /// Brings a message to those of the local APICs that `is_meant` names. In ExtINT mode the I/O APIC would fetch the
    /// vector from the 8259s; their output is not wired to it, so that such messages are dropped, as SMI is.
    fn deliver_to(&mut self, message: Message, is_meant: impl Fn(usize, &Lapic) -> bool) {
        let Message { mode, vector, level, .. } = message;
        let meant = self.lapics.iter_mut().enumerate().filter(|(i, lapic)| is_meant(*i, lapic));
        match mode {
            DeliveryMode::Fixed => meant.for_each(|(_, lapic)| lapic.accept(vector, level)),
            // Of those that are at the same priority the first one takes it.
            DeliveryMode::LowestPriority => {
                let enabled = meant.filter(|(_, lapic)| lapic.takes_interrupts());
                if let Some((_, lapic)) = enabled.min_by_key(|(_, lapic)| lapic.ppr() >> 4) {
                    lapic.accept(vector, level);
                }
            }
            DeliveryMode::Nmi | DeliveryMode::Init | DeliveryMode::StartUp => {
                for (i, lapic) in meant {
                    let signals = &self.signals[i];
                    match mode {
                        DeliveryMode::Nmi => signals.add(Signals::NMI),
                        DeliveryMode::Init => {
                            // What came before it is void.
                            signals.take(Signals::ALL);
                            signals.add(Signals::INIT);
                            lapic.init();
                        }
                        _ if !lapic.take_start_up() => continue,
                        _ => signals.add(Signals::START_UP | u32::from(vector) << 8),
                    }
                    self.called |= 1 << i;
                }
            }
            DeliveryMode::Smi | DeliveryMode::ExtInt | DeliveryMode::Reserved => {}
        }
    }

    fn send(&mut self, from: VcpuId, message: Message, to: Shorthand) {
        let from = usize::from(from.0);
        match to {
            Shorthand::None => self.deliver(message),
            // Only a fixed interrupt may be sent to oneself or to all with oneself (SDM table 11-3).
            Shorthand::OnlySelf | Shorthand::All if message.mode != DeliveryMode::Fixed => {}
            Shorthand::OnlySelf => self.deliver_to(message, |i, _| i == from),
            Shorthand::All => self.deliver_to(message, |_, _| true),
            Shorthand::AllOthers => self.deliver_to(message, |i, _| i != from),
        }
    }

    fn write_lapic(&mut self, vcpu: VcpuId, at: u64, value: u32) {
        let Some(lapic) = self.lapics.get_mut(usize::from(vcpu.0)) else {
            return;
        };
        let effect = lapic.write(at, value);
        self.follow(vcpu, effect);
    }

    /// Does what a write to a local APIC asks for.
    fn follow(&mut self, vcpu: VcpuId, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Eoi(vector) => self.ioapic.end_of_interrupt(vector),
            Effect::Send(message, to) => self.send(vcpu, message, to),
        }
    }
}

impl IrqSink for InterruptComplex {
    fn set_line(&self, line: u8, level: bool) {
        self.with(|chips| {
            chips.pics.set_line(line, level);
            match line {
                IRQ_PIT => chips.ioapic.set_pin(IOAPIC_PIN_PIT, level),
                IRQ_CASCADE => {}
                pin => chips.ioapic.set_pin(pin, level),
            }
        });
    }
}

impl MsiSink for InterruptComplex {
    fn send(&self, address: u64, data: u32) {
        if address >> 20 != 0xfee {
            return;
        }
        // The manual lets the mode count only with a redirection hint (SDM 11.11.1). Chips and hypervisors let it count
        // always, and Linux relies on that.
        let logical = address & 0b100 != 0;
        let message = Message {
            destination: Message::narrow_destination((address >> 12) as u8, logical),
            logical,
            mode: DeliveryMode::from_bits(data >> 8),
            vector: data as u8,
            level: false,
        };
        self.with(|chips| chips.deliver(message));
    }
}

impl InterruptController for InterruptComplex {
    #[inline]
    fn pending(&self, vcpu: VcpuId) -> bool {
        self.pending.get(usize::from(vcpu.0)).is_some_and(|p| p.load(Ordering::Acquire))
    }

    fn pending_flag(&self, vcpu: VcpuId) -> Option<&AtomicBool> {
        self.pending.get(usize::from(vcpu.0))
    }

    fn acknowledge(&self, vcpu: VcpuId) -> Option<u8> {
        self.with(|chips| {
            let lapic = chips.lapics.get_mut(usize::from(vcpu.0))?;
            // An ExtINT has no priority and goes first (SDM 11.8.1).
            if chips.pics.output() && lapic.accepts_extint() {
                Some(chips.pics.acknowledge())
            } else {
                lapic.acknowledge()
            }
        })
    }

    fn take_signal(&self, vcpu: VcpuId) -> Option<CpuSignal> {
        let signals = self.signals.get(usize::from(vcpu.0))?;
        if signals.take(Signals::INIT) != 0 {
            return Some(CpuSignal::Init);
        }
        match signals.take(Signals::START_UP_ALL) {
            0 => None,
            bits => Some(CpuSignal::StartUp((bits >> 8) as u8)),
        }
    }

    fn take_nmi(&self, vcpu: VcpuId) -> bool {
        self.signals.get(usize::from(vcpu.0)).is_some_and(|signals| signals.take(Signals::NMI) != 0)
    }

    fn cr8(&self, vcpu: VcpuId) -> u8 {
        self.lock().lapics.get(usize::from(vcpu.0)).map_or(0, Lapic::cr8)
    }

    fn set_cr8(&self, vcpu: VcpuId, class: u8) {
        self.with_lapic(vcpu, |lapic| lapic.set_cr8(class));
    }

    fn has_apic(&self, vcpu: VcpuId) -> bool {
        self.bases.get(usize::from(vcpu.0)).is_none_or(|base| lapic::is_enabled(base.load(Ordering::Acquire)))
    }

    fn read_msr(&self, vcpu: VcpuId, index: u32) -> Option<u64> {
        self.with_lapic(vcpu, |lapic| lapic.read_msr(index)).flatten()
    }

    fn write_msr(&self, vcpu: VcpuId, index: u32, value: u64) -> Option<()> {
        self.with(|chips| {
            let lapic = chips.lapics.get_mut(usize::from(vcpu.0))?;
            let effect = lapic.write_msr(index, value)?;
            if index == APIC_BASE {
                self.bases[usize::from(vcpu.0)].store(lapic.base(), Ordering::Release);
            }
            chips.follow(vcpu, effect);
            Some(())
        })
    }
}
