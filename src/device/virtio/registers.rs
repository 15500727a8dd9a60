//! A virtio device's registers and queues as a person sees them: nothing is served, no interrupt acknowledged.
use super::pci::Vectors;
use super::queue::Queue;
use super::spec::{Features, Status, device_id, pci::NO_VECTOR};
use super::transport::Transport;
use super::{VirtioDevice, VirtioMmio, VirtioPci};
use crate::arch::Gpa;
use crate::device::registers::{Block, Described, names};
use crate::mem::GuestRam;

const fn kind(device: u32) -> &'static str {
    match device {
        device_id::NET => "network card",
        device_id::BLOCK => "block device",
        device_id::CONSOLE => "console",
        device_id::ENTROPY => "entropy",
        _ => "other",
    }
}

/// The index of a ring as it stands in RAM, behind its flags.
fn index(ram: &GuestRam, ring: Gpa) -> Option<u16> {
    let mut bytes = [0; 2];
    ram.read(Gpa(ring.0.checked_add(2)?), &mut bytes).ok()?;
    Some(u16::from_le_bytes(bytes))
}

fn queue(name: String, queue: &Queue, ram: &GuestRam) -> Block {
    let state = if queue.enabled { "enabled" } else { "not enabled" };
    let available = index(ram, queue.places.driver).filter(|_| queue.enabled);
    let waits = match available {
        Some(now) => format!("{} wait", now.wrapping_sub(queue.taken)),
        None if queue.enabled => "no RAM is there".to_owned(),
        None => "not looked at".to_owned(),
    };
    let mut block = Block::new(name)
        .said("SIZE", 16, queue.size, state)
        .plain("DESCRIPTORS", 64, queue.places.descriptors.0)
        .plain("DRIVER", 64, queue.places.driver.0)
        .plain("DEVICE", 64, queue.places.device.0)
        .said("taken", 16, queue.taken, "entries of the available ring")
        .said("used", 16, queue.used, "entries of the used ring");
    block = match available {
        Some(now) => block.said("available index", 16, now, waits),
        None => block.words("available index", vec![waits.into()]),
    };
    block
}

impl<D: VirtioDevice> Transport<D> {
    fn describe(&self, called: &str, more: impl FnOnce(Block) -> Block) -> Vec<Block> {
        let s = &self.state;
        let id = self.device_id();
        let mut status = names(&s.status);
        if s.status == Status::empty() {
            status.push("no driver".into());
        }
        let reason = self.broken().filter(|_| s.status.contains(Status::NEEDS_RESET));
        status.extend(reason.map(|why| why.to_string().into()));
        let features = names(&Features::from_bits_retain(s.driver_features));
        let block = Block::new(called)
            .said("DEVICE_ID", 32, id, kind(id))
            .put("STATUS", 8, s.status.bits(), status)
            .flags("ISR", s.isr)
            .plain("DEVICE_FEATURES", 64, self.offered())
            .put("DRIVER_FEATURES", 64, s.driver_features, features)
            .plain("QUEUE_SELECT", 16, s.queue_select)
            .bytes("CONFIGURATION", &self.device().configuration()[..24]);
        let mut blocks = vec![more(block)];
        let queues = s.queues.iter().enumerate();
        blocks.extend(queues.map(|(number, q)| queue(format!("{called} queue {number}"), q, &self.ram)));
        blocks
    }
}

impl<D: VirtioDevice> Described for VirtioMmio<D> {
    fn describe(&self, called: &str) -> Vec<Block> {
        self.transport().describe(called, |block| block)
    }
}

impl<D: VirtioDevice> Described for VirtioPci<D> {
    fn describe(&self, called: &str) -> Vec<Block> {
        let vector = |vector: u16| if vector == NO_VECTOR { "none".to_owned() } else { vector.to_string() };
        let Vectors { configuration, queues } = &self.vectors;
        let queues: Vec<_> = queues.iter().map(|&v| vector(v)).collect();
        let way = match (self.msix.is_enabled(), self.msix.pending()) {
            (false, _) => "by the pin".to_owned(),
            (true, 0) => "by messages, none pending".to_owned(),
            (true, pending) => format!("by messages, pending: {pending:#b}"),
        };
        self.transport().describe(called, |block| {
            block.words("interrupts", vec![way.into()]).words(
                "MSI-X vectors",
                vec![
                    format!("configuration {}", vector(*configuration)).into(),
                    format!("queues {}", queues.join(" ")).into(),
                ],
            )
        })
    }
}
