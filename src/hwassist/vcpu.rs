//! One vCPU: the loop around KVM_RUN.
//!
//! **Kicks.** Before each entry `immediate_exit` is cleared first and the kick cell looked at afterwards. A signal
//! before the clearing has set the cell, which the look finds; one after it sets `immediate_exit` again, so that
//! KVM_RUN returns at once; one within KVM_RUN interrupts it. So none is lost.
//!
//! **Unfinished accesses.** After an exit for a port, device memory or an MSR, the instruction is finished by the next
//! KVM_RUN. `run` goes on with that; only when it leaves does it finish the access with `immediate_exit` set
//! ([`KvmVcpu::settle`]), so that the state that others see is at an instruction boundary.
//!
//! **Interrupts.** Without an in-kernel chip KVM takes a vector when the window is open and asks for attention when a
//! window opens. HLT comes out, and KVM does not remember it: [`Activity`] is kept here.
#![expect(unsafe_code, reason = "the kick cell learns the address of kvm_run.immediate_exit")]
use super::debug::Stops;
use super::exit::{self, Code, KvmExit};
use super::regs::Parts;
use super::rescued::Rescued;
use super::syscall::SyscallEntry;
use super::tsc::TscOffset;
use super::vm::Shared;
use super::{cpuid, host, ioctl, is_pvm, regs};
use crate::arch::{Activity, CpuState, Gpa, Port, Width};
use crate::arch::{layout, msr};
use crate::emulator::single::{Outcome, Single};
use crate::engine::{
    Attention, Cause, Counters, DebugVcpu, EngineError, Exit, Hypercalls, Platform, Vcpu, VcpuId,
};
use crate::sys::deadline::DeadlineTimer;
use kvm_bindings::{KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_sync_regs};
use kvm_ioctls::{Cap, VcpuFd};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What KVM_RUN is to hand out.
const SYNCED: i32 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS) as i32;
/// How long an interrupt may wait after the guest has lowered CR8 on kvm_pvm.
const CR8_POLL: Duration = Duration::from_micros(500);

/// A vCPU of KVM.
#[derive(Debug)]
pub(super) struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) id: VcpuId,
    run_size: usize,
    /// KVM_RUN hands out registers and events: see [`Self::core_after_run`].
    syncs: bool,
    /// IA32_APIC_BASE as KVM knows it: it only steers CPUID's APIC bit; guests read the platform's.
    apic_base: u64,
    pub(super) activity: Activity,
    /// KVM can take a vector now (no shadow, nothing in flight, IF set).
    pub(super) window_open: bool,
    /// The next KVM_RUN finishes an access first.
    pub(super) unfinished: bool,
    /// A vector or an NMI was handed over since the last settling; it may not have been delivered yet.
    pub(super) queued: bool,
    /// CR8 as KVM reported it last.
    cr8: u64,
    tsc: TscOffset,
    pub(super) stops: Stops,
    /// SYSCALL's MSRs, where KVM does not get to see them.
    pub(super) entry: Option<SyscallEntry>,
    pub(super) rescued: Rescued,
    /// Made when it is first needed.
    pub(super) single: Option<Box<Single>>,
    /// Keeps the machine, and the RAM below it, alive.
    pub(super) shared: Arc<Shared>,
}

/// What one KVM_RUN led to.
pub(super) enum Next {
    /// Look around and enter again.
    Enter,
    /// HLT.
    Halt,
    /// A triple fault.
    Shutdown,
    /// A hypercall came by its port.
    Hypercall,
    /// `single` has to execute an instruction, which has these bytes.
    Rescue(Code),
    /// An interrupt can be taken; or ring 3 has executed SYSCALL, which KVM leaves half done.
    WindowOpen,
    /// A debug event at the linear address `pc`, caused as DR6 says.
    Debug { pc: u64, dr6: u64 },
    /// KVM_RUN was interrupted, or kept from entering.
    Interrupted,
}

impl KvmVcpu {
    pub(super) fn new(id: VcpuId, shared: Arc<Shared>) -> Result<Self, EngineError> {
        let mut fd = shared.vm.create_vcpu(id.0.into()).map_err(host("cannot create a vCPU with KVM"))?;
        cpuid::set(&fd, &shared.cpuid[usize::from(id.0)])?;
        let apic_base = fd.get_sregs().map_err(host("cannot read the registers of a vCPU"))?.apic_base;
        let tsc = TscOffset::probe(&fd)?;
        let entry = shared.mends_syscall.then(SyscallEntry::default);
        // Where rescues are many, and not where each register read is dear.
        let syncs = shared.mends_syscall && shared.vm.check_extension_int(Cap::SyncRegs) & SYNCED == SYNCED;
        if syncs {
            fd.get_kvm_run().kvm_valid_regs = SYNCED as u64;
        }
        Ok(Self {
            fd,
            id,
            run_size: shared.vm.run_size(),
            syncs,
            apic_base,
            activity: Activity::Running,
            window_open: false,
            unfinished: false,
            queued: false,
            cr8: 0,
            tsc,
            stops: Stops::default(),
            entry,
            rescued: Rescued::default(),
            single: None,
            shared,
        })
    }

