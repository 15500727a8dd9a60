//! A program that prints the time stamp counter: busybox has no clock finer than a hundredth of a second.

use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes of the ELF header and its one program header.
const HEADERS: usize = 64 + 56;
/// Linux's numbers of system calls.
const SYS_WRITE: u32 = 1;
const SYS_EXIT: u32 = 60;

/// The program, an ELF file without sections that needs nothing.
///
/// # Errors
/// None that can come of these instructions.
pub(super) fn program() -> Result<Vec<u8>, IcedError> {
    let code = code()?;
    let size = (HEADERS + code.len()) as u64;
    let mut file = Vec::with_capacity(size as usize);
    // e_ident: 64 bits, little-endian, version 1; the rest are zeros.
    file.extend(*b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    // e_type: an executable; e_machine: x86-64; e_version.
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    // e_entry, e_phoff, e_shoff.
    file.extend((BASE + HEADERS as u64).to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    // e_flags, e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // The segment: PT_LOAD, readable and executable.
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
    for word in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    Ok(file)
}

/// Reads the counter, writes it as decimal digits and an end of line below the stack's top, prints that and exits with 0.
fn code() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let mut digit = a.create_label();
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.lea(rsi, qword_ptr(rsp - 1))?;
    a.mov(byte_ptr(rsi), i32::from(b'\n'))?;
    a.mov(ecx, 10)?;
    a.set_label(&mut digit)?;
    a.xor(edx, edx)?;
    a.div(rcx)?;
    a.add(dl, i32::from(b'0'))?;
    a.dec(rsi)?;
    a.mov(byte_ptr(rsi), dl)?;
    a.test(rax, rax)?;
    a.jne(digit)?;
    a.mov(rdx, rsp)?;
    a.sub(rdx, rsi)?;
    a.mov(edi, 1)?;
    a.mov(eax, SYS_WRITE)?;
    a.syscall()?;
    a.xor(edi, edi)?;
    a.mov(eax, SYS_EXIT)?;
    a.syscall()?;
    a.assemble(BASE + HEADERS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tsc;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    #[test]
    fn it_prints_the_counter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticks");
        std::fs::write(&path, program().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let read = || {
            // A process that another test is just starting may have it open for writing still.
            let busy = |output: &std::io::Result<std::process::Output>| {
                output.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
            };
            let mut output = Command::new(&path).output();
            for _ in 0..1000 {
                if !busy(&output) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
                output = Command::new(&path).output();
            }
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            text.strip_suffix('\n').unwrap().parse::<u64>().unwrap()
        };
        let before = tsc::read();
        let (first, second) = (read(), read());
        assert!(before < first && first < second && second < tsc::read());
    }
}
