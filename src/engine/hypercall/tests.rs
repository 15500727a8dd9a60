//! Hypercalls against a model that does the same byte by byte, with hostile arguments.
use super::*;
use crate::arch::Segment;
use crate::clock::ClockSource;
use crate::engine::VcpuId;
use crate::engine::fake::FakeMachine;
use proptest::prelude::*;

const RAM: u64 = 0x4_0000;
const PAGE: u64 = 0x3_0000;

/// A machine with its hypercall page named, and a state at ring 0.
pub(crate) fn machine() -> (FakeMachine, CpuState) {
    let machine = FakeMachine::offering_hypercalls(RAM, ClockSource::Real);
    let state = machine.long_mode(0x8000, 0x9000);
    assert_eq!(
        machine.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, PAGE | abi::PAGE_ON, 0),
        Some(())
    );
    (machine, state)
}

fn call(machine: &FakeMachine, state: &mut CpuState, [number, a, b, c]: Call) -> (u64, Stale) {
    let before = state.gpr;
    (state.gpr[gpr::RAX], state.gpr[gpr::RDI], state.gpr[gpr::RSI], state.gpr[gpr::RDX]) = (number, a, b, c);
    let kept = state.gpr;
    let stale = machine.platform.hypercall(state, 0).expect("hypercalls are on");
    let result = state.gpr[gpr::RAX];
    assert_eq!(kept[1..], state.gpr[1..], "only RAX may change");
    state.gpr = before;
    (result, stale)
}

fn bytes(machine: &FakeMachine) -> Vec<u8> {
    let mut all = vec![0; RAM as usize];
    machine.ram().read(Gpa(0), &mut all).unwrap();
    all
}

fn put(machine: &FakeMachine, at: u64, words: &[u64]) {
    for (i, word) in (0..).zip(words) {
        machine.ram().write(Gpa(at + 8 * i), &word.to_le_bytes()).unwrap();
    }
}

/// What a call does to memory, written down differently; the result.
fn model(memory: &mut [u8], [number, a, b, c]: Call, inner: bool) -> Option<u64> {
    let word = |memory: &[u8], at: u64| u64::from_le_bytes(memory[at as usize..][..8].try_into().unwrap());
    let is_ram = |at: u64, length: u64| at < RAM && at.checked_add(length).is_some_and(|end| end <= RAM);
    Some(match number {
        abi::CALL_NULL => 0,
        abi::CALL_MMU_UPDATE if b > 512 => abi::ERROR_COUNT,
        abi::CALL_MMU_UPDATE if a % 8 != 0 || !is_ram(a, 16 * b) => abi::ERROR_ADDRESS,
        abi::CALL_MMU_UPDATE => {
            let list: Vec<_> =
                (0..b).map(|i| (word(memory, a + 16 * i), word(memory, a + 16 * i + 8))).collect();
            let good = |&&(at, _): &&(u64, u64)| at % 8 == 0 && is_ram(at, 8);
            let written: Vec<_> = list.iter().take_while(good).collect();
            for (at, value) in &written {
                memory[*at as usize..][..8].copy_from_slice(&value.to_le_bytes());
            }
            written.len() as u64
        }
        abi::CALL_SET_CR3 if a >> 46 != 0 => abi::ERROR_VALUE,
        abi::CALL_SET_CR3 => 0,
        abi::CALL_MULTICALL if inner => abi::ERROR_NESTED,
        abi::CALL_MULTICALL if b > 64 => abi::ERROR_COUNT,
        abi::CALL_MULTICALL if a % 8 != 0 || !is_ram(a, 40 * b) => abi::ERROR_ADDRESS,
        abi::CALL_MULTICALL => {
            let list: Vec<[u64; 4]> = (0..b)
                .map(|i| std::array::from_fn(|word_of| word(memory, a + 40 * i + 8 * word_of as u64)))
                .collect();
            for (i, &call) in (0..).zip(&list) {
                let result = model(memory, call, true)?;
                memory[(a + 40 * i + 32) as usize..][..8].copy_from_slice(&result.to_le_bytes());
            }
            b
        }
        abi::CALL_CONSOLE_WRITE if b > 4096 => abi::ERROR_COUNT,
        abi::CALL_CONSOLE_WRITE if !is_ram(a, b) => abi::ERROR_ADDRESS,
        abi::CALL_CONSOLE_WRITE => b,
        abi::CALL_CLOCK_PAGE if a == abi::ANYWHERE => 0,
        abi::CALL_CLOCK_PAGE if a % 4096 != 0 || !is_ram(a, 4096) => abi::ERROR_ADDRESS,
        // It writes the time.
        abi::CALL_CLOCK_PAGE => return None,
        _ => {
            let _ = c;
            abi::ERROR_NUMBER
        }
    })
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0..RAM / 8).prop_map(|n| 8 * n),
        2 => 0..RAM,
        2 => (RAM - 600..RAM + 64).prop_map(|n| n & !7),
        1 => any::<u64>(),
        1 => (0..64_u64).prop_map(|n| u64::MAX - n),
        1 => (0..RAM / 4096).prop_map(|n| 4096 * n),
        1 => Just(FakeMachine::MMIO.0),
    ]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..20_u64, 2 => 0..600_u64, 1 => any::<u64>(), 1 => (0..20_u64).prop_map(|n| u64::MAX - n)]
}

