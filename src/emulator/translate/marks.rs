//! Which instruction, and which part of its translation, host code belongs to: noted while a block is built, if somebody
//! wants to know.
use super::builder::Builder;
use crate::emulator::emit::Forward;
use crate::engine::Part;

/// A part begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// Offset in the block.
    pub at: usize,
    pub part: Part,
    /// The instruction, by its place in the block; `None`: the block as a whole.
    pub index: Option<usize>,
}

/// The parts of a block, in the order of the code.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<Mark>);

impl Marks {
    /// None, in the same memory.
    pub(super) fn emptied(mut self) -> Self {
        self.0.clear();
        self
    }

    /// Each with the offset where it ends; of a block of `size` bytes.
    pub(super) fn parts(&self, size: usize) -> impl Iterator<Item = (Mark, usize)> {
        let ends = self.0.iter().skip(1).map(|mark| mark.at).chain([size]);
        self.0.iter().copied().zip(ends).filter(|(mark, end)| mark.at < *end)
    }

    /// The one that an offset lies in.
    fn find(&self, at: usize) -> Option<Mark> {
        self.0.iter().rev().find(|mark| mark.at <= at).copied()
    }
}

impl Builder<'_> {
    /// A part of the current instruction, or of the block, begins.
    pub(super) fn mark(&mut self, part: Part) {
        let at = self.asm.position();
        let whole = matches!(part, Part::BlockFlags | Part::BlockChecks | Part::Leave | Part::SavedEntry);
        let index = (!whole).then_some(self.current.0);
        if let Some(Marks(marks)) = &mut self.marks {
            marks.push(Mark { at, part, index });
        }
    }

    /// What lies off the path begins, and belongs to whatever leads there.
    pub(super) fn mark_cold(&mut self, from: Option<&Forward>, part: Part) {
        let at = self.asm.position();
        if let Some(marks) = &mut self.marks {
            let index = from.and_then(|from| marks.find(from.0)).and_then(|mark| mark.index);
            marks.0.push(Mark { at, part, index });
        }
    }

    /// Does a part of the current instruction's work that has a name of its own.
    pub(super) fn part<T>(&mut self, part: Part, work: impl FnOnce(&mut Self) -> T) -> T {
        let works =
            self.marks.as_ref().and_then(|marks| marks.0.last()).is_some_and(|mark| mark.part == Part::Work);
        if !works {
            return work(self);
        }
        self.mark(part);
        let done = work(self);
        self.mark(Part::Work);
        done
    }
}
