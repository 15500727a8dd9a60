//! What was rescued, by instruction: for the report of a run.
use super::exit::Code;
use super::vcpu::KvmVcpu;
use crate::arch::address::PAGE_SIZE;
use crate::arch::paging::{self, PagingMode};
use crate::arch::{CpuState, Efer, Gpa, Gva, LONGEST_INSTRUCTION};
use crate::engine::{Cause, EventKind, Platform};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use kvm_bindings::kvm_sync_regs;
use std::collections::BTreeMap;

/// How often each instruction was rescued.
#[derive(Debug, Default)]
pub(super) struct Rescued(BTreeMap<Mnemonic, u64>);

impl Rescued {
    /// By name, in the order of the names.
    pub(super) fn by_name(&self) -> impl Iterator<Item = (String, u64)> {
        self.0.iter().map(|(mnemonic, count)| {
            let name = match mnemonic {
                Mnemonic::INVALID => "unknown".to_owned(),
                known => format!("{known:?}").to_lowercase(),
            };
            (name, *count)
        })
    }
}

impl KvmVcpu {
    /// Counts a rescue of the instruction at `rip`.
    pub(super) fn note_rescue(&mut self, platform: &Platform, rip: u64, mnemonic: Mnemonic) {
        *self.rescued.0.entry(mnemonic).or_default() += 1;
        platform.counters(self.id).count(Cause::Rescue);
        platform.trace().record(EventKind::Rescue, rip, 0, 0);
    }

    /// The instruction at RIP, of which KVM has told `code`; [`Mnemonic::INVALID`] if it cannot be read or is none.
    pub(super) fn mnemonic(&self, core: &kvm_sync_regs, code: Code) -> Mnemonic {
        let (rip, cs) = (core.regs.rip, &core.sregs.cs);
        let long = Efer::from_bits_retain(core.sregs.efer).contains(Efer::LMA) && cs.l != 0;
        let (bits, linear) = match (long, cs.db) {
            (true, _) => (64, rip),
            (false, big) => (if big != 0 { 32 } else { 16 }, cs.base.wrapping_add(rip) & 0xffff_ffff),
        };
        let read;
        let bytes = match code.bytes() {
            [] => {
                let translate = |at| {
                    let place = self.fd.translate_gva(at).ok().filter(|place| place.valid != 0);
                    place.map(|place| Gpa(place.physical_address))
                };
                read = self.code_at(linear, translate);
                &read[..]
            }
            told => told,
        };
        Decoder::with_ip(bits, bytes, rip, DecoderOptions::NONE).decode().mnemonic()
    }

    /// The instruction at RIP of 64-bit code, if it can be read and is one.
    pub(super) fn instruction_at(&self, state: &CpuState) -> Option<Instruction> {
        let mode = PagingMode::of(state);
        let bytes = self.code_at(state.rip, |at| paging::peek(&*self.shared.ram, &mode, Gva(at)));
        let instruction = Decoder::with_ip(64, &bytes, state.rip, DecoderOptions::NONE).decode();
        (state.is_64bit_code() && !instruction.is_invalid()).then_some(instruction)
    }

    /// The bytes of an instruction in RAM, fewer if the rest of them is not mapped or not in RAM.
    fn code_at(&self, linear: u64, translate: impl Fn(u64) -> Option<Gpa>) -> Vec<u8> {
        let mut bytes = vec![0; LONGEST_INSTRUCTION];
        let first = ((PAGE_SIZE - linear % PAGE_SIZE) as usize).min(LONGEST_INSTRUCTION);
        let (head, tail) = bytes.split_at_mut(first);
        let read = |at: u64, into: &mut [u8]| {
            translate(at).is_some_and(|place| self.shared.ram.read(place, into).is_ok())
        };
        if !read(linear, head) {
            bytes.clear();
        } else if !tail.is_empty() && !read(linear.wrapping_add(first as u64), tail) {
            bytes.truncate(first);
        }
        bytes
    }
}
