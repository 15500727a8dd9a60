//! Boots a disk by a real BIOS, where the host has one: Debian's package `seabios`.
//!
//! The boot sector is made here. It prints by the BIOS and on the serial port, has the BIOS read the second sector, prints
//! that, and switches off.
#[path = "images/iso9660.rs"]
mod iso9660;

use iced_x86::code_asm::*;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;
use trivisor::device::vga::TextScreen;
use trivisor::engine::Mode;
use trivisor::host::disk::DiskSpec;
use trivisor::loader::Image;
use trivisor::machine::{Capture, Limits, Machine, MachineSpec, Stop, VirtioPlace};

const SEABIOS: &str = "/usr/share/seabios";
const FIRST: &[u8] = b"from the boot sector\r\n\0";
const SECOND: &[u8] = b"from the second sector\r\n\0";
/// Where things are in memory once the BIOS has loaded the boot sector.
const LOADED_AT: u32 = 0x7c00;
const TEXT_AT: u32 = 0x7d00;
const GOOD_AT: u32 = 0x7d40;
const BAD_AT: u32 = 0x7d60;
const PACKET_AT: u32 = 0x7d80;
const SECOND_AT: u32 = 0x7e00;
/// What the packet has the BIOS fill or write.
const BUFFER_AT: u32 = 0x8000;

/// The firmware's files, if the host has them.
fn seabios() -> Option<PathBuf> {
    let folder = Path::new(SEABIOS).to_owned();
    if folder.join("bios-256k.bin").exists() {
        return Some(folder);
    }
    eprintln!("skipped: {SEABIOS} has no bios-256k.bin (Debian: the package seabios)");
    None
}

/// A sector far behind on the disk that the second kind of boot sector writes.
const FAR: u64 = (480 << 20) / 512;

/// What the boot sector has the BIOS do.
#[derive(Clone, Copy)]
enum Job {
    /// Read the second sector and print what it says.
    Read,
    /// Write the sector [`FAR`], and print whether it could be.
    Write,
    /// Read the block of a CD's file and print what it says.
    ReadCd,
}

/// Two sectors, and so many more that are empty.
fn disk(job: Job) -> Result<Vec<u8>, IcedError> {
    let mut image = boot_sector(job)?;
    image.extend(SECOND);
    // A cylinder, at least, that the BIOS can count.
    image.resize(1 << 20, 0);
    Ok(image)
}

fn boot_sector(job: Job) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(16)?;
    let (mut print, mut end, mut off, mut halt) =
        (a.create_label(), a.create_label(), a.create_label(), a.create_label());
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(es, ax)?;
    a.mov(ss, ax)?;
    a.mov(sp, 0x7c00)?;
    // The BIOS says in DL which disk this is.
    a.push(dx)?;
    a.mov(si, TEXT_AT)?;
    a.call(print)?;
    a.pop(dx)?;
    match job {
        Job::Read => {
            a.mov(ax, 0x0201)?;
            a.mov(cx, 0x0002)?;
            a.mov(dh, 0)?;
            a.mov(bx, SECOND_AT)?;
            a.int(0x13)?;
            a.jb(halt)?;
            a.mov(si, SECOND_AT)?;
        }
        Job::Write => {
            a.mov(ax, 0x4300)?;
            a.mov(si, PACKET_AT)?;
            a.int(0x13)?;
            a.mov(si, GOOD_AT)?;
            a.jae(off)?;
            a.mov(si, BAD_AT)?;
            a.set_label(&mut off)?;
        }
        Job::ReadCd => {
            a.mov(ax, 0x4200)?;
            a.mov(si, PACKET_AT)?;
            a.int(0x13)?;
            a.jb(halt)?;
            a.mov(si, BUFFER_AT)?;
        }
    }
    a.call(print)?;
    a.mov(al, 0x10)?;
    a.out(0xf4, al)?;
    a.set_label(&mut halt)?;
    a.hlt()?;
    a.jmp(halt)?;
    a.set_label(&mut print)?;
    a.lodsb()?;
    a.test(al, al)?;
    a.je(end)?;
    a.push(ax)?;
    a.mov(ah, 0x0e)?;
    a.mov(bx, 7)?;
    a.int(0x10)?;
    a.pop(ax)?;
    a.mov(dx, 0x3f8)?;
    a.out(dx, al)?;
    a.jmp(print)?;
    a.set_label(&mut end)?;
    a.ret()?;
    let code = a.assemble(LOADED_AT.into())?;
    // Disk address packet: its size, sectors, memory, first sector.
    let sector = if let Job::ReadCd = job { iso9660::FILE_AT.into() } else { FAR };
    let packet = [&[16, 0, 1, 0, 0x00, 0x80, 0, 0], &sector.to_le_bytes()[..]].concat();
    let mut image = vec![];
    for (at, bytes) in [
        (LOADED_AT, &code[..]),
        (TEXT_AT, FIRST),
        (GOOD_AT, b"written\r\n\0"),
        (BAD_AT, b"not written\r\n\0"),
        (PACKET_AT, &packet),
    ] {
        let at = (at - LOADED_AT) as usize;
        assert!(image.len() <= at, "no room in the boot sector");
        image.resize(at, 0);
        image.extend(bytes);
    }
    image.resize(510, 0);
    image.extend([0x55, 0xaa]);
    Ok(image)
}

