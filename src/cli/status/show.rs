//! The state of an agent on one screen: what is wrong first, then what comes next.
//!
//! The screen stays short however much there is: what is most in need of somebody is shown, the rest
//! is counted.

mod files;
mod issuers;

use std::time::Duration;

use crate::cli::count;
use crate::cli::screen::{Screen, width};
use crate::clock::from_unix_seconds;
use crate::duration::duration_in_words;
use crate::pb::admin::{Caller, GetStatusResponse};
use crate::terminal::{Look, Style};

/// So many problems are shown.
const MAX_PROBLEMS: usize = 5;
/// So many callers are shown.
const MAX_CALLERS: usize = 5;
/// Clocks are read to the second: what lies further ahead than this comes from before the wall clock
/// was set back.
const TOLERANCE: u64 = 1;

/// A screen for people, at the time `now` in seconds since 1970.
pub fn to_text(status: &GetStatusResponse, now: u64, look: Look) -> String {
    let mut screen = Screen::new(look);
    head(&mut screen, status, now);
    let steps = next_steps(status, now);
    let is_well = status.ready && status.problems.is_empty();
    if !is_well {
        problems(&mut screen, status);
        show_steps(&mut screen, &steps);
    }
    issuers::show(&mut screen, &status.issuers, now);
    files::show(&mut screen, &status.token_files, now);
    let (configured, created) = (status.entries_configured, status.entries_created);
    let counts = format!(": {configured} configured, {created} created");
    screen.heading("entries", &counts);
    callers(&mut screen, &status.recent_callers, now);
    if is_well {
        show_steps(&mut screen, &steps);
    }
    screen.finish()
}

fn head(screen: &mut Screen, status: &GetStatusResponse, now: u64) {
    let (style, well) = match (status.ready, status.problems.is_empty()) {
        (true, true) => (Style::Good, "healthy"),
        (true, false) => (Style::Bad, "degraded"),
        (false, _) => (Style::Bad, "not ready"),
    };
    let well = format!(
        "{} {well}",
        screen.sign(status.ready && status.problems.is_empty())
    );
    let up = match ago(status.started_at, now) {
        Some(time) => format!(", up {time}"),
        None => String::new(),
    };
    let agent = format!("agent {}", status.version);
    let room = screen
        .columns()
        .saturating_sub(width(&agent) + width(&well) + width(&up) + 7);
    let domain = format!(" for {}: ", screen.shorten(&status.trust_domain, room));
    screen.line(&[
        (Style::Bold, &agent),
        (Style::Plain, &domain),
        (style, &well),
        (Style::Plain, &up),
    ]);
    // As a whole, since it is for copying.
    let address = format!("socket unix://{}", status.socket_path);
    screen.line(&[(Style::Dim, &address)]);
}

fn problems(screen: &mut Screen, status: &GetStatusResponse) {
    const HANG: &str = "    ";
    screen.heading("what is wrong", "");
    let sign = format!("  {} ", screen.sign(false));
    let mut tell = |problem: &str| {
        let room = screen.columns().saturating_sub(width(HANG));
        let problem = screen.with_short_words(problem, room);
        screen.paragraph(Style::Bad, &sign, HANG, &problem);
    };
    for problem in status.problems.iter().take(MAX_PROBLEMS) {
        tell(problem);
    }
    match status.problems.len() {
        0 => tell("no token can be made yet"),
        all if all > MAX_PROBLEMS => tell(&format!(
            "{} more: agent health tells all",
            all - MAX_PROBLEMS
        )),
        _ => {}
    }
}

/// What somebody can do, in sentences.
fn next_steps(status: &GetStatusResponse, now: u64) -> Vec<String> {
    let mut steps = Vec::new();
    let (failing, tried_in) = files::failing(&status.token_files, now);
    if failing > 0 {
        let them = if failing == 1 { "it" } else { "them" };
        let files = count(failing, "token file needs", "token files need");
        let again = tried_in.map_or_else(String::new, |time| {
            format!("; the agent tries {them} again {}", in_words(time))
        });
        steps.push(format!("{files} a look: agent files tells why{again}"));
    }
    if !status.ready || !status.problems.is_empty() {
        let log =
            "the log of the agent tells more: journalctl -u svid-agent, where systemd runs it";
        steps.push(log.to_owned());
    }
    let entries = status.entries_configured + status.entries_created;
    if entries == 0 && status.token_files.is_empty() {
        let none = "nobody gets a token yet: write an entry in the configuration, or make one with \
                    agent entry create";
        steps.push(none.to_owned());
    }
    let last = status.recent_callers.first();
    if let Some(refused) = last.filter(|caller| caller.outcome.starts_with("refused")) {
        let pid = refused.pid;
        steps.push(format!(
            "the last caller was refused: agent explain --pid {pid} tells why, as long as it lives"
        ));
    }
    steps
}

fn show_steps(screen: &mut Screen, steps: &[String]) {
    if steps.is_empty() {
        return;
    }
    screen.heading("what to do", "");
    for step in steps {
        screen.paragraph(Style::Action, "  - ", "    ", step);
    }
}

fn callers(screen: &mut Screen, callers: &[Caller], now: u64) {
    if callers.is_empty() {
        return;
    }
    screen.heading("last callers", "");
    let shown: Vec<_> = callers.iter().take(MAX_CALLERS).collect();
    let cells = shown.iter().map(|caller| {
        let ago = ago(caller.at, now).map_or("ahead of now".to_owned(), |time| time + " ago");
        [
            ago,
            format!("uid {}", caller.uid),
            format!("pid {}", caller.pid),
        ]
    });
    let cells: Vec<_> = cells.collect();
    let widest = |column: usize| {
        cells
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| width(cell))
            .max()
    };
    let wide = [0, 1, 2].map(|column| widest(column).unwrap_or(0));
    for (caller, [ago, uid, pid]) in shown.iter().zip(&cells) {
        let [a, b, c] = wide;
        let who = format!("  {ago:<a$}  {uid:<b$}  {pid:<c$}  ");
        let room = screen.columns().saturating_sub(width(&who));
        let outcome = screen.with_short_words(&caller.outcome, room);
        let hang = " ".repeat(width(&who));
        screen.paragraph(Style::Plain, &who, &hang, &outcome);
    }
}

/// How long ago something was; `None` where it lies ahead, since the wall clock was set back.
fn ago(then: u64, now: u64) -> Option<String> {
    (then <= now + TOLERANCE).then(|| for_words(now.saturating_sub(then)))
}

/// `3 days`.
fn for_words(seconds: u64) -> String {
    duration_in_words(Duration::from_secs(seconds))
}

/// `in 3 days`, or `now`.
fn in_words(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        seconds => format!("in {}", for_words(seconds)),
    }
}

/// A moment to the minute.
fn minute(seconds: u64) -> String {
    let time = jiff::Timestamp::try_from(from_unix_seconds(seconds));
    time.map_or_else(
        |_| "unknown".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests;
