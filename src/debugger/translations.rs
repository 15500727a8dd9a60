//! `tlb`: what the engine remembers of the guest's page tables.
use super::error::DebuggerError;
use super::expression::Expression;
use super::session::{Reply, Session};
use super::view::{paging, translations};

impl Session {
    /// `tlb`, `tlb ADDR`, `tlb ADDR LENGTH`.
    pub(super) fn tlb(
        &mut self,
        address: Option<&Expression>,
        length: Option<&Expression>,
    ) -> Result<Reply, DebuggerError> {
        let address = address.map(|at| self.evaluate(at)).transpose()?;
        let length = length.map(|length| self.evaluate(length)).transpose()?;
        let state = self.state()?;
        let range = match (address, length) {
            (None, _) => (0, u64::MAX),
            (Some(at), length) => (at, at.saturating_add(length.unwrap_or(1).saturating_sub(1))),
        };
        let walk = address
            .filter(|_| length.is_none())
            .map(|at| paging::walk(&self.memory(&state), &self.symbols, at));
        let Some(known) = self.machine.translations(self.cpu) else {
            let what = format!(
                "mode {}: the guest's translations are in the host CPU's TLB, or in tables of KVM's own, and nobody can read either; \
                 'walk ADDR' shows what the guest's tables say, and 'mode emu' takes the guest where its TLB can be seen",
                self.machine.pair()
            );
            return Ok(Reply::view(&translations::unseen(what, walk)));
        };
        Ok(Reply::view(&translations::show(known, range, walk)))
    }
}
