//! What went wrong, on standard error and always in one form: where, how bad, what and why, and
//! below it what to do. On a terminal its lines end between words.

use std::fmt::Display;
use std::io::stderr;

use super::complain;
use super::failure::Failure;
use super::screen::{Screen, plain};
use crate::config::diagnostic::{Diagnostic, Severity};
use crate::terminal::{Look, Style};

/// Where something is wrong if no file is to blame.
const HERE: &str = "agent";

/// Tells of a failure.
pub fn failed(failure: &Failure) {
    let help: Vec<_> = failure.help().into_iter().collect();
    tell(HERE, Severity::Error, &failure.what(), &help);
}

/// Tells of an error that the command goes on after, or ends for by itself.
pub fn error(what: impl Display) {
    tell(HERE, Severity::Error, &what.to_string(), &[]);
}

/// Tells of what may be no error.
pub fn warning(what: impl Display) {
    tell(HERE, Severity::Warning, &what.to_string(), &[]);
}

/// Tells what is wrong with a configuration.
pub fn diagnosed<'a>(diagnostics: impl IntoIterator<Item = &'a Diagnostic>) {
    for found in diagnostics {
        let help: Vec<_> = found.help.as_deref().into_iter().collect();
        let place = found.place.to_string();
        tell(&place, found.severity, &found.message, &help);
    }
}

/// Tells what clap says about the command line, but for tokens that somebody put there.
pub fn usage(error: &clap::Error) {
    let arguments = std::env::args_os().filter_map(|argument| argument.into_string().ok());
    let (what, help) = of_usage(&error.render().to_string(), arguments);
    let help: Vec<_> = help.iter().map(String::as_str).collect();
    tell(HERE, Severity::Error, &what, &help);
}

/// What is wrong, and what to do, in the words of clap.
fn of_usage(rendered: &str, arguments: impl Iterator<Item = String>) -> (String, Vec<String>) {
    let mut text = rendered.to_owned();
    let (mut what, mut help) = (Vec::new(), Vec::new());
    for token in arguments.filter(|argument| argument.starts_with("eyJ")) {
        text = text.replace(&token, "<a token>");
        let elsewhere =
            "tokens are read from standard input or --file, where other users cannot see them";
        help.push(elsewhere.to_owned());
    }
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            help.push(tip.to_owned());
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            help.push(format!("the usage is {usage}"));
        } else if line.starts_with("For more information") {
            help.push("--help tells more".to_owned());
        } else {
            what.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    (what.join(" "), help)
}

fn tell(place: &str, severity: Severity, message: &str, help: &[&str]) {
    complain(show(Look::of(&stderr()), place, severity, message, help));
}

fn show(look: Look, place: &str, severity: Severity, message: &str, help: &[&str]) -> String {
    // Whoever searches a log wants lines as long as they are.
    let columns = if look.live { look.columns } else { usize::MAX };
    let mut screen = Screen::new(Look { columns, ..look });
    let (word, style) = match severity {
        Severity::Error => ("error:", Style::Bad),
        Severity::Warning => ("warning:", Style::Doubtful),
    };
    let mut lines = message.lines();
    let first = lines.next().unwrap_or_default();
    screen.paragraph(Style::Plain, "", "  ", &format!("{place}: {word} {first}"));
    for line in lines {
        screen.line(&[(Style::Plain, line)]);
    }
    for help in help {
        screen.paragraph(Style::Action, "    ", "      ", &format!("help: {help}"));
    }
    let begins = plain(place).len();
    let text = screen.finish();
    // The first word after the place, wherever the line ended.
    let (place, rest) = text.split_at_checked(begins).unwrap_or(("", &text));
    place.to_owned() + &rest.replacen(word, &look.paint(style, word), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Look = Look {
        colours: false,
        unicode: true,
        live: true,
        erasable: true,
        columns: 40,
    };

    #[test]
    fn every_problem_has_one_form_and_fits_a_terminal() {
        let message = "no agent listens on /run/agent/api/api.sock: No such file";
        let help = ["start one with agent run or agent dev"];
        let told = |look| show(look, "agent", Severity::Error, message, &help);
        assert_eq!(
            told(TERMINAL),
            "agent: error: no agent listens on\n  /run/agent/api/api.sock: No such file\n    \
             help: start one with agent run or\n      agent dev"
        );
        let piped = Look {
            live: false,
            ..TERMINAL
        };
        assert_eq!(
            told(piped),
            format!("agent: error: {message}\n    help: {}", help[0])
        );
        let painted = told(Look {
            colours: true,
            ..TERMINAL
        });
        assert!(painted.starts_with("agent: \x1b[1;31merror:\x1b[0m no agent"));
    }

    #[test]
    fn only_the_word_itself_is_painted() {
        let look = Look {
            colours: true,
            columns: 80,
            ..TERMINAL
        };
        let told = show(look, "/x/error: y:1:1", Severity::Error, "error: z", &[]);
        assert_eq!(told, "/x/error: y:1:1: \x1b[1;31merror:\x1b[0m error: z");
    }

    #[test]
    fn the_words_of_clap_are_sorted_into_what_and_help() {
        let rendered = "error: unrecognized subcommand 'eyJhbGc'\n\n  tip: a similar subcommand \
                        exists: 'status'\n\nUsage: agent <COMMAND>\n\nFor more information, try \
                        '--help'.\n";
        let arguments = ["agent", "eyJhbGc"].map(str::to_owned);
        let (what, help) = of_usage(rendered, arguments.into_iter());
        assert_eq!(what, "unrecognized subcommand '<a token>'");
        assert!(help[0].contains("standard input"), "{help:?}");
        assert_eq!(help[1], "a similar subcommand exists: 'status'");
        assert_eq!(
            help[2..],
            ["the usage is agent <COMMAND>", "--help tells more"]
        );
    }
}
