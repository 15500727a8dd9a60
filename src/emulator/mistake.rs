//! Mistakes that the translator makes on purpose, so that it can be seen that comparing finds them.
use std::fmt;

/// One mistake of the translator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// INC turns the carry over, which it leaves alone.
    Flag,
    /// MOVZX of 16 bits takes eight.
    Width,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Flag, Self::Width];

    /// The word for it on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Width => "width",
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
