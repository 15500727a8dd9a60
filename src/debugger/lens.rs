//! `lens`: one instruction, its fates, and what this run has counted of it.
use super::error::DebuggerError;
use super::expression::Expression;
use super::memory::linear_rip;
use super::session::{Reply, Session};
use super::view::lens::{self, Counted, Lens, Source};
use super::view::trace;
use crate::arch::Gva;
use crate::engine::{Engine, KvmWay, Native};
use crate::machine::{EmuEngine, Fates};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use std::collections::BTreeMap;

impl Session {
    pub(super) fn lens(&mut self, at: Option<&Expression>) -> Result<Reply, DebuggerError> {
        let at = at.map(|at| self.evaluate(at)).transpose()?;
        Ok(Reply::view(&self.look_through_lens(at)?))
    }

    /// The instruction at a linear address, or the next one.
    ///
    /// # Errors
    /// When there is none, or the engine does not hand out its state.
    pub(super) fn look_through_lens(&mut self, at: Option<u64>) -> Result<Lens, DebuggerError> {
        let state = self.state()?;
        let at = at.unwrap_or_else(|| linear_rip(&state));
        let cpu = self.cpu;
        let fates = self.machine.fates(cpu, Gva(at))?.ok_or(DebuggerError::NoInstruction(at))?;
        let mut events = BTreeMap::new();
        let all = self.events.last(usize::MAX);
        for line in
            trace::lines(all, &self.symbols).iter().filter(|line| line.rip.is_some_and(|rip| rip.0 == at))
        {
            *events.entry(line.kind).or_insert(0) += 1;
        }
        let instruction =
            Decoder::with_ip(state.code_bits(), &fates.bytes, at, DecoderOptions::NONE).decode();
        let live = self.live();
        let measured = measured_by(&instruction);
        let counted = [
            self.counted_by_emu(EmuEngine::Single, measured),
            self.counted_by_emu(EmuEngine::Translator, measured),
            self.counted_by_patches(at, &fates, measured),
            self.counted_by_kvm(&instruction, &fates, measured),
        ];
        let mut number = 0;
        let counted = counted.map(|counted| {
            number += 1;
            (live == number - 1, counted)
        });
        let events = events.into_iter().collect();
        Ok(lens::show(Source {
            state: &state,
            address: at,
            fates: &fates,
            symbols: &self.symbols,
            events,
            counted,
        }))
    }

    /// The number of the technique that executes the guest.
    fn live(&self) -> usize {
        let interpreted = self.machine.executor().0 == EmuEngine::Single.name();
        match self.machine.pair().engine {
            Engine::Emu if interpreted => 0,
            Engine::Emu => 1,
            Engine::Direct => 2,
            Engine::Kvm => 3,
        }
    }

    fn counted_by_emu(&self, engine: EmuEngine, measured: Option<&str>) -> Counted {
        let what = match engine {
            EmuEngine::Single => "the interpreter counts instructions, not places",
            EmuEngine::Translator => {
                "translated code counts no places; 'stats' has its calls for help by kind"
            }
        };
        let mode = format!("emu --engine {}", engine.name());
        Counted { missing: Some(how(what, &mode, measured)), ..Counted::default() }
    }

