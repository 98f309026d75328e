//! Screens: what people read, in lines that fit.

use crate::terminal::{Look, Style};

/// Where the second column of a row begins, if the first leaves room.
const SECOND: usize = 38;
/// So many cells a bar has.
pub const BAR: usize = 12;

/// A text that grows by lines. What is put into it moves no cursor, whoever chose it.
#[derive(Debug)]
pub struct Screen {
    look: Look,
    text: String,
}

impl Screen {
    /// An empty one.
    pub fn new(look: Look) -> Self {
        Self {
            look,
            text: String::new(),
        }
    }

    /// What there is on it, without a newline at the end.
    pub fn finish(self) -> String {
        self.text.trim_end().to_owned()
    }

    /// So many columns are there.
    pub fn columns(&self) -> usize {
        self.look.columns
    }

    /// An empty line.
    pub fn gap(&mut self) {
        self.text.push('\n');
    }

    /// A line of parts, which the caller has made to fit.
    pub fn line(&mut self, parts: &[(Style, &str)]) {
        let last = parts.len().saturating_sub(1);
        for (at, (style, part)) in parts.iter().enumerate() {
            let part = plain(part);
            // Nothing but the last part decides how long the line is.
            let part = if at == last { part.trim_end() } else { &part };
            self.text.push_str(&self.look.paint(*style, part));
        }
        self.text.push('\n');
    }

    /// A heading with an empty line before it, and perhaps something after it in the same line.
    pub fn heading(&mut self, heading: &str, rest: &str) {
        self.gap();
        let rest = self.shorten(rest, self.look.columns.saturating_sub(width(heading)));
        self.line(&[(Style::Bold, heading), (Style::Plain, &rest)]);
    }

    /// Lines that end between words; `indent` begins the first, `hang` the others.
    pub fn paragraph(&mut self, style: Style, indent: &str, hang: &str, words: &str) {
        let mut line = indent.to_owned();
        let mut is_empty = true;
        for word in plain(words).split(' ') {
            if !is_empty && width(&line) + 1 + width(word) > self.look.columns {
                self.styled(style, &line);
                hang.clone_into(&mut line);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.styled(style, &line);
    }

    /// A line in one style; its indentation stays plain.
    fn styled(&mut self, style: Style, line: &str) {
        let words = line.trim_start_matches(' ');
        let indent = line.get(..line.len() - words.len()).unwrap_or_default();
        self.text.push_str(indent);
        self.line(&[(style, words)]);
    }

    /// Two columns, or two lines where the first column is too long.
    pub fn row(&mut self, first: &str, second: &str) {
        let first = plain(first);
        if width(&first) + 2 < SECOND && SECOND + width(second) <= self.look.columns {
            let first = format!("  {first:<wide$}", wide = SECOND - 2);
            self.line(&[(Style::Plain, &first), (Style::Dim, second)]);
        } else {
            self.line(&[(Style::Plain, "  "), (Style::Plain, &first)]);
            self.paragraph(Style::Dim, "      ", "        ", second);
        }
    }

    /// A text in so many columns, without its middle if it is longer.
    pub fn shorten(&self, text: &str, columns: usize) -> String {
        let text = plain(text);
        let (all, gap) = (width(&text), if self.look.unicode { "…" } else { "..." });
        if all <= columns {
            return text;
        }
        // The end of a path or an id tells more than its beginning.
        let room = columns.saturating_sub(width(gap));
        let head: String = text.chars().take(room / 3).collect();
        let tail: String = text.chars().skip(all - (room - room / 3)).collect();
        format!("{head}{gap}{tail}")
    }

    /// A sentence of which no word is wider than so many columns.
    pub fn with_short_words(&self, sentence: &str, columns: usize) -> String {
        let words = sentence.split(' ');
        let words: Vec<_> = words.map(|word| self.shorten(word, columns)).collect();
        words.join(" ")
    }

    /// A bar that shows which share of a whole is left: full where there is nothing to share, and
    /// empty only where nothing is left.
    pub fn bar(&self, left: u64, whole: u64) -> String {
        let (full, empty) = if self.look.unicode {
            ("█", "░")
        } else {
            ("#", "-")
        };
        let filled = filled(left, whole);
        full.repeat(filled) + &empty.repeat(BAR - filled)
    }

    /// A sign that all is well.
    pub fn sign(&self, well: bool) -> &'static str {
        match (self.look.unicode, well) {
            (true, true) => "✓",
            (true, false) => "✗",
            (false, true) => "+",
            (false, false) => "!",
        }
    }
}

/// How many cells of a bar are filled.
fn filled(left: u64, whole: u64) -> usize {
    if left >= whole {
        return if left == 0 { 0 } else { BAR };
    }
    let cells = u128::from(left) * BAR as u128;
    let rounded = (cells + u128::from(whole) / 2) / u128::from(whole);
    let filled = usize::try_from(rounded).unwrap_or(BAR);
    filled.max(usize::from(left > 0))
}

/// So many columns a text takes.
pub fn width(text: &str) -> usize {
    text.chars().count()
}

/// A text that somebody else chose, so that it moves no cursor.
pub fn plain(text: &str) -> String {
    let show = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub const PLAIN: Look = Look {
        colours: false,
        unicode: true,
        live: false,
        erasable: false,
        columns: 80,
    };

    #[test]
    fn a_bar_shows_the_share_that_is_left_and_never_nothing_for_something() {
        for (left, whole, cells) in [
            (0, 100, 0),
            (1, 1_000_000, 1),
            (50, 100, 6),
            (99, 100, 12),
            (100, 100, 12),
            (200, 100, 12),
            (0, 0, 0),
            (u64::MAX - 1, u64::MAX, 12),
        ] {
            assert_eq!(filled(left, whole), cells, "{left} of {whole}");
        }
    }

    #[test]
    fn a_long_text_keeps_its_beginning_and_more_of_its_end() {
        let screen = Screen::new(PLAIN);
        assert_eq!(screen.shorten("/run/tokens/aws", 15), "/run/tokens/aws");
        assert_eq!(screen.shorten("/run/tokens/aws", 10), "/ru…ns/aws");
        let ascii = Screen::new(Look {
            unicode: false,
            ..PLAIN
        });
        assert_eq!(ascii.shorten("/run/tokens/aws", 12), "/ru...ns/aws");
    }

    #[test]
    fn colours_change_nothing_but_the_colours() {
        let show = |colours| {
            let mut screen = Screen::new(Look { colours, ..PLAIN });
            screen.heading("issuer main", "  https://id.example.org");
            screen.paragraph(Style::Bad, "  ", "    ", &"word ".repeat(40));
            screen.row("unix:uid:0", "the connection");
            screen.finish()
        };
        let painted = show(true);
        assert!(painted.contains("\x1b[1m") && !show(false).contains('\x1b'));
        let mut parts = painted.split('\x1b');
        let mut bare = parts.next().unwrap().to_owned();
        for part in parts {
            bare.push_str(part.split_once('m').unwrap().1);
        }
        assert_eq!(bare, show(false));
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_was_asked_for(text in ".{0,80}", columns in 4usize..60) {
            let screen = Screen::new(PLAIN);
            prop_assert!(width(&screen.shorten(&text, columns)) <= columns);
        }

        #[test]
        fn no_text_moves_the_cursor(text in any::<String>()) {
            let mut screen = Screen::new(PLAIN);
            screen.paragraph(Style::Plain, "", "", &text);
            screen.row(&text, "x");
            screen.line(&[(Style::Bad, &text)]);
            prop_assert!(!screen.finish().chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
