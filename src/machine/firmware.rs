//! What a PC's firmware leaves in memory for a guest that no firmware started: ACPI tables that describe the machine
//! (ACPI 6.5, chapter 5).
//!
//! All of them lie from [`layout::FIRMWARE_TABLES`] on, the RSDP first, where the loader tells guests to look and where
//! those look that are not told. A machine with firmware of its own hands them to it as files, with what it has to do to
//! place them. They say no more than what [`super::pc`] wires.
use super::{MachineSpec, mp_table, virtio};
use crate::arch::{Gpa, Port, Width, layout};
use crate::bus::Bus;
use crate::device::fw_cfg::{loader, padded_name};
use crate::device::pci::{PciHost, SLOTS};
use crate::mem::GuestRam;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package,
    PackageBuilder, Path, ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{self, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, facs::FACS, xsdt::XSDT};

const OEM: [u8; 6] = *b"TRIVSR";
const OEM_TABLE: [u8; 8] = *b"TRIVISOR";
const OEM_REVISION: u32 = 1;
/// Tables are aligned as the strictest of them, the FACS, wants it.
const ALIGNMENT: usize = 64;

/// Flags of an interrupt source override (table 5.25): level-triggered, active high.
const LEVEL_HIGH: u16 = 0b1101;
/// IAPC_BOOT_ARCH (table 5.10): the machine has ISA devices.
const HAS_ISA: u16 = 1 << 0;
/// It has an 8042 with a keyboard.
const HAS_8042: u16 = 1 << 1;
/// It has no VGA.
const NO_VGA: u16 = 1 << 2;
/// CMOS index of the century.
const CENTURY: u8 = 0x32;
/// What resets the machine at the 8042's command port.
const RESET: u8 = 0xfe;
/// Hardware ID of a virtio device with its registers in memory.
const VIRTIO_ID: &str = "LNRO0005";

/// What the tables have to say that is not the same for each machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) cpus: u8,
    /// Somebody sees the screen and types.
    pub(super) screen: bool,
    /// Virtio devices that are in memory.
    pub(super) virtio: u8,
}

impl Shape {
    /// What is to be said of the machine `spec`, with a screen or without.
    pub(super) fn of(spec: &MachineSpec, screen: bool) -> Self {
        Self { cpus: spec.cpus, screen, virtio: spec.virtio_in_memory() }
    }
}

/// The lines that are level-triggered, a bit each: PCI's and that of ACPI.
fn level_lines() -> u32 {
    layout::PCI_LINES.into_iter().chain([layout::IRQ_SCI]).fold(0, |all, line| all | 1 << line)
}

/// The PCI lines are level-triggered for the 8259s, too, as firmware would set them.
pub(super) fn set_levels(bus: &Bus) {
    let lines = level_lines();
    for (port, byte) in [(layout::PIC_ELCR.start().0, lines), (layout::PIC_ELCR.end().0, lines >> 8)] {
        bus.port_write(Port(port), Width::B1, byte & 0xff);
    }
}

/// Writes the tables into `ram`. RAM too small for them gets none.
pub(super) fn write(ram: &GuestRam, shape: Shape) {
    let at = layout::FIRMWARE_TABLES.0;
    let room = Rsdp::len().next_multiple_of(ALIGNMENT);
    let tables = Tables::new(at + room as u64, shape);
    let mut bytes = rsdp(tables.rsdt, tables.xsdt);
    bytes.resize(room, 0);
    bytes.extend(tables.bytes);
    debug_assert!(at + bytes.len() as u64 <= layout::MP_POINTER.0, "the tables have outgrown their place");
    // A guest with less than 1 MiB of RAM does without.
    let _too_small = ram.write(Gpa(at), &bytes);
}

/// Names of the files for a firmware.
const FILE_RSDP: &str = "etc/acpi/rsdp";
const FILE_TABLES: &str = "etc/acpi/tables";
const FILE_LOADER: &str = "etc/table-loader";

