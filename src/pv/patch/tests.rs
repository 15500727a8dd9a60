//! Patches without a child: what is scanned, what is changed, what is given back.
use super::*;
use crate::arch::Gpa;
use crate::clock::ClockSource;
use crate::engine::fake::FakeMachine;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};

const CODE: u64 = 0x20_0000;
const NEXT: u64 = CODE + PAGE_SIZE;

struct Bench {
    machine: FakeMachine,
    state: CpuState,
    patches: Patches,
}

impl Bench {
    fn new() -> Self {
        let machine = FakeMachine::new(8 << 20, ClockSource::Real);
        let mut state = machine.long_mode(CODE, 0x30_0000);
        state.idtr.limit = 0;
        let text = Text::new(machine.ram().size()).unwrap();
        let patches = Patches::new(Arc::clone(machine.ram()), text, true, true);
        Self { machine, state, patches }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.machine.ram().write(Gpa(at), bytes).unwrap();
    }

    /// Assembles a program at `at`.
    fn program(&self, at: u64, build: impl FnOnce(&mut CodeAssembler)) {
        let mut a = CodeAssembler::new(64).unwrap();
        build(&mut a);
        self.write(at, &a.assemble(at).unwrap());
    }

    fn execute(&mut self, at: u64) {
        let page = at & !(PAGE_SIZE - 1);
        assert!(self.patches.prepare_page(&self.state, page, page, at));
    }

    fn kind(&self, at: u64) -> Option<SiteKind> {
        let site = self.patches.sites.range(..=at).next_back().map(|(_, site)| site)?;
        (at - site.address < site.original.len() as u64).then_some(site.kind)
    }

    /// What the child executes.
    fn shadow(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.patches.text.read_shadow(at, &mut bytes);
        bytes
    }
}

/// Something sensitive in the middle of ordinary instructions.
fn sensitive(a: &mut CodeAssembler) {
    a.pushfq().unwrap();
    a.pop(rax).unwrap();
    a.mov(ebx, 0x1234).unwrap();
    a.ret().unwrap();
}

#[test]
fn a_guest_that_rewrites_its_code_for_ever_takes_no_more_and_more_room() {
    let mut b = Bench::new();
    let mut first = None;
    for turn in 0..2000_u64 {
        b.program(CODE, |a| {
            for i in 0..20 {
                match (turn + i) % 4 {
                    0 => a.cli().unwrap(),
                    1 => a.pushfq().unwrap(),
                    2 => a.cpuid().unwrap(),
                    _ => a.mov(rax, cr3).unwrap(),
                }
                for _ in 0..(turn + i) % 3 {
                    a.nop().unwrap();
                }
                a.mov(ebx, i as i32).unwrap();
            }
            a.ret().unwrap();
        });
        b.execute(CODE);
        if turn % 3 == 0 {
            b.patches.drop_page(CODE);
            assert_eq!(b.patches.zone.extent().1, 0);
            assert!(b.patches.clean.is_empty() && b.patches.native.is_empty() && b.patches.sites.is_empty());
        }
        if turn == 100 {
            first = Some(b.patches.zone.extent().0);
        }
    }
    assert_eq!(Some(b.patches.zone.extent().0), first);
    assert!(b.patches.zone.extent().1 <= 20 && b.patches.thunks.len() <= 20);
    let (counters, past) = b.patches.ledger.as_ref().unwrap().extent();
    assert!(counters <= 40 && past < 2000, "{counters} counters, {past} records");
}

#[test]
fn a_page_that_is_executed_at_ever_new_addresses_is_kept_once() {
    let mut b = Bench::new();
    b.program(CODE, sensitive);
    // A window of page tables onto the same page.
    let (pointers, table) = (FakeMachine::TABLES.0 + 0x2000, 0x40_0000_u64);
    b.write(pointers + 8 * 3, &(table | 7).to_le_bytes());
    for i in 0..512 {
        b.write(table + 8 * i, &(CODE | 7).to_le_bytes());
    }
    for i in 0..512 {
        let page = 0x60_0000 + i * PAGE_SIZE;
        assert!(b.patches.prepare_page(&b.state, page, CODE, page));
    }
    assert_eq!((b.patches.pages.len(), b.patches.sites.len(), b.patches.zone.extent().1), (1, 1, 1));
}

#[test]
fn code_is_known_before_it_is_executed_wherever_direct_branches_lead() {
    let mut b = Bench::new();
    // A chain of pages, each of which calls into the middle of the one before and of the one behind, in places that no
    // sweep would believe: there are bytes of an invalid opcode around them.
    const PAGES: u64 = 40;
    for n in 0..PAGES {
        let page = CODE + n * PAGE_SIZE;
        b.write(page, &[0x06; PAGE_SIZE as usize]);
        b.program(page, |a| {
            a.call(page + PAGE_SIZE + 0x801).unwrap();
            a.call(page.wrapping_sub(PAGE_SIZE) + 0xc03).unwrap();
            a.jmp(page + PAGE_SIZE).unwrap();
        });
        b.program(page + 0x801, sensitive);
        b.program(page + 0xc03, sensitive);
    }
    for n in 0..PAGES {
        let page = CODE + n * PAGE_SIZE;
        b.execute(page);
        if n > 0 {
            assert_eq!(b.kind(page + 0x801), Some(SiteKind::Jump), "called by the page before, {n}");
            assert_eq!(b.kind(page - PAGE_SIZE + 0xc03), Some(SiteKind::Jump), "called by a later page, {n}");
        }
        assert_eq!(b.kind(page + 0xc03), None, "nobody leads there yet, {n}");
    }
    // A page that is written and executed again still knows who calls it.
    let page = CODE + 5 * PAGE_SIZE;
    b.patches.drop_page(page);
    b.execute(page);
    assert_eq!(b.kind(page + 0x801), Some(SiteKind::Jump));
    assert_eq!(b.kind(page + 0xc03), Some(SiteKind::Jump));
}