fn any_call() -> impl Strategy<Value = Call> {
    (prop_oneof![12 => 0..6_u64, 1 => any::<u64>()], address(), count(), address())
        .prop_map(|(number, a, b, c)| [number, a, b, c])
}

proptest! {
    #[test]
    fn hostile_calls_do_what_the_model_does_and_touch_nothing_else(
        calls in proptest::collection::vec(any_call(), 1..12),
        list in address(),
        fill in proptest::collection::vec(address(), 2048),
    ) {
        let (machine, mut state) = machine();
        // Memory is full of plausible words, so that lists lie wherever an argument points to.
        for (i, chunk) in (0..RAM / 8).step_by(fill.len()).zip(std::iter::repeat(&fill)) {
            put(&machine, 8 * i, chunk);
        }
        let list = (list % (RAM - 4096)) & !7;
        for (i, c) in (0..).zip(&calls) {
            put(&machine, list + 40 * i, c);
        }
        let together = [abi::CALL_MULTICALL, list, calls.len() as u64, 0];
        for c in calls.iter().chain([&together]) {
            let mut expected = bytes(&machine);
            let wanted = model(&mut expected, *c, false);
            let (result, stale) = call(&machine, &mut state, *c);
            if let Some(wanted) = wanted {
                prop_assert_eq!(result, wanted, "{:x?}", c);
                prop_assert!(bytes(&machine) == expected, "{:x?} changed something else", c);
            }
            if c[0] == abi::CALL_MMU_UPDATE {
                let told = stale.everything || stale.pages.iter().any(|p| p.count == result);
                prop_assert_eq!(told, (1..=512).contains(&result), "{:x?}", c);
            }
            prop_assert!(!matches!(c[0], abi::CALL_SET_CR3) || stale.everything == (result == 0));
        }
    }

    #[test]
    fn the_scale_is_exact_to_32_bits_and_never_early(hz in 1_000_000_u64..10_000_000_000, seconds in 1_u64..100_000) {
        let (mult, shift) = clock_page::scale(hz);
        prop_assert!(shift < 64);
        let nanos = (u128::from(hz) * u128::from(seconds) * u128::from(mult)) >> shift;
        let wanted = u128::from(seconds) * 1_000_000_000;
        prop_assert!(nanos.abs_diff(wanted) <= wanted / (1 << 30) + 1, "{nanos} instead of {wanted}");
    }
}

#[test]
fn nothing_is_taken_before_the_page_is_named_nor_from_ring_3() {
    let (machine, mut state) = machine();
    let set = |value| machine.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, value, 0);
    assert!(machine.platform.hypercall(&mut state, 0).is_some());
    state.segments[2] = Segment { attributes: 0xc0f3, ..Segment::flat32(0x23, 3) };
    assert_eq!(machine.platform.hypercall(&mut state, 0), None);
    state.segments[2] = Segment::flat32(0x10, 3);
    // 32-bit code.
    state.segments[1].attributes &= !Segment::LONG;
    assert_eq!(machine.platform.hypercall(&mut state, 0), None);
    state.segments[1].attributes |= Segment::LONG;
    for wrong in [PAGE | 3, PAGE | 0x801, RAM | 1, !0xffe, 0xd000_0001] {
        assert_eq!(set(wrong), None, "{wrong:#x}");
        assert_eq!(machine.platform.msr_read(VcpuId(0), abi::MSR_HYPERCALL_PAGE), Some(PAGE | 1));
    }
    assert_eq!(set(0), Some(()));
    assert_eq!(machine.platform.hypercall(&mut state, 0), None);
    let without = FakeMachine::new(RAM, ClockSource::Real);
    assert_eq!(without.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, PAGE | 1, 0), None);
    assert_eq!(without.platform.hypercall(&mut state, 0), None);
}

