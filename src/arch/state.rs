//! The whole architectural state of one CPU, in terms of the manual and of no engine.
use super::msr::Msrs;
use super::{Cr0, Cr4, DescriptorTable, Efer, Exception, Rflags, Segment, SegmentRegister, Xcr0};

/// Indices into [`CpuState::gpr`], in the machine's encoding order.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R11 (R8–R15 are 8–15).
    pub const R11: usize = 11;
    /// Their names, in encoding order.
    pub const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
}

/// x87, SSE and AVX state in the standard (non-compacted) XSAVE format (SDM vol. 1, 13.4): 512 bytes FXSAVE image,
/// 64 bytes header, 256 bytes upper YMM halves.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; XsaveArea::SIZE]);

impl XsaveArea {
    /// Bytes of the area for [`Xcr0::X87`], [`Xcr0::SSE`] and [`Xcr0::AVX`].
    pub const SIZE: usize = 832;
    /// Offset of the x87 control word.
    pub const FCW: usize = 0;
    /// Offset of the x87 status word.
    pub const FSW: usize = 2;
    /// Offset of the x87 tags, a bit for each register that is not empty.
    pub const FTW: usize = 4;
    /// Offset of the last x87 opcode.
    pub const FOP: usize = 6;
    /// Offset of the last x87 instruction's address, 8 bytes.
    pub const FIP: usize = 8;
    /// Offset of the last x87 operand's address, 8 bytes.
    pub const FDP: usize = 16;
    /// Offset of ST0, 16 bytes a register.
    pub const ST: usize = 32;
    /// Offset of MXCSR.
    pub const MXCSR: usize = 24;
    /// Offset of XMM0.
    pub const XMM: usize = 160;
    /// Offset of XSTATE_BV: which components differ from their initial state.
    pub const XSTATE_BV: usize = 512;
    /// Offset of the upper half of YMM0.
    pub const YMM_HIGH: usize = 576;
    /// Offset of PKRU in the images of guests that have it; here it is [`CpuState::pkru`].
    pub const PKRU: usize = Self::SIZE;
    /// Bytes of an image with PKRU.
    pub const SIZE_WITH_PKRU: usize = Self::PKRU + 8;

    /// The 256 bits of YMM `index` (0–15), low half first.
    #[must_use]
    pub fn ymm(&self, index: usize) -> [u8; 32] {
        let mut value = [0; 32];
        let low = Self::XMM + 16 * (index & 15);
        let high = Self::YMM_HIGH + 16 * (index & 15);
        value[..16].copy_from_slice(&self.0[low..low + 16]);
        value[16..].copy_from_slice(&self.0[high..high + 16]);
        value
    }

    /// The control and status register of SSE.
    #[inline]
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        let at = Self::MXCSR;
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

impl Default for XsaveArea {
    /// The state after reset, marked as fully in use so that a restore loads each part.
    fn default() -> Self {
        let mut bytes = [0; Self::SIZE];
        bytes[Self::FCW..Self::FCW + 2].copy_from_slice(&0x037f_u16.to_le_bytes());
        bytes[Self::MXCSR..Self::MXCSR + 4].copy_from_slice(&0x1f80_u32.to_le_bytes());
        bytes[Self::MXCSR + 4..Self::MXCSR + 8].copy_from_slice(&0xffff_u32.to_le_bytes());
        bytes[Self::XSTATE_BV] = 7;
        Self(bytes)
    }
}

impl std::fmt::Debug for XsaveArea {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "XsaveArea({} bytes)", Self::SIZE)
    }
}

/// What the CPU does between instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Activity {
    /// Executes.
    #[default]
    Running,
    /// Waits for an interrupt after HLT.
    Halted,
    /// Waits for a start-up message after INIT, deaf to all else (SDM 9.4.3).
    WaitsForStartUp,
    /// Shut down by a triple fault.
    Shutdown,
}

/// The architectural state of one CPU at an instruction boundary.
///
/// CR8 is not here: it is the task priority of the local APIC, asked of the platform.
#[derive(Clone, PartialEq, Debug)]
pub struct CpuState {
    /// General registers in encoding order, see [`gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: Rflags,
    /// ES, CS, SS, DS, FS, GS, see [`SegmentRegister`].
    pub segments: [Segment; 6],
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: Cr0,
    /// CR2: address of the last page fault.
    pub cr2: u64,
    /// CR3: page-table root.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER.
    pub efer: Efer,
    /// XCR0.
    pub xcr0: Xcr0,
    /// DR0–DR3, then DR6 and DR7 at 6 and 7; 4 and 5 unused.
    pub dr: [u64; 8],
    /// Other MSRs.
    pub msrs: Msrs,
    /// x87, SSE, AVX.
    pub xsave: XsaveArea,
    /// PKRU: rights of user pages by protection key (SDM 4.6.2).
    pub pkru: u32,
    /// Running or waiting.
    pub activity: Activity,
    /// Interrupts are held off for one instruction (after STI, MOV SS, POP SS).
    pub interrupt_shadow: bool,
    /// An NMI is being handled: others wait until IRET.
    pub nmi_blocked: bool,
    /// An exception that was raised but whose delivery has not begun.
    pub pending_exception: Option<Exception>,
}

impl CpuState {
    /// The state in which a PVH guest is entered (Xen `docs/misc/pvh.pandoc`): 32-bit protected mode, paging off, flat
    /// segments, EBX pointing to the start information.
    #[must_use]
    pub fn pvh_entry(entry: u32, start_info: u32) -> Self {
        let mut state = Self::reset();
        let code = Segment::flat32(0x8, 0xb);
        let data = Segment::flat32(0x10, 0x3);
        state.segments = [data, code, data, data, data, data];
        state.cr0 = Cr0::PE | Cr0::ET;
        state.rip = u64::from(entry);
        state.gpr[gpr::RBX] = u64::from(start_info);
        state
    }