#[test]
fn what_is_not_proven_to_be_code_changes_by_one_byte_at_most_until_it_traps() {
    let mut b = Bench::new();
    b.program(CODE, |a| a.ret().unwrap());
    let table = CODE + 0x100;
    b.program(table, |a| {
        a.mov(ebx, 1).unwrap();
        a.mov(ecx, 1).unwrap();
        a.mov(edx, 1).unwrap();
        a.mov(esi, 1).unwrap();
        a.mov(edi, 1).unwrap();
        a.mov(ebp, 1).unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
        sensitive(a);
    });
    let (hlt, pushf) = (table + 31, table + 32);
    let mut expected = [0; 8];
    b.machine.ram().read(Gpa(table + 28), &mut expected).unwrap();
    b.execute(CODE);
    assert_eq!(b.kind(hlt), None, "it traps by itself");
    assert_eq!(b.kind(pushf), Some(SiteKind::Breakpoint));
    expected[4] = INT3;
    assert_eq!(b.shadow(table + 28, 8), expected);
    // It traps: it was code.
    b.patches.learn(&b.state, pushf, CODE, Occasion::Trap);
    assert_eq!(b.kind(pushf), Some(SiteKind::Jump));
    assert_eq!(b.kind(hlt), None);
    b.patches.learn(&b.state, hlt, CODE, Occasion::Trap);
    assert_eq!(b.patches.zone.extent().1, 1, "the site behind it is there already");
}

#[test]
fn what_was_taken_for_code_inside_an_instruction_is_put_back() {
    let mut b = Bench::new();
    b.program(CODE, |a| a.ret().unwrap());
    // To a sweep that begins in its middle, the constant is code that ends in PUSHFQ and RET.
    let function = CODE + 0xe;
    b.write(function, &[0x48, 0xb8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x9c, 0xc3, 0xc3]);
    b.execute(CODE);
    assert_eq!(b.kind(function + 8), Some(SiteKind::Breakpoint));
    // Executed from its start, it is one instruction.
    b.patches.learn(&b.state, function, CODE, Occasion::Trap);
    assert!(b.patches.sites.is_empty());
    assert_eq!(b.shadow(function + 8, 2), [0x9c, 0xc3]);
}

#[test]
fn two_readings_of_the_same_bytes_are_left_alone() {
    let mut b = Bench::new();
    // MOV EAX, imm32 whose constant is PUSHFQ, RET, and a jump into it.
    b.write(CODE, &[0xeb, 0x01, 0xb8, 0x9c, 0xc3, 0x90, 0x90, 0xc3]);
    b.execute(CODE);
    b.patches.learn(&b.state, CODE + 2, CODE, Occasion::Trap);
    assert_eq!(b.shadow(CODE + 2, 6), [0xb8, 0x9c, 0xc3, 0x90, 0x90, 0xc3]);
}

#[test]
fn code_of_two_pages_that_call_each_other_is_forgotten_with_its_page() {
    let mut b = Bench::new();
    b.program(CODE, |a| a.jmp(NEXT + 0x123).unwrap());
    b.write(NEXT, &[0x06; PAGE_SIZE as usize]);
    b.program(NEXT + 0x123, sensitive);
    b.execute(CODE);
    assert_eq!(b.patches.listing.entries_of(NEXT), [(NEXT + 0x123, true)]);
    b.patches.drop_page(CODE);
    assert_eq!(b.patches.listing.entries_of(NEXT), []);
    assert!(!b.patches.is_full());
}

#[test]
fn thunks_count_only_where_that_was_asked_for() {
    let build = |counts: bool| {
        let mut b = Bench::new();
        b.patches = Patches::new(
            Arc::clone(b.machine.ram()),
            Text::new(b.machine.ram().size()).unwrap(),
            true,
            counts,
        );
        b.program(CODE, |a| {
            sensitive(a);
        });
        b.execute(CODE);
        let (&start, &end) = b.patches.thunks.iter().next().unwrap();
        (end - start, b.patches.report().is_some())
    };
    let (plain, counting) = (build(false), build(true));
    // Load, LEA and store.
    assert_eq!((counting.0 - plain.0, plain.1, counting.1), (8 + 4 + 8, false, true));
}

#[test]
fn the_fate_of_an_instruction_across_the_end_of_ram_is_told() {
    let bench = Bench::new();
    let ram = bench.machine.ram();
    let last = ram.size() - 1;
    // CPUID, whose second byte lies in the next page as the guest sees it. Its first page counts as the last one of RAM, behind
    // which nothing lies.
    bench.write(NEXT - 1, &[0x0f, 0xa2]);
    let i = Decoder::with_ip(64, &[0x0f, 0xa2], NEXT - 1, DecoderOptions::NONE).decode();
    let fate = lens::patched(ram, &bench.state, &i, last, true).unwrap();
    assert_eq!(fate.patch, Some(crate::engine::Patch::Breakpoint));
    assert_eq!((fate.replaced, fate.put), (vec![0x0f, 0xa2], vec![0xcc]));
}
