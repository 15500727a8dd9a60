//! The modes, as a debugger sees them: who executes the guest, what that can do, and moving it to another.
use super::error::DebuggerError;
use super::session::{Reply, Session};
use crate::engine::{Engine, Interface, Mode, Pair};
use crate::machine::MachineError;
use serde_json::json;

impl Session {
    /// Who executes the guest.
    pub(super) fn mode(&mut self) -> Result<Reply, DebuggerError> {
        let pair = self.machine.pair();
        // Telling the engine of the breakpoints that it already has shows whether it takes any.
        self.told.clear();
        let debug = match self.tell_breakpoints(&[]) {
            Ok(()) => true,
            Err(DebuggerError::Machine(MachineError::NoDebug(_))) => false,
            Err(error) => return Err(error),
        };
        let interpreted = self.machine.breakpoints_are_interpreted();
        let own = self.machine.has_own_way();
        let (engine, label) = self.machine.executor();
        let what = match (pair.engine, pair.interface) {
            (Engine::Emu, _) => "full emulation",
            (Engine::Direct, Interface::None) => "trap-and-emulate: the guest runs natively as it is",
            (Engine::Direct, _) => "paravirtualization: the guest is patched and runs natively",
            (Engine::Kvm, _) => "hardware-assisted virtualization through KVM",
        };
        let ability = match (debug, interpreted) {
            (false, _) => "it cannot step or stop at breakpoints".to_owned(),
            (true, true) => format!(
                "it steps and stops at breakpoints, both by the interpreter: the guest does not run {} then",
                own_way(pair)
            ),
            (true, false) if own => {
                "it stops at breakpoints by itself, and steps by the interpreter".to_owned()
            }
            (true, false) => "it steps and stops at breakpoints".to_owned(),
        };
        let text = format!(
            "{pair}: {what}; engine {}, interface {}, {}; {ability}",
            engine,
            pair.interface.name(),
            label
        );
        let data = json!({
            "mode": pair.to_string(), "engine": engine, "interface": pair.interface.name(), "label": label,
            "debug": debug, "breakpoints_interpreted": interpreted,
        });
        Ok(Reply { data, ..Reply::said(text) })
    }

    /// Lets the guest go on in `mode`, with the breakpoints that it has.
    pub(super) fn move_to(&mut self, mode: Mode) -> Result<Reply, DebuggerError> {
        if let Some(why) = &self.ended {
            return Err(DebuggerError::Ended(why.clone()));
        }
        let moved = self.machine.move_to(mode).map_err(|reason| DebuggerError::Move { to: mode, reason })?;
        let Some(took) = moved else {
            return Ok(Reply::said(format!("the guest is in {mode} already")));
        };
        let told = std::mem::take(&mut self.told);
        self.machine.set_breakpoints(&told)?;
        self.told = told;
        self.told_watches.clear();
        self.tell_watches()?;
        let place = self.location()?;
        let mut reply = Reply::view(&place);
        let ms = took.as_secs_f64() * 1e3;
        reply.text = format!("the guest goes on in {mode}; the move took {ms:.3} ms\n{place}");
        reply.data["mode"] = json!(mode.name());
        reply.data["took_us"] = json!(took.as_secs_f64() * 1e6);
        if !(self.told.is_empty() && self.told_watches.is_empty())
            && self.machine.breakpoints_are_interpreted()
        {
            self.note_interpreter(&mut reply);
        }
        Ok(reply)
    }
}

/// How a guest is executed when no one looks.
pub(super) fn own_way(pair: Pair) -> &'static str {
    match pair.engine {
        Engine::Emu => "by the translator",
        Engine::Direct => "natively",
        Engine::Kvm => "in KVM",
    }
}
