//! What the child has reported: whose registers they are, where the guest is, and why it stopped.
use super::{MOST_RELEASES, PvVcpu};
use crate::arch::Rflags;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::PagingMode;
use crate::emulator::single::far;
use crate::engine::{Cause, EngineError, Occasion, Platform};
use crate::pv::child::{Report, Trap, Who, crash, stub};
use crate::pv::patch::Point;
use crate::pv::sides::who;
use crate::pv::space::{Kind, in_zone};
use crate::pv::trap::{self, Cause as Why};

impl PvVcpu {
    /// The report that has come, and the registers of whoever made it, which need not be the child that was let go.
    pub(super) fn take_report(&mut self) -> Result<Report, EngineError> {
        let holder = self.sides.holder();
        let crossed = holder != who(&self.state) || self.sides.has_crossed();
        if crossed {
            match holder {
                Who::Kernel => far::enter_by_syscall(&mut self.state),
                Who::User => far::leave_by_sysret(&mut self.state, true),
            }
        }
        if self.vectors.is_some() {
            self.vectors = Some(holder);
        }
        let child = &mut self.sides.reporter().child;
        let report = child.report()?;
        let interrupts = crossed || self.state.rflags.contains(Rflags::IF);
        child.save_registers(&mut self.state);
        if holder == Who::User {
            // Ring 3 cannot change it, whatever its area says; and only programs that can be interrupted are entered fast.
            self.state.rflags.set(Rflags::IF, interrupts);
        }
        Ok(report)
    }

    /// Brings RIP out of the thunk zone, and notes why the child stopped.
    pub(super) fn leave_zone(&mut self, mut report: Report, platform: &Platform) -> Result<(), EngineError> {
        if in_zone(self.state.rip)
            || matches!(report, Report::Trap(t) if t.vector == 3 && in_zone(self.state.rip.wrapping_sub(1)))
        {
            // A kick in the middle of a sequence: let it come to its end, where a breakpoint or a hypercall waits. A second
            // kick may already be on its way, so more than one release may be needed.
            let mut releases = 0;
            self.sides.close_ways();
            while report == Report::Kicked
                && let Some(point @ (Point::Inside(_) | Point::Tail)) = self.patches.point(self.state.rip)
            {
                releases += 1;
                if releases > MOST_RELEASES {
                    return Err(crash("it does not come out of the monitor's thunks"));
                }
                let end = if let Point::Inside(next) = point { Some(next) } else { None };
                if let Some(next) = end {
                    self.patches.set_breakpoint(next, true);
                }
                self.sides.reporter().child.load_general(&self.state, self.state.rip);
                self.sides.release(self.sides.holder(), 0)?;
                self.sides.await_report()?;
                if let Some(next) = end {
                    self.patches.set_breakpoint(next, false);
                }
                platform.counters(self.id).count(Cause::HostExit);
                report = self.take_report()?;
                if let Some(next) = end
                    && matches!(report, Report::Trap(t) if t.vector == 3)
                    && self.state.rip == next + 1
                {
                    report = Report::Kicked;
                    self.state.rip = next;
                }
            }
            if in_zone(self.state.rip) {
                match self.patches.point(self.state.rip) {
                    Some(Point::Clean(rip)) => self.state.rip = rip,
                    // To a program of ring 3 these are addresses like others: `single` finds what the tables say of them.
                    _ if self.sides.holder() == Who::User => {
                        self.why = Some(Why::Execute);
                        return Ok(());
                    }
                    _ => return Err(crash("it jumped into the monitor's thunks")),
                }
            }
        }
        let entries = stub::entries();
        if report != Report::Kicked && (entries.begin..entries.end).contains(&self.state.rip) {
            if self.sides.holder() == Who::User {
                self.why = Some(Why::Execute);
                return Ok(());
            }
            return Err(crash("it jumped into the monitor's code"));
        }
        self.why = match report {
            Report::Kicked => None,
            Report::Done => return Err(crash("its process reported something that nobody asked for")),
            Report::Hypercall => {
                platform.counters(self.id).count(Cause::Hypercall);
                Some(Why::Hypercall)
            }
            Report::Trap(t) => Some(self.classify(t)),
        };
        Ok(())
    }

    fn classify(&mut self, trap: Trap) -> Why {
        let mode = PagingMode::of(&self.state);
        let patched = |rip| self.patches.is_patched(rip);
        let (why, back) = trap::classify(&trap, self.state.rip, &mode, &self.ram, patched);
        self.state.rip = self.state.rip.wrapping_sub(back);
        if why == Why::Execute
            && let Some((Kind::Text, text)) =
                self.sides.reporter().space.find(self.state.rip & !(PAGE_SIZE - 1))
            && self.patches.learn(&self.state, self.state.rip, text, Occasion::Trap)
        {
            self.timing.spoil();
        }
        why
    }
}
