//! How a workload comes by its token, in words for shells.

use super::super::quote::shell;
use super::facts::{Facts, Source};

/// The options of commands that fetch the token.
pub fn options(facts: &Facts, audience: Option<&str>) -> Vec<String> {
    let mut options = Vec::new();
    let mut option = |name: &str, value: &str| options.extend([name.to_owned(), value.to_owned()]);
    if let Some(audience) = audience {
        option("--audience", audience);
    }
    if let Source::Command {
        spiffe_id: Some(id),
        ..
    } = &facts.source
    {
        option("--spiffe-id", id);
    }
    if let Some(socket) = &facts.socket {
        option("--socket", &socket.to_string_lossy());
    }
    options
}

/// A command of this program with the options that fetch the token.
pub fn command(facts: &Facts, verb: &str, audience: &str) -> String {
    let options = options(facts, Some(audience));
    let program = facts.program.to_string_lossy().into_owned();
    let words = [program, verb.to_owned()].into_iter().chain(options);
    let words: Vec<_> = words.map(|word| shell(&word)).collect();
    words.join(" ")
}

/// A file for the environment of a workload that finds the path of its token in `variable`.
pub fn environment(
    facts: &Facts,
    audience: &str,
    variable: &str,
    others: &[(&str, String)],
) -> String {
    let mut text = String::new();
    let mut set = |name: &str, value: &str| text.push_str(&format!("{name}={}\n", shell(value)));
    if let Some(file) = facts.file() {
        set(variable, &file.to_string_lossy());
    }
    for (name, value) in others {
        set(name, value);
    }
    match facts.source {
        Source::File { .. } => text + &parameter(facts),
        Source::Command { .. } => {
            let exec = command(facts, "exec", audience);
            format!(
                "# Start it with this before the program; it sets {variable}.\n#   {exec} --\n{text}"
            )
        }
    }
}

/// What to do about a path with a parameter, as a comment.
pub fn parameter(facts: &Facts) -> String {
    match facts.subject.only() {
        Some(_) => String::new(),
        None => "# For each directory, its own name stands in the path.\n".to_owned(),
    }
}