#[test]
fn the_page_begins_with_the_way_in_and_its_former_code_is_gone() {
    let (machine, _) = machine();
    let mut page = [0; 8];
    machine.ram().read(Gpa(PAGE), &mut page).unwrap();
    assert_eq!(page, [0x0f, 0x01, 0xc1, 0x90, 0xc3, 0xcc, 0xcc, 0xcc]);
    let mut cursor = machine.ram().code().cursor();
    machine.ram().code().mark(PAGE, 4096);
    machine.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, PAGE | abi::PAGE_ON, 0).unwrap();
    assert!(machine.ram().written_code(&mut cursor).is_some());
}

#[test]
fn text_reaches_the_console_in_order() {
    let (machine, mut state) = machine();
    machine.ram().write(Gpa(0x1_0000), b"one, two").unwrap();
    for (at, length) in [(0x1_0000, 5), (0x1_0005, 3), (0x1_0000, 0)] {
        assert_eq!(call(&machine, &mut state, [abi::CALL_CONSOLE_WRITE, at, length, 0]).0, length);
    }
    assert_eq!(*machine.text.lock().unwrap(), b"one, two");
}

/// What a guest makes of the page.
fn read_clock(machine: &FakeMachine, at: u64, tsc: u64) -> (u32, u64) {
    let mut b = [0; 32];
    machine.ram().read(Gpa(at), &mut b).unwrap();
    let word = |n: usize| u64::from_le_bytes(b[n..n + 8].try_into().unwrap());
    let (version, mult, shift) = (word(0) as u32, word(24) as u32, (word(24) >> 32) as u32);
    assert_eq!(word(0) >> 32, 0, "no flags");
    let past = (u128::from(tsc.wrapping_sub(word(8))) * u128::from(mult)) >> shift;
    (version, word(16) + past as u64)
}

#[test]
fn the_clock_page_tells_counted_time_exactly() {
    const AT: u64 = 0x1_0000;
    let source = ClockSource::Counted { nanos_per_instruction: 3 };
    let machine = FakeMachine::offering_hypercalls(RAM, source);
    let mut state = machine.long_mode(0x8000, 0x9000);
    machine.platform.msr_write(VcpuId(0), abi::MSR_HYPERCALL_PAGE, PAGE | abi::PAGE_ON, 0).unwrap();
    let clock = machine.platform.clock();
    clock.retire(12345);
    assert_eq!(call(&machine, &mut state, [abi::CALL_CLOCK_PAGE, AT, 0, 0]).0, 0);
    for _ in 0..3 {
        clock.retire(1_000_000_007);
        assert_eq!(read_clock(&machine, AT, clock.tsc()).1, clock.now().0);
    }
}

#[test]
fn time_that_stood_is_not_in_the_clock_page() {
    const AT: u64 = 0x1_0000;
    let (machine, mut state) = machine();
    let clock = machine.platform.clock();
    assert_eq!(call(&machine, &mut state, [abi::CALL_CLOCK_PAGE, AT, 0, 0]).0, 0);
    let first = read_clock(&machine, AT, clock.tsc()).0;
    clock.pause();
    std::thread::sleep(std::time::Duration::from_millis(20));
    clock.resume();
    machine.platform.renew_clock_page();
    // The page may be late, by what the host did between two reads of it, and never early by more than the TSC's
    // frequency is wrong.
    let (second, nanos) = read_clock(&machine, AT, clock.tsc());
    let now = clock.now().0;
    assert!(nanos <= now + 1_000_000, "{nanos} at {now}");
    assert!(second != first && second % 2 == 0 && first.is_multiple_of(2));
    // A page that was given back is left alone.
    assert_eq!(call(&machine, &mut state, [abi::CALL_CLOCK_PAGE, abi::ANYWHERE, 0, 0]).0, 0);
    put(&machine, AT, &[0; 4]);
    machine.platform.renew_clock_page();
    assert_eq!(bytes(&machine)[AT as usize..][..32], [0; 32]);
}
