//! The fates of single instructions, written into a guest's memory and looked at: nothing of the guest changes by that.
use super::*;
use crate::arch::{CpuState, Cr0, Gpa, Gva, Segment, SegmentRegister};
use crate::bench::workload;
use crate::engine::{KvmWay, Mode, Native, Part, Patch, Patched, Translated, Translation};
use crate::host::console::Capture;

/// Where the instruction is written: the first page of RAM beyond all that the guest has.
const AT: u64 = 0x40_0800;

/// A guest that has come to its main function: 64-bit code at ring 0, with paging.
fn machine() -> Machine {
    let workload = workload::find("hello").unwrap();
    let image = Image::parse(workload.image).unwrap();
    let mut spec = MachineSpec::new(Mode::Emu);
    spec.memory = 64 << 20;
    spec.emulator = EmuEngine::Single;
    let mut machine = Machine::build(&spec, &image, Box::new(Capture::new(1 << 10))).unwrap();
    let main = image.symbols().iter().find(|symbol| symbol.name == "workload_main").unwrap().address;
    machine.set_breakpoints(&[Gva(main)]).unwrap();
    let stop = machine.run(&Limits::default()).unwrap();
    assert_eq!(stop, Stop::Breakpoint(Gva(main)));
    machine
}

fn of(machine: &mut Machine, bytes: &[u8]) -> Fates {
    let ram = machine.platform().ram();
    ram.write(Gpa(AT), bytes).unwrap();
    // What follows is HLT, which reaches no memory.
    ram.write(Gpa(AT + bytes.len() as u64), &[0xf4]).unwrap();
    machine.fates(BOOT_CPU, Gva(AT)).unwrap().unwrap()
}

fn code(fates: &Fates) -> &Translated {
    match &fates.translated {
        Translation::Code(code) => code,
        Translation::Interpreted(why) => panic!("interpreted: {why}"),
    }
}

fn patched(fates: &Fates) -> &Patched {
    match &fates.native {
        Native::Patched(patched) => patched,
        Native::Interpreted(why) => panic!("interpreted: {why}"),
    }
}

fn has(fates: &Fates, part: Part) -> bool {
    code(fates).pieces.iter().any(|piece| piece.part == part)
}

