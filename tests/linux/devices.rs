//! A stock kernel's own drivers, as modules of its package, with the machine's devices.
use super::{Cpio, debian, iso9660, run, text};
use std::path::{Path, PathBuf};

/// The modules of the kernel, by names without `.ko`, in the order in which they are loaded.
fn modules(kernel: &Path, names: &[&str]) -> Option<Vec<(String, Vec<u8>)>> {
    let version = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
    let root = kernel.parent()?.parent()?;
    let folder = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .map(|place| root.join(place).join(version).join("kernel"))
        .find(|folder| folder.is_dir());
    let Some(folder) = folder else {
        eprintln!("skipped: {} has no modules for {version}", root.display());
        return None;
    };
    let files = walk(&folder);
    let find = |name: &&str| {
        let file = files.iter().find(|file| file.file_stem().is_some_and(|stem| stem == *name));
        let module = file.filter(|file| file.extension().is_some_and(|ending| ending == "ko"));
        if module.is_none() {
            eprintln!("skipped: no module {name} in {}", folder.display());
        }
        Some((format!("{name}.ko"), std::fs::read(module?).unwrap()))
    };
    names.iter().map(find).collect()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Boots with these modules loaded and then these lines of `/init`; what was printed. `None` where there is no kernel.
fn boot_with_modules(names: &[&str], lines: &str, arguments: &[&str]) -> Option<String> {
    let (kernel, busybox) = debian()?;
    let modules = modules(&kernel, names)?;
    let loads: String = names.iter().map(|name| format!("busybox insmod /{name}.ko\n")).collect();
    let lines = format!(
        "busybox mount -t proc proc /proc\nbusybox mount -t devtmpfs dev /dev\n{loads}{lines}\nbusybox poweroff -f\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd");
    let busybox = std::fs::read(busybox).unwrap();
    std::fs::write(&initrd, Cpio::with_files(&busybox, &lines, &modules)).unwrap();
    let image = ["--kernel", kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()];
    let output = run(&[arguments, &image, &["--append", "console=ttyS0 quiet"]].concat());
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}\n{printed}", text(&output.stderr));
    Some(printed)
}

#[test]
fn its_virtio_drivers_find_the_devices_on_the_bus_and_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (disk, capture) = (path("disk"), path("frames.pcap"));
    // Drivers of the bus or of memory, and what the interrupts' names tell.
    let on_bus = ["virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"];
    for (place, faces, interrupts) in
        [("mmio", &["virtio_mmio"][..], "IO-APIC"), ("pci", &on_bus[..], "PCI-MSI")]
    {
        let mut image = vec![0_u8; 1 << 20];
        image[..17].copy_from_slice(b"from the host's \n");
        std::fs::write(&disk, &image).unwrap();
        let drivers =
            ["virtio_blk", "virtio-rng", "virtio_console", "failover", "net_failover", "virtio_net"];
        let names = [&["virtio_ring", "virtio"], faces, &drivers].concat();
        // From the console on everything goes by it.
        let lines = "exec >/dev/hvc0 2>&1\n\
            busybox head -n1 /dev/vda\n\
            busybox printf 'from the guest\\n' | busybox dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2>/dev/null\n\
            busybox dd if=/dev/hwrng bs=64 count=1 2>/dev/null | busybox wc -c\n\
            busybox ifconfig eth0 10.0.0.1 up\n\
            busybox arping -c 1 -w 1 -I eth0 10.0.0.2 >/dev/null\n\
            busybox grep virtio /proc/interrupts\n\
            busybox sync";
        let devices = [
            "--virtio",
            place,
            "--disk",
            &disk,
            "--rng",
            "--console",
            "virtio",
            "--net",
            &format!("pcap={capture}"),
        ];
        let Some(printed) = boot_with_modules(&names, lines, &devices) else { return };
        assert!(printed.contains("from the host's"), "{place}: {printed}");
        assert!(printed.contains("64"), "{place}: {printed}");
        let taken: Vec<_> = printed.lines().filter(|line| line.contains("virtio")).collect();
        assert!(
            !taken.is_empty() && taken.iter().all(|line| line.contains(interrupts)),
            "{place}: {printed}"
        );
        assert_eq!(&std::fs::read(&disk).unwrap()[8 * 512..][..15], b"from the guest\n", "{place}");
        // A capture's header is 24 bytes; the request for an address is 42 and more.
        assert!(std::fs::metadata(&capture).unwrap().len() > 24 + 42, "{place}");
    }
}

#[test]
fn its_cd_driver_mounts_a_cd_beside_an_ide_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (disk, cd) = (path("disk"), path("cd.iso"));
    std::fs::write(&disk, vec![b'd'; 1 << 20]).unwrap();
    // Longer than a request.
    let contents: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&cd, iso9660::image(&[], "FILE.TXT", &contents)).unwrap();
    let names = ["scsi_common", "scsi_mod", "cdrom", "sd_mod", "sr_mod", "libata", "ata_piix", "isofs"];
    let lines = "busybox sleep 1\n\
        busybox mkdir /cd\n\
        busybox mount -t iso9660 -o ro /dev/sr0 /cd && busybox md5sum /cd/file.txt\n\
        busybox head -c 5 /dev/sda; echo\n\
        busybox dd if=/dev/zero of=/dev/sr0 bs=2048 count=1 2>/dev/null || echo read only";
    let devices = ["--disk", &format!("{disk},ide"), "--disk", &format!("{cd},cdrom")];
    let Some(printed) = boot_with_modules(&names, lines, &devices) else { return };
    // MD5 of the contents.
    assert!(printed.contains("d85bc23258cf4ec207963f9f2f02c38d"), "{printed}");
    assert!(["ddddd", "read only"].iter().all(|word| printed.contains(word)), "{printed}");
}
