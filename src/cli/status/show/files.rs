//! Token files.

use super::{TOLERANCE, for_words, in_words};
use crate::cli::count;
use crate::cli::screen::{BAR, Screen, width};
use crate::pb::admin::TokenFile;
use crate::terminal::Style;

/// So many files are shown.
const MAX_FILES: usize = 8;
/// So many characters of the id of an entry are shown.
const ENTRY: usize = 16;

/// How a file stands; what needs somebody most comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its token has ended.
    Expired,
    /// It holds no token, and something is wrong.
    Missing,
    /// It holds a token, and could not be written again.
    Failing,
    /// Its token comes from the future: the wall clock was set back.
    Ahead,
    /// It holds no token, and waits for what is to come.
    Waiting,
    /// It holds a token.
    Fresh,
}

impl State {
    /// Of a file, at a time in seconds since 1970.
    pub fn of(file: &TokenFile, now: u64) -> Self {
        match (file.expires_at, file.error.is_empty()) {
            (0, true) => Self::Waiting,
            (0, false) => Self::Missing,
            (end, _) if end <= now => Self::Expired,
            (_, false) => Self::Failing,
            (_, true) if file.issued_at > now + TOLERANCE => Self::Ahead,
            (_, true) => Self::Fresh,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Missing => "without a token",
            Self::Failing => "not renewed",
            Self::Ahead => "ahead of the clock",
            Self::Waiting => "waiting",
            Self::Fresh => "fresh",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Expired | Self::Missing => Style::Bad,
            Self::Failing | Self::Ahead => Style::Doubtful,
            Self::Waiting => Style::Plain,
            Self::Fresh => Style::Good,
        }
    }
}

/// How many files need somebody, and in how many seconds the first of them is tried again, where
/// that is known.
pub fn failing(files: &[TokenFile], now: u64) -> (usize, Option<u64>) {
    let bad = |file: &&TokenFile| State::of(file, now) <= State::Failing;
    let failing = files.iter().filter(bad);
    let tried_in = failing.clone().map(|file| file.next_refresh_in);
    // None at all is told for what comes within the second, and for what nobody knows.
    (failing.count(), tried_in.min().filter(|time| *time > 0))
}

/// Shows files, those that need somebody first, and counts them all.
pub fn show(screen: &mut Screen, files: &[TokenFile], now: u64) {
    if files.is_empty() {
        return;
    }
    let mut sorted: Vec<_> = files
        .iter()
        .map(|file| (State::of(file, now), file))
        .collect();
    let rank = |(state, file): &(State, &TokenFile)| (*state, file.expires_at);
    sorted.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.1.path.cmp(&b.1.path)));
    let tally = sorted.chunk_by(|one, next| one.0 == next.0);
    let tally =
        tally.filter_map(|alike| Some(format!("{} {}", alike.len(), alike.first()?.0.word())));
    let tally: Vec<_> = tally.collect();
    screen.heading("token files", &format!(": {}", tally.join(", ")));

    let shown: Vec<_> = sorted.iter().take(MAX_FILES).collect();
    let words = shown
        .iter()
        .map(|(state, file)| words(screen, *state, file, now));
    let words: Vec<_> = words.collect();
    let widest = words.iter().map(|words| width(words)).max().unwrap_or(0);
    let room = screen.columns().saturating_sub(2 + 2 + BAR + 2 + widest);
    let paths: Vec<_> = shown
        .iter()
        .map(|(_, file)| screen.shorten(&file.path, room))
        .collect();
    let wide = paths.iter().map(|path| width(path)).max().unwrap_or(0);
    for (((state, file), path), words) in shown.iter().zip(&paths).zip(&words) {
        let left = file.expires_at.saturating_sub(now);
        let life = file.expires_at.saturating_sub(file.issued_at);
        screen.line(&[
            (Style::Plain, &format!("  {path:<wide$}  ")),
            (state.style(), &screen.bar(left, life)),
            (Style::Plain, &format!("  {words}")),
        ]);
    }
    let more = sorted.len() - shown.len();
    if more > 0 {
        let more = count(more, "more file", "more files");
        screen.line(&[(Style::Plain, &format!("  {more}: agent files shows all"))]);
    }
    let fresh = sorted.iter().filter(|(state, _)| *state == State::Fresh);
    if let Some((_, next)) = fresh.min_by_key(|(_, file)| file.next_refresh_in) {
        let when = in_words(next.next_refresh_in);
        let room = screen.columns().saturating_sub(width(&when) + 28);
        let path = screen.shorten(&next.path, room);
        let told = format!("next: {path} is written anew {when}");
        screen.paragraph(Style::Plain, "  ", "    ", &told);
    }
}

fn words(screen: &Screen, state: State, file: &TokenFile, now: u64) -> String {
    let left = for_words(file.expires_at.saturating_sub(now));
    match state {
        State::Expired => format!("expired {} ago", for_words(now - file.expires_at)),
        State::Missing => "no token".to_owned(),
        State::Failing => format!("{left} left, not renewed"),
        State::Ahead => "made after now".to_owned(),
        State::Waiting if file.sub.is_empty() && !file.entry.is_empty() => {
            format!("waits for entry {}", screen.shorten(&file.entry, ENTRY))
        }
        State::Waiting => "no token yet".to_owned(),
        State::Fresh => format!("{left} left"),
    }
}
