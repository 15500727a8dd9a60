//! Devices and interrupt chips, looked at.
#![expect(clippy::panic, reason = "a test that cannot go on should panic")]
use super::*;
use small_guests::{LOOPED, looped_character};

/// The register of this name in a block of an answer.
fn find<'a>(answer: &'a Value, block: &str, name: &str) -> &'a Value {
    let blocks = answer["data"]["blocks"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let found = blocks.iter().find(|b| b["name"] == block).unwrap_or_else(|| panic!("no {block}: {answer}"));
    let registers = found["registers"].as_array().unwrap();
    registers.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no {name}: {found}"))
}

/// Where `chips` says that a line is pending.
fn line(answer: &Value, irq: u8) -> Option<Vec<String>> {
    let lines = answer["data"]["lines"].as_array().unwrap();
    let line = lines.iter().find(|line| line["irq"] == irq)?;
    Some(line["places"].as_array().unwrap().iter().map(|place| place.as_str().unwrap().to_owned()).collect())
}

#[test]
fn a_character_is_looked_at_in_the_uart_and_stays_for_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let image = looped_character(folder.path());
    for mode in modes() {
        let script = format!(
            "chips\nstep {LOOPED}\ndevice uart16550\ndevice UART\nchips\nregisters\nstep\nregisters\ndevice uart16550\nchips"
        );
        let all = answers_with(mode, &image, &script, &["--flat"]);
        let what = format!("{mode}: {all:#?}");
        assert_eq!(line(&all[0], 4), None, "{what}");
        for looked in &all[2..4] {
            let rbr = find(looked, "uart16550", "RBR");
            assert_eq!(
                (&rbr["value"], &rbr["words"][0]),
                (&"0x41".into(), &"1 of 16 received: 'A'".into()),
                "{what}"
            );
            let iir = find(looked, "uart16550", "IIR");
            assert_eq!(
                iir["words"],
                serde_json::json!(["received data", "the interrupt line is high"]),
                "{what}"
            );
            assert_eq!(find(looked, "uart16550", "MCR")["words"][3], "LOOP", "{what}");
        }
        // The line a student wants: pending here, masked there.
        let places = line(&all[4], 4).unwrap();
        assert!(places[0].starts_with("pending in the 8259 master"), "{what}");
        assert!(places[0].ends_with("masked by the IMR") && places[1].contains("masked"), "{what}");
        let refuses = all[4]["data"]["cpus"][0]["refuses"].as_str().unwrap();
        assert_eq!(refuses, "interrupts are off (RFLAGS.IF = 0)", "{what}");
        let asks = find(&all[4], "pic8259 master", "IRR")["words"].as_array().unwrap();
        assert!(asks.contains(&"IRQ4".into()), "{what}");
        assert_eq!(
            find(&all[4], "ioapic", "REDTBL[4]")["words"].as_array().unwrap().last().unwrap(),
            "pin high",
            "{what}"
        );
        assert_eq!(find(&all[4], "lapic 0", "LVT_LINT0")["words"][1], "ExtINT", "{what}");
        find(&all[4], "pit8254 channel 0", "count");
        // The guest's own read has it, and then it is gone.
        assert_eq!(number(&register(&all[7], "rax")["value"]), u64::from(b'A'), "{what}");
        assert_eq!(find(&all[8], "uart16550", "RBR")["words"][0], "nothing received", "{what}");
        // An edge waits in the 8259 for ever; the line itself is low.
        assert_eq!(line(&all[9], 4).unwrap().len(), 1, "{what}");
    }
}

#[test]
fn all_devices_are_listed_and_shown() {
    for mode in modes() {
        let all = answers_with(
            mode,
            "hello",
            "device\ndevice pci\ndevice nothing\ndevice isa-debug-exit\ndevice virtio-entropy\ndevice cmos\ndevice lapic 0",
            &["--rng"],
        );
        let what = format!("{mode}: {all:#?}");
        let devices = all[0]["data"]["devices"].as_array().unwrap();
        for name in trivisor::machine::DEVICES {
            let device =
                devices.iter().find(|d| d["name"] == name).unwrap_or_else(|| panic!("{name}: {what}"));
            let silent = ["isa-debug-exit", "bench-port"].contains(&name);
            assert_eq!(device["blocks"].as_array().unwrap().is_empty(), silent, "{what}");
        }
        let uart = devices.iter().find(|d| d["name"] == "uart16550").unwrap();
        assert_eq!(uart["ports"], serde_json::json!([["0x3f8", "0x3ff"]]), "{what}");
        assert_eq!(find(&all[1], "pci 00:00.0", "CLASS")["words"][0], "host bridge", "{what}");
        assert_eq!(all[2]["ok"], false, "{what}");
        assert!(
            all[2]["text"].as_str().unwrap().starts_with("there is no device 'nothing'; there are "),
            "{what}"
        );
        assert!(all[3]["text"].as_str().unwrap().contains("keeps nothing in registers"), "{what}");
        assert_eq!(find(&all[4], "virtio-entropy", "STATUS")["words"][0], "no driver", "{what}");
        assert_eq!(find(&all[4], "virtio-entropy queue 0", "SIZE")["words"][0], "not enabled", "{what}");
        assert_eq!(find(&all[5], "cmos", "D")["value"], "0x80", "{what}");
        assert!(all[6]["data"]["blocks"].as_array().unwrap().len() == 1, "{what}");
    }
}
