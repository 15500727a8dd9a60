//! Catches the floating-point exceptions (SIGFPE) that generated code raises, and lets that code return.
//!
//! Guest code that unmasks SIMD exceptions is executed with them unmasked, so that the host's CPU says exactly what
//! the guest's would. The handler looks at a frame of its own thread, set only while such code runs: a fault inside the
//! announced range goes on at the announced place, and MXCSR as it was at the fault is kept. Any other SIGFPE is handed
//! to the default action.
#![expect(unsafe_code, reason = "a signal handler that redirects generated code")]
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::OnceLock;

#[derive(Debug)]
struct Frame {
    code: Range<usize>,
    resume: usize,
    mxcsr: Option<u32>,
}

thread_local! {
    /// The frame of the code that runs now. Without destructor and const-initialised: safe in a signal handler.
    static FRAME: Cell<*mut Frame> = const { Cell::new(null_mut()) };
}

extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    let frame = FRAME.with(Cell::get);
    // SAFETY: the kernel passes a valid context, which this handler alone uses; `frame` is null or points to a value
    // on this thread's own stack, set and cleared by `call_catching`.
    unsafe {
        let rip = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        if !frame.is_null() && (*frame).code.contains(&(*rip as usize)) {
            let fpregs = (*context).uc_mcontext.fpregs;
            (*frame).mxcsr = Some(if fpregs.is_null() { 0x1f80 } else { (*fpregs).mxcsr });
            *rip = (*frame).resume as i64;
        } else {
            // Not ours: the instruction is executed again and gets what it would have got without us.
            libc::signal(libc::SIGFPE, libc::SIG_DFL);
        }
    }
}

/// Installs the handler, once for the process.
///
/// # Errors
/// What `sigaction` reports.
pub fn install() -> io::Result<()> {
    static DONE: OnceLock<i32> = OnceLock::new();
    let errno = *DONE.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: `action` is initialised; the handler touches only its own thread's frame and the context.
        if unsafe { libc::sigaction(libc::SIGFPE, &raw const action, null_mut()) } == 0 {
            0
        } else {
            io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)
        }
    });
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Runs `call`. If an instruction in `code` raises SIGFPE, execution goes on at `resume` and MXCSR as it was at the
/// fault is returned. [`install`] must have succeeded.
///
/// # Safety
/// `call` executes the generated code at `code`, and from `resume` that code must return to its caller properly,
/// whichever of its instructions faulted.
pub unsafe fn call_catching(code: Range<usize>, resume: usize, call: impl FnOnce()) -> Option<u32> {
    let mut frame = Frame { code, resume, mxcsr: None };
    let before = FRAME.with(|f| f.replace(&raw mut frame));
    call();
    FRAME.with(|f| f.set(before));
    // The handler wrote through the pointer, behind the compiler's back.
    // SAFETY: `frame` is live and initialised.
    unsafe { (&raw const frame.mxcsr).read_volatile() }
}

#[cfg(test)]
mod tests {
    use super::super::exec_memory::ExecMemory;
    use super::*;

    #[test]
    fn a_simd_fault_in_generated_code_resumes_where_it_was_told() {
        install().unwrap();
        // stmxcsr [rdi]; ldmxcsr [rdi+4]; divss xmm0, xmm1 (0/0); resume: ldmxcsr [rdi]; ret
        let code = [
            0x0f, 0xae, 0x1f, 0x0f, 0xae, 0x57, 0x04, 0x0f, 0x57, 0xc0, 0x0f, 0x57, 0xc9, 0xf3, 0x0f, 0x5e,
            0xc1, 0x0f, 0xae, 0x17, 0xc3,
        ];
        let mut memory = ExecMemory::new(4096).unwrap();
        assert!(memory.write(0, &code));
        for (mxcsr, expected) in [(0x1f80_u32, None), (0x1f00, Some(0x1f01))] {
            let mut values = [0, mxcsr];
            let start = memory.address(0);
            // SAFETY: the bytes above are a function of this type.
            let function: extern "sysv64" fn(*mut u32) = unsafe { std::mem::transmute(start) };
            // SAFETY: from offset 17 the code restores MXCSR and returns.
            let fault = unsafe {
                call_catching(start..start + code.len(), start + 17, || {
                    function(values.as_mut_ptr());
                })
            };
            assert_eq!(fault, expected);
        }
    }
}