    /// The site of pv's patch, if this guest is patched and keeps account.
    fn counted_by_patches(&self, at: u64, fates: &Fates, measured: Option<&str>) -> Counted {
        let patched = matches!(&fates.native, Native::Patched(patched) if patched.patch.is_some());
        let direct = self.machine.pair().engine == Engine::Direct;
        let missing = |what: &str| Some(how(what, "pv", measured));
        if !patched {
            let what = "what runs natively is not counted: nothing is left to count it";
            return Counted { missing: missing(what), ..Counted::default() };
        }
        let sites = self.machine.sites();
        let current = |site: &&crate::engine::Site| site.address.0 == at && !site.taken_back;
        let Some(site) = sites.as_ref().and_then(|sites| sites.list.iter().find(current)) else {
            let what = match (direct, sites.is_some()) {
                (false, _) => {
                    "the guest does not run in pv: 'trivisor debug --mode pv' or 'trivisor sites' counts"
                }
                (true, true) => "not met natively in this run yet",
                (true, false) => "this run keeps no account of patches",
            };
            return Counted { missing: missing(what), ..Counted::default() };
        };
        let split = match site.in_process {
            Some(inside) => {
                format!("executed here: {inside} in the process, {} by the engine", site.by_engine)
            }
            None => format!("executed here by the engine: {}; in the process uncounted", site.by_engine),
        };
        let count = site.count().map(|count| (count, split));
        let cost_ns = site.cost.map(|cost| (cost.mean * 10.0).round() / 10.0);
        let missing = if cost_ns.is_some() {
            Some(
                "the cost is the engine's mean here; the way there and back, and what thunks do alone, is not in it".into(),
            )
        } else {
            missing("no execution here was timed")
        };
        Counted { count, cost_ns, missing }
    }

    /// Rescues, which are counted by instruction, wherever it is.
    fn counted_by_kvm(&self, i: &Instruction, fates: &Fates, measured: Option<&str>) -> Counted {
        let name = format!("{:?}", i.mnemonic()).to_lowercase();
        let rescues = self.machine.rescues().into_iter().find(|(rescued, _)| *rescued == name);
        let what = match fates.kvm.way {
            KvmWay::Exit => "exits are counted by cause, not by place ('stats')",
            KvmWay::Rescue => "not rescued in this run yet",
            KvmWay::Native | KvmWay::Kernel | KvmWay::KernelEmulator => {
                "nobody outside of the host's kernel sees it"
            }
        };
        let count = rescues.map(|(name, count)| (count, format!("rescues of '{name}', at all places")));
        Counted { count, cost_ns: None, missing: Some(how(what, "kvm", measured)) }
    }
}

/// Why something is not known, and how to get it.
fn how(what: &str, mode: &str, measured: Option<&str>) -> String {
    match measured {
        Some(workload) => {
            format!(
                "{what}; the cost of its kind: 'trivisor bench --mode {} {workload}'",
                mode.split(' ').next().unwrap_or(mode)
            )
        }
        None => what.to_owned(),
    }
}

/// The workload that measures instructions of this kind.
fn measured_by(i: &Instruction) -> Option<&'static str> {
    use Mnemonic as M;
    let touches =
        |register: fn(iced_x86::Register) -> bool| (0..i.op_count()).any(|n| register(i.op_register(n)));
    Some(match i.mnemonic() {
        M::In | M::Out => "port_out",
        M::Rdmsr | M::Wrmsr => "rdmsr_wrmsr",
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => "pushf_popf",
        M::Cli | M::Sti => "cli_sti",
        M::Cpuid => "cpuid",
        M::Hlt => "hlt_wake",
        M::Invlpg => "invlpg",
        M::Lidt => "lidt",
        M::Rdtsc => "rdtsc",
        M::Movsb | M::Movsw | M::Movsd | M::Movsq if i.has_rep_prefix() => "rep_movs",
        M::Stosb | M::Stosw | M::Stosd | M::Stosq if i.has_rep_prefix() => "rep_stos",
        M::Syscall | M::Sysret | M::Sysretq => "syscall",
        M::Int => "int80",
        M::Ud2 => "undefined",
        M::Vmcall => "hypercall_null",
        M::Mov if i.op0_register() == iced_x86::Register::CR3 => "cr3_write",
        M::Mov if touches(iced_x86::Register::is_cr) => "control_registers",
        M::Call | M::Ret if i.op_count() == 0 || i.is_call_near() => "call_ret",
        M::Call if i.is_call_near_indirect() => "indirect_call",
        _ => return None,
    })
}