/// The tables as files for a firmware: what is in them points from the beginning of its file, and the last file says
/// which pointers and checksums are to be mended when the files have been placed.
pub(super) fn files(shape: Shape) -> [(&'static str, Vec<u8>); 3] {
    let tables = Tables::new(0, shape);
    let mut commands = vec![];
    let mut command = |number: u32, names: &[&str], numbers: &[u8]| {
        let start = commands.len();
        commands.extend(number.to_le_bytes());
        names.iter().for_each(|name| commands.extend(padded_name(name)));
        commands.extend(numbers);
        commands.resize(start + loader::SIZE, 0);
    };
    for (name, alignment, zone) in
        [(FILE_RSDP, 16_u32, loader::ZONE_F_SEGMENT), (FILE_TABLES, ALIGNMENT as u32, loader::ZONE_HIGH)]
    {
        command(loader::ALLOCATE, &[name], &[&alignment.to_le_bytes()[..], &[zone]].concat());
    }
    let mut point = |file: &str, at: u64, size: u8| {
        command(
            loader::ADD_POINTER,
            &[file, FILE_TABLES],
            &[&(at as u32).to_le_bytes()[..], &[size]].concat(),
        );
    };
    for (at, size) in [(36, 4), (40, 4), (140, 8)] {
        point(FILE_TABLES, tables.fadt + at, size);
    }
    for entry in 0..tables.entries {
        point(FILE_TABLES, tables.rsdt + HEADER + 4 * entry, 4);
        point(FILE_TABLES, tables.xsdt + HEADER + 8 * entry, 8);
    }
    point(FILE_RSDP, 16, 4);
    point(FILE_RSDP, 24, 8);
    let mut sum = |file: &str, at: u64, start: u64, length: u64| {
        let numbers = [at, start, length].map(|number| (number as u32).to_le_bytes()).concat();
        command(loader::ADD_CHECKSUM, &[file], &numbers);
    };
    let length = |of: u64| u64::from(word(&tables.bytes, of as usize + 4));
    for table in [tables.fadt, tables.rsdt, tables.xsdt] {
        sum(FILE_TABLES, table + 9, table, length(table));
    }
    sum(FILE_RSDP, 8, 0, 20);
    sum(FILE_RSDP, 32, 0, Rsdp::len() as u64);
    let rsdp = rsdp(tables.rsdt, tables.xsdt);
    [(FILE_RSDP, rsdp), (FILE_TABLES, tables.bytes), (FILE_LOADER, commands)]
}

/// Bytes of a table's header.
const HEADER: u64 = 36;

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// The Root System Description Pointer (5.2.5.3), to the table for guests of ACPI 1.0 and to the newer one.
fn rsdp(rsdt: u64, xsdt: u64) -> Vec<u8> {
    let mut bytes = bytes_of(&Rsdp::new(OEM, xsdt));
    bytes[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
    for (length, at) in [(20, 8), (bytes.len(), 32)] {
        bytes[at] = 0;
        bytes[at] = mp_table::checksum(&bytes[..length]);
    }
    bytes
}

/// Tables one behind the other, and where some of them lie.
struct Tables {
    base: u64,
    bytes: Vec<u8>,
    fadt: u64,
    rsdt: u64,
    xsdt: u64,
    /// Tables that the last two point to.
    entries: u64,
}

impl Tables {
    /// All tables but the RSDP, to lie at `base`.
    fn new(base: u64, shape: Shape) -> Self {
        let mut tables = Self { base, bytes: vec![], fadt: 0, rsdt: 0, xsdt: 0, entries: 0 };
        let facs = tables.add(&bytes_of(&FACS::new()));
        let dsdt = tables.add(dsdt(shape).as_slice());
        tables.fadt = tables.add(&fadt(facs, dsdt, shape));
        let madt = tables.add(madt(shape.cpus).as_slice());
        let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
        let mut rsdt = Sdt::new(*b"RSDT", HEADER as u32, 1, OEM, OEM_TABLE, OEM_REVISION);
        for table in [tables.fadt, madt] {
            xsdt.add_entry(table);
            rsdt.append_slice(&(table as u32).to_le_bytes());
            tables.entries += 1;
        }
        tables.rsdt = tables.add(rsdt.as_slice());
        tables.xsdt = tables.add(&bytes_of(&xsdt));
        tables
    }

    /// Adds a table; returns where it lies.
    fn add(&mut self, table: &[u8]) -> u64 {
        let at = self.bytes.len();
        self.bytes.extend(table);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.base + at as u64
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A register block in port space.
fn ports(first: u16, bits: u8, access: gas::AccessSize) -> GAS {
    GAS {
        address_space_id: gas::AddressSpace::SystemIo,
        register_bit_width: bits,
        register_bit_offset: 0,
        access_size: access,
        address: u64::from(first).into(),
    }
}

/// The Fixed ACPI Description Table (5.2.9). SMI_CMD is 0: the machine is in ACPI mode from the start.
fn fadt(facs: u64, dsdt: u64, shape: Shape) -> Vec<u8> {
    use gas::AccessSize as Access;
    let (event, control, timer) =
        (layout::ACPI_PM.start().0, layout::ACPI_PM.start().0 + 4, layout::ACPI_PM.start().0 + 8);
    // The power button is fixed hardware, there is no sleep button.
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // Old guests read the 32-bit fields.
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = u16::from(layout::IRQ_SCI).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm_tmr_blk = u32::from(timer).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len, fadt.pm_tmr_len) = (4, 2, 4);
    fadt.x_pm1a_evt_blk = ports(event, 32, Access::WordAccess);
    fadt.x_pm1a_cnt_blk = ports(control, 16, Access::WordAccess);
    fadt.x_pm_tmr_blk = ports(timer, 32, Access::DwordAccess);
    // No C2 and no C3.
    (fadt.p_lvl2_lat, fadt.p_lvl3_lat) = (0xfff.into(), 0xfff.into());
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (HAS_ISA | if shape.screen { HAS_8042 } else { NO_VGA }).into();
    fadt.reset_reg = ports(layout::I8042_COMMAND.start().0, 8, Access::ByteAccess);
    fadt.reset_value = RESET;
    bytes_of(&fadt.finalize())
}

/// The Multiple APIC Description Table (5.2.12): local APICs, the I/O APIC, and the lines that are not what ISA's are.
fn madt(cpus: u8) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    let mut madt = Sdt::new(*b"APIC", 36, 4, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&(layout::LAPIC.0 as u32).to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus {
        madt.append_slice(&[0, 8, id, id]);
        madt.append_slice(&ENABLED.to_le_bytes());
    }
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append_slice(&(layout::IOAPIC.0 as u32).to_le_bytes());
    madt.append_slice(&0_u32.to_le_bytes());
    let mut replace = |line: u8, pin: u32, flags: u16| {
        madt.append_slice(&[2, 10, 0, line]);
        madt.append_slice(&pin.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    };
    replace(layout::IRQ_PIT, layout::IOAPIC_PIN_PIT.into(), 0);
    let levels = level_lines();
    for line in (0..16).filter(|line| levels >> line & 1 != 0) {
        replace(line, line.into(), LEVEL_HIGH);
    }
    // The local APICs' LINT1 is NMI.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

/// An ISA device of the DSDT with a few ports and an edge-triggered line.
fn isa(name: &str, id: &str, first: u16, count: u8, line: u8) -> Vec<u8> {
    let (io, irq) = (IO::new(first, first, 1, count), Interrupt::new(true, true, false, false, line.into()));
    let resources = ResourceTemplate::new(vec![&io, &irq]);
    let (id, resources) =
        (Name::new("_HID".into(), &EISAName::new(id)), Name::new("_CRS".into(), &resources));
    bytes_of(&Device::new(Path::new(name), vec![&id, &resources]))
}

/// The keyboard controller, with both its ports.
fn keyboard() -> Vec<u8> {
    let (data, command) = (layout::I8042_DATA.start().0, layout::I8042_COMMAND.start().0);
    let (data, command) = (IO::new(data, data, 1, 1), IO::new(command, command, 1, 1));
    let irq = Interrupt::new(true, true, false, false, layout::IRQ_KEYBOARD.into());
    let resources = ResourceTemplate::new(vec![&data, &command, &irq]);
    let (id, resources) =
        (Name::new("_HID".into(), &EISAName::new("PNP0303")), Name::new("_CRS".into(), &resources));
    bytes_of(&Device::new(Path::new("KBD_"), vec![&id, &resources]))
}

/// The virtio device `index` of those in memory, by the name that Linux and QEMU gave such devices.
fn virtio_device(index: u8) -> Vec<u8> {
    let (at, pin) = virtio::place(index);
    let registers = Memory32Fixed::new(true, at.0 as u32, layout::VIRTIO_SIZE as u32);
    let irq = Interrupt::new(true, false, false, false, pin.into());
    let resources = ResourceTemplate::new(vec![&registers, &irq]);
    let (hid, uid) = (Name::new("_HID".into(), &VIRTIO_ID), Name::new("_UID".into(), &index));
    // Its accesses to memory see what the CPU wrote.
    let coherent = Name::new("_CCA".into(), &ONE);
    let resources = Name::new("_CRS".into(), &resources);
    bytes_of(&Device::new(Path::new(&format!("VR{index:02}")), vec![&hid, &uid, &coherent, &resources]))
}

/// Bytes of AML that were made before.
struct Made(Vec<u8>);

impl Aml for Made {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The PCI root bridge, with what it decodes and where its slots' pins go.
fn pci_root() -> Vec<u8> {
    let config = layout::PCI_CONFIG.start().0;
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let own = IO::new(config, config, 1, 8);
    let below = AddressSpace::new_io(0_u16, config - 1, None);
    let above = AddressSpace::new_io(layout::PCI_CONFIG.end().0 + 1, u16::MAX, None);
    let (first, last) = (layout::PCI_MEMORY.0, layout::PCI_MEMORY.0 + layout::PCI_MEMORY_SIZE - 1);
    let memory =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first as u32, last as u32, None);
    let resources = ResourceTemplate::new(vec![&bus, &own, &below, &above, &memory]);
    let mut routes = PackageBuilder::new();
    for slot in 1..SLOTS {
        let address = (slot as u32) << 16 | 0xffff;
        let line = PciHost::line_of(slot);
        routes.add_element(&Package::new(vec![&address, &ZERO, &ZERO, &line]));
    }
    let (hid, bus) = (Name::new("_HID".into(), &EISAName::new("PNP0A03")), Name::new("_BBN".into(), &ZERO));
    let (uid, resources) = (Name::new("_UID".into(), &ZERO), Name::new("_CRS".into(), &resources));
    let routes = Name::new("_PRT".into(), &routes);
    bytes_of(&Device::new("PCI0".into(), vec![&hid, &uid, &bus, &resources, &routes]))
}

/// The Differentiated System Description Table: soft off, the PCI root, and the ISA devices that are looked for here.
fn dsdt(shape: Shape) -> Sdt {
    // The sleep type of `device::acpi_pm`.
    let soft_off = Name::new("_S5_".into(), &Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]));
    let pci = Made(pci_root());
    let serial = Made(isa("COM1", "PNP0501", layout::COM1.start().0, 8, layout::IRQ_COM1));
    let clock = Made(isa("RTC_", "PNP0B00", layout::CMOS.start().0, 2, layout::IRQ_RTC));
    let keyboard = Made(if shape.screen { keyboard() } else { vec![] });
    let virtio = Made((0..shape.virtio).flat_map(virtio_device).collect());
    let system = Scope::new("_SB_".into(), vec![&pci, &serial, &clock, &keyboard, &virtio]);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&bytes_of(&soft_off));
    dsdt.append_slice(&bytes_of(&system));
    dsdt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    const SMALL: Shape = Shape { cpus: 1, screen: false, virtio: 0 };

    fn word(bytes: &[u8], at: usize) -> usize {
        super::word(bytes, at) as usize
    }

    #[test]
    fn tables_are_found_from_the_rsdp_on_and_add_up() {
        let ram = GuestRam::new(1 << 20).unwrap();
        write(&ram, Shape { cpus: 2, screen: true, virtio: 8 });
        let read = |at: usize, size: usize| {
            let mut bytes = vec![0; size];
            ram.read(Gpa(at as u64), &mut bytes).unwrap();
            bytes
        };
        let table = |at: usize| {
            let bytes = read(at, word(&read(at, 8), 4));
            assert_eq!(sum(&bytes), 0, "{:?}", String::from_utf8_lossy(&bytes[..4]));
            bytes
        };
        let rsdp = read(layout::FIRMWARE_TABLES.0 as usize, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 0, 0));
        let xsdt = table(word(&rsdp, 24));
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
        let rsdt = table(word(&rsdp, 16));
        assert_eq!((word(&rsdt, 36), word(&rsdt, 40)), (word(&xsdt, 36), word(&xsdt, 44)));
        let (fadt, madt) = (table(word(&xsdt, 36)), table(word(&xsdt, 44)));
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        let dsdt = table(word(&fadt, 40));
        assert_eq!(&dsdt[..4], b"DSDT");
        // Memory32Fixed, and an interrupt whose level counts.
        let virtio = |pin: u8| {
            let registers = [0x86, 9, 0, 1, 0, (pin - 16) << 4, 0xf0, 0xfe, 0, 0x10, 0, 0];
            [&registers[..], &[0x89, 6, 0, 1, 1, pin, 0, 0, 0]].concat()
        };
        for pin in 16..24 {
            assert!(dsdt.windows(21).any(|bytes| bytes == virtio(pin)), "{pin}");
        }
        assert_eq!(dsdt.windows(8).filter(|bytes| bytes == b"LNRO0005").count(), 8);
        let facs = read(word(&fadt, 36), 64);
        assert_eq!((&facs[..4], word(&fadt, 36) % 64), (&b"FACS"[..], 0));
        // Structures of the MADT fill it, and two are enabled CPUs.
        let (mut at, mut cpus) = (44, 0);
        while at < madt.len() {
            cpus += usize::from(madt[at] == 0 && word(&madt, at + 4) == 1);
            at += usize::from(madt[at + 1]);
        }
        assert_eq!((at, cpus), (madt.len(), 2));
    }

    #[test]
    fn little_ram_gets_no_tables() {
        write(&GuestRam::new(4096).unwrap(), SMALL);
    }

    /// What a firmware does with the files: place them, then mend pointers and sums.
    #[test]
    fn files_are_placed_by_their_own_commands() {
        let [(_, mut rsdp), (_, mut tables), (_, commands)] = files(SMALL);
        let base = 0x7_f000_u32;
        let name = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes.split(|&b| b == 0).next().unwrap_or_default()).into_owned()
        };
        let mut allocated = vec![];
        for command in commands.chunks(loader::SIZE) {
            let (first, numbers) = (name(&command[4..60]), &command[60..]);
            let file = if first == FILE_RSDP { &mut rsdp } else { &mut tables };
            match super::word(command, 0) {
                loader::ALLOCATE => allocated.push(first),
                loader::ADD_POINTER => {
                    assert_eq!(name(numbers), FILE_TABLES);
                    let at = word(&numbers[56..], 0);
                    let moved = super::word(file, at) + base;
                    file[at..at + 4].copy_from_slice(&moved.to_le_bytes());
                }
                loader::ADD_CHECKSUM => {
                    let [at, start, length] = [0, 4, 8].map(|i| word(numbers, i));
                    file[at] = file[at].wrapping_sub(sum(&file[start..start + length]));
                }
                other => panic!("command {other}"),
            }
        }
        assert_eq!(allocated, [FILE_RSDP, FILE_TABLES]);
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let table = |at: usize| {
            let at = at - base as usize;
            let table = &tables[at..at + word(&tables, at + 4)];
            assert_eq!(sum(table), 0, "{:?}", name(&table[..4]));
            table
        };
        let xsdt = table(word(&rsdp, 24));
        let fadt = table(word(xsdt, 36));
        assert_eq!(&table(word(fadt, 40))[..4], b"DSDT");
        assert_eq!((word(fadt, 40), &table(word(xsdt, 44))[..4]), (word(fadt, 140), &b"APIC"[..]));
        assert_eq!(word(table(word(&rsdp, 16)), 36), word(xsdt, 36));
    }
}
