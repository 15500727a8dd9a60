//! Guests made byte by byte: small PVH executables of 32-bit code, and files that are none.
use std::path::{Path, PathBuf};

/// Where the code of [`Elf`] lies in guest memory.
const CODE: u64 = 0x20_0000;
/// Where it lies in the file.
const OFFSET: usize = 0x100;

/// Prints `!` on COM1, then loops with interrupts off: `mov dx,3f8h; mov al,'!'; out dx,al; cli; jmp $`.
pub(crate) const LOOPS: [u8; 10] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xfa, 0xeb, 0xfe];

/// Prints `!` on COM1, then resets the machine by the keyboard controller: `…; mov al,0feh; out 64h,al; jmp $`.
pub(crate) const RESETS: [u8; 13] =
    [0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

/// Prints `?`, then each byte that COM1 receives, and switches off with status 0 after a full stop.
pub(crate) const ECHOES: [u8; 32] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'?', 0xee, // mov dx,3f8h; mov al,'?'; out dx,al
    0x66, 0xba, 0xfd, 0x03, // next: mov dx,3fdh
    0xec, 0xa8, 0x01, 0x74, 0xfb, // wait: in al,dx; test al,1; jz wait
    0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, // mov dx,3f8h; in al,dx; out dx,al
    0x3c, b'.', 0x75, 0xed, // cmp al,'.'; jne next
    0xb0, 0x00, 0xe6, 0xf4, // mov al,0; out 0f4h,al
    0xeb, 0xfe, // jmp $
];

/// Jumps to the local APIC's registers: `mov eax,0fee00000h; jmp eax`.
pub(crate) const JUMPS_INTO_DEVICE: [u8; 7] = [0xb8, 0x00, 0x00, 0xe0, 0xfe, 0xff, 0xe0];

/// A PVH executable with one segment.
pub(crate) struct Elf {
    /// ELF's number of the machine.
    pub(crate) machine: u16,
    /// 1 for 32-bit files, 2 for 64-bit files.
    pub(crate) class: u8,
    /// 1 for little, 2 for big endian.
    pub(crate) order: u8,
    /// ELF's type of file.
    pub(crate) kind: u16,
    /// Where the segment goes.
    pub(crate) address: u64,
    /// Its bytes in memory.
    pub(crate) size: u64,
    /// The type of its note; 18 is PVH's.
    pub(crate) note: u32,
}

impl Default for Elf {
    fn default() -> Self {
        Self { machine: 62, class: 2, order: 1, kind: 2, address: CODE, size: 0x1000, note: 18 }
    }
}

impl Elf {
    /// The bytes of the file around `code`.
    pub(crate) fn with(&self, code: &[u8]) -> Vec<u8> {
        let mut file = vec![0_u8; OFFSET];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0x7f, b'E', b'L', b'F', self.class, self.order, 1]);
        let half = |value: u16| if self.order == 2 { value.to_be_bytes() } else { value.to_le_bytes() };
        put(16, &half(self.kind));
        put(18, &half(self.machine));
        put(20, &1_u32.to_le_bytes());
        put(24, &self.address.to_le_bytes());
        put(32, &64_u64.to_le_bytes()); // program headers
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &2_u16.to_le_bytes());
        let mut program = |at: usize, kind: u32, flags: u32, words: [u64; 6]| {
            put(at, &kind.to_le_bytes());
            put(at + 4, &flags.to_le_bytes());
            for (i, word) in words.into_iter().enumerate() {
                put(at + 8 + 8 * i, &word.to_le_bytes());
            }
        };
        let length = code.len() as u64;
        program(64, 1, 5, [OFFSET as u64, self.address, self.address, length, self.size, 4]);
        program(120, 4, 4, [0xc0, 0, 0, 20, 20, 4]);
        put(0xc0, &4_u32.to_le_bytes());
        put(0xc4, &4_u32.to_le_bytes());
        put(0xc8, &self.note.to_le_bytes());
        put(0xcc, b"Xen\0");
        put(0xd0, &(self.address as u32).to_le_bytes());
        file.extend(code);
        file
    }
}

/// Writes `bytes` to a file in `dir`.
pub(crate) fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Writes a guest of this code to a file in `dir`.
pub(crate) fn guest(dir: &Path, name: &str, code: &[u8]) -> PathBuf {
    file(dir, name, &Elf::default().with(code))
}
