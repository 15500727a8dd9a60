//! Steps, breakpoints and memory that is watched.
//!
//! A step is one instruction of [`crate::emulator::single`] between a save and a load: exact at every privilege level
//! and on every host, where KVM's own single-step trap runs into handlers, shows TF in pushed flags and stops late
//! after HLT (`docs/decisions/kvm-02-debugging.md`). What fits into the CPU's four debug registers is the CPU's: the guest
//! runs at its own speed until one is hit. More than that, reads that are watched without writes, or a KVM that does not
//! obey its debug registers, are found by stepping.
use super::vcpu::KvmVcpu;
use super::{host, is_pvm};
use crate::arch::{Activity, Gva};
use crate::engine::{DebugEvent, DebugVcpu, EngineError, Exit, Platform, Vcpu, Watch, WatchHit, WatchKind};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug};

/// Breakpoint registers of the CPU: DR0–DR3.
const REGISTERS: usize = 4;
/// DR7 with no breakpoint on: bit 10 always reads as one (SDM vol. 3B, 18.2.4).
const DR7_NONE: u64 = 0x400;

/// Where the guest is to stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    /// Before instructions at these linear addresses, ascending.
    code: Vec<u64>,
    /// Behind accesses to these.
    data: Vec<Watch>,
    /// What the CPU's registers hold, if all of that fits.
    registers: Option<Vec<Register>>,
    /// The next run goes on with the one before: a breakpoint at its first instruction counts.
    goes_on: bool,
}

/// What one of the CPU's registers holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Code(u64),
    /// An aligned piece of 1, 2, 4 or 8 bytes of what is watched.
    Data {
        at: u64,
        length: u64,
        kind: WatchKind,
    },
}

impl Register {
    /// Condition and length as DR7 has them (SDM vol. 3B, 18.2.4).
    fn control(self) -> u64 {
        match self {
            Self::Code(_) => 0,
            Self::Data { length, kind, .. } => {
                let condition = if kind == WatchKind::Write { 1 } else { 3 };
                let length = match length {
                    1 => 0,
                    2 => 1,
                    8 => 2,
                    _ => 3,
                };
                condition | length << 2
            }
        }
    }

    fn address(self) -> u64 {
        match self {
            Self::Code(at) | Self::Data { at, .. } => at,
        }
    }
}

/// The largest aligned pieces of what is watched, not more than `most`; `None` if there are more.
fn pieces(watch: &Watch, most: usize) -> Option<Vec<Register>> {
    let (mut at, mut left, mut pieces) = (watch.at.0, watch.length, Vec::new());
    while left > 0 {
        if pieces.len() == most {
            return None;
        }
        let aligned = 1 << at.trailing_zeros().min(3);
        let length = aligned.min(1 << left.ilog2());
        pieces.push(Register::Data { at, length, kind: watch.kind });
        (at, left) = (at.wrapping_add(length), left - length);
    }
    Some(pieces)
}

impl Stops {
    fn are_none(&self) -> bool {
        self.code.is_empty() && self.data.is_empty()
    }

    /// What the CPU's registers are to hold, if all fits and the CPU can look for it.
    fn fit(&self) -> Option<Vec<Register>> {
        // No register stops at reads alone.
        let reads = self.data.iter().any(|watch| watch.kind == WatchKind::Read);
        if reads || self.code.len() > REGISTERS {
            return None;
        }
        let mut registers: Vec<_> = self.code.iter().map(|&at| Register::Code(at)).collect();
        for watch in &self.data {
            registers.extend(pieces(watch, REGISTERS - registers.len())?);
        }
        Some(registers)
    }

    /// Whether the next run goes on with the one before; asked once.
    pub(super) fn take_goes_on(&mut self) -> bool {
        std::mem::take(&mut self.goes_on)
    }

    /// The event behind a trap that the CPU's registers caused, as DR6 has it, with the guest at the linear address `pc`.
    pub(super) fn event(&self, dr6: u64, pc: u64) -> Option<DebugEvent> {
        let held = self.registers.iter().flatten().enumerate();
        let mut hit = held.filter(|(i, _)| dr6 >> i & 1 != 0).map(|(_, register)| register).peekable();
        hit.peek()?;
        let data = hit.find_map(|register| match *register {
            Register::Data { at, kind, .. } => Some(WatchHit { at: Gva(at), kind, by: None }),
            Register::Code(_) => None,
        });
        Some(data.map_or(DebugEvent::Breakpoint(Gva(pc)), DebugEvent::Watched))
    }
}

fn guest_debug(registers: &[Register]) -> kvm_guest_debug {
    let mut debug = kvm_guest_debug::default();
    if !registers.is_empty() {
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[7] = DR7_NONE;
        for (i, register) in registers.iter().enumerate().take(REGISTERS) {
            debug.arch.debugreg[i] = register.address();
            // Global enable.
            debug.arch.debugreg[7] |= 2 << (2 * i) | register.control() << (16 + 4 * i);
        }
    }
    debug
}

