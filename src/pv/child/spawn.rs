//! Starts the child process: nothing of the engine is inherited but three memory objects.
//!
//! The stub is written to a memory object and executed from there, so the child's address space begins empty. The
//! parent-death signal follows the *thread* that forked, so one thread that lives as long as the process does all the
//! forking. Limits of the host that hold for the child only are set before exec, so that nothing of it runs without
//! them. What may be called between fork and exec in a process with several threads is raw system calls only.
#![expect(unsafe_code, reason = "fork, exec and what lies between them")]
use super::process::Process;
use super::shared::Shared;
use super::stub;
use crate::engine::{EngineError, Mode};
use crate::pv::layout::{KEYS_FD, RAM_FD, SHARED_FD, TEXT_FD};
use crossbeam_channel::{Sender, bounded, unbounded};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// What is added to the engine's oom_score_adj for the child.
const OOM_SCORE: i32 = 100;
type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks.
fn forker() -> io::Result<&'static Sender<Job>> {
    static FORKER: OnceLock<Sender<Job>> = OnceLock::new();
    if let Some(sender) = FORKER.get() {
        return Ok(sender);
    }
    let (sender, jobs) = unbounded::<Job>();
    // Two first callers may both make a thread; the loser's ends as its channel closes.
    std::thread::Builder::new().name("pv-fork".into()).spawn(move || jobs.iter().for_each(|job| job()))?;
    Ok(FORKER.get_or_init(|| sender))
}

/// A file whose content can be executed without a path.
fn executable(area: usize) -> Result<File, EngineError> {
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags| {
        // SAFETY: the name is a C string.
        unsafe { libc::memfd_create(c"trivisor-pv-stub".as_ptr(), flags) }
    };
    let mut fd = create(libc::MFD_CLOEXEC | MFD_EXEC);
    if fd < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        // Before Linux 6.3 the flag is unknown and memory objects are executable anyway.
        fd = create(libc::MFD_CLOEXEC);
    }
    if fd < 0 {
        return Err(EngineError::Unavailable {
            mode: Mode::Pv,
            reason: format!(
                "no executable memory object ({}; sysctl vm.memfd_noexec must be below 2)",
                io::Error::last_os_error()
            ),
        });
    }
    // SAFETY: a new descriptor that nobody else owns.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&stub::image(area))
        .map_err(|source| EngineError::Host { what: "cannot write the stub", source })?;
    Ok(file)
}

