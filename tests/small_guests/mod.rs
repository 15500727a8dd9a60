//! Guests of a few instructions, in files: 16- and 32-bit code, and two CPUs.
#![allow(dead_code, reason = "each test binary uses some of them")]

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::path::Path;

/// Where raw code is put.
pub(crate) const FLAT: u64 = 0x20_0000;
/// Where the second CPU of [`two_cpus`] begins, in 16-bit code.
pub(crate) const SECOND: u64 = 0x8000;
/// Its loop.
pub(crate) const SECOND_LOOP: u64 = SECOND + 4;
/// What the two count in: the boot CPU's word, the other's 8 bytes behind it.
pub(crate) const COUNTS: u64 = 0x9000;
/// Where [`boot_sector`]'s code goes on, with this much as the base of CS.
pub(crate) const SECTOR: u64 = 0x7c00;

fn assemble(bits: u32, at: u64, code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    code(&mut assembler).unwrap();
    assembler.assemble(at).unwrap()
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Raw code whose boot CPU starts the second one; each counts for ever. Beside it, where the boot CPU's loop is.
pub(crate) fn two_cpus(folder: &Path) -> (String, u64) {
    const APIC: u32 = 0xfee0_0000;
    let second = assemble(16, SECOND, |a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.inc(dword_ptr(COUNTS + 8))?;
        a.nop()?;
        a.jmp(again)
    });
    let length = second.len() as u32;
    let first = |behind: u32| {
        assemble(32, FLAT, |a| {
            a.mov(esi, behind)?;
            a.mov(edi, SECOND as u32)?;
            a.mov(ecx, length)?;
            a.rep().movsb()?;
            a.mov(ebx, APIC)?;
            a.mov(dword_ptr(ebx + 0xf0), 0x1ff)?;
            // INIT, then start-up at the page of `SECOND`.
            for command in [0x4500, 0x4600 | (SECOND >> 12) as u32] {
                a.mov(dword_ptr(ebx + 0x310), 1 << 24)?;
                a.mov(dword_ptr(ebx + 0x300), command)?;
            }
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.inc(dword_ptr(COUNTS))?;
            a.nop()?;
            a.jmp(again)
        })
    };
    // The loop ends the code: 6 bytes, 1 and 2.
    let size = first(0).len() as u64;
    let code = [first((FLAT + size) as u32), second].concat();
    (file(folder, "two_cpus", &code), FLAT + size - 9)
}

/// A firmware that copies a boot sector to [`SECTOR`], and jumps there.
pub(crate) fn boot_sector(folder: &Path) -> String {
    let mut rom = vec![0; 64 << 10];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    // jmp far f000:0000
    put(0xfff0, &[0xea, 0, 0, 0, 0xf0]);
    let copies = assemble(16, 0, |a| {
        a.cli()?;
        a.cld()?;
        a.xor(ax, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7000)?;
        a.mov(es, ax)?;
        a.push(cs)?;
        a.pop(ds)?;
        a.mov(si, 0x100)?;
        a.mov(di, SECTOR as u32)?;
        a.mov(cx, 512)?;
        a.rep().movsb()?;
        a.mov(ds, ax)
    });
    put(0, &copies);
    // jmp far 07c0:0000
    put(copies.len(), &[0xea, 0, 0, 0xc0, 7]);
    let sector = assemble(16, 0, |a| {
        let (mut function, mut rest) = (a.create_label(), a.create_label());
        a.mov(ax, 0x1234)?;
        a.call(function)?;
        a.set_label(&mut rest)?;
        a.hlt()?;
        a.jmp(rest)?;
        a.set_label(&mut function)?;
        a.inc(ax)?;
        a.mov(word_ptr(0x500), ax)?;
        a.ret()
    });
    put(0x100, &sector);
    file(folder, "rom", &rom)
}

/// A multiboot image of 32-bit code, which begins at [`FLAT`] + 0x20.
pub(crate) fn multiboot(folder: &Path) -> String {
    const MAGIC: u32 = 0x1bad_b002;
    /// The header has addresses.
    const FLAGS: u32 = 1 << 16;
    let at = FLAT as u32;
    let code = assemble(32, FLAT + 0x20, |a| {
        let mut function = a.create_label();
        a.mov(esp, 0x9000)?;
        a.mov(eax, 0x1234_5678)?;
        a.call(function)?;
        a.hlt()?;
        a.set_label(&mut function)?;
        // One byte, a prefix in 64-bit code.
        a.inc(eax)?;
        a.mov(dword_ptr(0x9010), eax)?;
        a.ret()
    });
    let checksum = 0_u32.wrapping_sub(MAGIC.wrapping_add(FLAGS));
    let end = at + 0x20 + code.len() as u32;
    let header = [MAGIC, FLAGS, checksum, at, at, end, end, at + 0x20];
    let bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).chain(code).collect();
    file(folder, "multiboot", &bytes)
}

/// Raw code that sends itself a character: after [`LOOPED`] instructions it lies in the UART, whose interrupt nobody takes, and
/// the next one reads it.
pub(crate) fn looped_character(folder: &Path) -> String {
    let code = assemble(32, FLAT, |a| {
        // Eight bits; loopback with OUT2; FIFOs on; interrupt for what is received.
        for (port, value) in [(0x3fb, 3), (0x3fc, 0x1b), (0x3fa, 1), (0x3f9, 1), (0x3f8, u32::from(b'A'))] {
            a.mov(edx, port)?;
            a.mov(eax, value)?;
            a.out(dx, al)?;
        }
        a.in_(al, dx)?;
        a.mov(edx, 0xf4)?;
        a.xor(eax, eax)?;
        a.out(dx, al)
    });
    file(folder, "looped", &code)
}

/// See [`looped_character`].
pub(crate) const LOOPED: u32 = 15;

/// Raw code that prints each character that it is sent, in capitals where it is a letter, and a `.` first.
pub(crate) fn capitals(folder: &Path) -> String {
    let code = assemble(32, FLAT, |a| {
        let (mut again, mut print) = (a.create_label(), a.create_label());
        a.mov(edx, 0x3f8)?;
        a.mov(eax, u32::from(b'.'))?;
        a.out(dx, al)?;
        a.set_label(&mut again)?;
        a.mov(edx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.jz(again)?;
        a.mov(edx, 0x3f8)?;
        a.in_(al, dx)?;
        a.cmp(al, i32::from(b'a'))?;
        a.jb(print)?;
        a.and(al, !0x20_i32)?;
        a.set_label(&mut print)?;
        a.out(dx, al)?;
        a.jmp(again)
    });
    file(folder, "capitals", &code)
}
