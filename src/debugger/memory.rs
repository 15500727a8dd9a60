//! Guest memory as a debugger reads it: RAM only, nothing changed, what cannot be read left out.
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{PagingMode, peek};
use crate::arch::{CpuState, Gpa, Gva, SegmentRegister};
use crate::mem::GuestRam;

/// Which addresses are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Space {
    /// Linear addresses, translated as the CPU now would.
    #[default]
    Virtual,
    /// Guest-physical addresses.
    Physical,
}

/// Guest memory seen with the CPU's present page tables.
#[derive(Clone, Copy, Debug)]
pub struct GuestMemory<'a> {
    ram: &'a GuestRam,
    mode: PagingMode,
}

impl<'a> GuestMemory<'a> {
    /// Memory as `state` sees it.
    #[must_use]
    pub fn new(ram: &'a GuestRam, state: &CpuState) -> Self {
        Self { ram, mode: PagingMode::of(state) }
    }

    /// RAM itself.
    #[must_use]
    pub fn ram(&self) -> &'a GuestRam {
        self.ram
    }

    /// The registers that decide about translation.
    #[must_use]
    pub fn paging(&self) -> &PagingMode {
        &self.mode
    }

    /// Where `address` is, if it is mapped (to RAM or not).
    #[must_use]
    pub fn locate(&self, space: Space, address: u64) -> Option<Gpa> {
        match space {
            Space::Physical => Some(Gpa(address)),
            Space::Virtual
                if self.mode.cr0.contains(crate::arch::Cr0::PG) && !Gva(address).is_canonical() =>
            {
                None
            }
            Space::Virtual => peek(self.ram, &self.mode, Gva(address)),
        }
    }

    /// `length` bytes; `None` where nothing is mapped or no RAM lies.
    #[must_use]
    pub fn read(&self, space: Space, address: u64, length: usize) -> Vec<Option<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let at = address.wrapping_add(bytes.len() as u64);
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let piece = in_page.min(length - bytes.len());
            let mut buffer = vec![0; piece];
            let read = self.locate(space, at).is_some_and(|gpa| self.ram.read(gpa, &mut buffer).is_ok());
            bytes.extend(buffer.into_iter().map(|b| read.then_some(b)));
        }
        bytes
    }

    /// Writes `bytes`, and whether all of it is mapped RAM; nothing is written if not. Rights do not matter to a debugger.
    #[must_use]
    pub fn write(&self, space: Space, address: u64, bytes: &[u8]) -> bool {
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let length = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(bytes.len() - done);
            let in_ram = |gpa: &Gpa| self.ram.offset(*gpa, length as u64).is_some();
            let Some(gpa) = self.locate(space, at).filter(in_ram) else { return false };
            pieces.push((gpa, &bytes[done..done + length]));
            done += length;
        }
        pieces.into_iter().all(|(gpa, piece)| self.ram.write(gpa, piece).is_ok())
    }

    /// The bytes from `address` up to the first that cannot be read, at most `length`.
    #[must_use]
    pub fn read_prefix(&self, space: Space, address: u64, length: usize) -> Vec<u8> {
        self.read(space, address, length).into_iter().map_while(|b| b).collect()
    }

    /// `N` bytes at a linear address, if all can be read.
    #[must_use]
    pub fn read_array<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        self.read_prefix(Space::Virtual, address, N).try_into().ok()
    }

    /// A little-endian word of 8 bytes at a linear address.
    #[must_use]
    pub fn read_u64(&self, address: u64) -> Option<u64> {
        self.read_array(address).map(u64::from_le_bytes)
    }
}

/// The linear address of the next instruction.
#[must_use]
pub fn linear_rip(state: &CpuState) -> u64 {
    state.linear_rip()
}

/// The linear address of the top of the stack.
#[must_use]
pub fn linear_rsp(state: &CpuState) -> u64 {
    let rsp = state.gpr[crate::arch::state::gpr::RSP];
    if state.is_64bit_code() {
        rsp
    } else {
        state.segment(SegmentRegister::Ss).base.wrapping_add(rsp) & 0xffff_ffff
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::arch::{Cr0, Cr4, Efer, Segment};

    /// 64-bit state with 4-level tables at 0x1000: 0x20_0000 is mapped to 0x8000 (4 KiB, RW), 0x40_0000 to physical
    /// 0x20_0000 (2 MiB, NX), 0xfee0_0000 to the APIC (2 MiB).
    pub(in crate::debugger) fn long_mode() -> (GuestRam, CpuState) {
        let ram = GuestRam::new(4 << 20).unwrap();
        let put = |at: u64, value: u64| ram.write(Gpa(at), &value.to_le_bytes()).unwrap();
        put(0x1000, 0x2027);
        put(0x2000, 0x3027);
        put(0x2018, 0x5003);
        put(0x3008, 0x4023);
        put(0x3010, 0x8000_0000_0020_00e3);
        put(0x4000, 0x8063);
        put(0x5000 + 8 * 503, 0x8000_0000_fee0_009b);
        let mut state = CpuState::reset();
        state.cr0 = Cr0::PE | Cr0::PG | Cr0::WP | Cr0::ET;
        state.cr4 = Cr4::PAE | Cr4::PGE;
        state.cr3 = 0x1000;
        state.efer = Efer::LME | Efer::LMA | Efer::NXE | Efer::SCE;
        let code = Segment::from_descriptor(8, 0x00af_9b00_0000_ffff);
        let data = Segment::from_descriptor(0x10, 0x00cf_9300_0000_ffff);
        state.segments = [data, code, data, data, data, data];
        state.rip = 0x20_0000;
        (ram, state)
    }

    #[test]
    fn pages_are_read_one_by_one() {
        let (ram, state) = long_mode();
        ram.write(Gpa(0x8ffe), &[1, 2]).unwrap();
        let memory = GuestMemory::new(&ram, &state);
        // The page after 0x20_0000 is not mapped.
        assert_eq!(memory.read(Space::Virtual, 0x20_0ffe, 4), [Some(1), Some(2), None, None]);
        assert_eq!(memory.read_prefix(Space::Virtual, 0x20_0ffe, 4), [1, 2]);
        assert_eq!(memory.read(Space::Physical, 0x8fff, 1), [Some(2)]);
        assert_eq!(memory.read_u64(0x20_0ffe), None);
    }

    #[test]
    fn device_memory_and_impossible_addresses_are_not_read() {
        let (ram, state) = long_mode();
        let memory = GuestMemory::new(&ram, &state);
        assert_eq!(memory.locate(Space::Virtual, 0xfee0_0020), Some(Gpa(0xfee0_0020)));
        assert_eq!(memory.read(Space::Virtual, 0xfee0_0020, 2), [None, None]);
        assert_eq!(memory.locate(Space::Virtual, 0x8000_0000_0020_0000), None);
        assert_eq!(memory.read(Space::Physical, u64::MAX, 2), [None, Some(0)]);
    }

    #[test]
    fn outside_64_bit_code_the_segment_base_counts() {
        let state = CpuState::reset();
        assert_eq!(linear_rip(&state), 0xffff_fff0);
    }
}