/// Duplicates a descriptor to a number above those that the child uses.
fn raise(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain system call.
    let new = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// What the host allows the child.
#[derive(Debug)]
struct Allowance {
    /// Resource limits, soft and hard.
    limits: [(libc::__rlimit_resource_t, u64); 6],
    /// For /proc/self/oom_score_adj.
    oom_score: CString,
}

impl Allowance {
    /// The allowance of a child whose mappings take `address_space` bytes at most.
    fn new(address_space: u64, most_files: u32) -> Self {
        // When memory runs out the guest's process is to go rather than its engine, whatever the user gave both.
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok();
        let own: i32 = own.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self {
            limits: [
                (libc::RLIMIT_CORE, 0),
                (libc::RLIMIT_NPROC, 0),
                (libc::RLIMIT_MEMLOCK, 0),
                // Nothing is ever opened beside what it is started with.
                (libc::RLIMIT_NOFILE, most_files.into()),
                // Private memory: exec's stack, which is unmapped at once.
                (libc::RLIMIT_DATA, 1 << 20),
                (libc::RLIMIT_AS, address_space),
            ],
            oom_score: CString::new((own + OOM_SCORE).min(1000).to_string()).unwrap_or_default(),
        }
    }
}

/// Starts a child with these memory objects, whose mappings take `address_space` bytes at most; a user's gets the end of a
/// pipe.
pub(super) fn spawn(
    shared: &Shared,
    ram: &File,
    text: &File,
    keys: Option<PipeReader>,
    address_space: u64,
) -> Result<Process, EngineError> {
    let host = |what| move |source| EngineError::Host { what, source };
    let stub = executable(shared.area())?;
    let place = |file: RawFd| raise(file).map_err(host("cannot duplicate a descriptor"));
    let mut numbers = vec![(shared.file().as_raw_fd(), SHARED_FD), (ram.as_raw_fd(), RAM_FD)];
    numbers.push((text.as_raw_fd(), TEXT_FD));
    numbers.extend(keys.as_ref().map(|keys| (keys.as_raw_fd(), KEYS_FD)));
    let given = numbers
        .into_iter()
        .map(|(file, number)| Ok((place(file)?, number as RawFd)))
        .collect::<Result<Vec<_>, EngineError>>()?;
    let first_free = 1 + if keys.is_some() { KEYS_FD } else { TEXT_FD };
    let files = Files { stub: place(stub.as_raw_fd())?, given, first_free };
    // The copy is closed by `fork_and_exec`: the pipe is then the child's alone.
    drop(keys);
    let allowance = Allowance::new(address_space, first_free);
    let (answer, result) = bounded(1);
    let job = Box::new(move || {
        // The receiver waits below; it cannot be gone.
        let _ = answer.send(fork_and_exec(&files, &allowance));
    });
    forker()
        .map_err(host("cannot start the thread that makes child processes"))?
        .send(job)
        .map_err(|_| host("cannot start a child process")(io::Error::from(io::ErrorKind::BrokenPipe)))?;
    result
        .recv()
        .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        .and_then(|r| r)
        .map_err(host("cannot start a child process"))
}

/// What a child is started with.
struct Files {
    stub: OwnedFd,
    /// What it keeps, and by which numbers.
    given: Vec<(OwnedFd, RawFd)>,
    /// First number of none of them.
    first_free: u32,
}

fn fork_and_exec(files: &Files, allowance: &Allowance) -> io::Result<Process> {
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two new descriptors that nobody else owns.
    let (mut read, low) = unsafe { (File::from_raw_fd(pipe[0]), OwnedFd::from_raw_fd(pipe[1])) };
    let write = raise(low.as_raw_fd())?;
    // All copies on this side must be closed, or the end of the pipe never comes.
    drop(low);
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    let mut descriptor: libc::c_int = -1;
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without a stack of its own this is a fork; the descriptor is written to a live integer. The child calls
    // nothing but `become_stub`, which allocates nothing and takes no lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut descriptor, 0, 0) } as i32;
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: in the new child, with valid descriptors.
            unsafe { become_stub(files, write.as_raw_fd(), parent, allowance) }
        }
        _ => {
            // SAFETY: a new descriptor that nobody else owns.
            let process = Process::new(pid, unsafe { OwnedFd::from_raw_fd(descriptor) });
            drop(write);
            let mut errno = [0; 4];
            match read.read_exact(&mut errno) {
                // Nothing was written: the pipe was closed by exec.
                Err(_) => Ok(process),
                Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            }
        }
    }
}

/// The child's way from fork to exec.
///
/// # Safety
/// Only in a process that has just been forked; makes system calls only.
unsafe fn become_stub(files: &Files, report: RawFd, parent: i32, allowance: &Allowance) -> ! {
    // SAFETY: system calls on valid descriptors and live values, in a single-threaded process.
    unsafe {
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if score >= 0 {
            // Where it cannot be set the child is as likely to go as the engine.
            libc::write(score, allowance.oom_score.as_ptr().cast(), allowance.oom_score.count_bytes());
            libc::close(score);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        let ok = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::getppid() == parent
            && libc::setsid() >= 0
            && libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) == 0
            && files.given.iter().all(|(file, number)| libc::dup2(file.as_raw_fd(), *number) >= 0)
            && allowance.limits.iter().all(|&(resource, most)| {
                let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                if libc::getrlimit(resource, &raw mut limit) != 0 {
                    return false;
                }
                // A limit that is lower already stays; it cannot be raised anyway.
                limit.rlim_max = limit.rlim_max.min(most);
                limit.rlim_cur = limit.rlim_cur.min(most);
                libc::setrlimit(resource, &raw const limit) == 0
            });
        if ok {
            for fd in 0..3 {
                libc::close(fd);
            }
            // Whatever else this process was given by its parent ends at exec; the pipe and the stub's file do anyway.
            // A kernel without the call (before 5.11) leaves them open behind the filter, which allows no use of them.
            libc::syscall(libc::SYS_close_range, files.first_free, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            let name = c"trivisor-pv-guest";
            let arguments = [name.as_ptr(), std::ptr::null()];
            let environment = [std::ptr::null::<libc::c_char>()];
            libc::syscall(
                libc::SYS_execveat,
                files.stub.as_raw_fd(),
                c"".as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        let errno = *libc::__errno_location();
        libc::write(report, (&raw const errno).cast(), 4);
        libc::_exit(127)
    }
}
