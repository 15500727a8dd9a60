//! The guests' support library: everything between the PVH entry point and a workload's `main`.
//!
//! One CPU, no heap, virtual addresses equal to physical ones. Boots in any machine with a PVH loader, a 16550 UART,
//! two 8259s, an 8254, a local APIC and 64 MiB; ends by `isa-debug-exit`.
#![no_std]

#[path = "../../src/abi.rs"]
pub mod abi;
mod args;
mod boot;
mod builtins;
pub mod checksum;
pub mod console;
pub mod cpu;
pub mod disk;
pub mod hypercall;
pub mod ide;
#[path = "../kernels/mod.rs"]
pub mod kernels;
pub mod lapic;
pub mod layout;
pub mod measure;
pub mod paging;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod single;
pub mod trap;
pub mod user;
pub mod virtio;

use core::fmt::Write;

pub use checksum::Checksum;
pub use measure::{Run, Sample, Size, UNROLL};

use console::Line;

/// Names a workload's main function, `fn(&Run)`; the workload's name is that of its crate.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn workload_main(run: &$crate::Run) {
            $main(run)
        }

        #[unsafe(no_mangle)]
        extern "Rust" fn workload_name() -> &'static str {
            module_path!()
        }
    };
}

/// Repeats an instruction `UNROLL` times a turn, for `$n` turns. Operands of the instruction may follow.
#[macro_export]
macro_rules! unrolled {
    ($n:expr, [$($op:literal),+ $(,)?] $(, $($operand:tt)*)?) => {
        ::core::arch::asm!(
            "2:", ".rept 16", $($op,)+ ".endr", "dec {turns}", "jnz 2b",
            turns = inout(reg) $n => _, $($($operand)*)?
        )
    };
}

unsafe extern "Rust" {
    safe fn workload_main(run: &Run);
    safe fn workload_name() -> &'static str;
}

#[unsafe(no_mangle)]
extern "C" fn guest_start() -> ! {
    console::init();
    trap::init();
    pic::init();
    lapic::init();
    user::init();
    workload_main(&args::parse(workload_name(), boot::command_line()));
    succeed()
}

fn exit(status: u8) -> ! {
    cpu::outb(abi::PORT_DEBUG_EXIT, status);
    loop {
        // A machine without that port: sleep for good.
        cpu::cli();
        // SAFETY: sleeping touches nothing.
        unsafe { core::arch::asm!("hlt", options(nostack)) };
    }
}

/// Ends the run: all went well. Ring 0.
pub fn succeed() -> ! {
    Line::new().text(abi::LINE_PREFIX).text(abi::RECORD_END).text(" status=ok").print();
    exit(abi::EXIT_OK)
}

/// Ends the run well, without what this machine does not have. Ring 0.
pub fn absent(what: &str) -> ! {
    Line::new()
        .text(abi::LINE_PREFIX)
        .text(abi::RECORD_END)
        .text(" status=absent reason=")
        .text(what)
        .print();
    exit(abi::EXIT_OK)
}

/// Ends the run with a reason. Any ring.
pub fn fail(reason: &str) -> ! {
    if cpu::ring() != 0 {
        user::call(user::FAIL, reason.as_ptr() as u64, reason.len() as u64);
    }
    Line::new()
        .text(abi::LINE_PREFIX)
        .text(abi::RECORD_END)
        .text(" status=failed reason=")
        .text(reason)
        .print();
    exit(abi::EXIT_FAILED)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut reason = Line::new();
    // A line never fails; what is too long is cut.
    let _ = write!(reason, "{}", info.message());
    if let Some(location) = info.location() {
        let _ = write!(reason, " ({}:{})", location.file(), location.line());
    }
    fail(core::str::from_utf8(reason.as_bytes()).unwrap_or("panic"))
}
