//! The firmware configuration device as a person sees it: the place in the selected item stays.
use super::FwCfg;
use super::spec::{self, key};
use crate::device::registers::{Block, Described};

impl FwCfg {
    fn name_of(&self, item: u16) -> String {
        let named = match item {
            key::SIGNATURE => "signature",
            key::ID => "features",
            key::RAM_SIZE => "RAM size",
            key::CPUS => "CPUs",
            key::BOOT_MENU => "boot menu",
            key::MOST_CPUS => "most CPUs",
            key::FILE_DIRECTORY => "file directory",
            _ => match item.checked_sub(key::FIRST_FILE).and_then(|file| self.names.get(usize::from(file))) {
                Some(name) => name,
                None => "no such item",
            },
        };
        named.to_owned()
    }
}

impl Described for FwCfg {
    fn describe(&self, called: &str) -> Vec<Block> {
        let s = &self.state;
        let size = self.items.get(&s.selected).map_or(0, Vec::len);
        let mut items = Block::new(format!("{called} items"));
        for (item, bytes) in &self.items {
            items = items.said(self.name_of(*item), 16, *item, format!("{} bytes", bytes.len()));
        }
        vec![
            Block::new(called)
                .said("SELECTOR", 16, s.selected, self.name_of(s.selected))
                .said("offset", 32, s.offset, format!("of {size} bytes"))
                .said("DMA_ADDRESS", 64, u64::from(s.dma_high) << 32, "the high half that was written")
                .said("DMA signature", 64, spec::DMA_SIGNATURE, "QEMU CFG"),
            items,
        ]
    }
}
