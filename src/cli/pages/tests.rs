use clap::Parser;

use super::*;

/// Every command that is shown, with its full name.
fn all(command: &Command, found: &mut Vec<Command>) {
    found.push(command.clone());
    for subcommand in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        all(subcommand, found);
    }
}

pub(super) fn commands() -> Vec<Command> {
    let mut found = Vec::new();
    all(&described(), &mut found);
    found
}

#[test]
fn every_command_has_a_page_with_its_examples() {
    let directory = tempfile::tempdir().unwrap();
    write_pages(&described(), directory.path()).unwrap();
    let pages = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(pages, commands().len());
    for command in commands() {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let page = fs::read_to_string(directory.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH EXAMPLES\n.nf\n"), "{name}");
    }
    assert!(!directory.path().join("agent-man.1").exists());
}

/// The words of a line of an example up to where something else than our command begins.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => words.push(String::new()),
            ('|' | '>' | ')' | '&', None) => break,
            (c, _) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_has_examples_and_their_options_exist() {
    for command in commands() {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let help = command.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_else(|| panic!("{name} has no examples"));
        assert!(help.starts_with("Example"), "{name}");
        let mut tried = 0;
        for (at, _) in help.match_indices("agent ") {
            let line = help[at..].lines().next().unwrap();
            let line = match help[..at].chars().next_back() {
                Some(' ' | '(') => line,
                Some('"') => line.split('"').next().unwrap(),
                _ => continue,
            };
            let parsed = Cli::try_parse_from(words(line));
            assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
            tried += 1;
        }
        assert!(tried > 0, "{name}");
    }
}