impl KvmVcpu {
    /// Runs by steps until something ends it; the first instruction is executed even if it is at a breakpoint.
    fn run_by_steps(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut state = self.save()?;
        self.forget_single();
        let ended = loop {
            match self.single().step_vcpu(&mut state, platform) {
                Ok(Exit::Debug(DebugEvent::Step)) => {
                    let at = state.linear_rip();
                    if self.stops.code.binary_search(&at).is_ok() {
                        break Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(at))));
                    }
                }
                other => break other,
            }
        };
        self.load(&state)?;
        self.catch_up(platform)?;
        ended
    }

    /// `run`, which only `goes_on` with the one before or not.
    pub(super) fn run_to_stop(&mut self, platform: &Platform, goes_on: bool) -> Result<Exit, EngineError> {
        let stands = self.stands_at_breakpoint()?;
        if stands && goes_on {
            return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(self.save()?.linear_rip()))));
        }
        let none = self.stops.are_none();
        if platform.trace().catches_hidden() || self.stops.registers.is_none() && !none {
            return self.run_by_steps(platform);
        }
        if stands {
            let exit = self.step(platform)?;
            if exit != Exit::Debug(DebugEvent::Step) {
                return Ok(exit);
            }
            if self.stands_at_breakpoint()? {
                return Ok(Exit::Debug(DebugEvent::Breakpoint(Gva(self.save()?.linear_rip()))));
            }
        }
        self.run_freely(platform)
    }

    fn stands_at_breakpoint(&mut self) -> Result<bool, EngineError> {
        if self.stops.code.is_empty() || self.activity != Activity::Running {
            return Ok(false);
        }
        let at = self.save()?.linear_rip();
        Ok(self.stops.code.binary_search(&at).is_ok())
    }

    /// The access to what is watched that `single` made in KVM's place.
    pub(super) fn take_watched(&mut self) -> Option<Exit> {
        let hit = self.single.as_mut()?.take_watched()?;
        Some(Exit::Debug(DebugEvent::Watched(hit)))
    }

    /// Tells KVM and the interpreter what the guest is to stop at.
    fn arm(&mut self, stops: Stops) -> Result<(), EngineError> {
        let registers = if is_pvm() && !stops.are_none() { None } else { stops.fit() };
        let held = guest_debug(registers.as_deref().unwrap_or_default());
        self.fd.set_guest_debug(&held).map_err(host("KVM refuses breakpoints"))?;
        if !stops.data.is_empty() || self.single.is_some() {
            self.single().watch(&stops.data);
        }
        self.stops = Stops { registers, ..stops };
        Ok(())
    }
}

impl DebugVcpu for KvmVcpu {
    fn step(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let mut state = self.save()?;
        self.forget_single();
        let exit = self.single().step_vcpu(&mut state, platform);
        self.load(&state)?;
        self.catch_up(platform)?;
        exit
    }

    fn set_breakpoints(&mut self, at: &[Gva]) -> Result<(), EngineError> {
        let mut code: Vec<u64> = at.iter().map(|gva| gva.0).collect();
        code.sort_unstable();
        code.dedup();
        self.arm(Stops { code, ..self.stops.clone() })
    }

    fn set_watches(&mut self, watches: &[Watch]) -> Result<(), EngineError> {
        self.arm(Stops { data: watches.to_vec(), ..self.stops.clone() })
    }

    fn go_on(&mut self) {
        self.stops.goes_on = true;
    }

    fn interprets_with_breakpoints(&self) -> bool {
        is_pvm() || self.stops.registers.is_none() && !self.stops.are_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(at: u64, length: u64, kind: WatchKind) -> Watch {
        Watch { at: Gva(at), length, kind }
    }

    fn data(at: u64, length: u64) -> Register {
        Register::Data { at, length, kind: WatchKind::Write }
    }

    #[test]
    fn what_is_watched_is_cut_into_aligned_pieces_that_fit_or_not() {
        let fit = |code: &[u64], watches: &[Watch]| {
            Stops { code: code.to_vec(), data: watches.to_vec(), ..Stops::default() }.fit()
        };
        let write = WatchKind::Write;
        assert_eq!(fit(&[], &[watch(0x1000, 8, write)]), Some(vec![data(0x1000, 8)]));
        let cut = vec![data(0x1003, 1), data(0x1004, 4), data(0x1008, 2)];
        assert_eq!(fit(&[], &[watch(0x1003, 7, write)]), Some(cut.clone()));
        let all = [&[Register::Code(9)], &cut[..]].concat();
        assert_eq!(fit(&[9], &[watch(0x1003, 7, write)]), Some(all));
        assert_eq!(fit(&[9, 10], &[watch(0x1003, 7, write)]), None);
        assert_eq!(fit(&[], &[watch(0x1000, 33, write)]), None);
        assert_eq!(fit(&[], &[watch(0x1000, u64::MAX, write)]), None);
        assert_eq!(fit(&[], &[watch(0x1000, 1, WatchKind::Read)]), None);
        assert_eq!(fit(&[1, 2, 3, 4], &[]).map(|held| held.len()), Some(4));
        assert_eq!(fit(&[1, 2, 3, 4, 5], &[]), None);
    }

    #[test]
    fn dr7_says_what_each_register_stops_at() {
        let access = Register::Data { at: 0x20, length: 8, kind: WatchKind::Access };
        let debug = guest_debug(&[Register::Code(0x10), data(0x24, 4), access]);
        assert_eq!(debug.arch.debugreg[..4], [0x10, 0x24, 0x20, 0]);
        assert_eq!(debug.arch.debugreg[7], 0x400 | 0b10_10_10 | 0b1011_1101_0000 << 16);
        assert_eq!(guest_debug(&[]).control, 0);
    }

    #[test]
    fn a_trap_on_data_goes_before_one_on_code() {
        let registers = Some(vec![Register::Code(0x10), data(0x24, 4)]);
        let stops = Stops { registers, ..Stops::default() };
        let hit = WatchHit { at: Gva(0x24), kind: WatchKind::Write, by: None };
        assert_eq!(stops.event(0xffff_0ff0, 5), None);
        assert_eq!(stops.event(1, 0x10), Some(DebugEvent::Breakpoint(Gva(0x10))));
        assert_eq!(stops.event(3, 0x10), Some(DebugEvent::Watched(hit)));
    }
}
