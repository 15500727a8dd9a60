//! Instructions before an address. x86 code cannot be read backwards: one starts earlier and sees whether the
//! instructions meet the address.
use crate::arch::LONGEST_INSTRUCTION;
use crate::debugger::view::disassembly::Source;
use iced_x86::{Decoder, DecoderOptions};

/// A symbol is read from its start if that is at most so many bytes away.
const FARTHEST: u64 = 4096;
/// Bytes that are tried where no symbol tells a start.
const TRIED: u64 = 4 * LONGEST_INSTRUCTION as u64;
/// Of what was found without a symbol, so many at the front may not be what the CPU would execute.
const DOUBTFUL: usize = 3;

/// The addresses of at most `count` instructions, ascending, of which the last one ends at `end`. Fewer where memory cannot
/// be read or no instructions end there.
pub(super) fn before(source: &Source<'_>, end: u64, count: usize) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    let mut end = end;
    while found.len() < count {
        let mut piece = piece_before(source, end);
        let Some(&first) = piece.first() else { break };
        end = first;
        piece.append(&mut found);
        found = piece;
    }
    found.split_off(found.len().saturating_sub(count))
}

fn piece_before(source: &Source<'_>, end: u64) -> Vec<u64> {
    let label = end.checked_sub(1).and_then(|last| source.symbols.at(last));
    let start = label.filter(|label| label.offset < FARTHEST).map(|label| label.symbol.address);
    if let Some(found) = start.and_then(|start| up_to(source, start, end)) {
        return found;
    }
    let tries = (1..=TRIED).rev().filter_map(|distance| end.checked_sub(distance));
    let mut found = tries.into_iter().find_map(|start| up_to(source, start, end)).unwrap_or_default();
    if found.len() > 2 * DOUBTFUL {
        found.drain(..DOUBTFUL);
    }
    found
}

/// The instructions from `start` to `end`, if they end there and all are sound.
fn up_to(source: &Source<'_>, start: u64, end: u64) -> Option<Vec<u64>> {
    let length = usize::try_from(end.checked_sub(start)?).ok()?;
    let bytes = source.memory.read_prefix(source.space, start, length);
    if bytes.len() < length {
        return None;
    }
    let mut decoder = Decoder::with_ip(source.bits, &bytes, start, DecoderOptions::NONE);
    let mut found = Vec::new();
    while decoder.can_decode() {
        found.push(decoder.ip());
        if decoder.decode().is_invalid() {
            return None;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::debugger::memory::{GuestMemory, Space, tests::long_mode};
    use crate::debugger::symbols::Symbols;
    use std::sync::Arc;

    /// push rbx; sub rsp, 0x20; mov eax, 7; add rsp, 0x20; pop rbx; ret, at 0x20_0100.
    const CODE: [u8; 16] =
        [0x53, 0x48, 0x83, 0xec, 0x20, 0xb8, 7, 0, 0, 0, 0x48, 0x83, 0xc4, 0x20, 0x5b, 0xc3];
    const STARTS: [u64; 6] = [0x20_0100, 0x20_0101, 0x20_0105, 0x20_010a, 0x20_010e, 0x20_010f];

    fn found(symbols: Symbols, end: u64, count: usize) -> Vec<u64> {
        let (ram, state) = long_mode();
        // Before it, as a linker fills: int3.
        ram.write(Gpa(0x8000), &[0xcc; 0x100]).unwrap();
        ram.write(Gpa(0x8100), &CODE).unwrap();
        let symbols = Arc::new(symbols);
        let source = Source {
            memory: GuestMemory::new(&ram, &state),
            bits: 64,
            space: Space::Virtual,
            next: None,
            symbols: &symbols,
            breakpoints: &[],
            sites: &[],
        };
        before(&source, end, count)
    }

    #[test]
    fn a_symbol_tells_where_to_begin() {
        let symbols = || Symbols::new([(0x20_0100, 0x10, "function")]);
        assert_eq!(found(symbols(), 0x20_0110, 6), STARTS);
        assert_eq!(found(symbols(), 0x20_010f, 2), STARTS[3..5]);
        // Beyond its start what lies before is tried.
        assert_eq!(found(symbols(), 0x20_0105, 4), [0x20_00fe, 0x20_00ff, 0x20_0100, 0x20_0101]);
    }

    #[test]
    fn without_symbols_starts_are_tried() {
        assert_eq!(found(Symbols::default(), 0x20_0110, 6), STARTS);
    }

    #[test]
    fn what_cannot_be_read_ends_the_search() {
        assert!(found(Symbols::default(), 0x20_0000, 5).is_empty());
        assert_eq!(found(Symbols::default(), 0x20_0002, 5), [0x20_0000, 0x20_0001]);
        assert!(found(Symbols::default(), 0, 5).is_empty());
        assert!(found(Symbols::default(), 0x7000_0000_0000, 5).is_empty());
    }
}
