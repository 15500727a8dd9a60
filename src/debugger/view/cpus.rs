//! The CPUs of a guest: what each does, and where it stands.
use super::{Angled, Hex};
use crate::arch::Activity;
use serde::Serialize;
use std::fmt;

/// One CPU.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Its number; 0 is the boot CPU.
    pub number: u8,
    /// Whether commands are about this one.
    pub selected: bool,
    /// What it does, in words.
    pub activity: &'static str,
    /// Size of its code: 16, 32 or 64.
    pub bits: u32,
    /// Privilege level.
    pub ring: u8,
    /// Linear address of its next instruction.
    pub address: Hex,
    /// `name+offset`.
    pub symbol: Option<String>,
}

/// What a CPU does, in words.
#[must_use]
pub const fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Running => "running",
        Activity::Halted => "halted",
        Activity::WaitsForStartUp => "waits for start-up",
        Activity::Shutdown => "shut down",
    }
}

/// All of them, by number.
#[derive(Clone, Debug, Serialize)]
pub struct Cpus {
    /// All of them, by number.
    pub cpus: Vec<Cpu>,
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  CPU  {:18}  code    ring  at", "does")?;
        for cpu in &self.cpus {
            let mark = if cpu.selected { '*' } else { ' ' };
            let Cpu { number, activity, bits, ring, address, symbol, .. } = cpu;
            write!(
                f,
                "\n{mark} {number:<3}  {activity:18}  {bits}-bit  {ring:<4}  {address}{}",
                Angled(symbol)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_cpu() {
        let cpu = |number, selected, of, address| Cpu {
            number,
            selected,
            activity: activity(of),
            bits: 64,
            ring: 0,
            address: Hex(address),
            symbol: (number == 1).then(|| "idle+0x1".to_owned()),
        };
        let cpus = vec![
            cpu(0, false, Activity::WaitsForStartUp, 0xffff_fff0),
            cpu(1, true, Activity::Halted, 0x1001),
        ];
        let shown = Cpus { cpus }.to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[1], "  0    waits for start-up  64-bit  0     0xfffffff0");
        assert_eq!(lines[2], "* 1    halted              64-bit  0     0x1001 <idle+0x1>");
    }
}
