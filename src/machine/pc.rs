//! Which chip sits where: a PC, wired by the map of [`crate::arch::layout`].
use super::firmware::{self, Shape};
use super::parts::Parts;
use super::{
    BOOT_CPU, ConsoleInput, ConsoleSink, MachineError, MachineSpec, SavedMachine, Screen, TimedCounts,
    fw_cfg, ide, saved, virtio,
};
use crate::arch::cpuid::CpuidTable;
use crate::arch::layout;
use crate::bus::{Bus, InterruptController, IrqLine, IrqSink, Lock, MsiSink, PowerSwitch, VcpuId};
use crate::clock::{Clock, ClockSource, TimerClient, TimerQueue};
use crate::device::acpi_pm::AcpiPm;
use crate::device::bench_port::{BenchPort, Marks};
use crate::device::cmos::Cmos;
use crate::device::debug_exit::DebugExit;
use crate::device::fw_cfg::FwCfg;
use crate::device::i8042::I8042;
use crate::device::interrupts::{InterruptComplex, IoApicPage, LapicPage, PicPorts};
use crate::device::pci::PciHost;
use crate::device::pit8254::Pit8254;
use crate::device::post::Post;
use crate::device::registers::Block;
use crate::device::test_device::TestDevice;
use crate::device::uart16550::Uart16550;
use crate::engine::{Counters, Engine, Hypercalls, Interface, KickCell, KvmClock, Platform, PlatformParts};
use crate::host::console::Capture;
use crate::host::disk::Failures;
use crate::mem::GuestRam;
use crate::sys::{host_cpuid, membarrier};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The devices of every machine, for the record of a measurement.
pub const DEVICES: [&str; 12] = [
    "uart16550",
    "pic8259",
    "pit8254",
    "lapic",
    "ioapic",
    "cmos",
    "i8042",
    "pci",
    "acpi-pm",
    "isa-debug-exit",
    "bench-port",
    "post",
];

/// The chips of one machine that someone outside the bus holds on to.
pub struct Pc {
    platform: Arc<Platform>,
    interrupts: Arc<InterruptComplex>,
    uart: Arc<Lock<Uart16550>>,
    marks: Arc<Mutex<Marks>>,
    timed: Arc<Mutex<TimedCounts>>,
    disks: Vec<Failures>,
    screen: Option<Screen>,
    input: ConsoleInput,
    parts: Parts,
}

