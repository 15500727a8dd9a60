//! The interrupt complex: the two 8259s, the I/O APIC and a local APIC for each vCPU, behind one lock.
//!
//! Devices drive its lines ([`IrqSink`]); CPUs ask it for vectors ([`InterruptController`]). Every change ends in
//! [`InterruptComplex::sync`], which moves what waits from chip to chip and recomputes for each vCPU whether an
//! interrupt could be taken. That answer lies in an atomic, so that [`InterruptController::pending`] is one load. A vCPU
//! for which it turns true is poked, under the lock.
//!
//! Lock order: a device's lock, then this one, then the timer queue's and whatever the poke takes. Nothing in here
//! calls a device. The local APICs' timers are armed under the lock; they fire through [`LapicTimer`], without it.
mod pages;
#[cfg(test)]
mod tests;

pub use pages::{IoApicPage, LapicPage, PicPorts};

use super::BadState;
use super::ioapic::{IoApic, SavedIoApic};
use super::lapic::{self, DeliveryMode, Effect, Lapic, Message, SavedLapic, Shorthand};
use super::pic8259::{PicPair, SavedPicPair};
use crate::arch::layout::{IOAPIC_PIN_PIT, IRQ_CASCADE, IRQ_PIT};
use crate::arch::msr;
use crate::bus::{InterruptController, IrqSink, Lock, Locked, MsiSink, VcpuId};
use crate::clock::{Clock, Nanos, TimerClient, TimerQueue};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Called when an interrupt has become deliverable to a vCPU; may be called under the lock of a device.
pub type Poke = Box<dyn Fn(VcpuId) + Send + Sync>;

#[derive(Debug)]
struct Chips {
    pics: PicPair,
    ioapic: IoApic,
    lapics: Vec<Lapic>,
}

/// All interrupt chips of a machine.
pub struct InterruptComplex {
    chips: Lock<Chips>,
    /// For each vCPU, whether an interrupt can be taken.
    pending: Box<[AtomicBool]>,
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
}

impl InterruptComplex {
    /// Chips for `vcpus` CPUs (at least one), in the state after reset. The APIC ID of a vCPU is its number.
    #[must_use]
    pub fn new(vcpus: u8, clock: &Arc<Clock>, timers: &Arc<TimerQueue>, poke: Poke) -> Arc<Self> {
        Arc::new_cyclic(|complex| {
            let (mut lapics, mut clients) = (vec![], vec![]);
            for id in 0..vcpus.max(1) {
                let timer = timers.add();
                let client =
                    Arc::new(Mutex::new(LapicTimer { complex: Weak::clone(complex), vcpu: VcpuId(id) }));
                timer.connect(&(Arc::clone(&client) as Arc<Mutex<dyn TimerClient>>));
                lapics.push(Lapic::new(id, Arc::clone(clock), timer));
                clients.push(client);
            }
            Self {
                pending: lapics.iter().map(|_| AtomicBool::new(false)).collect(),
                chips: Lock::new(Chips { pics: PicPair::default(), ioapic: IoApic::default(), lapics }),
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
        for (i, (lapic, pending)) in chips.lapics.iter_mut().zip(&self.pending).enumerate() {
            lapic.set_lint0(intr);
            let now = intr && lapic.accepts_extint() || lapic.deliverable().is_some();
            if now != pending.load(Ordering::Relaxed) {
                pending.store(now, Ordering::SeqCst);
                if now {
                    (self.poke)(VcpuId(i as u8));
                }
            }
        }
    }

    /// The state to save.
    #[must_use]
    pub fn saved(&self) -> SavedInterrupts {
        let chips = self.lock();
        let Chips { pics, ioapic, lapics } = &*chips;
        SavedInterrupts {
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
        let SavedInterrupts { pics, ioapic, lapics } = saved;
        // All that can be refused comes before anything is changed.
        let (pics, ioapic) = (PicPair::restored(pics)?, IoApic::restored(ioapic)?);
        let states = lapics.iter().map(lapic::State::restored).collect::<Result<Vec<_>, _>>()?;
        let mut chips = self.lock();
        if states.len() != chips.lapics.len() {
            return Err(BadState { device: "interrupts", what: "another number of vCPUs" });
        }
        for (lapic, state) in chips.lapics.iter_mut().zip(states) {
            lapic.take_on(state);
        }
        (chips.pics, chips.ioapic) = (pics, ioapic);
        self.sync(&mut chips);
        Ok(())
    }
}

impl Chips {
    /// Brings a message to the local APICs it is meant for. In ExtINT mode the I/O APIC would fetch the vector from the
    /// 8259s; their output is not wired to it, so that such messages are dropped, as NMI, SMI, INIT and start-up are.
    fn deliver(&mut self, message: Message) {
        let Message { destination, logical, mode, vector, level } = message;
        let mut meant = self.lapics.iter_mut().filter(|l| l.is_addressed(destination, logical));
        match mode {
            DeliveryMode::Fixed => meant.for_each(|l| l.accept(vector, level)),
            // Any of the addressed may be chosen; QEMU takes the first, too.
            DeliveryMode::LowestPriority => {
                if let Some(lapic) = meant.next() {
                    lapic.accept(vector, level);
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, from: VcpuId, message: Message, to: Shorthand) {
        if to == Shorthand::None {
            return self.deliver(message);
        }
        if message.mode != DeliveryMode::Fixed {
            return;
        }
        for (i, lapic) in self.lapics.iter_mut().enumerate() {
            let is_self = i == usize::from(from.0);
            if to == Shorthand::All || is_self == (to == Shorthand::OnlySelf) {
                lapic.accept(message.vector, false);
            }
        }
    }

    fn write_lapic(&mut self, vcpu: VcpuId, at: u64, value: u32) {
        let Some(lapic) = self.lapics.get_mut(usize::from(vcpu.0)) else {
            return;
        };
        match lapic.write(at, value) {
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
        let message = Message {
            destination: (address >> 12) as u8,
            // The manual lets the mode count only with a redirection hint (SDM 11.11.1). Chips and hypervisors let it count
            // always, and Linux relies on that.
            logical: address & 0b100 != 0,
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

    fn cr8(&self, vcpu: VcpuId) -> u8 {
        self.lock().lapics.get(usize::from(vcpu.0)).map_or(0, Lapic::cr8)
    }

    fn set_cr8(&self, vcpu: VcpuId, class: u8) {
        self.with_lapic(vcpu, |lapic| lapic.set_cr8(class));
    }

    fn read_msr(&self, vcpu: VcpuId, index: u32) -> Option<u64> {
        (index == msr::APIC_BASE)
            .then(|| self.lock().lapics.get(usize::from(vcpu.0)).map(Lapic::base))
            .flatten()
    }

    fn write_msr(&self, vcpu: VcpuId, index: u32, value: u64) -> Option<()> {
        (index == msr::APIC_BASE)
            .then(|| self.with_lapic(vcpu, |lapic| lapic.set_base(value)))
            .flatten()
            .flatten()
    }
}
