//! One case: code, registers and memory before; and what is observed after.
//!
//! Both sides see the same map of ring-3 memory:
//!
//! | where | what |
//! |---|---|
//! | [`CODE`] | one page, executable, not writable; filled with INT3, which ends a program |
//! | [`DATA`] | two pages, writable; nothing before and after |
//! | [`READ_ONLY`] | one page after the hole |
use crate::rng::Rng;
use std::sync::OnceLock;

/// The code page.
pub const CODE: u64 = 0x1000_0000;
/// Two writable pages.
pub const DATA: u64 = 0x1001_0000;
/// A page that can only be read.
pub const READ_ONLY: u64 = 0x1001_3000;
/// A page's bytes.
pub const PAGE: usize = 4096;
/// Bytes of all data pages: writable, then read-only.
pub const DATA_BYTES: usize = 3 * PAGE;
/// Eight-byte values from which memory is filled.
const POOL_LANES: usize = 16 * 1024;
/// Fills the code page.
pub const INT3: u8 = 0xcc;

/// User-mode registers.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Registers {
    /// Standard XSAVE format: x87, SSE, AVX.
    pub xsave: [u8; 832],
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

impl Registers {
    pub fn zero() -> Self {
        let mut xsave = [0; 832];
        xsave[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
        xsave[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        xsave[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
        xsave[512] = 7;
        Self { xsave, gpr: [0; 16], rip: CODE, rflags: 0x202, fs_base: 0, gs_base: 0 }
    }
}

/// What is executed, and from where.
#[derive(Clone, PartialEq, Eq)]
pub struct Case {
    /// The instructions' bytes, one after the other from `registers.rip`.
    pub program: Vec<Vec<u8>>,
    pub registers: Registers,
    /// Gives the contents of the writable data pages.
    pub data_seed: u64,
    /// Then these are written over them: offset (below 8185) and value.
    pub patches: Vec<(u16, u64)>,
    /// How code is decoded: 64, or 32.
    pub bits: u32,
}

impl Case {
    /// The code page.
    pub fn code(&self) -> [u8; PAGE] {
        let mut page = [INT3; PAGE];
        let mut at = (self.registers.rip - CODE) as usize;
        for byte in self.program.iter().flatten() {
            if at < PAGE {
                page[at] = *byte;
                at += 1;
            }
        }
        page
    }

    /// The data pages.
    pub fn data(&self) -> Box<[u8; DATA_BYTES]> {
        // Writable pages: a stretch of one pool, which is cheaper than making new values. The read-only page is the same
        // in all cases, so that the oracle need not change protections.
        static POOL: OnceLock<Vec<u8>> = OnceLock::new();
        let pool = POOL.get_or_init(|| {
            let mut rng = Rng::new(0);
            (0..POOL_LANES).flat_map(|_| rng.lane().to_le_bytes()).collect()
        });
        let mut data = Box::new([0; DATA_BYTES]);
        let (writable, read_only) = data.split_at_mut(2 * PAGE);
        let start = 8 * (self.data_seed as usize % (POOL_LANES - writable.len() / 8));
        writable.copy_from_slice(&pool[start..start + writable.len()]);
        read_only.copy_from_slice(&pool[..read_only.len()]);
        for &(at, value) in &self.patches {
            let at = usize::from(at);
            data[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        data
    }
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It reached an INT3; RIP is the address of that.
    Reached,
    /// Exception vector, error code (0 for those without), CR2 for #PF.
    Exception { vector: u8, code: u64, cr2: u64 },
    /// It did not end in time.
    Endless,
    /// The subject cannot execute it.
    Unsupported,
}

/// What is seen afterwards.
#[derive(Clone)]
pub struct Observation {
    pub end: End,
    pub registers: Registers,
    pub data: Box<[u8; DATA_BYTES]>,
}

/// What of an observation is not compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mask {
    /// Flags that the program leaves undefined.
    pub flags: u64,
    /// Vectors between which there is no defined order. If both sides end with one of them, neither details nor memory
    /// are compared (see [`crate::forms::unordered_faults`]).
    pub unordered: &'static [u8],
    /// If both sides end with faults of an access (or of a SIMD operation) at the same place, general registers and memory are compared, but neither
    /// flags, vectors and the x87 unit nor which fault it was.
    pub loose: bool,
}

/// CF, PF, AF, ZF, SF, TF, IF, DF, OF, NT, RF, AC, ID.
const FLAGS: u64 = 0xfd5 & !0x200 | 0x4000 | 0x1_0000 | 0x4_0000 | 0x20_0000;

/// In the order of [`Registers::gpr`].
pub const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|b| format!("{b:02x}")).collect()
}

/// The differences, one a line; empty if there are none. `mask` says what does not count.
pub fn differences(native: &Observation, subject: &Observation, mask: Mask) -> Vec<String> {
    let mut found = Vec::new();
    let (n, s) = (&native.registers, &subject.registers);
    let (mut a, mut b) = (comparable(native.end), comparable(subject.end));
    let faulted = |end| matches!(end, End::Exception { vector, .. } if mask.unordered.contains(&vector));
    let loose = faulted(a) && faulted(b);
    let access = |end| matches!(end, End::Exception { vector: 12 | 13 | 14 | 17 | 19, .. });
    let registers_only = mask.loose && access(a) && access(b);
    if registers_only {
        (a, b) = (End::Reached, End::Reached);
    }
    if loose {
        (a, b) = (End::Reached, End::Reached);
    }
    if a != b {
        found.push(format!("end: native {a:x?}, subject {b:x?}"));
    }
    let mut check = |what: &str, a: u64, b: u64| {
        if a != b {
            found.push(format!("{what}: native {a:#x}, subject {b:#x}"));
        }
    };
    check("rip", n.rip, s.rip);
    let flags = if registers_only { 0 } else { FLAGS & !mask.flags };
    check("rflags", n.rflags & flags, s.rflags & flags);
    for (i, name) in GPR_NAMES.iter().enumerate() {
        check(name, n.gpr[i], s.gpr[i]);
    }
    check("fs base", n.fs_base, s.fs_base);
    check("gs base", n.gs_base, s.gs_base);
    let mut part = |what: &str, number: usize, range: std::ops::Range<usize>| {
        let (a, b) = (&n.xsave[range.clone()], &s.xsave[range]);
        if a != b && !registers_only {
            found.push(format!("{what}{number}: native {}, subject {}", hex(a), hex(b)));
        }
    };
    part("x87 control word ", 0, 0..2);
    part("x87 status word ", 0, 2..4);
    part("x87 tags ", 0, 4..5);
    part("mxcsr ", 0, 24..28);
    for i in 0..8 {
        part("st", i, 32 + 16 * i..42 + 16 * i);
    }
    for i in 0..16 {
        part("xmm", i, 160 + 16 * i..176 + 16 * i);
        part("upper ymm", i, 576 + 16 * i..592 + 16 * i);
    }
    if loose || native.data == subject.data {
        return found;
    }
    let differing: Vec<usize> = (0..DATA_BYTES).filter(|&i| native.data[i] != subject.data[i]).collect();
    if let (Some(&first), Some(&last)) = (differing.first(), differing.last()) {
        let range = first..(last + 1).min(first + 64);
        found.push(format!(
            "memory at data+{first:#x}..={last:#x}: native {}, subject {}",
            hex(&native.data[range.clone()]),
            hex(&subject.data[range])
        ));
    }
    found
}

/// The host's kernel does not tell user code which upper-half addresses are mapped, and always sets "present".
fn comparable(end: End) -> End {
    match end {
        End::Exception { vector: 14, code, cr2 } if cr2 >= 0x7fff_ffff_f000 => {
            End::Exception { vector: 14, code: code | 1, cr2 }
        }
        other => other,
    }
}