/// How the disk is attached: by virtio, or to an IDE channel.
#[derive(Clone, Copy)]
enum Attached {
    Virtio(VirtioPlace),
    Ide,
    CdRom,
}

/// Boots the disk; what was on the serial port, and the screen.
fn boot(folder: &Path, attached: Attached, screen: bool) -> (String, TextScreen) {
    let place = TempDir::new().expect("a folder");
    let image = place.path().join("disk.img");
    let bytes = match attached {
        Attached::CdRom => iso9660::image(&boot_sector(Job::ReadCd).expect("code"), "FILE.TXT", SECOND),
        _ => disk(Job::Read).expect("code"),
    };
    std::fs::write(&image, bytes).expect("a file");
    let disk = vec![DiskSpec { image, read_only: false, overlay: None }];
    let mut spec = MachineSpec::new(Mode::Emu);
    match attached {
        Attached::Ide => spec.ide_disks = disk,
        Attached::CdRom => spec.cdroms = disk,
        Attached::Virtio(place) => (spec.disks, spec.virtio) = (disk, place),
    }
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file of the package");
    if screen {
        spec.firmware.vga_bios = Some(read("vgabios-isavga.bin"));
    }
    let bios = Image::firmware(read("bios-256k.bin")).expect("firmware");
    let serial = Capture::new(1 << 16);
    let mut machine =
        Machine::build(&spec, &bios, Box::new(serial.clone())).expect("a machine with a screen");
    // A guest that hangs ends the test, too.
    let limits = Limits {
        timeout: Some(std::time::Duration::from_secs(60)),
        interruptible: false,
        ..Limits::default()
    };
    let stop = machine.run(&limits).expect("a machine with a screen");
    assert_eq!(stop, Stop::PowerOff(0x21), "{}", serial.text());
    let screen =
        machine.pc().screen().expect("a machine with a screen").text().expect("a machine with a screen");
    (serial.text(), screen)
}

#[test]
fn seabios_boots_an_ide_disk_or_a_cd_and_prints_on_the_screen() {
    let Some(folder) = seabios() else { return };
    for (attached, source) in
        [(Attached::Ide, "Booting from Hard Disk..."), (Attached::CdRom, "Booting from DVD/CD...")]
    {
        let (serial, screen) = boot(&folder, attached, true);
        assert_eq!(serial, "from the boot sector\r\nfrom the second sector\r\n");
        let lines = screen.lines();
        let words = ["SeaBIOS (version", source, "from the boot sector", "from the second sector"];
        let mut rest = lines.iter();
        for word in words {
            assert!(rest.any(|line| line.starts_with(word)), "{word} is missing or late: {lines:?}");
        }
    }
}

#[test]
fn seabios_boots_a_virtio_disk_and_prints_on_the_serial_port() {
    let Some(folder) = seabios() else { return };
    for place in [VirtioPlace::Pci, VirtioPlace::Memory] {
        let (serial, _) = boot(&folder, Attached::Virtio(place), false);
        for word in ["SeaBIOS (version", "Booting from Hard Disk..."] {
            assert!(serial.contains(word), "{place:?}: {serial}");
        }
        // Once by the BIOS, once by the boot sector itself.
        assert!(serial.contains("ffrroomm"), "{place:?}: {serial}");
    }
}

/// The overlay's file may grow to 200 MiB, or 400 where the shell counts in other units; the host ends it there as a full
/// disk would.
#[test]
fn an_overlay_that_cannot_grow_is_an_error_that_the_guest_sees() {
    let Some(folder) = seabios() else { return };
    let place = TempDir::new().unwrap();
    let file = |name: &str| place.path().join(name).display().to_string();
    let (image, overlay) = (file("disk.img"), file("disk.cow"));
    std::fs::write(&image, disk(Job::Write).unwrap()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(512 << 20).unwrap();
    for kind in ["", ",ide"] {
        for (limit, outcome) in [("ulimit -f 409600", "not written"), ("true", "\nwritten")] {
            let _none_at_first = std::fs::remove_file(&overlay);
            let script = format!("{limit}; trap '' XFSZ; exec \"$@\"");
            let output = Command::new("sh")
                .args([
                    "-c",
                    &script,
                    "sh",
                    env!("CARGO_BIN_EXE_trivisor"),
                    "run",
                    "--memory",
                    "16M",
                    "--timeout",
                    "60s",
                ])
                .arg("--bios")
                .arg(folder.join("bios-256k.bin"))
                .arg("--vgabios")
                .arg(folder.join("vgabios-isavga.bin"))
                .args(["--disk", &format!("{image},overlay={overlay}{kind}")])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(out.contains(outcome), "{kind} {limit}: {out} {err}");
            assert_eq!(err.contains("could not be written"), outcome == "not written", "{err}");
        }
    }
}
