//! The arguments by which a guest is moved between modes while it runs.
use super::error::CliError;
use super::pair::Mode;
use super::units;
use crate::engine::{self, Pair};
use crate::machine::{self, Itinerary};
use clap::{Args, ValueEnum};
use std::time::Duration;

#[derive(Args)]
pub(super) struct SwitchArguments {
    /// Move the guest to another mode when it has run for so long (guest time), with commas between: 50ms=kvm,1s=emu.
    /// Implies --common-cpu
    #[arg(long, value_name = "TIME=MODE,...", value_delimiter = ',', value_parser = at, conflicts_with_all = ["switch_every", "deterministic", "protection_keys"], allow_hyphen_values = true)]
    switch_at: Vec<(Duration, Pair)>,
    /// Move it again and again, so long after the last move (guest time)
    #[arg(long, value_name = "TIME", value_parser = units::duration, conflicts_with_all = ["deterministic", "protection_keys"], allow_hyphen_values = true)]
    switch_every: Option<Duration>,
    /// To each of these modes in turn [default: all that this host has]
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', value_enum, requires = "switch_every")]
    switch_among: Vec<Mode>,
}

/// Parses `TIME=MODE`.
fn at(value: &str) -> Result<(Duration, Pair), String> {
    let (time, mode) = value.split_once('=').ok_or("not a time and a mode; write for instance 50ms=kvm")?;
    let mode =
        Mode::from_str(mode, false).map_err(|_| format!("'{mode}' is no mode; write emu, pv or kvm"))?;
    Ok((units::duration(time)?, engine::Mode::from(mode).pair()))
}

/// The shortest time between two moves: to enter some modes takes about as long.
const LEAST: Duration = Duration::from_millis(1);

impl SwitchArguments {
    /// When the guest is to be moved; `None` if it is not.
    pub(super) fn itinerary(&self) -> Result<Option<Itinerary>, CliError> {
        let itinerary = match self.switch_every {
            Some(every) if every < LEAST => {
                return Err(CliError::Usage(
                    "--switch-every: a guest gets nowhere if it is moved so often; give at least 1ms"
                        .to_owned(),
                ));
            }
            Some(every) => {
                let named = self.switch_among.iter().map(|mode| engine::Mode::from(*mode));
                let among: Vec<_> = match self.switch_among.is_empty() {
                    true => engine::Mode::ALL
                        .into_iter()
                        .filter(|mode| machine::availability(*mode).is_ok())
                        .map(engine::Mode::pair)
                        .collect(),
                    false => named.map(engine::Mode::pair).collect(),
                };
                Itinerary::Every(every, among)
            }
            None if self.switch_at.is_empty() => return Ok(None),
            None => {
                let mut list = self.switch_at.clone();
                list.sort_by_key(|(at, _)| *at);
                Itinerary::At(list)
            }
        };
        let pairs: Vec<Pair> = match &itinerary {
            Itinerary::At(list) => list.iter().map(|(_, pair)| *pair).collect(),
            Itinerary::Every(_, among) => among.clone(),
        };
        for pair in pairs {
            machine::availability(pair).map_err(|error| CliError::Machine(error.into()))?;
        }
        Ok(Some(itinerary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_a_mode() {
        assert_eq!(at("50ms=kvm"), Ok((Duration::from_millis(50), engine::Mode::Kvm.pair())));
        for wrong in ["", "kvm", "50ms", "50ms=", "=kvm", "50ms=xen", "-1s=emu", "0s=emu"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }
}
