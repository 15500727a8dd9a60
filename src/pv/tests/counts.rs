//! The account of patched instructions: how often each was executed, by whom, and what became of its patch.
use super::*;
use crate::engine::{Occasion, Patch, Site};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::collections::BTreeMap;

fn mnemonic(site: &Site) -> String {
    let i = Decoder::with_ip(64, &site.bytes, site.address.0, DecoderOptions::NONE).decode();
    assert_eq!(i.len(), site.bytes.len());
    format!("{:?}", i.mnemonic())
}

/// Executions by mnemonic, over all sites.
pub(super) fn by_mnemonic(pv: &PvVcpu) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for site in pv.sites().unwrap().list {
        *counts.entry(mnemonic(&site)).or_default() += site.count().unwrap();
    }
    counts
}

/// The one site with this mnemonic.
fn site(pv: &PvVcpu, wanted: Mnemonic) -> Site {
    let mut found: Vec<Site> =
        pv.sites().unwrap().list.into_iter().filter(|s| mnemonic(s) == format!("{wanted:?}")).collect();
    assert_eq!(found.len(), 1, "{wanted:?}: {found:?}");
    found.remove(0)
}

fn run(program: impl FnOnce(&mut CodeAssembler), handler: impl FnOnce(&mut CodeAssembler)) -> PvVcpu {
    let (machine, state) = guest(program, handler);
    let mut pv = counting(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    pv
}

/// `body` so many times, with the count in R15.
fn repeat(a: &mut CodeAssembler, times: u32, body: impl FnOnce(&mut CodeAssembler)) {
    let mut top = a.create_label();
    a.mov(r15d, times).unwrap();
    a.set_label(&mut top).unwrap();
    body(a);
    a.dec(r15d).unwrap();
    a.jnz(top).unwrap();
}

#[test]
fn each_site_is_counted_exactly_and_by_whoever_did_it() {
    let pv = run(
        |a| {
            repeat(a, 1000, |a| {
                a.cli().unwrap();
                a.mov(rbx, rbx).unwrap();
                a.mov(rbx, rbx).unwrap();
            });
            repeat(a, 700, |a| {
                a.pushfq().unwrap();
                a.mov(rbx, qword_ptr(rsp)).unwrap();
                a.popfq().unwrap();
            });
            repeat(a, 300, |a| {
                a.mov(edx, 0x500).unwrap();
                a.in_(al, dx).unwrap();
            });
            repeat(a, 200, |a| {
                a.mov(edx, 0x500).unwrap();
                a.out(dx, al).unwrap();
            });
            repeat(a, 10, |a| {
                a.mov(eax, 0).unwrap();
                a.cpuid().unwrap();
            });
            repeat(a, 500, |a| {
                a.sti().unwrap();
                a.mov(rbx, rbx).unwrap();
                a.mov(rbx, rbx).unwrap();
            });
            a.mov(eax, 0).unwrap();
            a.int(0x80).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.nop().unwrap();
            a.iretq().unwrap();
        },
    );
    for (wanted, patch, count) in [
        (Mnemonic::Cli, Patch::InProcess, 1000),
        (Mnemonic::Pushfq, Patch::InProcess, 700),
        (Mnemonic::Popfq, Patch::InProcess, 700),
        (Mnemonic::Sti, Patch::InProcess, 500),
        (Mnemonic::In, Patch::Hypercall, 300),
        (Mnemonic::Out, Patch::Hypercall, 200),
        (Mnemonic::Cpuid, Patch::Hypercall, 10),
        (Mnemonic::Int, Patch::Hypercall, 1),
        (Mnemonic::Iretq, Patch::Hypercall, 1),
        (Mnemonic::Hlt, Patch::Hypercall, 1),
    ] {
        let site = site(&pv, wanted);
        if wanted != Mnemonic::Hlt && wanted != Mnemonic::Iretq {
            assert_eq!(site.patch, patch, "{site:?}");
        }
        assert_eq!(site.count(), Some(count), "{site:?}");
        assert!(!site.taken_back);
        match patch {
            // No one else sees it, and nothing of it is timed.
            Patch::InProcess => assert_eq!((site.by_engine, site.cost), (0, None), "{site:?}"),
            _ => assert_eq!((site.in_process, site.by_engine), (Some(0), count), "{site:?}"),
        }
        // What was replaced holds the instruction, and a jump needs five bytes.
        let into = (site.address.0 - site.start.0) as usize;
        assert_eq!(site.replaced[into..into + site.bytes.len()], site.bytes, "{site:?}");
        assert!(!site.patch.is_jump() || site.replaced.len() >= 5, "{site:?}");
    }
    let cost = site(&pv, Mnemonic::In).cost.unwrap();
    assert!(
        cost.timed > 200
            && cost.timed <= 300
            && cost.least > 0
            && cost.mean + 1.0 > cost.least as f64
            && cost.mean < 1e9,
        "{cost:?}"
    );
}

#[test]
fn what_the_thunk_leaves_to_the_engine_is_counted_once() {
    // An interrupt waits: STI and POPF that set IF go to the engine.
    let (machine, state) = guest(
        |a| {
            repeat(a, 50, |a| {
                a.cli().unwrap();
                a.mov(edx, 0x500).unwrap();
                a.out(dx, al).unwrap();
                a.sti().unwrap();
                a.mov(rbx, rbx).unwrap();
                a.mov(rbx, rbx).unwrap();
            });
            a.cli().unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.inc(r14).unwrap();
            a.iretq().unwrap();
        },
    );
    let mut pv = counting(&machine, &state);
    let interrupts = Arc::clone(&machine.interrupts);
    machine.port.lock().unwrap().on_port_write.0 = Some(Box::new(move |_| interrupts.raise(0x40)));
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    assert_eq!(pv.save().unwrap().gpr[14], 50);
    let sti = site(&pv, Mnemonic::Sti);
    assert_eq!((sti.in_process, sti.by_engine), (Some(0), 50), "{sti:?}");
    assert_eq!(site(&pv, Mnemonic::Iretq).count(), Some(50));
    assert_eq!(site(&pv, Mnemonic::Out).count(), Some(50));
    assert_eq!(by_mnemonic(&pv)["Cli"], 51);
}

#[test]
fn a_site_that_is_found_by_its_first_trap_is_counted_from_that_on() {
    let target = CODE + 0x801;
    let pv = run(
        |a| {
            a.mov(rdi, target).unwrap();
            repeat(a, 9, |a| {
                a.call(rdi).unwrap();
            });
            a.hlt().unwrap();
            let length = a.assemble(CODE).unwrap().len();
            // Bytes that no sweep takes for code, right before and behind.
            a.db(&vec![0x06; 0x801 - length]).unwrap();
            a.mov(edx, 0x500).unwrap();
            a.in_(al, dx).unwrap();
            a.cli().unwrap();
            a.mov(rbx, rbx).unwrap();
            a.ret().unwrap();
            a.db(&[0x06; 64]).unwrap();
        },
        halt,
    );
    let (input, cli) = (site(&pv, Mnemonic::In), site(&pv, Mnemonic::Cli));
    assert_eq!((input.occasion, input.patch), (Occasion::Trap, Patch::Hypercall), "{input:?}");
    assert_eq!((input.count(), input.address.0), (Some(9), target + 5));
    assert_eq!(
        (cli.occasion, cli.patch, cli.count()),
        (Occasion::Trap, Patch::InProcess, Some(9)),
        "{cli:?}"
    );
    assert_eq!(cli.start, input.start, "one thunk for both");
}

#[test]
fn a_patch_that_is_taken_back_keeps_its_count_and_goes_on_when_it_is_made_again() {
    const FUNCTION: u64 = 0x40_0000;
    // PUSHFQ, POP RAX, MOV EBX, n, RET.
    let function = |n: u8| u64::from_le_bytes([0x9c, 0x58, 0xbb, n, 0, 0, 0, 0xc3]);
    // CLI, four NOPs, RET.
    let other = u64::from_le_bytes([0xfa, 0x90, 0x90, 0x90, 0x90, 0xc3, 0, 0]);
    let call = |a: &mut CodeAssembler, code: u64, times: u32| {
        a.mov(rdi, FUNCTION).unwrap();
        a.mov(rax, code).unwrap();
        a.mov(qword_ptr(rdi), rax).unwrap();
        repeat(a, times, |a| a.call(rdi).unwrap());
    };
    let pv = run(
        |a| {
            call(a, function(1), 11);
            call(a, other, 7);
            call(a, function(2), 5);
            call(a, other, 2);
            a.hlt().unwrap();
        },
        halt,
    );
    let (pushf, cli) = (site(&pv, Mnemonic::Pushfq), site(&pv, Mnemonic::Cli));
    assert_eq!((pushf.count(), pushf.taken_back), (Some(16), true), "{pushf:?}");
    assert_eq!((cli.count(), cli.taken_back), (Some(9), false), "{cli:?}");
    assert_eq!((pushf.address.0, cli.address.0), (FUNCTION, FUNCTION));
    // The report knows the guest's own bytes, and what is patched now.
    assert_eq!(pv.patched().iter().filter(|s| s.address == FUNCTION).count(), 1);
}

#[test]
fn an_instruction_that_faults_is_counted_when_it_succeeds() {
    // The third 2 MiB page is not there until the handler of #PF maps it; the fourth is, but the child lacks it at first.
    let entry = FakeMachine::TABLES.0 + 0x2000 + 8 * 3;
    let pv = run(
        |a| {
            a.mov(rcx, entry).unwrap();
            a.mov(qword_ptr(rcx), 0).unwrap();
            a.mov(rax, cr3).unwrap();
            a.mov(cr3, rax).unwrap();
            a.mov(rdi, 0x60_1000_u64).unwrap();
            a.sgdt(ptr(rdi)).unwrap();
            a.mov(rbx, rsp).unwrap();
            a.mov(rsp, 0x80_1000_u64).unwrap();
            a.popfq().unwrap();
            a.pushfq().unwrap();
            a.mov(rsp, rbx).unwrap();
            a.hlt().unwrap();
        },
        |a| {
            a.mov(rax, 0x60_0087_u64).unwrap();
            a.mov(qword_ptr(rcx), rax).unwrap();
            a.lea(rsp, qword_ptr(rsp + 8)).unwrap();
            a.iretq().unwrap();
        },
    );
    for mnemonic in ["Sgdt", "Popfq", "Pushfq", "Iretq"] {
        assert_eq!(by_mnemonic(&pv)[mnemonic], 1, "{mnemonic}");
    }
}

#[test]
fn nothing_is_kept_where_nobody_asked() {
    let (machine, state) = guest(halt, halt);
    let mut pv = vcpu(&machine, &state);
    assert_eq!(pv.run(&machine.platform).unwrap(), Exit::Halted);
    assert_eq!(pv.sites(), None);
}
