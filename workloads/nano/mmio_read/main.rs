//! Reading and writing a memory-mapped register of the local APIC (the version; the error vector).
#![no_std]
#![no_main]

use guest::layout::LAPIC;
use guest::{Checksum, Run, UNROLL, lapic};

guest::entry!(main);

fn main(run: &Run) {
    let mut checksum = Checksum::new().word(u64::from(lapic::read(lapic::ID) >> 24));
    for vector in 0x50..0x60 {
        lapic::write(lapic::LVT_ERROR, lapic::MASKED | vector);
        checksum = checksum.word(u64::from(lapic::read(lapic::LVT_ERROR)));
    }
    run.nano("mmio_read", checksum, UNROLL, |turns| {
        // SAFETY: a device register that reading does not change.
        unsafe {
            guest::unrolled!(turns, ["mov eax, [{register}]"], register = in(reg) LAPIC + lapic::VERSION,
                out("eax") _)
        }
    });
    run.nano("mmio_write", checksum, UNROLL, |turns| {
        // SAFETY: the entry stays masked.
        unsafe {
            guest::unrolled!(turns, ["mov [{register}], eax"], register = in(reg) LAPIC + lapic::LVT_ERROR,
                in("eax") lapic::MASKED | 0x50)
        }
    });
    assert!(lapic::read(lapic::LVT_ERROR) == lapic::MASKED | 0x50, "the error vector lost what was written");
}
