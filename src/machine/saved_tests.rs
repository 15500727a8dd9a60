//! All chips and devices of a machine saved at any moment of a hostile guest's work, and taken on by another machine: both go
//! on alike, whatever the guest does next. Damaged states are refused, or give machines that stand any guest.
use super::fuzz_tests::{Act, DISKS, act, apply, assemble, spec};
use super::{Capture, Machine, MachineSpec, Pc, SavedPart, VirtioPlace};
use crate::arch::{Cr4, Gpa};
use crate::clock::ClockSource;
use crate::engine::Mode;
use crate::loader::Image;
use proptest::prelude::*;
use std::path::Path;
use tempfile::TempDir;

/// An act, and how many instructions pass before it.
type Timed = (Act, u32);

fn acts(most: usize) -> impl Strategy<Value = Vec<Timed>> {
    let pause = prop_oneof![3 => 0..20_u32, 2 => 0..2_000_000_u32, 1 => 0..2_000_000_000_u32];
    prop::collection::vec((act(), pause), 0..most)
}

fn counted(virtio: VirtioPlace, folder: &Path) -> MachineSpec {
    let mut spec = spec(virtio, folder);
    spec.clock = ClockSource::Counted { nanos_per_instruction: 1 };
    spec.kvm_clock = true;
    // It drives lines that other devices drive, too; what those say holds after a restore.
    spec.test_device = false;
    spec
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in DISKS {
        std::fs::write(folder.path().join(name), vec![7; 64 << 10]).unwrap();
    }
    folder
}

fn go_on(pc: &Pc, acts: &[Timed]) -> Vec<(u64, Option<u8>)> {
    let one = |(act, pause): &Timed| {
        pc.platform().clock().retire((*pause).into());
        apply(pc, act)
    };
    acts.iter().map(one).collect()
}

fn ram(pc: &Pc) -> Vec<u8> {
    let mut bytes = vec![0; pc.platform().ram().size() as usize];
    pc.platform().ram().read(Gpa(0), &mut bytes).unwrap();
    bytes
}

fn place(in_memory: bool) -> VirtioPlace {
    if in_memory { VirtioPlace::Memory } else { VirtioPlace::Pci }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(100_000) / 4, ..ProptestConfig::default() })]
    #[test]
    fn a_machine_that_took_on_a_state_goes_on_as_the_other(
        before in acts(150), after in acts(60), in_memory in any::<bool>(),
    ) {
        let (here, there) = (folder(), folder());
        let pc = assemble(&counted(place(in_memory), here.path()));
        for slot in 1..6 {
            apply(&pc, &Act::Config(slot, 4, Some(7)));
        }
        go_on(&pc, &before);
        let platform = pc.platform();
        let (clock, offers, parts) = (platform.clock().saved(), platform.saved_offers(), pc.parts().save().unwrap());
        for name in DISKS {
            std::fs::copy(here.path().join(name), there.path().join(name)).unwrap();
        }
        let other = assemble(&counted(place(in_memory), there.path()));
        other.parts().check(&parts).unwrap();
        other.platform().clock().accepts(&clock).unwrap();
        other.platform().accepts_offers(&offers).unwrap();
        other.platform().clock().restore(&clock);
        other.platform().ram().write(Gpa(0), &ram(&pc)).unwrap();
        other.parts().restore(&parts).unwrap();
        other.platform().restore_offers(&offers);
        prop_assert_eq!(go_on(&pc, &after), go_on(&other, &after));
        // Taking on its own state brings a device up to date, as an access does.
        let at_end = |pc: &Pc| {
            pc.parts().restore(&pc.parts().save().unwrap()).unwrap();
            pc.parts().save().unwrap()
        };
        for (one, two) in at_end(&pc).iter().zip(at_end(&other)) {
            prop_assert_eq!(one, &two);
        }
        prop_assert_eq!(platform.clock().saved(), other.platform().clock().saved());
        prop_assert_eq!(pc.platform().timers().next_deadline(), other.platform().timers().next_deadline());
        prop_assert!(ram(&pc) == ram(&other), "RAM differs");
    }

    #[test]
    fn damaged_states_are_refused_or_harmless(
        before in acts(100), after in acts(60), in_memory in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let here = folder();
        let pc = assemble(&counted(place(in_memory), here.path()));
        for slot in 1..6 {
            apply(&pc, &Act::Config(slot, 4, Some(7)));
        }
        go_on(&pc, &before);
        let mut parts = pc.parts().save().unwrap();
        for (part, at, value, how) in damage {
            let index = part.index(parts.len());
            let SavedPart { state, .. } = &mut parts[index];
            if state.is_empty() {
                continue;
            }
            let at = at.index(state.len());
            match how {
                0 => state[at] = value,
                1 => state[at] ^= 1 << (value & 7),
                2 => drop(state.drain(at..)),
                _ => state.insert(at, value),
            }
        }
        let _refused = pc.parts().restore(&parts);
        go_on(&pc, &after);
        let _screen = pc.screen().and_then(super::Screen::text);
    }
}

