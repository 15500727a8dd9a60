//! The parts of a machine that have state of their own, each with a name, so that all can be saved and restored.
//!
//! A name says all about the part that a state depends on and that is not in it, a disk's size for example: a machine takes
//! on the state of another if their lists of names are the same. Order matters: interrupt chips take on their pins before
//! the devices that drive them, and the PCI bus its registers before the functions on it.
use super::RestoreError;
use crate::bus::Lock;
use crate::device::BadState;
use crate::device::registers::{Block, Described};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// The state of one part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedPart {
    /// Which part, and what its state depends on.
    pub name: String,
    /// Its state, in postcard's form.
    pub state: Vec<u8>,
}

type Save = dyn Fn() -> Result<Vec<u8>, postcard::Error> + Send + Sync;
type Restore = dyn Fn(&[u8]) -> Result<(), RestoreError> + Send + Sync;
type Describe = dyn Fn(&str) -> Vec<Block> + Send + Sync;

struct Part {
    name: String,
    save: Box<Save>,
    restore: Box<Restore>,
    describe: Box<Describe>,
}

impl Part {
    /// What a person calls it: without what its state depends on.
    fn called(&self) -> &str {
        let end = self.name.find(" of ").into_iter().chain(self.name.find(',')).min();
        &self.name[..end.unwrap_or(self.name.len())]
    }
}

/// All parts, in the order in which they are restored.
#[derive(Default)]
pub(super) struct Parts(Vec<Part>);

/// A state out of its bytes, all of which it takes.
pub(super) fn decode<S: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<S, RestoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((state, [])) => Ok(state),
        _ => Err(RestoreError::Unreadable(name.to_owned())),
    }
}

impl Parts {
    /// Adds a part behind the others.
    pub(super) fn add<S: Serialize + DeserializeOwned>(
        &mut self,
        name: impl Into<String>,
        save: impl Fn() -> S + Send + Sync + 'static,
        restore: impl Fn(&S) -> Result<(), BadState> + Send + Sync + 'static,
        describe: impl Fn(&str) -> Vec<Block> + Send + Sync + 'static,
    ) {
        let name = name.into();
        let called = name.clone();
        self.0.push(Part {
            name,
            save: Box::new(move || postcard::to_allocvec(&save())),
            restore: Box::new(move |bytes| Ok(restore(&decode(&called, bytes)?)?)),
            describe: Box::new(describe),
        });
    }

    /// Adds a device that sees to its own lock.
    pub(super) fn add_shared<D: Described + Send + Sync + 'static, S: Serialize + DeserializeOwned>(
        &mut self,
        name: impl Into<String>,
        device: &Arc<D>,
        save: impl Fn(&D) -> S + Send + Sync + 'static,
        restore: impl Fn(&D, &S) -> Result<(), BadState> + Send + Sync + 'static,
    ) {
        let [saves, restores, describes] = [0; 3].map(|_| Arc::clone(device));
        self.add(
            name,
            move || save(&saves),
            move |saved| restore(&restores, saved),
            move |called| describes.describe(called),
        );
    }

    /// Adds a device behind a mutex.
    pub(super) fn add_locked<D: Described + Send + 'static, S: Serialize + DeserializeOwned>(
        &mut self,
        name: impl Into<String>,
        device: &Arc<Mutex<D>>,
        save: impl Fn(&D) -> S + Send + Sync + 'static,
        restore: impl Fn(&mut D, &S) -> Result<(), BadState> + Send + Sync + 'static,
    ) {
        let [saves, restores, describes] = [0; 3].map(|_| Arc::clone(device));
        self.add(
            name,
            move || save(&saves.lock().unwrap_or_else(PoisonError::into_inner)),
            move |saved| restore(&mut restores.lock().unwrap_or_else(PoisonError::into_inner), saved),
            move |called| describes.lock().unwrap_or_else(PoisonError::into_inner).describe(called),
        );
    }

    /// Adds a device behind the light lock.
    pub(super) fn add_light<D: Described + Send + 'static, S: Serialize + DeserializeOwned>(
        &mut self,
        name: impl Into<String>,
        device: &Arc<Lock<D>>,
        save: impl Fn(&D) -> S + Send + Sync + 'static,
        restore: impl Fn(&mut D, &S) -> Result<(), BadState> + Send + Sync + 'static,
    ) {
        let [saves, restores, describes] = [0; 3].map(|_| Arc::clone(device));
        self.add(
            name,
            move || save(&saves.lock()),
            move |saved| restore(&mut restores.lock(), saved),
            move |called| describes.lock().describe(called),
        );
    }

    /// Adds those of `others` behind.
    pub(super) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// The registers of all parts as they stand, for somebody who looks. Nothing is changed.
    pub(super) fn describe(&self) -> Vec<Block> {
        self.0.iter().flat_map(|part| (part.describe)(part.called())).collect()
    }

    /// The states of all parts.
    pub(super) fn save(&self) -> Result<Vec<SavedPart>, postcard::Error> {
        let one = |part: &Part| Ok(SavedPart { name: part.name.clone(), state: (part.save)()? });
        self.0.iter().map(one).collect()
    }

    /// Whether these states are those of a machine with the same parts.
    pub(super) fn check(&self, saved: &[SavedPart]) -> Result<(), RestoreError> {
        let lacks = |name: &String| !self.0.iter().any(|part| part.name == *name);
        if let Some(part) = saved.iter().find(|part| lacks(&part.name)) {
            return Err(RestoreError::Shape(format!("it has a part that is not here: {}", part.name)));
        }
        if let Some(part) = self.0.iter().find(|part| !saved.iter().any(|saved| saved.name == part.name)) {
            return Err(RestoreError::Shape(format!("it lacks a part that is here: {}", part.name)));
        }
        if !self.0.iter().map(|part| &part.name).eq(saved.iter().map(|part| &part.name)) {
            return Err(RestoreError::Shape("it has the same parts in other places".to_owned()));
        }
        Ok(())
    }

    /// Has each part take on its state; up to the first that refuses. To be checked before.
    pub(super) fn restore(&self, saved: &[SavedPart]) -> Result<(), RestoreError> {
        self.0.iter().zip(saved).try_for_each(|(part, saved)| (part.restore)(&saved.state))
    }
}
