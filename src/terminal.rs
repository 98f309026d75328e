//! What a stream can show. The one place that decides about colours, characters and columns.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// The columns that are counted on where nobody tells.
const USUAL_COLUMNS: usize = 80;
/// Fewer or more columns than these make no screen that can be read.
const COLUMNS: std::ops::RangeInclusive<usize> = 40..=160;

/// How something may be shown on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// In colours.
    pub colours: bool,
    /// With characters beyond ASCII.
    pub unicode: bool,
    /// On a terminal, where a person reads along.
    pub live: bool,
    /// So that a line can be taken back.
    pub erasable: bool,
    /// So many columns; 40 to 160.
    pub columns: usize,
}

/// What a text is to catch the eye by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// By nothing.
    Plain,
    /// A heading.
    Bold,
    /// What only some look for.
    Dim,
    /// All is well.
    Good,
    /// It may be not.
    Doubtful,
    /// It is not.
    Bad,
    /// To be typed, or done.
    Action,
}

impl Look {
    /// Of a stream of this process, by the variables of its environment.
    pub fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        let columns = rustix::termios::tcgetwinsize(stream)
            .ok()
            .map(|size| usize::from(size.ws_col));
        Self::decide(stream.is_terminal(), columns, |name| std::env::var_os(name))
    }

    fn decide(
        is_terminal: bool,
        columns: Option<usize>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let erasable = is_terminal && set("TERM").is_none_or(|term| term != "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_string_lossy().to_lowercase();
        // A terminal that does not know its own size tells none at all.
        let columns = columns.filter(|columns| is_terminal && *columns > 0);
        let columns = columns.unwrap_or(USUAL_COLUMNS);
        Self {
            colours: erasable && set("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            live: is_terminal,
            erasable,
            columns: columns.clamp(*COLUMNS.start(), *COLUMNS.end()),
        }
    }

    /// A text in a style, where there are colours.
    pub fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Doubtful => "33",
            Style::Bad => "1;31",
            Style::Action => "36",
        };
        if self.colours && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(is_terminal: bool, columns: Option<usize>, set: &[(&str, &str)]) -> Look {
        Look::decide(is_terminal, columns, |name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn colours_are_for_terminals_whose_user_does_not_mind() {
        for (is_terminal, set, colours) in [
            (true, &[][..], true),
            (true, &[("NO_COLOR", "")], true),
            (true, &[("TERM", "xterm"), ("CLICOLOR", "0")], true),
            (true, &[("NO_COLOR", "0")], false),
            (true, &[("TERM", "dumb")], false),
            (false, &[], false),
            (false, &[("CLICOLOR_FORCE", "1")], false),
        ] {
            assert_eq!(
                look(is_terminal, None, set).colours,
                colours,
                "{is_terminal} {set:?}"
            );
        }
    }

    #[test]
    fn the_first_variable_of_the_locale_that_says_something_counts() {
        for (set, unicode) in [
            (&[("LANG", "en_US.UTF-8")][..], true),
            (&[("LC_CTYPE", "C.utf8"), ("LANG", "C")], true),
            (&[("LC_ALL", ""), ("LANG", "C.UTF-8")], true),
            (&[("LC_ALL", "C"), ("LANG", "C.UTF-8")], false),
            (&[], false),
        ] {
            assert_eq!(look(true, None, set).unicode, unicode, "{set:?}");
        }
    }

    #[test]
    fn columns_are_those_of_the_terminal_within_reason() {
        for (is_terminal, told, columns) in [
            (true, Some(132), 132),
            (true, Some(0), 80),
            (true, Some(1), 40),
            (true, Some(9999), 160),
            (true, None, 80),
            (false, Some(132), 80),
        ] {
            assert_eq!(look(is_terminal, told, &[]).columns, columns);
        }
    }

    #[test]
    fn nothing_is_painted_without_colours() {
        let plain = look(false, None, &[]);
        assert_eq!(plain.paint(Style::Bad, "x"), "x");
        let painted = look(true, None, &[]);
        assert_eq!(painted.paint(Style::Bad, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(painted.paint(Style::Bad, ""), "");
    }
}
