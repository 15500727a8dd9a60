//! Accesses to ports that translated code makes without a call for help.
//!
//! Of the guest's registers only RAX and RDX are in the context then, and those that host functions may change. So
//! whatever more there is to do — an interrupt came, code was written, somebody asks for attention — is left to a call
//! for help, after the access.
#![expect(unsafe_code, reason = "is called by generated code, with a raw pointer to the session")]
use super::{End, Go, Session};
use crate::arch::state::gpr::RDX;
use crate::emulator::code::context::Context;
use crate::emulator::single::{Ended, io};
use crate::emulator::translate::number;
use crate::emulator::translate::port::PortAccess;

/// What translated code calls; see [`crate::emulator::code::stubs::Stubs::port`].
pub(super) extern "sysv64" fn access(context: *mut Context, number: u32, access: u32) -> u32 {
    // SAFETY: as in `answer`.
    let session = unsafe { &mut *((*context).session as *mut Session<'_, '_>) };
    let access = PortAccess::from_bits(access);
    if session.cx.platform.times_stays(session.cx.mmu.vcpu) {
        session.traced(|session| session.access_port(access));
    } else {
        session.access_port(access);
    }
    if session.undisturbed() { 0 } else { number::ACCESSED | number }
}

impl Session<'_, '_> {
    #[inline]
    fn access_port(&mut self, access: PortAccess) {
        let (port, out) = (access.port(self.cx.regs[RDX]), access.is_out());
        match access.bytes() {
            1 => io::transfer::<u8>(self.cx, port, out),
            2 => io::transfer::<u16>(self.cx, port, out),
            _ => io::transfer::<u32>(self.cx, port, out),
        }
    }

    /// Goes on after the port access of a site, as after one that `single` has made.
    pub(super) fn accessed(&mut self, site: u32) -> Go {
        let Some(site) = self.store.sites.get(site as usize) else { return Go::Leave(End::Broken) };
        self.cx.state.rip = site.instruction.next_ip();
        if self.interruptible() { Go::Leave(End::Ended(Ended::Attention)) } else { Go::Next }
    }
}
