//! The base of GS, which programs are free to use on 64-bit Linux: translated code keeps the address of its context there.
#![expect(unsafe_code, reason = "sets a segment base")]
use std::arch::asm;
use std::sync::OnceLock;

/// `AT_HWCAP2`: programs may execute WRGSBASE (Linux, `arch/x86/include/uapi/asm/hwcap2.h`).
const HWCAP2_FSGSBASE: u64 = 1 << 1;
/// `arch_prctl(2)`.
const ARCH_SET_GS: i32 = 0x1001;

/// Sets the base of GS for the calling thread.
pub fn set_gs(base: u64) {
    static DIRECT: OnceLock<bool> = OnceLock::new();
    // SAFETY: getauxval has no preconditions.
    let direct = *DIRECT.get_or_init(|| unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 });
    if direct {
        // SAFETY: neither Rust nor the C library uses GS; the kernel says that the instruction may be executed.
        unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
    } else {
        // SAFETY: as above. It cannot fail for an address of this process.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_at_the_base_is_read_through_gs() {
        let words = [7_u64, 77];
        set_gs(words.as_ptr() as u64);
        let value: u64;
        // SAFETY: the base of GS points to two words.
        unsafe { asm!("mov {}, gs:[8]", out(reg) value, options(nostack, readonly)) };
        assert_eq!(value, 77);
    }
}
