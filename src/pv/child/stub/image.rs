//! The stub as bytes: where its entries lie in the child, and the file that is executed.
#![expect(unsafe_code, reason = "symbols of the assembly")]
use crate::pv::layout::{AREAS, MONITOR, SHARED_SIZE};

unsafe extern "C" {
    static pv_stub_begin: u8;
    static pv_stub_end: u8;
    static pv_stub_length: u8;
    static pv_stub_offset: u8;
    static pv_stub_hypercall: u8;
    static pv_stub_syscall: u8;
    static pv_stub_sysret: u8;
    static pv_stub_iret: u8;
    static pv_stub_read: u8;
    static pv_stub_signal: u8;
    static pv_stub_restorer: u8;
}

/// Addresses in the child that the engine names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::pv) struct Entries {
    /// First byte of the stub.
    pub(in crate::pv) begin: u64,
    /// First byte behind it.
    pub(in crate::pv) end: u64,
    /// Where thunks jump to.
    pub(in crate::pv) hypercall: u64,
    /// Where thunks of SYSCALL jump to when the kernel's process takes it up.
    pub(in crate::pv) syscall: u64,
    /// Where thunks of SYSRETQ jump to when the user's process goes on.
    pub(in crate::pv) sysret: u64,
    /// The same for IRETQ.
    pub(in crate::pv) iret: u64,
    /// Behind the instruction that reads requests with keys.
    pub(in crate::pv) read: u64,
    /// Signal handler.
    pub(in crate::pv) signal: u64,
    /// `sa_restorer`.
    pub(in crate::pv) restorer: u64,
}

/// The stub's code.
pub(in crate::pv) fn code() -> &'static [u8] {
    let begin = &raw const pv_stub_begin;
    let length = &raw const pv_stub_end as usize - begin as usize;
    // SAFETY: the two symbols enclose initialised bytes of one read-only section of this binary.
    unsafe { std::slice::from_raw_parts(begin, length) }
}

/// Where its entries lie in the child.
pub(in crate::pv) fn entries() -> Entries {
    let place = |symbol: *const u8| MONITOR + (symbol as u64 - (&raw const pv_stub_begin) as u64);
    Entries {
        begin: MONITOR,
        end: place(&raw const pv_stub_end),
        hypercall: place(&raw const pv_stub_hypercall),
        syscall: place(&raw const pv_stub_syscall),
        sysret: place(&raw const pv_stub_sysret),
        iret: place(&raw const pv_stub_iret),
        read: place(&raw const pv_stub_read),
        signal: place(&raw const pv_stub_signal),
        restorer: place(&raw const pv_stub_restorer),
    }
}

/// The stub for the process whose shared area has this number, as an executable file: a static ELF64 with one read-only
/// segment at [`MONITOR`] (System V ABI, chapters 4, 5). The first area's process maps them all.
pub(in crate::pv) fn image(area: usize) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const FILE_OFFSET: u64 = 0x1000;
    let mut code = code().to_vec();
    let mut set = |symbol: *const u8, value: u64| {
        let at = symbol as usize - (&raw const pv_stub_begin) as usize;
        code[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    };
    set(&raw const pv_stub_length, if area == 0 { SHARED_SIZE * AREAS as u64 } else { SHARED_SIZE });
    set(&raw const pv_stub_offset, SHARED_SIZE * area as u64);
    let mut file = Vec::with_capacity(FILE_OFFSET as usize + code.len());
    // e_ident: 64-bit, little-endian, version 1.
    file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut put16 = |values: &[u16]| values.iter().for_each(|v| file.extend_from_slice(&v.to_le_bytes()));
    put16(&[2, 62]); // ET_EXEC, EM_X86_64
    put16(&[1, 0]); // version
    for word in [MONITOR, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    file.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // Program header: PT_LOAD, R+X.
    for word in [1_u32, 5] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for word in [FILE_OFFSET, MONITOR, MONITOR, code.len() as u64, code.len() as u64, 0x1000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    debug_assert_eq!(file.len() as u64, HEADERS);
    file.resize(FILE_OFFSET as usize, 0);
    file.extend_from_slice(&code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pv::layout::SHARED;

    #[test]
    fn the_image_is_an_elf_that_others_read_too() {
        use object::{Object, ObjectSegment};
        let image = image(0);
        let file = object::File::parse(&*image).unwrap();
        assert_eq!(file.entry(), MONITOR);
        let segment = file.segments().next().unwrap();
        assert_eq!(segment.address(), MONITOR);
        assert_eq!(segment.data().unwrap().len(), code().len());
        assert!(MONITOR + code().len() as u64 <= SHARED);
    }
}
