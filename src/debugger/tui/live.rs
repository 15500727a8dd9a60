//! What a running guest's screen needs of it while the session has it: its time, and a way to type for it.
use crate::debugger::Session;
use crate::debugger::typing::Typing;
use crate::engine::Platform;
use crate::machine::Bell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of the machine that the session has.
#[derive(Debug)]
struct Machine {
    platform: Arc<Platform>,
    bell: Bell,
    typing: Option<Typing>,
}

/// A look at the machine that the session has now. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Mutex<Option<Machine>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, Option<Machine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session may have another machine than before.
    pub(super) fn follow(&self, session: &Session) {
        let machine = session.machine();
        let (platform, bell) = (Arc::clone(machine.platform()), machine.bell());
        *self.lock() = Some(Machine { platform, bell, typing: session.typing().cloned() });
    }

    /// Guest time in nanoseconds.
    pub(super) fn time(&self) -> Option<u64> {
        self.lock().as_ref().map(|machine| machine.platform.clock().now().0)
    }

    /// Types for the guest.
    ///
    /// # Errors
    /// Why it did not get all of it, for a person.
    pub(super) fn types(&self, bytes: &[u8]) -> Result<(), &'static str> {
        let machine = self.lock();
        let Some(machine) = machine.as_ref() else { return Err("the guest is not there yet") };
        let Some(typing) = &machine.typing else { return Err("what is typed for this guest was recorded") };
        let has_room = typing.push(bytes);
        machine.bell.ring();
        if has_room { Ok(()) } else { Err("the guest does not take what is typed; some of it is lost") }
    }
}
