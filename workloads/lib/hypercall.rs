//! The monitor's explicit interface, where there is one: hypercalls and the clock page (`docs/pv-abi.md`).

use core::arch::{asm, global_asm};
use core::sync::atomic::{Ordering, fence};

use crate::abi;
use crate::cpu::{self, rdtsc};

// The hypercall page lies in code, which the monitor fills. It is near the other code, so that a patch can reach it.
global_asm!(
    ".section .text.hypercall_page, \"ax\", @progbits",
    ".balign 4096",
    ".globl hypercall_page",
    "hypercall_page:",
    ".fill 4096, 1, 0xcc",
    ".text",
);

unsafe extern "C" {
    static hypercall_page: u8;
}

/// Why there are no hypercalls, for [`crate::absent`].
pub const NONE: &str = "the machine offers no hypercalls: its interface is not pv";

/// Hypercalls that the machine offers.
#[derive(Clone, Copy)]
pub struct Hypercalls {
    offers: u32,
}

/// One call of a multicall.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Call {
    /// Which one.
    pub number: u64,
    /// Arguments.
    pub arguments: [u64; 3],
    /// What it gave.
    pub result: u64,
}

impl Hypercalls {
    /// Finds them by CPUID and names the hypercall page. Ring 0.
    pub fn find() -> Option<Self> {
        const HYPERVISOR: u32 = 1 << 31;
        if cpu::cpuid(1, 0)[2] & HYPERVISOR == 0 {
            return None;
        }
        let [highest, b, c, d] = cpu::cpuid(abi::CPUID_HYPERVISOR, 0);
        let words = [b, c, d];
        for (i, &byte) in abi::CPUID_SIGNATURE.iter().enumerate() {
            if (words[i / 4] >> (8 * (i % 4))) as u8 != byte {
                return None;
            }
        }
        if highest < abi::CPUID_CALLS {
            return None;
        }
        let [offers, msr, _, _] = cpu::cpuid(abi::CPUID_CALLS, 0);
        // SAFETY: the page is this library's own, and nobody has called it yet.
        unsafe { cpu::wrmsr(msr, &raw const hypercall_page as u64 | abi::PAGE_ON) };
        Some(Self { offers })
    }

    /// Whether a call is there: one of `abi::OFFERS_*`.
    pub fn offers(self, what: u32) -> bool {
        self.offers & what != 0
    }

    /// Makes a call.
    ///
    /// # Safety
    /// It may change memory and translations.
    #[inline(always)]
    pub unsafe fn call(self, number: u64, [a, b, c]: [u64; 3]) -> u64 {
        let result;
        // SAFETY: the monitor filled the page; it keeps all but RAX.
        unsafe {
            asm!("call {page}", page = sym hypercall_page, inout("rax") number => result, in("rdi") a,
                in("rsi") b, in("rdx") c, options(preserves_flags))
        };
        result
    }

    /// The empty call.
    #[inline(always)]
    pub fn null(self) -> u64 {
        // SAFETY: it does nothing.
        unsafe { self.call(abi::CALL_NULL, [0; 3]) }
    }
}

/// Reads the clock page: nanoseconds of guest time.
///
/// # Safety
/// `page` is the page that the monitor keeps.
#[inline(always)]
pub unsafe fn read_clock(page: *const abi::ClockPage) -> u64 {
    loop {
        // SAFETY: the caller's promise. Whoever writes it does so while this CPU stands.
        let (before, content, after) = unsafe {
            let before = (&raw const (*page).version).read_volatile();
            fence(Ordering::Acquire);
            let content = page.read_volatile();
            fence(Ordering::Acquire);
            (before, content, (&raw const (*page).version).read_volatile())
        };
        let ticks = rdtsc().wrapping_sub(content.tsc);
        // SAFETY: as above.
        let now = unsafe { (&raw const (*page).version).read_volatile() };
        if before % 2 == 0 && before == after && before == now {
            let past = (u128::from(ticks) * u128::from(content.mult)) >> (content.shift & 63);
            return content.nanos.wrapping_add(past as u64);
        }
    }
}
