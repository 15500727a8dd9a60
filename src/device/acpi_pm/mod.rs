//! ACPI's fixed hardware: the power management timer, the events that make system control interrupts, and soft off.
//!
//! The timer is the guest's clock, counted in its own ticks; nothing ticks. Whether its top bit has changed is computed
//! from what passed since the last look, and the host's timer is armed only while that makes an interrupt. Every access
//! ends in [`AcpiPm::sync`].
mod registers;
mod saved;
mod spec;
#[cfg(test)]
mod tests;

pub use saved::SavedAcpiPm;

use super::{read_bytes, write_bytes};
use crate::arch::{Port, Width};
use crate::bus::{IrqLine, PortDevice, PowerSwitch};
use crate::clock::{Clock, Nanos, Timer, TimerClient};
use spec::{Control, Event};
use std::sync::Arc;

const SECOND: u128 = 1_000_000_000;

/// The status that a guest switches off with by ACPI: as `isa-debug-exit` would for 0.
const OFF_STATUS: u32 = 1;

/// The registers. They are claimed as one range and are the client of their timer.
#[derive(Debug)]
pub struct AcpiPm {
    // Configuration.
    base: Port,
    // Runtime glue.
    irq: IrqLine,
    clock: Arc<Clock>,
    timer: Timer,
    /// The deadline last given to `timer`, if it has not passed: the queue's lock is not for each access.
    armed: Option<Nanos>,
    power: Arc<PowerSwitch>,
    /// The level last given to `irq`.
    driven: bool,
    // Volatile state.
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    status: Event,
    enable: Event,
    control: Control,
    /// Changes of the timer's top bit up to which the status is computed.
    seen: u64,
}

impl Default for State {
    fn default() -> Self {
        Self { status: Event::empty(), enable: Event::empty(), control: Control::SCI, seen: 0 }
    }
}

/// Ticks of the timer until `now`.
fn ticks(now: Nanos) -> u64 {
    (u128::from(now.0) * u128::from(spec::TIMER_HZ) / SECOND) as u64
}

impl AcpiPm {
    /// Registers from port `base` on, with system control interrupts on `irq`; soft off is asked of `power`.
    #[must_use]
    pub fn new(base: Port, irq: IrqLine, clock: Arc<Clock>, timer: Timer, power: Arc<PowerSwitch>) -> Self {
        let state = State { seen: ticks(clock.now()) >> 31, ..State::default() };
        Self { base, irq, clock, timer, armed: None, power, driven: false, state }
    }

    /// Someone presses the power button.
    pub fn press_power_button(&mut self) {
        self.state.status |= Event::POWER_BUTTON;
        self.sync();
    }

    /// Recomputes status, line and timer.
    fn sync(&mut self) -> Nanos {
        let now = self.clock.now();
        let changes = ticks(now) >> 31;
        if changes != std::mem::replace(&mut self.state.seen, changes) {
            self.state.status |= Event::TIMER;
        }
        let level = self.state.status.intersects(self.state.enable);
        if level != std::mem::replace(&mut self.driven, level) {
            self.irq.set(level);
        }
        let wanted = (self.state.enable.contains(Event::TIMER) && !level).then(|| {
            let next = (u128::from(changes + 1) << 31) * SECOND;
            let at = next.div_ceil(u128::from(spec::TIMER_HZ));
            Nanos(u64::try_from(at).unwrap_or(u64::MAX))
        });
        if wanted != std::mem::replace(&mut self.armed, wanted) {
            match wanted {
                Some(at) => self.timer.arm(at),
                None => self.timer.cancel(),
            }
        }
        now
    }

    fn word(&self, register: u16, now: Nanos) -> u32 {
        let s = &self.state;
        match register {
            spec::STATUS => s.status.bits().into(),
            spec::ENABLE => s.enable.bits().into(),
            spec::CONTROL => s.control.bits().into(),
            spec::TIMER => ticks(now) as u32,
            _ => u32::from(u16::MAX),
        }
    }

    fn write_control(&mut self, bits: u16) {
        let written = Control::from_bits_truncate(bits);
        self.state.control = (written - Control::SLEEP) | Control::SCI;
        // Sleep types that this machine has not are ignored.
        let sleeps = written.contains(Control::SLEEP);
        if sleeps && (written & Control::SLEEP_TYPE).bits() >> 10 == spec::SOFT_OFF {
            self.power.power_off(OFF_STATUS);
        }
    }

    fn read_byte(&self, port: Port, now: Nanos) -> u8 {
        match port.0.wrapping_sub(self.base.0) {
            at @ spec::TIMER..spec::SIZE => (self.word(spec::TIMER, now) >> (8 * (at - spec::TIMER))) as u8,
            at @ 0..6 => (self.word(at & !1, now) >> (8 * (at & 1))) as u8,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: Port, value: u8) {
        let at = port.0.wrapping_sub(self.base.0);
        let high = at & 1 != 0;
        let (bits, kept) = if high { (u16::from(value) << 8, 0xff) } else { (u16::from(value), 0xff00) };
        match at & !1 {
            spec::STATUS => self.state.status -= Event::from_bits_truncate(bits),
            spec::ENABLE => {
                self.state.enable = Event::from_bits_truncate(self.state.enable.bits() & kept | bits);
            }
            spec::CONTROL => self.write_control(self.state.control.bits() & kept | bits),
            _ => {}
        }
    }
}

/// The bytes of one access belong to one moment: the timer is read whole.
impl PortDevice for AcpiPm {
    fn port_read(&mut self, port: Port, width: Width) -> u32 {
        let now = self.sync();
        read_bytes(port, width, |port| self.read_byte(port, now))
    }

    fn port_write(&mut self, port: Port, width: Width, value: u32) {
        self.sync();
        write_bytes(port, width, value, |port, value| self.write_byte(port, value));
        self.sync();
    }
}

impl TimerClient for AcpiPm {
    fn timer_fired(&mut self, _: Nanos) {
        self.armed = None;
        self.sync();
    }
}
