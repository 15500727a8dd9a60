//! Calibrated measurement and the lines that report it.
//!
//! Repetitions double until one batch takes half the budget; only that last batch counts. All batches together so take
//! at most about twice the budget, unless a single repetition is longer than that.

use crate::abi;
use crate::checksum::Checksum;
use crate::console::Line;
use crate::cpu::{outl, rdtsc, ring};
use crate::kernels::Kernel;
use crate::user;

/// Operations per turn of an unrolled loop: the loop then weighs less than a tenth of a cycle per operation.
pub const UNROLL: u64 = 16;

/// A point of a sweep gets this part of the budget of a measurement, since a sweep has several.
const POINT_SHARE: u64 = 4;

/// Ends the doubling where the TSC does not move.
const MOST: u64 = 1 << 40;

/// What one measurement gave.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Operations in the timed region.
    pub iterations: u64,
    /// TSC ticks of the timed region.
    pub cycles: u64,
}

/// How much one operation of a sweep's point does.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// What is counted, in the plural: `bytes`.
    pub what: &'static str,
    /// How many of it.
    pub count: u64,
}

/// One run of a workload: its name and how long it may take.
pub struct Run {
    /// Name of the workload.
    pub workload: &'static str,
    /// Ticks that one measurement should take.
    pub budget: u64,
    /// Frequency of the TSC, in kHz.
    pub tsc_khz: u64,
}

/// Tells the harness, if there is one, that a phase begins or ends. Ring 0.
pub(crate) fn mark_kernel(mark: u32) {
    outl(abi::PORT_BENCH, mark);
}

/// Tells the harness from any ring.
pub fn mark(mark: u32) {
    if ring() == 0 {
        mark_kernel(mark);
    } else {
        user::call(user::MARK, u64::from(mark), 0);
    }
}

/// Times `batch(repetitions)`; a repetition does `unroll` operations. Any ring.
#[inline(always)]
pub fn calibrate(budget: u64, unroll: u64, mut batch: impl FnMut(u64)) -> Sample {
    let mut repetitions = 1;
    loop {
        mark(abi::MARK_BEGIN);
        let start = rdtsc();
        batch(repetitions);
        let cycles = rdtsc().wrapping_sub(start);
        mark(abi::MARK_END);
        if cycles >= budget / 2 || repetitions >= MOST {
            mark(abi::MARK_KEPT);
            return Sample { iterations: repetitions * unroll, cycles };
        }
        repetitions *= 2;
    }
}

impl Run {
    /// Prints the result line of one metric.
    pub fn report(&self, metric: &str, ring: u8, sample: Sample, checksum: u64) {
        self.line(metric, ring, sample, checksum).print();
    }

    /// Prints the result line of a sweep's point.
    pub fn report_at(&self, metric: &str, size: Size, ring: u8, sample: Sample, checksum: u64) {
        self.line(metric, ring, sample, checksum)
            .text(" size=")
            .text(size.what)
            .text(":")
            .decimal(size.count)
            .print();
    }

    fn line(&self, metric: &str, ring: u8, sample: Sample, checksum: u64) -> Line {
        let mut line = Line::new();
        line.text(abi::LINE_PREFIX)
            .text(abi::RECORD_RESULT)
            .text(" workload=")
            .text(self.workload)
            .text(" metric=")
            .text(metric)
            .text(" ring=")
            .decimal(u64::from(ring))
            .text(" iterations=")
            .decimal(sample.iterations)
            .text(" cycles=")
            .decimal(sample.cycles)
            .text(" checksum=")
            .hexadecimal(checksum);
        line
    }

    /// Measures and reports one operation of the kernel; `batch(repetitions)` does `unroll` operations a repetition.
    #[inline(always)]
    pub fn nano(&self, metric: &str, checksum: Checksum, unroll: u64, batch: impl FnMut(u64)) -> Sample {
        let sample = calibrate(self.budget, unroll, batch);
        self.report(metric, 0, sample, checksum.value());
        sample
    }

    /// Ticks that the measurement of a sweep's point should take.
    pub fn point_budget(&self) -> u64 {
        self.budget / POINT_SHARE
    }

    /// Measures and reports a sweep's point in the kernel: `batch(repetitions)` does `unroll` operations of this size a
    /// repetition.
    #[inline(always)]
    pub fn point(
        &self,
        metric: &str,
        size: Size,
        checksum: Checksum,
        unroll: u64,
        batch: impl FnMut(u64),
    ) -> Sample {
        let sample = calibrate(self.point_budget(), unroll, batch);
        self.report_at(metric, size, 0, sample, checksum.value());
        sample
    }

    /// Measures and reports a compute kernel in ring 0.
    pub fn kernel_ring_0(&self, kernel: &'static Kernel) {
        let (sample, checksum) = work(kernel, self.budget);
        self.report(kernel.name, 0, sample, checksum);
    }

    /// Measures and reports a compute kernel in ring 3.
    pub fn kernel_ring_3(&self, kernel: &'static Kernel) {
        let task = crate::layout::USER_ARENA as *mut Task;
        // SAFETY: the arena's first page is mapped, and used for this alone.
        unsafe {
            (&raw mut (*task).kernel).write(kernel);
            (&raw mut (*task).budget).write(self.budget);
        }
        user::run(work_on_task, task as u64);
        // SAFETY: ring 3 has ended and wrote the result.
        let (sample, checksum) = unsafe { (&raw const (*task).result).read() };
        self.report(kernel.name, 3, sample, checksum);
    }
}

/// All that ring 3 sees of a compute kernel's measurement.
struct Task {
    kernel: &'static Kernel,
    budget: u64,
    /// What `work` gave.
    result: (Sample, u64),
}

/// Measures a kernel and gives its checksum. Any ring.
fn work(kernel: &Kernel, budget: u64) -> (Sample, u64) {
    // SAFETY: the arena's first page is the task's own; nothing else uses the rest.
    let scratch = unsafe { user::arena(crate::layout::PAGE as usize, kernel.scratch) };
    (kernel.prepare)(scratch);
    let checksum = (kernel.unit)(scratch);
    let mut differs = false;
    let sample = calibrate(budget, kernel.operations, |repetitions| {
        for _ in 0..repetitions {
            differs |= (kernel.unit)(scratch) != checksum;
        }
    });
    assert!(!differs, "{}: a repetition gave another checksum", kernel.name);
    (sample, checksum)
}

extern "C" fn work_on_task(task: u64) -> u64 {
    let task = task as *mut Task;
    // SAFETY: `kernel_ring_3` passes a task of which it wrote the first two fields, and leaves it alone meanwhile.
    unsafe { (&raw mut (*task).result).write(work((*task).kernel, (*task).budget)) };
    0
}