    /// The state; nothing is unfinished.
    pub(super) fn save_state(&self) -> Result<CpuState, EngineError> {
        self.save_parts(&regs::core(&self.fd)?, Parts::ALL)
    }

    /// Parts of the state, of which `core` has been read.
    pub(super) fn save_parts(&self, core: &kvm_sync_regs, parts: Parts) -> Result<CpuState, EngineError> {
        let mut state = regs::save(&self.fd, &self.tsc, self.activity, core, parts)?;
        if let Some(entry) = &self.entry {
            entry.restore(&mut state);
        }
        Ok(state)
    }

    /// General and special registers and events as the last KVM_RUN left them; nothing was written since.
    pub(super) fn core_after_run(&self) -> Result<kvm_sync_regs, EngineError> {
        if !self.syncs {
            return regs::core(&self.fd);
        }
        let mut core = self.fd.sync_regs();
        // KVM sets a bit here for the vector in flight, and takes none down.
        core.sregs.interrupt_bitmap = [0; 4];
        Ok(core)
    }

    /// Replaces the state; nothing is unfinished.
    pub(super) fn load_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.load_changes(state, None)
    }

    /// Replaces what differs from `before`, as it was saved; parts that were not saved have not changed.
    pub(super) fn load_changes(
        &mut self,
        state: &CpuState,
        before: Option<&CpuState>,
    ) -> Result<(), EngineError> {
        let (mut told, mut knows) = (state.clone(), before.cloned());
        if let Some(entry) = &mut self.entry {
            if let Some(knows) = &mut knows {
                entry.take(knows);
            }
            entry.take(&mut told);
        }
        regs::load(&self.fd, &mut self.tsc, &told, knows.as_ref(), (self.apic_base, self.cr8 as u8))?;
        self.activity = state.activity;
        self.window_open = state.can_take_interrupt();
        Ok(())
    }

    /// Enters the guest until KVM comes back, and serves what it came back for.
    pub(super) fn enter(&mut self, platform: &Platform, counters: &Counters) -> Result<Next, EngineError> {
        let cr8 = u64::from(platform.cr8(self.id));
        self.fd.get_kvm_run().cr8 = cr8;
        // One that only finishes an access lets no guest code run.
        let runs = self.fd.get_kvm_run().immediate_exit == 0;
        if runs {
            platform.enters_guest(self.id);
        }
        let failed = self.fd.run().err();
        if runs {
            platform.leaves_guest(self.id);
        }
        counters.count(Cause::HostExit);
        self.unfinished = false;
        let run = self.fd.get_kvm_run();
        self.window_open = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        self.cr8 = run.cr8 & 15;
        if self.cr8 != cr8 {
            platform.set_cr8(self.id, self.cr8 as u8);
        }
        match failed.map(|e| e.errno()) {
            None => self.serve(platform),
            Some(libc::EINTR | libc::EAGAIN) => Ok(Next::Interrupted),
            Some(errno) => Err(EngineError::Host {
                what: "KVM cannot run the guest",
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    /// Serves the exit in `kvm_run`.
    fn serve(&mut self, platform: &Platform) -> Result<Next, EngineError> {
        let id = self.id;
        Ok(match exit::read(self.fd.get_kvm_run(), self.run_size) {
            KvmExit::Port { port, size: 4, read: false, .. }
                if port == layout::HYPERCALL.0
                    && platform.hypercalls().is_some_and(Hypercalls::come_by_port) =>
            {
                self.unfinished = true;
                Next::Hypercall
            }
            KvmExit::Port { port, size, read, data } => {
                let width = Width::from_bytes(size).unwrap_or(Width::B1);
                for item in data.chunks_exact_mut(size) {
                    let mut value = [0; 4];
                    if read {
                        value = platform.pio_read(id, Port(port), width).to_le_bytes();
                        item.copy_from_slice(&value[..size]);
                    } else {
                        value[..size].copy_from_slice(item);
                        platform.pio_write(id, Port(port), width, u32::from_le_bytes(value));
                    }
                }
                self.unfinished = true;
                Next::Enter
            }
            KvmExit::Mmio { at, read, data } => {
                serve_mmio(platform, id, at, read, data);
                self.unfinished = true;
                Next::Enter
            }
            KvmExit::ReadMsr { index, value, fault } => {
                let own = self.entry.and_then(|entry| entry.read(index)).or_else(|| msr::constant(index));
                match own.or_else(|| platform.msr_read(id, index)) {
                    Some(read) => (*value, *fault) = (read, 0),
                    None => *fault = 1,
                }
                self.unfinished = true;
                Next::Enter
            }
            KvmExit::WriteMsr { index, value, .. } => {
                // No other register's meaning hangs on the TSC.
                let ahead = if index == msr::KVM_SYSTEM_TIME { self.tsc.guests(&self.fd)? } else { 0 };
                let own = self.entry.as_mut().and_then(|entry| entry.write(index, value));
                let taken = own.unwrap_or_else(|| {
                    msr::ignores_write(index, value) || platform.msr_write(id, index, value, ahead).is_some()
                });
                if let KvmExit::WriteMsr { fault, .. } = exit::read(self.fd.get_kvm_run(), self.run_size) {
                    *fault = u8::from(!taken);
                }
                self.unfinished = true;
                Next::Enter
            }
            KvmExit::WindowOpen => Next::WindowOpen,
            KvmExit::LookAround => Next::Enter,
            KvmExit::Halt => Next::Halt,
            KvmExit::Shutdown => Next::Shutdown,
            KvmExit::NotEmulated(code) => Next::Rescue(code),
            KvmExit::Debug { dr6, pc } => Next::Debug { pc, dr6 },
            KvmExit::Failed(why) => {
                return Err(EngineError::Host {
                    what: "KVM cannot run the guest",
                    source: io::Error::other(why),
                });
            }
        })
    }

    /// Finishes the access of the last exit, if it is unfinished; the guest does not go on. What comes out is returned.
    fn finish_access(
        &mut self,
        platform: &Platform,
        counters: &Counters,
    ) -> Result<Option<Exit>, EngineError> {
        let mut ended = None;
        while self.unfinished && ended.is_none() {
            self.fd.set_kvm_immediate_exit(1);
            let next = self.enter(platform, counters)?;
            ended = self.follow(next, platform)?;
        }
        Ok(ended)
    }

    /// Brings the vCPU to an instruction boundary: finishes the access of the last exit, and sees to it that a vector
    /// that was handed over has been delivered. What comes out meanwhile is returned.
    fn settle(&mut self, platform: &Platform, counters: &Counters) -> Result<Option<Exit>, EngineError> {
        let mut ended = self.finish_access(platform, counters)?;
        if ended.is_none() && self.deliver_queued(platform)? == Some(Outcome::TripleFault) {
            ended = Some(Exit::TripleFault);
        }
        Ok(ended)
    }

    /// What `run` does about a [`Next`]; an exit ends it.
    pub(super) fn follow(&mut self, next: Next, platform: &Platform) -> Result<Option<Exit>, EngineError> {
        match next {
            Next::Enter | Next::Interrupted => Ok(None),
            Next::Halt => {
                self.activity = Activity::Halted;
                Ok(None)
            }
            Next::Shutdown => {
                self.activity = Activity::Shutdown;
                Ok(Some(Exit::TripleFault))
            }
            Next::Hypercall => self.explicit_call(platform),
            Next::Rescue(code) => {
                let ended = self.rescue(platform, code)?;
                Ok(ended.or_else(|| self.take_watched()))
            }
            Next::WindowOpen if self.stands_in_syscall()? => self.finish_syscall(platform),
            Next::WindowOpen => Ok(None),
            Next::Debug { pc, dr6 } => Ok(self.stops.event(dr6, pc).map(Exit::Debug)),
        }
    }

    /// `run`, with breakpoints where the CPU finds them itself.
    pub(super) fn run_freely(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        let counters = Arc::clone(platform.counters(self.id));
        let kick = Arc::clone(platform.kick(self.id));
        // SAFETY: the byte is in the mapping that `fd` holds; the guard takes it back on this thread, before `run`
        // returns and so before the mapping can go.
        let _mirrored = unsafe { kick.mirror_in(&raw mut self.fd.get_kvm_run().immediate_exit) };
        let mut poll = None;
        loop {
            self.fd.set_kvm_immediate_exit(0);
            // The signal handler writes that byte too: it must be clear before the cell is looked at.
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
            if kick.is_raised() {
                match platform.attend(self.id) {
                    Attention::Leave(exit) => return Ok(self.settle(platform, &counters)?.unwrap_or(exit)),
                    Attention::Resume => continue,
                }
            }
            if self.activity == Activity::Shutdown {
                return Ok(Exit::TripleFault);
            }
            if self.activity == Activity::WaitsForStartUp {
                return Ok(Exit::Halted);
            }
            if platform.take_nmi(self.id) {
                // KVM holds it back while another one is handled.
                self.fd.nmi().map_err(host("KVM refuses an NMI"))?;
                self.queued = true;
                self.activity = Activity::Running;
            }
            if platform.has_apic(self.id) != (self.apic_base & msr::APIC_BASE_ENABLE != 0) {
                if let Some(exit) = self.finish_access(platform, &counters)? {
                    return Ok(exit);
                }
                self.tell_apic(platform.has_apic(self.id))?;
            }
            let pending = platform.interrupt_pending(self.id);
            if pending && self.window_open && self.unfinished && is_pvm() {
                // Behind the access kvm_pvm may go on to a CLI, and delivers the vector that it was given all the same.
                match self.finish_access(platform, &counters)? {
                    Some(exit) => return Ok(exit),
                    None => continue,
                }
            }
            if pending && self.window_open {
                if let Some(vector) = platform.acknowledge_interrupt(self.id) {
                    self.queue(vector)?;
                }
                self.activity = Activity::Running;
            } else if self.activity == Activity::Halted {
                return Ok(Exit::Halted);
            }
            if platform.cr8(self.id) != 0 && is_pvm() {
                self.look_again_soon(&mut poll)?;
            }
            let window = pending && !self.window_open || self.entry.is_some();
            self.fd.get_kvm_run().request_interrupt_window = window.into();
            let next = self.enter(platform, &counters)?;
            if let Some(exit) = self.follow(next, platform)? {
                return Ok(exit);
            }
        }
    }

    /// Has the kick signal come after a while. kvm_pvm lets the guest lower CR8 without an exit, so that an interrupt
    /// that CR8 held back would wait for the next exit, however far that is.
    fn look_again_soon(&self, poll: &mut Option<DeadlineTimer>) -> Result<(), EngineError> {
        let timer = match poll {
            Some(timer) => timer,
            None => poll.insert(
                DeadlineTimer::for_current_thread()
                    .map_err(|source| EngineError::Host { what: "cannot make a timer for CR8", source })?,
            ),
        };
        timer.arm(Some(CR8_POLL));
        Ok(())
    }

    /// Tells KVM whether the local APIC is enabled, which its CPUID follows. Nothing is unfinished.
    fn tell_apic(&mut self, enabled: bool) -> Result<(), EngineError> {
        let mut sregs = self.fd.get_sregs().map_err(host("cannot read the registers of a vCPU"))?;
        sregs.apic_base =
            self.apic_base & !msr::APIC_BASE_ENABLE | if enabled { msr::APIC_BASE_ENABLE } else { 0 };
        self.fd.set_sregs(&sregs).map_err(host("cannot write the registers of a vCPU"))?;
        self.apic_base = sregs.apic_base;
        Ok(())
    }

    fn queue(&mut self, vector: u8) -> Result<(), EngineError> {
        ioctl::queue_interrupt(&self.fd, vector)
            .map_err(|source| EngineError::Host { what: "KVM refuses an interrupt", source })?;
        self.queued = true;
        self.window_open = false;
        Ok(())
    }
}

/// Serves an access of 1 to 8 bytes; one of an odd size is cut into pieces that a device can answer.
fn serve_mmio(platform: &Platform, id: VcpuId, at: u64, read: bool, data: &mut [u8]) {
    let mut done = 0;
    while done < data.len() {
        let left = data.len() - done;
        let bytes = 1 << left.ilog2().min(3);
        let width = Width::from_bytes(bytes).unwrap_or(Width::B1);
        let place = Gpa(at.wrapping_add(done as u64));
        let piece = &mut data[done..done + bytes];
        if read {
            let value = platform.mmio_read(id, place, width).to_le_bytes();
            piece.copy_from_slice(&value[..bytes]);
        } else {
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(piece);
            platform.mmio_write(id, place, width, u64::from_le_bytes(value));
        }
        done += bytes;
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, platform: &Platform) -> Result<Exit, EngineError> {
        platform.begins(self.id);
        let goes_on = self.stops.take_goes_on();
        self.run_to_stop(platform, goes_on)
    }

    fn save(&mut self) -> Result<CpuState, EngineError> {
        self.save_state()
    }

    fn load(&mut self, state: &CpuState) -> Result<(), EngineError> {
        self.load_state(state)
    }

    fn rescues(&self) -> Vec<(String, u64)> {
        self.rescued.by_name().collect()
    }

    fn as_debug(&mut self) -> Option<&mut dyn DebugVcpu> {
        Some(self)
    }
}