    /// The state in which Linux's 32-bit entry is reached (`Documentation/arch/x86/boot.rst`, "32-bit Boot Protocol"):
    /// protected mode, paging off, flat segments with the selectors 0x10 and 0x18, ESI pointing to `boot_params`.
    #[must_use]
    pub fn linux32_entry(entry: u32, boot_params: u32) -> Self {
        let mut state = Self::reset();
        let data = Segment::flat32(0x18, 0x3);
        state.segments = [data, Segment::flat32(0x10, 0xb), data, data, data, data];
        state.cr0 = Cr0::PE | Cr0::ET;
        state.rip = u64::from(entry);
        state.gpr = [0; 16];
        state.gpr[gpr::RSI] = u64::from(boot_params);
        state
    }

    /// The state in which Linux's 64-bit entry is reached (ibid., "64-bit Boot Protocol"): as [`Self::linux32_entry`],
    /// but in long mode with the page tables at `root`.
    #[must_use]
    pub fn linux64_entry(entry: u64, boot_params: u32, root: u64) -> Self {
        let mut state = Self::linux32_entry(0, boot_params);
        let code = state.segment_mut(SegmentRegister::Cs);
        code.attributes = code.attributes & !Segment::DEFAULT_BIG | Segment::LONG;
        state.rip = entry;
        state.cr0 |= Cr0::PG;
        state.cr3 = root;
        state.cr4 = Cr4::PAE;
        state.efer = Efer::LME | Efer::LMA;
        state
    }

    /// The state after reset (SDM table 9-1).
    #[must_use]
    pub fn reset() -> Self {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, attributes: 0x93 };
        let code = Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, attributes: 0x9b };
        let mut dr = [0; 8];
        dr[6] = 0xffff_0ff0;
        dr[7] = 0x400;
        let mut gpr = [0; 16];
        gpr[gpr::RDX] = 0x600;
        Self {
            gpr,
            rip: 0xfff0,
            rflags: Rflags::default(),
            segments: [data, code, data, data, data, data],
            ldtr: Segment { limit: 0xffff, attributes: 0x82, ..Segment::default() },
            tr: Segment { limit: 0xffff, attributes: 0x8b, ..Segment::default() },
            gdtr: DescriptorTable { base: 0, limit: 0xffff },
            idtr: DescriptorTable { base: 0, limit: 0xffff },
            cr0: Cr0::CD | Cr0::NW | Cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            xcr0: Xcr0::default(),
            dr,
            msrs: Msrs::default(),
            xsave: XsaveArea::default(),
            pkru: 0,
            activity: Activity::Running,
            interrupt_shadow: false,
            nmi_blocked: false,
            pending_exception: None,
        }
    }

    /// The state after INIT (SDM table 9-1): that after reset, but for vectors, MSRs and CR0's cache bits. A CPU that is
    /// not the boot processor waits for a start-up then.
    #[must_use]
    pub fn after_init(&self) -> Self {
        let cache = Cr0::CD | Cr0::NW;
        let reset = Self::reset();
        Self {
            cr0: (reset.cr0 - cache) | (self.cr0 & cache),
            msrs: self.msrs,
            xcr0: self.xcr0,
            xsave: self.xsave.clone(),
            pkru: self.pkru,
            ..reset
        }
    }

    /// Takes a start-up message: on in real mode at the first byte of page `vector` (SDM 9.4.4.2).
    pub fn start_up(&mut self, vector: u8) {
        let code = self.segment_mut(SegmentRegister::Cs);
        (code.selector, code.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        self.rip = 0;
        self.activity = Activity::Running;
    }

    /// One segment register.
    #[inline]
    #[must_use]
    pub fn segment(&self, register: SegmentRegister) -> &Segment {
        &self.segments[register as usize]
    }

    /// One segment register, to be changed.
    #[inline]
    pub fn segment_mut(&mut self, register: SegmentRegister) -> &mut Segment {
        &mut self.segments[register as usize]
    }

    /// Current privilege level, 0–3: the DPL of SS (SDM 5.5), 0 in real mode.
    #[inline]
    #[must_use]
    pub fn cpl(&self) -> u8 {
        if !self.cr0.contains(Cr0::PE) {
            return 0;
        }
        if self.rflags.contains(Rflags::VM) {
            return 3;
        }
        self.segment(SegmentRegister::Ss).dpl()
    }

    /// Whether long mode is active.
    #[inline]
    #[must_use]
    pub fn is_long_mode(&self) -> bool {
        self.efer.contains(Efer::LMA)
    }

    /// Whether code is decoded as 64-bit.
    #[inline]
    #[must_use]
    pub fn is_64bit_code(&self) -> bool {
        self.is_long_mode() && self.segment(SegmentRegister::Cs).is_long()
    }

    /// The linear address of the next instruction: outside 64-bit code CS has a base.
    #[inline]
    #[must_use]
    pub fn linear_rip(&self) -> u64 {
        if self.is_64bit_code() {
            self.rip
        } else {
            self.segment(SegmentRegister::Cs).base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }

    /// Default code size: 16, 32 or 64.
    #[inline]
    #[must_use]
    pub fn code_bits(&self) -> u32 {
        if self.is_64bit_code() {
            64
        } else if self.segment(SegmentRegister::Cs).is_big() {
            32
        } else {
            16
        }
    }

    /// Whether a maskable interrupt can be taken now.
    #[inline]
    #[must_use]
    pub fn can_take_interrupt(&self) -> bool {
        self.rflags.contains(Rflags::IF) && !self.interrupt_shadow && self.pending_exception.is_none()
    }
}
