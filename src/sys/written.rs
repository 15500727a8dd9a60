//! Which pages of a mapping were written since the last look: userfaultfd's asynchronous write protection, and the pagemap's
//! scan of it (ioctl_userfaultfd(2), PAGEMAP_SCAN; Linux 6.7 and later). The host notes a page at the first write to it, in
//! the fault handler; nobody is woken.
#![expect(unsafe_code, reason = "userfaultfd and PAGEMAP_SCAN have no safe wrapper")]
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const REGISTER_MODE_WP: u64 = 2;
/// Faults of write protection, on shared memory too, resolved by the host itself.
const FEATURES: u64 = 1 | 1 << 12 | 1 << 15;

const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
/// Protect what was found again; refuse a mapping that is not registered.
const PROTECT: u64 = 1 | 2;
const PAGE_IS_WRITTEN: u64 = 2;

#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    count: u64,
    most_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Stretches that one scan brings.
const REGIONS: usize = 1024;

/// A watch over the pages of a mapping.
#[derive(Debug)]
pub struct Written {
    start: usize,
    length: usize,
    pagemap: File,
    // The registration ends with it.
    _uffd: OwnedFd,
}

fn ioctl<T>(fd: &impl AsRawFd, request: libc::c_ulong, argument: &mut T) -> io::Result<usize> {
    // SAFETY: the argument is of the type that the request takes, as each caller's constants say.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Whether the host may take pages out of a mapping to write them to a disk: it forgets then that they were written.
fn may_be_swapped(start: usize, length: usize) -> bool {
    // SAFETY: plain system call; pages stay where they are once they were touched.
    let held = unsafe { libc::mlock2(start as *const libc::c_void, length, libc::MLOCK_ONFAULT) } == 0;
    // The first line is a heading.
    !held && std::fs::read_to_string("/proc/swaps").map_or(true, |text| text.lines().count() > 1)
}

impl Written {
    /// Watches the mapping of shared memory of `length` bytes at `start`, both of whole pages. It must stay until this is
    /// dropped, and no page of it be given back with `madvise`.
    ///
    /// # Errors
    /// When the host cannot do so.
    pub fn watch(start: usize, length: usize) -> io::Result<Self> {
        if may_be_swapped(start, length) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: plain system call.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: a new descriptor that nobody else owns.
        let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
        ioctl(&uffd, UFFDIO_API, &mut Api { api: UFFD_API, features: FEATURES, ioctls: 0 })?;
        let mut register = Register {
            start: start as u64,
            length: length as u64,
            mode: REGISTER_MODE_WP,
            ..Register::default()
        };
        ioctl(&uffd, UFFDIO_REGISTER, &mut register)?;
        let watch = Self { start, length, pagemap: File::open("/proc/self/pagemap")?, _uffd: uffd };
        watch.take()?;
        Ok(watch)
    }

    /// The stretches of the mapping, as offsets, that may have been written since the last call. A page that was first
    /// touched since counts as written.
    ///
    /// # Errors
    /// What the host says.
    pub fn take(&self) -> io::Result<Vec<Range<u64>>> {
        let mut regions = vec![Region::default(); REGIONS];
        let (begin, end) = (self.start as u64, (self.start + self.length) as u64);
        let (mut all, mut at) = (vec![], begin);
        while at < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: PROTECT,
                start: at,
                end,
                regions: regions.as_mut_ptr() as u64,
                count: REGIONS as u64,
                all_of: PAGE_IS_WRITTEN,
                returned: PAGE_IS_WRITTEN,
                ..Scan::default()
            };
            let found = ioctl(&self.pagemap, PAGEMAP_SCAN, &mut scan)?;
            all.extend(regions.iter().take(found).map(|r| r.start - begin..r.end - begin));
            if scan.walk_end <= at {
                return Err(io::Error::other("the pagemap's scan does not move on"));
            }
            at = scan.walk_end;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::MmapOptions;

    const PAGE: usize = 4096;

    #[test]
    fn each_written_page_is_told_once() {
        let file = crate::sys::memfd::create(c"test", 1 << 22).unwrap();
        let map = MmapOptions::new().len(1 << 22).map_raw(&file).unwrap();
        let base = map.as_mut_ptr();
        // SAFETY: in bounds.
        let write = |page: usize| unsafe { base.add(page * PAGE + 8).write_volatile(1) };
        write(3);
        let watch = match Written::watch(base as usize, 1 << 22) {
            Ok(watch) => watch,
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        let pages = || -> Vec<u64> {
            let written = watch.take().unwrap();
            written.into_iter().flat_map(|r| r.start / PAGE as u64..r.end / PAGE as u64).collect()
        };
        assert_eq!(pages(), [0_u64; 0]);
        for page in [3, 700, 5, 4] {
            write(page);
        }
        assert_eq!(pages(), [3, 4, 5, 700]);
        assert_eq!(pages(), [0_u64; 0]);
        (0..1000).filter(|page| page % 3 == 0).for_each(write);
        assert_eq!(pages().len(), 334);
        // SAFETY: in bounds.
        let _read = unsafe { base.add(3 * PAGE).read_volatile() };
        assert_eq!(pages(), [0_u64; 0], "reading is no writing");
        // More stretches than one scan brings.
        write(1);
        assert_eq!(pages(), [1]);
    }
}
