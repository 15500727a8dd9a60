//! What becomes of one instruction, for people: its page is scanned and patched aside, as if it were executed there next.
use super::sensitive::{Remedy, remedy};
use super::{Patches, SiteKind};
use crate::arch::CpuState;
use crate::arch::address::PAGE_SIZE;
use crate::engine::{EngineError, Patch, Patched};
use crate::mem::GuestRam;
use crate::pv::layout::{ZONE, ZONE_CONTROL, at};
use crate::pv::text::Text;
use iced_x86::Instruction;
use std::sync::Arc;

/// What a patched guest executes for `i`, whose page has the RAM offset `offset`.
///
/// # Errors
/// When the host refuses memory.
pub(in crate::pv) fn patched(
    ram: &Arc<GuestRam>,
    state: &CpuState,
    i: &Instruction,
    offset: u64,
    rewrites: bool,
) -> Result<Patched, EngineError> {
    let mut patches = Patches::new(Arc::clone(ram), Text::new(ram.size())?, rewrites, false);
    patches.prepare_page(state, i.ip() & !(PAGE_SIZE - 1), offset & !(PAGE_SIZE - 1), i.ip());
    Ok(patches.fate(i, rewrites))
}

impl Patches {
    fn fate(&self, i: &Instruction, rewrites: bool) -> Patched {
        let remedy = remedy(i);
        let must = remedy.is_some_and(|(_, must)| must);
        let mut fate = Patched {
            patch: None,
            about: about(remedy),
            start: i.ip(),
            replaced: Vec::new(),
            put: Vec::new(),
            thunk: None,
            own: 0..0,
            words: Vec::new(),
        };
        if !rewrites {
            fate.patch = remedy.map(|_| if must { Patch::Native } else { Patch::Fault });
            return fate;
        }
        let site = self.sites.range(..=i.ip()).next_back().map(|(_, site)| site);
        let site = site.filter(|site| i.ip() - site.address < site.original.len() as u64);
        match site {
            Some(site) if site.kind == SiteKind::Jump => {
                let kind = |remedy: Remedy| match remedy.is_in_process() {
                    true => Patch::InProcess,
                    false => Patch::Hypercall,
                };
                fate.patch = remedy.map(|(remedy, _)| kind(remedy));
                (fate.start, fate.replaced) = (site.address, site.original.clone());
                fate.put = self.executed(site.address, site.original.len());
                fate.words = words();
                let place = self.thunk_of.get(&site.address).copied();
                let native = self.native.get(&i.ip()).copied();
                if let (Some(place), Some(native)) = (place, native)
                    && let Some(&end) = self.thunks.get(&place)
                {
                    let mut code = vec![0; (end - place) as usize];
                    self.text.read_zone(place - ZONE, &mut code);
                    let next = self.clean.range(native..end).find(|(_, (guest, _))| *guest != i.ip());
                    fate.own = (native - place) as usize..(next.map_or(end, |(&at, _)| at) - place) as usize;
                    fate.thunk = Some((place, code));
                }
            }
            Some(site) if site.address == i.ip() => {
                fate.patch = Some(match site.kind {
                    SiteKind::Breakpoint => Patch::Breakpoint,
                    SiteKind::Jump | SiteKind::Fault => Patch::Fault,
                });
                if site.kind == SiteKind::Breakpoint {
                    fate.replaced.clone_from(&site.original);
                    fate.put = self.executed(site.address, 1);
                }
            }
            _ => fate.patch = remedy.map(|_| if must { Patch::Native } else { Patch::Fault }),
        }
        fate
    }

    /// What is executed at `address` in place of so many bytes of the guest's, as far as they lie in its page: what follows in RAM
    /// is another page, or nothing.
    fn executed(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length.min((PAGE_SIZE - address % PAGE_SIZE) as usize)];
        if let Some(offset) = self.offset_at(address & !(PAGE_SIZE - 1)) {
            self.text.read_shadow(offset + address % PAGE_SIZE, &mut bytes);
        }
        bytes
    }
}

/// Why an instruction is patched, and how.
fn about(remedy: Option<(Remedy, bool)>) -> &'static str {
    match remedy {
        None => "innocuous: it does the same at ring 3",
        Some((Remedy::Cli | Remedy::Sti, _)) => {
            "privileged: the thunk changes the virtual interrupt flag in the process itself"
        }
        Some((Remedy::Pushf, _)) => {
            "sensitive and unprivileged: it would push the host's flags; the thunk pushes the guest's"
        }
        Some((Remedy::Popf, _)) => {
            "sensitive and unprivileged: it would drop IF in silence; the thunk loads the guest's flags"
        }
        Some((Remedy::Vmcall, _)) => "a hypercall: the empty one is answered in the process",
        Some((Remedy::Syscall, _)) => "enters the kernel's process, or calls the engine",
        Some((Remedy::Sysret | Remedy::Iret, _)) => "goes back to the user's process, or calls the engine",
        Some((Remedy::Call, true)) => {
            "sensitive and unprivileged: it would not fault but act on the host's state; the engine executes it"
        }
        Some((Remedy::Call, false)) => "privileged: it would fault at ring 3; the engine executes it",
    }
}

/// The words of the control page that thunks use.
fn words() -> Vec<(u64, &'static str)> {
    [
        (at::RIP, "rip"),
        (at::FLAGS_DELTA, "flags_delta"),
        (at::CLI_SLOW, "cli_slow"),
        (at::STI_SLOW, "sti_slow"),
        (at::POPF_SLOW, "popf_slow"),
        (at::SAVED_RAX, "saved_rax"),
        (at::SAVED_RCX, "saved_rcx"),
        (at::HYPERCALL_ENTRY, "hypercall_entry"),
        (at::HOST_FLAGS, "host_flags"),
        (at::VMCALL_SLOW, "vmcall_slow"),
        (at::SYSCALL_WAY, "syscall_way"),
        (at::SYSRET_WAY, "sysret_way"),
        (at::IRET_WAY, "iret_way"),
        (at::NEXT_GUEST, "next_guest"),
        (at::NEXT_NATIVE, "next_native"),
    ]
    .map(|(offset, name)| (ZONE_CONTROL + offset, name))
    .to_vec()
}