#[test]
fn a_state_of_another_machine_is_refused_in_a_sentence() {
    let (here, there) = (folder(), folder());
    let one = assemble(&counted(VirtioPlace::Pci, here.path()));
    let mut other = counted(VirtioPlace::Pci, there.path());
    other.network = None;
    let other = assemble(&other);
    let refused = |pc: &Pc, parts: &[SavedPart]| pc.parts().check(parts).unwrap_err().to_string();
    let (with, without) = (one.parts().save().unwrap(), other.parts().save().unwrap());
    assert_eq!(
        refused(&other, &with),
        "it is of another machine: it has a part that is not here: virtio-net"
    );
    assert_eq!(refused(&one, &without), "it is of another machine: it lacks a part that is here: virtio-net");
    std::fs::write(there.path().join("virtio"), vec![7; 32 << 10]).unwrap();
    drop(other);
    let smaller = assemble(&counted(VirtioPlace::Pci, there.path()));
    let sentence = refused(&smaller, &with);
    assert!(
        sentence.ends_with("it has a part that is not here: virtio-block 0 of 128 sectors"),
        "{sentence}"
    );
}

/// Protection keys are in a snapshot. Where they cannot be had it goes on as long as the guest does not use them.
#[test]
fn protection_keys_go_where_they_can_be_had() {
    let image = Image::flat(vec![0xf4]).unwrap();
    let spec = |mode, protection_keys| {
        let mut spec = MachineSpec::new(mode);
        (spec.memory, spec.protection_keys) = (16 << 20, protection_keys);
        spec
    };
    let build = |spec: &MachineSpec| Machine::build(spec, &image, Box::new(Capture::new(0))).unwrap();
    let mut machine = build(&spec(Mode::Emu, true));
    let (shape, mut saved) = (machine.shape().clone(), machine.save().unwrap());
    assert!(saved.cpuid.has_protection_keys());
    let restore = |mode, saved: &super::SavedMachine| {
        Machine::restore(
            &spec(mode, false),
            None,
            (&shape, saved),
            &mut |_| Ok(()),
            Box::new(Capture::new(0)),
        )
    };
    // Nothing of them is in use.
    for mode in [Mode::Emu, Mode::Kvm] {
        if super::availability(mode).is_ok() {
            let mut restored = restore(mode, &saved).unwrap();
            assert_eq!(restored.save().unwrap().cpuid.has_protection_keys(), mode == Mode::Emu);
        }
    }
    let mut plain = build(&spec(Mode::Emu, false));
    plain.take_on(&saved, &mut |_| Ok(())).unwrap();
    // In use, by one register after the other.
    let refused = "the guest uses protection keys, which this mode does not have; emu has it, and a guest that was started \
                   with --common-cpu does without";
    saved.cpus[0].cr4 |= Cr4::PKE.bits();
    let changes: [fn(&mut crate::arch::SavedCpu); 3] =
        [|cpu| cpu.pkru = 0x5555_5554, |cpu| cpu.msrs[13] = 8, |cpu| cpu.xcr0 |= 1 << 9];
    for change in changes {
        change(&mut saved.cpus[0]);
        let mut restored = restore(Mode::Emu, &saved).unwrap();
        assert_eq!(restored.save().unwrap().cpus, saved.cpus);
        assert_eq!(plain.take_on(&saved, &mut |_| Ok(())).unwrap_err().to_string(), refused);
        if super::availability(Mode::Kvm).is_ok() {
            let sentence = restore(Mode::Kvm, &saved).unwrap_err().to_string();
            assert_eq!(sentence, format!("the snapshot cannot be restored: {refused}"));
        }
        saved.cpus[0].cr4 &= !Cr4::PKE.bits();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.min(100_000) / 4, ..ProptestConfig::default() })]
    #[test]
    fn looking_at_registers_changes_nothing(before in acts(100), in_memory in any::<bool>()) {
        let here = folder();
        let pc = assemble(&counted(place(in_memory), here.path()));
        for slot in 1..6 {
            apply(&pc, &Act::Config(slot, 4, Some(7)));
        }
        go_on(&pc, &before);
        let (parts, memory) = (pc.parts().save().unwrap(), ram(&pc));
        let blocks = pc.registers();
        let _ways = pc.interrupts().waiting();
        prop_assert_eq!(&parts, &pc.parts().save().unwrap());
        prop_assert!(memory == ram(&pc));
        prop_assert_eq!(&blocks, &pc.registers());
        for name in ["uart16550", "pic8259 slave", "pit8254 channel 2", "lapic 0", "ioapic", "pci 00:00.0", "ide primary"] {
            prop_assert!(blocks.iter().any(|b| b.name == name && !b.registers.is_empty()), "{} in {:?}", name, blocks);
        }
        let mut names: Vec<_> = blocks.iter().map(|block| &block.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        prop_assert_eq!(count, names.len(), "each is called otherwise");
        prop_assert!(blocks.iter().any(|b| b.name.starts_with("virtio-block 0 queue 0")));
    }
}
