//! Jumps into the local APIC's registers: there is no code to fetch.
#![no_std]
#![no_main]

use core::arch::asm;

use guest::console::Line;
use guest::layout::LAPIC;
use guest::paging::{self, NO_EXECUTE, Table, address_of};
use guest::{Run, cpu};

guest::entry!(main);

fn main(_: &Run) {
    Line::new().text("About to jump into device memory.").print();
    // The APIC's 2 MiB entry says that nothing there is code. Take that away.
    let table = Table(address_of(paging::root().get(0)));
    let directory = Table(address_of(table.get((LAPIC >> 30) as usize & 511)));
    let index = (LAPIC >> 21) as usize & 511;
    directory.set(index, directory.get(index) & !NO_EXECUTE);
    cpu::invlpg(LAPIC);
    // SAFETY: never comes back.
    unsafe { asm!("jmp {}", in(reg) LAPIC, options(noreturn)) }
}
