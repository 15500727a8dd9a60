//! Why KVM_RUN came back, read from the page that kernel and VMM share (`struct kvm_run`).
#![expect(unsafe_code, reason = "the exit's details are a union, selected by the exit reason")]
use kvm_bindings::{
    KVM_EXIT_DEBUG, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO,
    KVM_EXIT_IO_IN, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR, KVM_EXIT_SHUTDOWN,
    KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR, KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_run,
};

/// One exit, with the places where its answer goes.
#[derive(Debug)]
pub(super) enum KvmExit<'a> {
    /// IN, OUT, INS or OUTS: `data` holds one or more items of `size` bytes.
    Port {
        /// The port.
        port: u16,
        /// Bytes of one item: 1, 2 or 4.
        size: usize,
        /// Whether the guest reads.
        read: bool,
        /// The items, to be filled in or taken.
        data: &'a mut [u8],
    },
    /// An access to memory that is not RAM, of 1 to 8 bytes.
    Mmio {
        /// Guest-physical address.
        at: u64,
        /// Whether the guest reads.
        read: bool,
        /// To be filled in or taken.
        data: &'a mut [u8],
    },
    /// RDMSR of an MSR that KVM leaves to us.
    ReadMsr {
        /// Which one.
        index: u32,
        /// Its value.
        value: &'a mut u64,
        /// To be set to 1 for #GP.
        fault: &'a mut u8,
    },
    /// WRMSR of such an MSR.
    WriteMsr {
        /// Which one.
        index: u32,
        /// Its new value.
        value: u64,
        /// To be set to 1 for #GP.
        fault: &'a mut u8,
    },
    /// HLT.
    Halt,
    /// An interrupt can be delivered now.
    WindowOpen,
    /// CR8 was lowered, or a signal came: nothing to do but to look around.
    LookAround,
    /// A triple fault.
    Shutdown,
    /// KVM has no code for this instruction, or cannot enter a handler (its stack is in device memory, say).
    NotEmulated(Code),
    /// A debug event that was asked for, with DR6.
    Debug {
        /// What stopped the CPU, as in DR6.
        dr6: u64,
        /// Where it stands.
        pc: u64,
    },
    /// The host cannot go on.
    Failed(String),
}

/// The bytes of an instruction, and whatever follows; none where KVM does not tell them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Code {
    bytes: [u8; 15],
    length: u8,
}

impl Code {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// The instruction that KVM could not emulate.
fn code(run: &kvm_run) -> Code {
    // SAFETY: an internal error selects `internal` and, for a failed emulation, `emulation_failure`, which begins alike.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    let told = failure.suberror == KVM_INTERNAL_ERROR_EMULATION
        && failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !told {
        return Code::default();
    }
    // SAFETY: the flag says that the bytes are there, and any bits are bytes.
    let code = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    Code { bytes: code.insn_bytes, length: code.insn_size }
}

/// Reads the exit in `run`. `size` is the length of the shared mapping.
pub(super) fn read(run: &mut kvm_run, size: usize) -> KvmExit<'_> {
    match run.exit_reason {
        KVM_EXIT_IO => {
            // SAFETY: KVM_EXIT_IO selects `io`.
            let io = unsafe { run.__bindgen_anon_1.io };
            let length = io.count as usize * usize::from(io.size);
            let start = io.data_offset as usize;
            if start.checked_add(length).is_none_or(|end| end > size) || !matches!(io.size, 1 | 2 | 4) {
                return KvmExit::Failed("a port access outside the shared page".to_owned());
            }
            // SAFETY: the kernel maps `size` bytes at `run`, and start + length lies within; the slice borrows `run`.
            let data = unsafe {
                let base = std::ptr::from_mut(run).cast::<u8>();
                std::slice::from_raw_parts_mut(base.add(start), length)
            };
            KvmExit::Port {
                port: io.port,
                size: io.size.into(),
                read: u32::from(io.direction) == KVM_EXIT_IO_IN,
                data,
            }
        }
        KVM_EXIT_MMIO => {
            // SAFETY: KVM_EXIT_MMIO selects `mmio`.
            let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
            let length = (mmio.len as usize).min(mmio.data.len());
            KvmExit::Mmio { at: mmio.phys_addr, read: mmio.is_write == 0, data: &mut mmio.data[..length] }
        }
        KVM_EXIT_X86_RDMSR => {
            // SAFETY: this exit selects `msr`.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            KvmExit::ReadMsr { index: msr.index, value: &mut msr.data, fault: &mut msr.error }
        }
        KVM_EXIT_X86_WRMSR => {
            // SAFETY: this exit selects `msr`.
            let msr = unsafe { &mut run.__bindgen_anon_1.msr };
            KvmExit::WriteMsr { index: msr.index, value: msr.data, fault: &mut msr.error }
        }
        KVM_EXIT_HLT => KvmExit::Halt,
        KVM_EXIT_IRQ_WINDOW_OPEN => KvmExit::WindowOpen,
        KVM_EXIT_SET_TPR | KVM_EXIT_INTR => KvmExit::LookAround,
        KVM_EXIT_SHUTDOWN => KvmExit::Shutdown,
        KVM_EXIT_INTERNAL_ERROR => {
            // SAFETY: this exit selects `internal`.
            let internal = unsafe { run.__bindgen_anon_1.internal };
            if matches!(internal.suberror, KVM_INTERNAL_ERROR_EMULATION | KVM_INTERNAL_ERROR_DELIVERY_EV) {
                KvmExit::NotEmulated(code(run))
            } else {
                KvmExit::Failed(format!("KVM internal error {}", internal.suberror))
            }
        }
        KVM_EXIT_DEBUG => {
            // SAFETY: this exit selects `debug`.
            let debug = unsafe { run.__bindgen_anon_1.debug }.arch;
            KvmExit::Debug { dr6: debug.dr6, pc: debug.pc }
        }
        KVM_EXIT_FAIL_ENTRY => {
            // SAFETY: this exit selects `fail_entry`.
            let reason = unsafe { run.__bindgen_anon_1.fail_entry }.hardware_entry_failure_reason;
            KvmExit::Failed(format!("the CPU does not enter the guest, hardware reason {reason:#x}"))
        }
        other => KvmExit::Failed(format!("KVM exit {other}, which means nothing here")),
    }
}
