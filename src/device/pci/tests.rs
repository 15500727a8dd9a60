use super::*;
use proptest::prelude::*;
use std::sync::atomic::AtomicU32;

/// Levels of the machine's lines, one bit each.
#[derive(Default)]
struct Lines(AtomicU32);

impl IrqSink for Lines {
    fn set_line(&self, line: u8, level: bool) {
        let bit = 1 << line;
        if level {
            self.0.fetch_or(bit, Ordering::SeqCst);
        } else {
            self.0.fetch_and(!bit, Ordering::SeqCst);
        }
    }
}

/// Answers with the register and the offset, and remembers the last write.
struct Echo {
    config: ConfigSpace,
    written: Option<(usize, u64, u64)>,
}

impl Echo {
    fn shared() -> Arc<Mutex<Self>> {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_8000,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
        };
        let config = ConfigSpace::new(identity)
            .with_bar(0, BarKind::Io, 0x40)
            .with_bar(1, BarKind::Memory32, 0x1000)
            .with_bar(4, BarKind::Memory64 { prefetchable: true }, 0x4000);
        Arc::new(Mutex::new(Self { config, written: None }))
    }
}

impl PciDevice for Echo {
    fn config(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn bar_read(&mut self, bar: usize, offset: u64, _: Width) -> u64 {
        (bar as u64) << 16 | offset
    }
    fn bar_write(&mut self, bar: usize, offset: u64, _: Width, value: u64) {
        self.written = Some((bar, offset, value));
    }
}

fn host() -> (PciHost, Arc<Mutex<Echo>>, Arc<Lines>) {
    let lines = Arc::new(Lines::default());
    let mut host = PciHost::new(lines.clone());
    let device = Echo::shared();
    assert_eq!(host.plug(device.clone()).ok(), Some(1));
    (host, device, lines)
}

fn select(host: &PciHost, slot: u32, register: u32) {
    host.port_write(Port(0xcf8), Width::B4, spec::ENABLE | slot << 11 | register);
}

fn config(host: &PciHost, slot: u32, register: u32) -> u32 {
    select(host, slot, register);
    host.port_read(Port(0xcfc), Width::B4)
}

fn set_config(host: &PciHost, slot: u32, register: u32, value: u32) {
    select(host, slot, register);
    host.port_write(Port(0xcfc), Width::B4, value);
}

#[test]
fn devices_are_found_where_they_are_and_nowhere_else() {
    let (host, ..) = host();
    assert_eq!(config(&host, 0, 0), 0x1237_8086);
    assert_eq!(config(&host, 1, 0), 0x1042_1af4);
    assert_eq!(config(&host, 1, 8), 0x0180_0001);
    assert_eq!(config(&host, 2, 0), u32::MAX);
    for elsewhere in [1 << 16, 1 << 8, 7 << 8] {
        host.port_write(Port(0xcf8), Width::B4, spec::ENABLE | elsewhere);
        assert_eq!(host.port_read(Port(0xcfc), Width::B4), u32::MAX, "{elsewhere:#x}");
    }
    host.port_write(Port(0xcf8), Width::B4, 0);
    assert_eq!(host.port_read(Port(0xcfc), Width::B4), u32::MAX, "not enabled");
    select(&host, 1, 0);
    assert_eq!(host.port_read(Port(0xcfe), Width::B2), 0x1042);
    assert_eq!(host.port_read(Port(0xcf8), Width::B4), spec::ENABLE | 1 << 11);
    host.port_write(Port(0xcf8), Width::B1, 0);
    assert_eq!(host.port_read(Port(0xcf8), Width::B4), spec::ENABLE | 1 << 11, "bytes are someone else's");
}

#[test]
fn registers_tell_their_size_and_decode_when_they_may() {
    let (host, device, _) = host();
    for (register, size) in [(0x10, 0xffff_ffc1), (0x14, 0xffff_f000), (0x20, 0xffff_c00c), (0x24, u32::MAX)]
    {
        set_config(&host, 1, register, u32::MAX);
        assert_eq!(config(&host, 1, register), size, "{register:#x}");
    }
    assert_eq!(config(&host, 1, 0x18), 0, "no such register");
    let (port, memory) = (PCI_PORTS.start().0, PCI_MEMORY.0 as u32 + 0x10_0000);
    set_config(&host, 1, 0x10, port.into());
    set_config(&host, 1, 0x14, memory);
    set_config(&host, 1, 0x20, memory + 0x10_0000);
    set_config(&host, 1, 0x24, 0);
    let read = |at: u32| host.mmio_read(VcpuId(0), u64::from(at) - PCI_MEMORY.0, Width::B4);
    assert_eq!(read(memory + 8), u64::MAX, "memory is off");
    set_config(&host, 1, 4, 3);
    assert_eq!(read(memory + 8), 0x1_0008);
    assert_eq!(read(memory + 0x10_3ffc), 0x4_3ffc);
    assert_eq!(read(memory + 0xffe), u64::MAX, "crosses the end");
    assert_eq!(host.port_read(Port(port + 4), Width::B2), 4);
    host.port_write(Port(port + 8), Width::B1, 0x7f);
    assert_eq!(device.lock().unwrap().written, Some((0, 8, 0x7f)));
    set_config(&host, 1, 4, 2);
    assert_eq!(host.port_read(Port(port + 4), Width::B2), u32::MAX, "ports are off");
}

#[test]
fn registers_have_places_from_the_start() {
    let (mut host, ..) = host();
    assert!(host.plug(Echo::shared()).is_ok());
    let memory = PCI_MEMORY.0 as u32;
    let all = |slot| [0x10, 0x14, 0x20, 0x24, 4].map(|register| config(&host, slot, register));
    assert_eq!(all(1), [0xc001, memory, (memory + 0x4000) | 0xc, 0, 0], "decoding is off");
    assert_eq!(all(2), [0xc041, memory + 0x8000, (memory + 0xc000) | 0xc, 0, 0]);
}

#[test]
fn slots_share_lines_and_the_command_register_silences_them() {
    let (mut host, first, lines) = host();
    let others: Vec<_> = (2..6).map(|_| Echo::shared()).collect();
    for other in &others {
        assert!(host.plug(other.clone()).is_ok());
    }
    // Slots 1 and 5.
    let (fifth, line) = (others[3].clone(), 1 << PciHost::line_of(1));
    let set = |device: &Arc<Mutex<Echo>>, level| device.lock().unwrap().config.set_interrupt(level);
    let level = || lines.0.load(Ordering::SeqCst);
    set(&first, true);
    set(&fifth, true);
    set(&first, false);
    assert_eq!(level(), line);
    assert_eq!(config(&host, 5, 4) >> 16 & 8, 8, "status");
    set_config(&host, 5, 4, u32::from(Command::INTX_OFF.bits()));
    assert_eq!(level(), 0);
    assert_eq!(config(&host, 5, 4) >> 16 & 8, 8, "the status stays");
    set_config(&host, 5, 4, 0);
    assert_eq!(level(), line);
    set(&fifth, false);
    assert_eq!(level(), 0);
    assert_eq!(config(&host, 5, 0x3c) & 0xffff, 1 << 8 | u32::from(PciHost::line_of(5)));
}

#[test]
fn capabilities_form_a_list() {
    let (host, device, _) = host();
    {
        let space = &mut device.lock().unwrap().config;
        assert_eq!(space.add_capability(0x11, &[1, 2, 3, 4], &[0, 0x80]), 0x40);
        assert_eq!(space.add_capability(9, &[5], &[]), 0x48);
    }
    assert_eq!(config(&host, 1, 4) >> 16 & 0x10, 0x10);
    assert_eq!(config(&host, 1, 0x34), 0x40);
    assert_eq!(config(&host, 1, 0x40), 0x0201_4811);
    set_config(&host, 1, 0x40, u32::MAX);
    assert_eq!(config(&host, 1, 0x40), 0x8201_4811);
    assert_eq!(config(&host, 1, 0x48) & 0xff_ffff, 0x05_0009);
}

#[test]
fn a_full_bus_takes_no_more() {
    let (mut host, ..) = host();
    for _ in 2..SLOTS {
        assert!(host.plug(Echo::shared()).is_ok());
    }
    assert!(host.plug(Echo::shared()).is_err());
}

proptest! {
    #[test]
    fn any_accesses_leave_a_bus_that_answers(
        accesses in proptest::collection::vec((any::<bool>(), any::<u32>(), 0_usize..3, any::<u32>()), 0..200),
    ) {
        let (host, ..) = host();
        for (write, at, width, value) in accesses {
            let width = [Width::B1, Width::B2, Width::B4][width];
            let port = Port(match at & 3 {
                0 => 0xcf8 + (at >> 8 & 7) as u16,
                1 => 0xcfc + (at >> 8 & 3) as u16,
                2 => (at >> 8) as u16,
                _ => PCI_PORTS.start().0.wrapping_add((at >> 8 & 0xfff) as u16),
            });
            let value = if value & 1 == 0 { spec::ENABLE | value & 0x8ff } else { value };
            if write {
                host.port_write(port, width, value & width.mask() as u32);
            } else {
                let _any = host.port_read(port, width);
            }
            let _any = host.mmio_read(VcpuId(0), (at & 0xffff).into(), width);
            host.mmio_write(VcpuId(0), (at & 0xffff).into(), width, value.into());
        }
        prop_assert_eq!(config(&host, 1, 0), 0x1042_1af4);
    }
}
