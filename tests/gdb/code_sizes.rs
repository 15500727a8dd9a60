//! 16- and 32-bit code.
use super::*;

#[test]
fn stock_gdb_reads_16_bit_code_at_its_linear_addresses_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let rom = small_guests::boot_sector(folder.path());
    for mode in modes() {
        let server = Server::start(&["--mode", mode, "--bios", &rom]);
        let Some(said) = gdb_at(
            &server,
            &[
                "show architecture",
                "stepi",
                "print/x $pc",
                "x/i $pc",
                "break *0x7c00",
                "continue",
                "print/x $cs",
                "x/2i $pc",
                "stepi",
                "print/x $ax",
                "stepi",
                "x/2i $pc",
                "watch *(short *)0x500",
                "continue",
                "set $eax = 0x77",
                "set $pc = 0x7c00",
                "stepi",
                "print/x $eax",
                "monitor registers",
                "monitor architecture",
                "kill",
            ],
            &[],
        ) else {
            return;
        };
        for word in [
            "\"i8086\"",
            "$1 = 0xf0000",
            "=> 0xf0000:\tcli",
            "Breakpoint 1, 0x00007c00",
            "$2 = 0x7c0",
            "=> 0x7c00:\tmov    $0x1234,%ax",
            "$3 = 0x1234",
            ":\tinc    %ax",
            "New value = 4661",
            "$4 = 0x1234",
            "rip 0000000000000003",
            "CPU 0 executes 16-bit code, and GDB was told of i8086, too",
        ] {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
    }
}

#[test]
fn stock_gdb_reads_32_bit_code_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let image = small_guests::multiboot(folder.path());
    for mode in modes() {
        let server = Server::start(&["--mode", mode, &image]);
        let Some(said) = gdb_at(
            &server,
            &[
                "show architecture",
                "x/3i $pc",
                "stepi 2",
                "print/x $eax",
                "stepi",
                "x/i $pc",
                "break *$pc+1",
                "continue",
                "info registers esp eip",
                "set $ecx = 5",
                "print $ecx",
                "print $xmm7.uint128",
                "monitor architecture i386:x86-64",
                "disconnect",
                &format!("target remote {}", server.at),
                "show architecture",
                "print $r8",
                "monitor architecture auto",
                "kill",
            ],
            &[],
        ) else {
            return;
        };
        for word in [
            "\"i386\"",
            "=> 0x200020:\tmov    $0x9000,%esp",
            "$1 = 0x12345678",
            ":\tinc    %eax",
            "Breakpoint 1, 0x0020",
            "0x8ffc",
            "$2 = 5",
            "$3 = 0",
            "\"i386:x86-64\"",
            "$4 = 0",
        ] {
            assert!(said.contains(word), "{mode}: no '{word}' in:\n{said}");
        }
    }
}
