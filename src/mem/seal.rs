//! What marked code held at a moment: for an engine that stands while others write RAM unnoticed, through mappings of their
//! own. When it goes on, what is other code now counts as written, and the rest of what it made of code still holds.
use super::GuestRam;
use crate::arch::address::PAGE_SIZE;

/// Digests of all code that was marked.
#[derive(Debug, Default)]
pub struct CodeSeal(Vec<Sealed>);

#[derive(Clone, Copy, Debug)]
struct Sealed {
    page: u64,
    chunks: u64,
    digest: u64,
}

impl GuestRam {
    /// Seals the code that is marked now. Nobody writes RAM meanwhile.
    #[must_use]
    pub fn seal_code(&self) -> CodeSeal {
        let pages = 0..self.size() / PAGE_SIZE;
        let marked = pages.filter_map(|page| match self.code.chunks_of(page * PAGE_SIZE) {
            0 => None,
            chunks => Some(Sealed { page, chunks, digest: self.digest(page, chunks) }),
        });
        CodeSeal(marked.collect())
    }

    /// Code that is not what it was when it was sealed counts as written.
    pub fn break_seal(&self, seal: &CodeSeal) {
        for sealed in &seal.0 {
            if self.digest(sealed.page, sealed.chunks) != sealed.digest {
                // Where the marks are gone, that it was written has been told.
                self.code.note_write(sealed.page * PAGE_SIZE, PAGE_SIZE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Gpa;
    use crate::mem::CodeChanges;

    #[test]
    fn only_code_that_was_changed_unnoticed_is_told() {
        let ram = GuestRam::new(8 * PAGE_SIZE).unwrap();
        let mut cursor = ram.code().cursor();
        for page in 1..4 {
            ram.code().mark(page * PAGE_SIZE + 0x100, 64);
            ram.store_unnoticed(Gpa(page * PAGE_SIZE + 0x100), page);
        }
        let seal = ram.seal_code();
        ram.break_seal(&seal);
        assert_eq!(ram.written_code(&mut cursor), None, "nobody has written");
        ram.store_unnoticed(Gpa(PAGE_SIZE + 0x108), 7);
        // Beside the code of its page.
        ram.store_unnoticed(Gpa(2 * PAGE_SIZE + 0x200), 7);
        ram.break_seal(&seal);
        let page = CodeChanges::Pages(vec![Gpa(PAGE_SIZE)]);
        assert_eq!(ram.written_code(&mut cursor), Some(page));
        // Noticed, and so told already.
        assert!(ram.write_u64(Gpa(3 * PAGE_SIZE + 0x100), 9));
        let page = CodeChanges::Pages(vec![Gpa(3 * PAGE_SIZE)]);
        assert_eq!(ram.written_code(&mut cursor), Some(page));
        ram.break_seal(&seal);
        assert_eq!(ram.written_code(&mut cursor), None);
    }
}
