//! The interpreter beside modes that run natively: guests on which they agree, and a mode that is made to do something else.
use super::*;
use crate::abi;
use crate::arch::Gpa;
use crate::bench::workload;
use crate::machine::availability;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};

/// The modes that this host has.
fn modes() -> Vec<Mode> {
    let able = |mode: &Mode| match availability(*mode) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped in {mode}: {error}");
            false
        }
    };
    [Mode::Pv, Mode::Kvm].into_iter().filter(able).collect()
}

fn image(name: &str) -> Image {
    Image::parse(workload::find(name).unwrap().image).unwrap()
}

fn beside(name: &str, mode: Mode) -> Beside {
    let mut spec = MachineSpec::new(Mode::Emu);
    spec.memory = 32 << 20;
    spec.command_line = format!("{}=1 {}=1000000", abi::ARG_BUDGET_US, abi::ARG_TSC_KHZ);
    Beside::new(&spec, &image(name), mode).unwrap()
}

#[test]
fn every_mode_agrees_with_the_interpreter_to_the_end() {
    for mode in modes() {
        let mut both = beside("hello", mode);
        let verdict = both.run(u64::MAX, &mut || false).unwrap();
        assert_eq!((verdict.difference, verdict.unequal, verdict.ended), (None, None, true), "{mode}");
        // Each byte that it prints is a point.
        assert!(verdict.blocks > 40 && verdict.instructions > 5_000, "{mode}: {}", verdict.blocks);
        assert!(both.console().contains("Hello"), "{mode}: {}", both.console());
    }
}

#[test]
fn guests_with_timers_and_page_faults_agree_in_pv() {
    if !modes().contains(&Mode::Pv) {
        return;
    }
    // None of these executes FXSAVE, which shows AMD's CPUs by a bit of MXCSR_MASK.
    for name in ["lost_wakeup", "page_fault", "pushf_popf", "timer_interrupt"] {
        let mut both = beside(name, Mode::Pv);
        let verdict = both.run(3_000, &mut || false).unwrap();
        assert_eq!((&verdict.difference, &verdict.unequal), (&None, &None), "{name}");
        assert!(verdict.ended || verdict.blocks == 3_000, "{name}: {verdict:?}");
    }
}

#[test]
fn comparing_ends_where_kvm_reads_the_hosts_time() {
    if !modes().contains(&Mode::Kvm) {
        return;
    }
    let verdict = beside("cpuid", Mode::Kvm).run(u64::MAX, &mut || false).unwrap();
    assert_eq!((&verdict.difference, verdict.ended), (&None, false));
    let at = verdict.unequal.unwrap();
    let instruction = Decoder::with_ip(at.bits, &at.bytes, at.rip, DecoderOptions::NONE).decode();
    assert_eq!(instruction.mnemonic(), Mnemonic::Rdtsc);
}

/// The first `add rax, 2` behind the start of the guest's main function, which a mode may find to be another one.
fn addition() -> u64 {
    let image = image("hello");
    let start = image.symbols().iter().find(|symbol| symbol.name == "workload_main").unwrap().address;
    let both = beside("hello", Mode::Pv);
    let mut code = [0; 256];
    both.other_ram().read(Gpa(start), &mut code).unwrap();
    let found = code.windows(4).position(|bytes| bytes == [0x48, 0x83, 0xc0, 2]).unwrap();
    start + found as u64
}

#[test]
fn a_mode_that_does_something_else_is_found_and_named_to_the_instruction() {
    let modes = modes();
    if !modes.contains(&Mode::Pv) {
        return;
    }
    let at = addition();
    for mode in modes {
        let mut both = beside("hello", mode);
        // add rax, 4: its counter skips every second piece of the line.
        both.sabotage = Some((Gpa(at + 3), 4));
        let verdict = both.run(u64::MAX, &mut || false).unwrap();
        let difference = verdict.difference.unwrap_or_else(|| unreachable!("{mode}: it was not seen"));
        let culprit = difference.culprit.expect("one instruction is to blame");
        assert_eq!(culprit.rip, at, "{mode}: {culprit:x?} {:x?}", difference.registers);
        assert_eq!(culprit.at.bytes[..4], [0x48, 0x83, 0xc0, 2], "{mode}: as the guest wrote it");
        assert!(culprit.number > 1 && difference.block.is_some(), "{mode}");
    }
}
