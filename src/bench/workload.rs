//! The guests that `build.rs` made from `workloads/`, built into this binary.

/// What a workload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Shows that a guest runs; measures nothing.
    Demo,
    /// The cost of one operation.
    Nano,
    /// A whole task.
    Task,
    /// The cost of one thing at growing sizes.
    Sweep,
    /// Misbehaves, to test that the monitor does not.
    Hostile,
}

impl Kind {
    /// The name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Nano => "nano",
            Self::Task => "task",
            Self::Sweep => "sweep",
            Self::Hostile => "hostile",
        }
    }

    /// Whether such a workload reports figures.
    pub const fn measures(self) -> bool {
        matches!(self, Self::Nano | Self::Task | Self::Sweep)
    }
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskBus {
    /// First disk of the first IDE channel.
    Ide,
    /// A virtio block device on the PCI bus.
    Virtio,
}

impl DiskBus {
    /// The name in the fingerprint.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Virtio => "virtio",
        }
    }
}

/// A guest with its image.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name, as in its result lines.
    pub name: &'static str,
    /// What it is for.
    pub kind: Kind,
    /// One line on what it does.
    pub about: &'static str,
    /// The disk that it measures; without it ends as absent.
    pub disk: Option<DiskBus>,
    /// The ELF file, aligned to 16 bytes.
    pub image: &'static [u8],
}

/// ELF readers want headers at aligned addresses; `include_bytes!` alone promises none.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/workloads.rs"));

/// All workloads, demonstrations first, by kind and then by name.
pub fn all() -> &'static [Workload] {
    ALL
}

/// The workload of this name.
pub fn find(name: &str) -> Option<&'static Workload> {
    ALL.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_an_aligned_elf_with_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for workload in all() {
            assert!(names.insert(workload.name), "{} twice", workload.name);
            assert!(workload.image.starts_with(b"\x7fELF"), "{}", workload.name);
            assert_eq!(workload.image.as_ptr().align_offset(16), 0, "{}", workload.name);
            assert!(!workload.about.is_empty() && std::ptr::eq(find(workload.name).unwrap(), workload));
        }
        assert!(find("no such workload").is_none());
    }
}