impl Pc {
    /// Builds the chips and claims their places; `rom` is the machine's firmware, if it has one. A machine that is to go on
    /// from a state tells its guest of the CPU that it was told of then.
    pub(super) fn assemble(
        spec: &MachineSpec,
        rom: Option<&[u8]>,
        console: Box<dyn ConsoleSink>,
        goes_on: Option<&SavedMachine>,
    ) -> Result<Self, MachineError> {
        spec.check_cpus()?;
        // Makes the devices' locks cheap for the vCPU's thread, if it can be had.
        let _has_barriers = membarrier::prepare();
        let ram = Arc::new(GuestRam::new(spec.memory)?);
        let clock = Arc::new(Clock::new(spec.clock));
        // A queue of deadlines for each vCPU; those of the devices are the boot processor's.
        let queues: Vec<_> = (0..spec.cpus).map(|_| TimerQueue::new()).collect();
        let timers = Arc::clone(&queues[0]);
        let power = Arc::new(PowerSwitch::default());
        let kicks: Vec<_> = (0..spec.cpus).map(|_| KickCell::new()).collect();
        let poked = kicks.clone();
        let poke = move |vcpu: VcpuId| poked[usize::from(vcpu.0)].poke();
        let interrupts = InterruptComplex::new(&clock, &queues, Box::new(poke));
        let sink: Arc<dyn IrqSink> = interrupts.clone();
        let line = |number| IrqLine::new(Arc::clone(&sink), number);

        // The other console's output goes where this one's would.
        let (console, virtio_console): (Box<dyn ConsoleSink>, _) =
            if spec.virtio_console { (Box::new(Capture::new(0)), Some(console)) } else { (console, None) };
        let uart = Uart16550::new(*layout::COM1.start(), line(layout::IRQ_COM1), console);
        let uart = Arc::new(Lock::new(uart));
        let marks = Arc::new(Mutex::new(Marks::default()));
        let pit_timer = timers.add();
        let pit = Pit8254::new(line(layout::IRQ_PIT), Arc::clone(&clock), pit_timer.clone());
        let pit = Arc::new(Mutex::new(pit));
        pit_timer.connect(&(Arc::clone(&pit) as Arc<Mutex<dyn TimerClient>>));

        let rtc_timer = timers.add();
        let date = date_at_start(spec.clock);
        let rtc = Cmos::new(line(layout::IRQ_RTC), Arc::clone(&clock), rtc_timer.clone(), date, spec.memory);
        let rtc = Arc::new(Mutex::new(rtc));
        rtc_timer.connect(&(Arc::clone(&rtc) as Arc<Mutex<dyn TimerClient>>));
        let i8042 = I8042::new(line(layout::IRQ_KEYBOARD), Arc::clone(&power));
        let i8042 = Arc::new(Lock::new(i8042));

        let pm_timer = timers.add();
        let pm_base = *layout::ACPI_PM.start();
        let sci = line(layout::IRQ_SCI);
        let pm = AcpiPm::new(pm_base, sci, Arc::clone(&clock), pm_timer.clone(), Arc::clone(&power));
        let pm = Arc::new(Mutex::new(pm));
        pm_timer.connect(&(Arc::clone(&pm) as Arc<Mutex<dyn TimerClient>>));

        let mut devices = Parts::default();
        devices.add_locked("pit8254", &pit, Pit8254::saved, Pit8254::restore);
        devices.add_locked("cmos", &rtc, Cmos::saved, Cmos::restore);
        devices.add_locked("acpi-pm", &pm, AcpiPm::saved, |pm, saved| {
            pm.restore(saved);
            Ok(())
        });
        devices.add_light("i8042", &i8042, I8042::saved, I8042::restore);
        devices.add_light("uart16550", &uart, Uart16550::saved, Uart16550::restore);

        let mut bus = Bus::default();
        bus.claim_ports("acpi-pm", layout::ACPI_PM, pm)?;
        let pics = Arc::new(PicPorts(Arc::clone(&interrupts)));
        bus.claim_ports("pic8259", layout::PIC_MASTER, pics.clone())?;
        bus.claim_ports("pic8259", layout::PIC_SLAVE, pics.clone())?;
        bus.claim_ports("pic8259", layout::PIC_ELCR, pics)?;
        bus.claim_ports("pit8254", layout::PIT, pit.clone())?;
        bus.claim_ports("pit8254", layout::SYSTEM_CONTROL, pit)?;
        bus.claim_ports("uart16550", layout::COM1, uart.clone())?;
        bus.claim_ports("cmos", layout::CMOS, rtc)?;
        bus.claim_ports("i8042", layout::I8042_DATA, i8042.clone())?;
        bus.claim_ports("i8042", layout::I8042_COMMAND, i8042.clone())?;
        let debug_exit = DebugExit::new(Arc::clone(&power));
        bus.claim_ports("isa-debug-exit", layout::DEBUG_EXIT, Arc::new(Lock::new(debug_exit)))?;
        let timed = Arc::new(Mutex::new(TimedCounts::default()));
        // The platform makes the counters, from the bus that this device goes to.
        let counters: Arc<OnceLock<Arc<Counters>>> = Arc::default();
        let listener = {
            let (timed, counters) = (Arc::clone(&timed), Arc::clone(&counters));
            Box::new(move |mark| {
                if let Some(counters) = counters.get() {
                    timed.lock().unwrap_or_else(PoisonError::into_inner).mark(mark, counters);
                }
            })
        };
        let bench_port = BenchPort::new(Arc::clone(&clock), Arc::clone(&marks), listener);
        bus.claim_ports("bench-port", layout::BENCH, Arc::new(Lock::new(bench_port)))?;
        let post = Arc::new(Lock::new(Post::default()));
        devices.add_light("post", &post, Post::clone, |post, saved| {
            *post = saved.clone();
            Ok(())
        });
        bus.claim_ports("post", layout::POST, post)?;
        bus.set_own_pages(Arc::new(LapicPage(Arc::clone(&interrupts))));
        let has_screen = spec.screen || rom.is_some();
        let screen = has_screen.then(|| Screen::insert(&mut bus, i8042, Arc::clone(&ram))).transpose()?;
        if let Some(screen) = &screen {
            screen.add_to(&mut devices);
        }
        if let Some(rom) = rom {
            let shape = Shape::of(spec, true);
            let configuration = fw_cfg::insert(spec, shape, rom, &mut bus, &ram)?;
            devices.add_light("fw-cfg", &configuration, FwCfg::saved, |device, saved| {
                device.restore(saved);
                Ok(())
            });
        }
        // Devices are plugged in before the bridge is given its places.
        let mut pci = PciHost::new(Arc::clone(&sink));
        let messages: Arc<dyn MsiSink> = interrupts.clone();
        let mut disks = ide::plug(spec, &mut pci, &mut bus, &ram, &sink, &mut devices)?;
        let mut sockets = virtio::Sockets {
            place: spec.virtio,
            pci: &mut pci,
            bus: &mut bus,
            ram: &ram,
            lines: &sink,
            messages: &messages,
            used: 0,
            parts: &mut devices,
        };
        disks.extend(sockets.insert_all(spec)?);
        let input = match virtio_console {
            Some(sink) => ConsoleInput::Virtio(sockets.insert_console(sink)?),
            None => ConsoleInput::Serial(Arc::downgrade(&uart)),
        };
        if rom.is_some() {
            pci.show_firmware();
        }
        let pci = Arc::new(pci);
        let mut parts = Parts::default();
        parts.add_shared(saved::INTERRUPTS, &interrupts, InterruptComplex::saved, InterruptComplex::restore);
        parts.add_shared("pci", &pci, PciHost::saved, PciHost::restore);
        parts.append(devices);
        bus.claim_ports("pci", layout::PCI_CONFIG, pci.clone())?;
        bus.claim_ports("pci", layout::PCI_PORTS, pci.clone())?;
        bus.claim_mmio("pci", layout::PCI_MEMORY, layout::PCI_MEMORY_SIZE, pci)?;
        let ioapic = Arc::new(IoApicPage(Arc::clone(&interrupts)));
        bus.claim_mmio("ioapic", layout::IOAPIC, layout::LAPIC_SIZE, ioapic)?;

        if spec.test_device {
            insert_test_device(&mut bus, &sink, &ram, &mut parts)?;
        }

        firmware::set_levels(&bus);

        let hypercalls = (spec.pair.interface == Interface::Pv).then(|| {
            let uart = Arc::clone(&uart);
            Hypercalls::new(Box::new(move |text| uart.lock().print(text)))
        });
        let mut cpuid = CpuidTable::from_host(host_cpuid::query);
        cpuid.tell_frequencies(clock.tsc_hz(), layout::LAPIC_HZ as u32);
        if spec.pair.engine == Engine::Emu && !spec.common_cpu {
            cpuid.offer_speculation_controls();
            cpuid.offer_process_contexts();
            cpuid.offer_apic_msrs();
        }
        // Who was told of protection keys has them where it goes on, if they can be had.
        let told = goes_on.is_some_and(|saved| saved.cpuid.has_protection_keys());
        if spec.pair.engine == Engine::Emu && (spec.protection_keys || told) {
            cpuid.offer_protection_keys();
        }
        if let Some(calls) = &hypercalls {
            cpuid.offer_hypercalls(calls.cpuid());
        }
        if spec.kvm_clock {
            cpuid.offer_kvm_clock();
        }
        if let Some(saved) = goes_on {
            let kept = cpuid.keeping(&saved.cpuid, |feature| saved.uses(feature));
            cpuid = kept.map_err(|broken| MachineError::Refused(Box::new(broken.into())))?;
        }
        let controller: Arc<dyn InterruptController> = interrupts.clone();
        let platform = Arc::new(Platform::new(PlatformParts {
            ram,
            bus,
            interrupts: controller,
            clock,
            timers: queues,
            power,
            cpuid,
            kicks,
            hypercalls,
            kvm_clock: spec.kvm_clock.then(|| {
                let start = Duration::from_secs(u64::try_from(date).unwrap_or(0));
                KvmClock::new(start, spec.cpus)
            }),
            keeps_times: spec.keeps_times,
        }));
        counters.get_or_init(|| Arc::clone(platform.counters(BOOT_CPU)));
        Ok(Self { platform, interrupts, uart, marks, timed, disks, screen, input, parts })
    }

