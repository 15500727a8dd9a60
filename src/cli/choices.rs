//! Parsers of names to choose from: engines, interfaces, and techniques of the translator.
//!
//! Help lists the names with a line each; a name that is none of them is refused as clap refuses those of an enumeration,
//! with the one that may have been meant.
use super::pair::NamedEngine;
use crate::bench::language::Language;
use crate::engine::{Engine, Interface};
use crate::machine::{EmuEngine, Technique, VirtioPlace, Without};
use clap::builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser};
use clap::{Arg, Command, Error};
use std::ffi::OsStr;

/// The word of `bench` for a column for each technique.
pub(super) const EACH: &str = "each";

/// Parses the name of an engine of mode emu, of which more may be given.
pub(super) fn emulator() -> impl TypedValueParser<Value = EmuEngine> {
    PossibleValuesParser::new(emulators()).try_map(|name| EmuEngine::find(&name).ok_or("no such engine"))
}

fn emulators() -> impl Iterator<Item = PossibleValue> {
    EmuEngine::ALL.into_iter().map(|engine| PossibleValue::new(engine.name()).help(engine.label()))
}

fn engines() -> impl Iterator<Item = PossibleValue> {
    let about = |engine| match engine {
        Engine::Emu => "an emulator: translator",
        Engine::Direct => "the host's CPU, in ring 3 of a sandboxed process",
        Engine::Kvm => "the kernel's /dev/kvm",
    };
    let all =
        Engine::ALL.into_iter().map(move |engine| PossibleValue::new(engine.name()).help(about(engine)));
    all.chain(emulators())
}

/// Parses the name of an interface.
pub(super) fn interface() -> impl TypedValueParser<Value = Interface> {
    let about = |interface| match interface {
        Interface::None => "bare hardware",
        Interface::Patched => "the same, with the sensitive instructions replaced behind its back",
        Interface::Pv => "hypercalls that the guest is told of; patched, too, where the engine is direct",
    };
    let all = Interface::ALL.into_iter().map(move |one| PossibleValue::new(one.name()).help(about(one)));
    PossibleValuesParser::new(all).try_map(|name| Interface::find(&name).ok_or("no such interface"))
}

/// Parses the language of a page.
pub(super) fn language() -> impl TypedValueParser<Value = Language> {
    let all = Language::ALL.into_iter().map(|one| PossibleValue::new(one.name()).help(one.own_name()));
    PossibleValuesParser::new(all).try_map(|name| Language::find(&name).ok_or("no such language"))
}

/// Parses where virtio devices are.
pub(super) fn virtio_place() -> impl TypedValueParser<Value = VirtioPlace> {
    let names = [
        PossibleValue::new("pci").help("on the PCI bus, with message-signalled interrupts"),
        PossibleValue::new("mmio").help("in memory, at fixed places"),
    ];
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "mmio" => VirtioPlace::Memory,
        _ => VirtioPlace::Pci,
    })
}

/// Parses the name of the one engine of a guest.
#[derive(Clone)]
pub(super) struct OneEngine;

impl TypedValueParser for OneEngine {
    type Value = NamedEngine;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<NamedEngine, Error> {
        if value.to_str().is_some_and(|text| text.contains(',')) {
            return Err(refusal("a guest has one; only 'bench' takes several", command, arg, value));
        }
        let known = PossibleValuesParser::new(engines());
        known.try_map(|name| NamedEngine::find(&name).ok_or("no such engine")).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(engines()))
    }
}

/// Parses techniques to leave out.
#[derive(Clone)]
pub(super) struct Techniques;

impl TypedValueParser for Techniques {
    type Value = Without;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Without, Error> {
        if value == EACH {
            let why = "'each' stands for one run for each technique, which is for 'bench'; use 'all' to leave all out";
            return Err(refusal(why, command, arg, value));
        }
        techniques(names(), command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(names()))
    }
}

/// Parses what is left out of each of some columns.
#[derive(Clone)]
pub(super) struct TechniquesOfColumns;

impl TypedValueParser for TechniquesOfColumns {
    type Value = Vec<Without>;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Vec<Without>, Error> {
        if value == EACH {
            let each = Technique::ALL.into_iter().map(Without::only);
            return Ok(each.chain([Without::EVERYTHING]).collect());
        }
        Ok(vec![techniques(names().chain([each()]), command, arg, value)?])
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(names().chain([each()])))
    }
}

fn names() -> impl Iterator<Item = PossibleValue> {
    let all = PossibleValue::new(Without::ALL).help("all of them");
    let each = Technique::ALL.into_iter().map(|one| PossibleValue::new(one.name()).help(one.about()));
    each.chain([all])
}

fn each() -> PossibleValue {
    PossibleValue::new(EACH).help("a column without each of them, and one without all")
}

/// The set that `value` names; `known` are the words of which an error tells.
fn techniques(
    known: impl Iterator<Item = PossibleValue>,
    command: &Command,
    arg: Option<&Arg>,
    value: &OsStr,
) -> Result<Without, Error> {
    let text = StringValueParser::new().parse_ref(command, arg, value)?;
    text.parse::<Without>().map_err(|unknown| {
        let word = OsStr::new(&unknown.word);
        match PossibleValuesParser::new(known).parse_ref(command, arg, word) {
            Err(error) => error,
            Ok(_) => {
                refusal("'each' stands alone; give --without again for other columns", command, arg, value)
            }
        }
    })
}

/// The error of a value that is refused for this reason.
fn refusal(why: &str, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Error {
    let why = why.to_owned();
    let refused = StringValueParser::new().try_map(move |_| Err::<String, String>(why.clone()));
    match refused.parse_ref(command, arg, value) {
        Err(error) => error,
        Ok(text) => Error::raw(clap::error::ErrorKind::ValueValidation, text),
    }
}
