//! `device` and `chips`: what stands in the machine's devices, read past the guest's way so that nothing is changed.
use super::error::DebuggerError;
use super::session::{Reply, Session};
use super::view::Hex;
use super::view::chips::{self, CHIPS};
use super::view::devices::{Block, Devices, Place, Places};
use std::collections::BTreeMap;

/// Ranges out of ascending numbers.
fn ranges(numbers: impl IntoIterator<Item = u64>) -> Vec<[Hex; 2]> {
    let mut ranges: Vec<[Hex; 2]> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some([_, last]) if last.0 + 1 == number => last.0 = number,
            _ => ranges.push([Hex(number); 2]),
        }
    }
    ranges
}

impl Session {
    fn blocks(&self) -> impl Iterator<Item = Block> {
        self.machine.pc().registers().into_iter().map(Block::from)
    }

    /// All devices: those that claim a place, and those that have none of their own.
    fn places(&self) -> Vec<Place> {
        let bus = self.machine.platform().bus();
        let mut all = BTreeMap::<String, Place>::new();
        for name in bus.names() {
            let place = Place {
                name: name.to_owned(),
                ports: ranges(bus.ports_of(name).into_iter().map(|port| u64::from(port.0))),
                memory: bus.memory_of(name).map(|r| [Hex(*r.start()), Hex(*r.end())]).collect(),
                blocks: Vec::new(),
            };
            all.insert(name.to_owned(), place);
        }
        for block in self.blocks() {
            let device = block.name.split(' ').next().unwrap_or_default();
            // Devices in memory claim their places as "virtio", and are of several kinds.
            let owner = all.keys().find(|name| device == *name).or_else(|| {
                all.keys().find(|name| device.strip_prefix(*name).is_some_and(|rest| rest.starts_with('-')))
            });
            let owner = owner.cloned().unwrap_or_else(|| device.to_owned());
            let none = || Place { name: owner.clone(), ports: vec![], memory: vec![], blocks: vec![] };
            all.entry(owner.clone()).or_insert_with(none).blocks.push(block.name);
        }
        all.into_values().collect()
    }

    /// `device`.
    pub(super) fn list_devices(&self) -> Reply {
        Reply::view(&Places { devices: self.places() })
    }

    /// `device NAME`: the one that is called so, or all whose names begin so.
    pub(super) fn device(&self, name: &str) -> Result<Reply, DebuggerError> {
        let name = name.to_ascii_lowercase();
        let mut blocks: Vec<Block> = self.blocks().filter(|block| block.name.starts_with(&name)).collect();
        if blocks.iter().any(|block| block.name == name) {
            // `lapic 1` is not `lapic 10`, but the queues of `virtio-block 0` are its own.
            let within = format!("{name} ");
            blocks.retain(|block| block.name == name || block.name.starts_with(&within));
        }
        if !blocks.is_empty() {
            return Ok(Reply::view(&Devices { blocks }));
        }
        let places = self.places();
        if let Some(place) = places.iter().find(|place| place.name == name) {
            return Ok(Reply::view(&Places { devices: vec![place.clone()] }));
        }
        let names = places.iter().map(|place| place.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(DebuggerError::NoDevice { name, names })
    }

    /// `chips`.
    pub(super) fn chips(&mut self) -> Result<Reply, DebuggerError> {
        let vcpus = self.machine.platform().vcpus();
        let states = vcpus.map(|id| self.machine.state_of(id)).collect::<Result<Vec<_>, _>>()?;
        let (ways, offers) = self.machine.pc().interrupts().waiting();
        let of_chips = |block: &Block| CHIPS.iter().any(|name| block.name.starts_with(name));
        let blocks = self.blocks().filter(of_chips).collect();
        Ok(Reply::view(&chips::show(ways, offers, &states, blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_beside_each_other_are_one_range() {
        assert_eq!(ranges([1, 2, 3, 7, 9, 10]), [[Hex(1), Hex(3)], [Hex(7); 2], [Hex(9), Hex(10)]]);
        assert!(ranges([]).is_empty());
    }
}
