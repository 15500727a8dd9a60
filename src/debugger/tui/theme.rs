//! How the screen looks: colours of the terminal's own sixteen, or without any (NO_COLOR), bold, dim and reversed.
use ratatui::style::{Color, Modifier, Style};

/// The styles of everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Theme {
    /// Colours may be used.
    pub colours: bool,
}

impl Theme {
    fn of(self, colour: Color, otherwise: Modifier) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    /// Borders of panes that do not have the keys.
    pub(super) fn border(self) -> Style {
        self.of(Color::DarkGray, Modifier::DIM)
    }

    /// Borders and title of the pane that has them.
    pub(super) fn focus(self) -> Style {
        self.of(Color::Cyan, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    /// Titles of panes and tabs that are shown.
    pub(super) fn title(self) -> Style {
        // In the frame, whose colour would be theirs.
        Style::new().fg(Color::Reset).add_modifier(Modifier::BOLD)
    }

    /// What matters less.
    pub(super) fn quiet(self) -> Style {
        self.of(Color::DarkGray, Modifier::DIM)
    }

    /// What changed.
    pub(super) fn changed(self) -> Style {
        self.of(Color::Yellow, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    /// Names of the guest's symbols.
    pub(super) fn symbol(self) -> Style {
        self.of(Color::Green, Modifier::empty())
    }

    /// Addresses.
    pub(super) fn address(self) -> Style {
        self.of(Color::Cyan, Modifier::empty())
    }

    /// Breakpoints.
    pub(super) fn breakpoint(self) -> Style {
        self.of(Color::Red, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    /// What is as it should be.
    pub(super) fn sound(self) -> Style {
        self.of(Color::Green, Modifier::empty())
    }

    /// What went wrong, and what cannot be.
    pub(super) fn error(self) -> Style {
        self.of(Color::Red, Modifier::BOLD)
    }

    /// The first word of an instruction.
    pub(super) fn mnemonic(self) -> Style {
        self.of(Color::Blue, Modifier::empty()).add_modifier(Modifier::BOLD)
    }

    /// What a person wrote.
    pub(super) fn written(self) -> Style {
        self.of(Color::Magenta, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }

    /// The line of the next instruction.
    pub(super) fn here(self) -> Style {
        if self.colours {
            Style::new().bg(Color::Blue).fg(Color::White).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// The selected line.
    pub(super) fn selected(self) -> Style {
        if self.colours {
            Style::new().bg(Color::DarkGray).fg(Color::White)
        } else {
            Style::new().add_modifier(Modifier::UNDERLINED)
        }
    }

    /// The status bar.
    pub(super) fn bar(self) -> Style {
        if self.colours {
            Style::new().bg(Color::DarkGray).fg(Color::White)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// The mode, in the status bar.
    pub(super) fn mode(self) -> Style {
        if self.colours {
            Style::new().bg(Color::Cyan).fg(Color::Black).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
        }
    }

    /// In the status bar: the guest runs.
    pub(super) fn running(self) -> Style {
        if self.colours {
            Style::new().bg(Color::Green).fg(Color::Black).add_modifier(Modifier::BOLD)
        } else {
            self.mode()
        }
    }

    /// In the status bar: why it stopped.
    pub(super) fn stopped(self) -> Style {
        if self.colours {
            Style::new().bg(Color::Yellow).fg(Color::Black).add_modifier(Modifier::BOLD)
        } else {
            self.mode()
        }
    }

    /// Names of keys.
    pub(super) fn key(self) -> Style {
        self.of(Color::Cyan, Modifier::BOLD).add_modifier(Modifier::BOLD)
    }
}