/// Bytes, the interpreter's family, what pv makes of it, and whether KVM's exits come to this program.
type Row = (&'static [u8], &'static str, Option<Patch>, Option<&'static str>);

const ROWS: [Row; 12] = [
    (&[0xfa], "control", Some(Patch::InProcess), None), // cli
    (&[0x9d], "stack", Some(Patch::InProcess), None),   // popfq
    (&[0x0f, 0x22, 0xd8], "control", Some(Patch::Hypercall), None), // mov cr3, rax
    (&[0x0f, 0x01, 0x04, 0x24], "segment", Some(Patch::Hypercall), None), // sgdt [rsp]
    (&[0x0f, 0x32], "msr", Some(Patch::Hypercall), Some("KVM_EXIT_X86_RDMSR")), // rdmsr
    (&[0xee], "io", Some(Patch::Hypercall), Some("KVM_EXIT_IO")), // out dx, al
    (&[0xf4], "control", Some(Patch::Hypercall), Some("KVM_EXIT_HLT")), // hlt
    (&[0x48, 0x8b, 0x04, 0x24], "moves", None, None),   // mov rax, [rsp]
    (&[0xeb, 0x10], "branch", None, None),              // jmp
    (&[0xf3, 0xa4], "string", None, None),              // rep movsb
    (&[0x0f, 0x31], "msr", None, None),                 // rdtsc
    (&[0x01, 0xd8], "alu", None, None),                 // add eax, ebx
];

#[test]
fn each_technique_tells_what_it_makes_of_an_instruction() {
    let mut machine = machine();
    let mut state = machine.state().unwrap();
    // IA32_APIC_BASE, which is the platform's.
    state.gpr[1] = 0x1b;
    machine.set_state(&state).unwrap();
    for (bytes, family, patch, exit) in ROWS {
        let fates = of(&mut machine, bytes);
        let about = format!("{bytes:02x?}: {fates:x?}");
        assert_eq!(fates.bytes, bytes);
        assert_eq!(fates.interpreted.family, Some(family), "{about}");
        assert!(fates.interpreted.offered, "{about}");
        let got = patched(&fates).patch;
        let same_page = |patch: Option<Patch>| match patch {
            // Where too little room is, a fault or INT3 stands for a jump.
            Some(Patch::Hypercall | Patch::InProcess) => {
                got == patch || matches!(got, Some(Patch::Fault | Patch::Breakpoint))
            }
            other => got == other,
        };
        assert!(same_page(patch), "{about}");
        if let Some(exit) = exit {
            assert_eq!((fates.kvm.way, fates.kvm.exit), (KvmWay::Exit, Some(exit)), "{about}");
        } else {
            assert_ne!(fates.kvm.way, KvmWay::Exit, "{about}");
        }
        let work: usize =
            code(&fates).pieces.iter().filter(|p| p.part == Part::Work).map(|p| p.code.len()).sum();
        assert!(work > 0 && work <= code(&fates).size, "{about}");
    }
    assert_eq!(machine.state().unwrap(), state, "looking changes nothing");
}

#[test]
fn a_jump_and_its_thunk_are_shown_where_there_is_room() {
    let mut machine = machine();
    // popfq; mov eax, 7; hlt
    let fates = of(&mut machine, &[0x9d, 0xb8, 7, 0, 0, 0]);
    let patched = patched(&fates);
    assert_eq!((patched.patch, patched.start), (Some(Patch::InProcess), AT));
    assert_eq!(patched.replaced, [0x9d, 0xb8, 7, 0, 0, 0]);
    assert_eq!(patched.put[0], 0xe9, "a near jump");
    let (place, thunk) = patched.thunk.as_ref().unwrap();
    let distance = i32::from_le_bytes(patched.put[1..5].try_into().unwrap());
    assert_eq!((AT + 5).wrapping_add_signed(distance.into()), *place, "it leads to the thunk");
    assert_eq!((thunk[patched.own.start..].len() > patched.own.len(), patched.own.start), (true, 0));
    // The neighbour is carried along, as it is.
    let neighbour = machine.fates(BOOT_CPU, Gva(AT + 1)).unwrap().unwrap();
    let carried = self::patched(&neighbour);
    if let Some((_, thunk)) = &carried.thunk {
        assert_eq!((carried.patch, &thunk[carried.own.clone()]), (None, &[0xb8, 7, 0, 0, 0][..]));
    }
}

#[test]
fn translated_code_is_told_apart_by_its_purpose() {
    let mut machine = machine();
    let load = of(&mut machine, &[0x48, 0x8b, 0x04, 0x24]);
    assert!(has(&load, Part::BlockChecks) && has(&load, Part::Missed), "{load:x?}");
    assert_eq!(code(&load).block, 2, "the load and HLT");
    let add = of(&mut machine, &[0x01, 0xd8]);
    assert!(!has(&add, Part::Interpret) && !has(&add, Part::Missed) && !has(&add, Part::Window), "{add:x?}");
    let jump = of(&mut machine, &[0xeb, 0x10]);
    assert!(has(&jump, Part::Link) && code(&jump).block == 1, "{jump:x?}");
    // The pieces lie in their block, one behind the other.
    for fates in [&load, &add, &jump] {
        let mut end = 0;
        for piece in &code(fates).pieces {
            assert!(piece.at >= end && !piece.code.is_empty());
            end = piece.at + piece.code.len() as u64;
        }
        assert!(end <= code(fates).size as u64);
    }
}

#[test]
fn code_of_other_sizes_is_the_interpreters_in_pv() {
    let mut machine = machine();
    let long = machine.state().unwrap();
    // Real mode: 16-bit code, no paging.
    let real = CpuState { gpr: long.gpr, ..CpuState::reset() };
    machine.set_state(&real).unwrap();
    machine.platform().ram().write(Gpa(0x5000), &[0xfa, 0xc3]).unwrap();
    let fates = machine.fates(BOOT_CPU, Gva(0x5000)).unwrap().unwrap();
    assert!(matches!(fates.native, Native::Interpreted(_)), "{fates:x?}");
    assert!(matches!(fates.translated, Translation::Interpreted(_)), "{fates:x?}");
    assert_eq!(fates.interpreted.family, Some("control"));
    // Flat protected mode is translated.
    let mut flat = real;
    flat.cr0 |= Cr0::PE;
    for register in [SegmentRegister::Ss, SegmentRegister::Ds, SegmentRegister::Es] {
        *flat.segment_mut(register) = Segment::flat32(0x10, 3);
    }
    *flat.segment_mut(SegmentRegister::Cs) = Segment::flat32(8, 0xb);
    machine.set_state(&flat).unwrap();
    // inc eax, which is a prefix in 64-bit code.
    machine.platform().ram().write(Gpa(0x5000), &[0x40, 0xc3]).unwrap();
    let fates = machine.fates(BOOT_CPU, Gva(0x5000)).unwrap().unwrap();
    assert_eq!((fates.bytes.len(), code(&fates).block), (1, 2), "{fates:x?}");
    assert!(matches!(fates.native, Native::Interpreted(_)), "{fates:x?}");
}

#[test]
fn what_is_no_instruction_has_no_fate() {
    let mut machine = machine();
    assert_eq!(machine.fates(BOOT_CPU, Gva(0x7fff_0000_0000)).unwrap(), None, "not mapped");
    assert_eq!(machine.fates(BOOT_CPU, Gva(1 << 63)).unwrap(), None, "not canonical");
    machine.platform().ram().write(Gpa(AT), &[0x06]).unwrap();
    assert_eq!(machine.fates(BOOT_CPU, Gva(AT)).unwrap(), None, "push es is none in 64-bit code");
}
