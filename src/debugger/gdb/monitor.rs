//! `monitor`: the session's own commands, as far as the guest stays where it is, and what GDB is told of the CPU.
use super::described::Described;
use super::target::Guest;
use crate::debugger::command::{self, Command};
use crate::debugger::error::DebuggerError;
use gdbstub::outputln;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

/// A command of GDB's connection rather than of the guest.
const ARCHITECTURE: &str = "architecture";

/// What GDB does not learn by itself.
const MOVED: &str = "\n'disconnect' and 'target remote' show GDB where that is, and let it go back, too";

impl MonitorCmd for Guest<'_> {
    /// GDB would not learn that the guest had moved: what moves it is GDB's, but for a rewind, which tells so.
    fn handle_monitor_cmd(&mut self, line: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), DebuggerError> {
        let line = String::from_utf8_lossy(line);
        if let Some(rest) = line.trim().strip_prefix(ARCHITECTURE) {
            let answer = self.architecture(rest.trim())?;
            outputln!(out, "{answer}");
            return Ok(());
        }
        let answer = match command::parse(&line) {
            Ok(None) => Ok(String::new()),
            Ok(Some(command)) if stays(&command) => {
                let mut answer = self.session.execute(&command).map(|reply| reply.text);
                if let (Command::Rewind(_), Ok(text)) = (&command, &mut answer) {
                    text.push_str(MOVED);
                }
                // The session knows its own breakpoints, and we GDB's.
                answer.and_then(|text| self.session.tell_breakpoints(&self.breakpoints).map(|()| text))
            }
            Ok(Some(_)) => Ok("this is GDB's to do; 'monitor help' lists what only looks, too".to_owned()),
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(text) => outputln!(out, "{text}"),
            Err(error) => outputln!(out, "{error}"),
        }
        Ok(())
    }
}

impl Guest<'_> {
    /// Says how GDB reads the CPU's code, and how it would read it rightly; or has the next GDB told so.
    fn architecture(&mut self, name: &str) -> Result<String, DebuggerError> {
        if name == "auto" {
            self.session.described = None;
            return Ok("the next GDB is told what suits the code at which it finds the guest".to_owned());
        }
        if !name.is_empty() {
            let Some(described) = Described::find(name) else {
                return Ok(format!("'{name}' is none: i8086, i386, i386:x86-64 and auto are"));
            };
            self.session.described = Some(described);
            return Ok(format!("'disconnect', and the next 'target remote' is told of {name}"));
        }
        let state = self.session.state()?;
        let (bits, now, told) = (state.code_bits(), Described::of_code(&state), self.described);
        let cpu = self.session.cpu.0;
        Ok(if now == told {
            format!("CPU {cpu} executes {bits}-bit code, and GDB was told of {}, too", told.name())
        } else if now.reads_as(told) {
            format!("CPU {cpu} executes {bits}-bit code: 'set architecture {}' lets GDB read it", now.name())
        } else {
            format!(
                "CPU {cpu} executes {bits}-bit code, and GDB was told of {}: 'monitor architecture {}', 'disconnect' and 'target \
                 remote' let GDB read it; here 'monitor disassemble' does",
                told.name(),
                now.name()
            )
        })
    }
}

fn stays(command: &Command) -> bool {
    use Command as C;
    command.only_looks()
        || matches!(
            command,
            C::Examine { .. }
                | C::Walk(_)
                | C::Trace(_)
                | C::Cpu(_)
                | C::Mode(_)
                | C::Catch { .. }
                | C::Delete(_)
                | C::Snapshot
                | C::Rewind(_)
        )
}