    /// What has state to be saved.
    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The registers of all chips and devices as they stand. Looking has no effect on them.
    #[must_use]
    pub fn registers(&self) -> Vec<Block> {
        self.parts.describe()
    }

    /// The platform that the chips form.
    #[must_use]
    pub fn platform(&self) -> &Arc<Platform> {
        &self.platform
    }

    /// The interrupt chips.
    #[must_use]
    pub fn interrupts(&self) -> &Arc<InterruptComplex> {
        &self.interrupts
    }

    /// Where what is typed for the console goes.
    #[must_use]
    pub fn console_input(&self) -> &ConsoleInput {
        &self.input
    }

    /// The serial port, for looking at it.
    #[must_use]
    pub fn uart(&self) -> &Arc<Lock<Uart16550>> {
        &self.uart
    }

    /// Screen and keyboard, if the machine has a screen.
    #[must_use]
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_ref()
    }

    /// What went wrong first with each disk, if something did.
    pub fn disk_failures(&self) -> impl Iterator<Item = &str> {
        self.disks.iter().filter_map(Failures::first)
    }

    /// What was counted in the timed regions that the guest reports.
    #[must_use]
    pub fn timed_counts(&self) -> TimedCounts {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Phases that the guest marked on the bench port.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn insert_test_device(
    bus: &mut Bus,
    lines: &Arc<dyn IrqSink>,
    ram: &Arc<GuestRam>,
    parts: &mut Parts,
) -> Result<(), MachineError> {
    let device = Arc::new(Lock::new(TestDevice::new(Arc::clone(lines), Arc::clone(ram))));
    parts.add_light("test-device", &device, TestDevice::saved, TestDevice::restore);
    for range in [layout::TEST_REGISTER, layout::TEST_PAGE, layout::TEST_REGISTER_AGAIN, layout::TEST_LINES] {
        bus.claim_ports("test-device", range, device.clone())?;
    }
    bus.claim_mmio("test-device", layout::TEST_MEMORY, layout::TEST_MEMORY_SIZE as u64, device)?;
    Ok(())
}

/// Seconds since 1970 that the real-time clock shows first: now, or a fixed date where runs must repeat exactly.
fn date_at_start(clock: ClockSource) -> i64 {
    const FIXED: i64 = 946_684_800; // 2000-01-01
    match clock {
        ClockSource::Counted { .. } => FIXED,
        ClockSource::Real => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_secs()).ok())
            .unwrap_or(FIXED),
    }
}
