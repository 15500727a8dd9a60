//! What the modes rely on in every guest image: where it lies, what may be executed, and which instructions ring 0 uses.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use object::elf::{FileHeader64, PF_W, PF_X, PT_LOAD, PT_NOTE, STT_FUNC};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSegment, ObjectSymbol, SymbolFlags};
use trivisor::bench::workload::{self, Kind, Workload};

const BIG_PAGE: u64 = 2 << 20;

fn segments(workload: &Workload) -> Vec<(u32, u32, u64, u64)> {
    let header = FileHeader64::<Endianness>::parse(workload.image).unwrap();
    let endian = header.endian().unwrap();
    let headers = header.program_headers(endian, workload.image).unwrap();
    headers
        .iter()
        .map(|h| (h.p_type(endian), h.p_flags(endian), h.p_paddr(endian), h.p_memsz(endian)))
        .collect()
}

#[test]
fn images_lie_low_and_keep_code_apart_from_data() {
    for workload in workload::all() {
        let name = workload.name;
        let segments = segments(workload);
        assert!(segments.iter().any(|segment| segment.0 == PT_NOTE), "{name} has no PVH note");
        let loads: Vec<_> = segments.iter().filter(|segment| segment.0 == PT_LOAD).collect();
        let mut pages = BTreeSet::new();
        for &&(_, flags, start, length) in &loads {
            assert!(start >= BIG_PAGE && start + length <= 3 * BIG_PAGE, "{name}: {start:#x}+{length:#x}");
            assert!(
                flags & PF_W == 0 || flags & PF_X == 0,
                "{name} has a segment both writable and executable"
            );
            assert!(pages.insert(start / BIG_PAGE), "{name}: two segments in one 2 MiB page");
        }
        assert_eq!(loads.len(), 2, "{name}");
        let file = ElfFile64::<Endianness>::parse(workload.image).unwrap();
        assert!(file.segments().any(|segment| {
            let entry = file.entry();
            segment.address() <= entry && entry < segment.address() + segment.size()
        }));
        assert!(workload.image.len() < 256 << 10, "{name} takes {} bytes", workload.image.len());
    }
}

/// Functions that ring 0 runs outside the compute kernels: the support library's and the workload's own.
fn ring_0_functions<'a>(file: &ElfFile64<'a, Endianness>, name: &str) -> Vec<(&'a str, u64, u64)> {
    let mangled = |part: &str| format!("{}{part}", part.len());
    let (library, own) = (mangled("guest"), mangled(name));
    file.symbols()
        .filter(
            |symbol| matches!(symbol.flags(), SymbolFlags::Elf { st_info, .. } if st_info & 15 == STT_FUNC),
        )
        .map(|symbol| (symbol.name().unwrap(), symbol.address(), symbol.size()))
        .filter(|(symbol, _, _)| symbol.contains(&library) || symbol.contains(&own))
        .filter(|(symbol, _, _)| !symbol.contains("7kernels"))
        .collect()
}

/// Emulated supervisors (KVM without hardware) know SSE loads and stores, but no SSE arithmetic.
#[test]
fn ring_0_uses_no_vector_arithmetic() {
    const MOVES: [Mnemonic; 6] = [
        Mnemonic::Movups,
        Mnemonic::Movaps,
        Mnemonic::Movdqu,
        Mnemonic::Movdqa,
        Mnemonic::Movupd,
        Mnemonic::Movapd,
    ];
    let mut checked = 0;
    for workload in workload::all().iter().filter(|workload| workload.kind != Kind::Hostile) {
        let file = ElfFile64::<Endianness>::parse(workload.image).unwrap();
        let functions = ring_0_functions(&file, workload.name);
        assert!(functions.len() > 5, "{}: symbols are missing", workload.name);
        for (symbol, address, size) in functions {
            let text =
                file.segments().find(|s| s.address() <= address && address < s.address() + s.size()).unwrap();
            let start = (address - text.address()) as usize;
            let code = &text.data().unwrap()[start..start + size as usize];
            for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE) {
                checked += 1;
                assert_ne!(instruction.code(), Code::INVALID, "{} {symbol}", workload.name);
                let vector = (0..instruction.op_count()).any(|operand| {
                    instruction.op_kind(operand) == OpKind::Register
                        && (Register::XMM0..=Register::ZMM31).contains(&instruction.op_register(operand))
                });
                assert!(
                    !vector || MOVES.contains(&instruction.mnemonic()),
                    "{} {symbol}: {instruction} at {:#x}",
                    workload.name,
                    instruction.ip()
                );
                assert!(
                    !matches!(
                        instruction.mnemonic(),
                        Mnemonic::Cmpxchg16b | Mnemonic::Lfence | Mnemonic::Mfence
                    ),
                    "{} {symbol}: {instruction}",
                    workload.name
                );
            }
        }
    }
    println!("{checked} instructions of ring 0 checked");
    assert!(checked > 10_000);
}
