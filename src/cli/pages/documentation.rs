//! `docs/commands.md`, made from the definitions of the commands; and what other pages say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, Parser};

use super::tests::{commands, words};
use super::*;
use crate::config::page::{assert_made, plain};

/// Every way in which a command of ours ends, and what it tells.
fn meaning(exit: Exit) -> &'static str {
    match exit {
        Exit::Success => "done",
        Exit::Failure => {
            "failed or refused; something is wrong (`agent health`, `agent check-webroot`)"
        }
        Exit::Usage => "the command line makes no sense",
        Exit::NoIdentity => "no identity for this caller that fits what was asked",
        Exit::NoAgent => "nobody listens, or nobody could answer in time",
        Exit::Internal => "a fault of the program: please report it",
        Exit::Config => "the configuration is wrong",
        Exit::Code(_) => "`agent exec` alone: as its program ended",
    }
}

const EXITS: [Exit; 7] = [
    Exit::Success,
    Exit::Failure,
    Exit::Usage,
    Exit::NoIdentity,
    Exit::NoAgent,
    Exit::Internal,
    Exit::Config,
];

fn name(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    name.to_owned()
}

fn shown(command: &Command) -> Vec<&Arg> {
    let hidden =
        |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(hidden).collect()
}

/// How an option is written.
fn spelled(arg: &Arg) -> String {
    let value = || {
        let names = arg.get_value_names().unwrap_or_default();
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    match (arg.get_long(), arg.get_action().takes_values()) {
        (Some(long), true) => format!("`--{long} {}`", value()),
        (Some(long), false) => format!("`--{long}`"),
        (None, _) => format!("`{}`", value()),
    }
}

/// What an option is, what it takes, and where it comes from if it is not written.
fn row(arg: &Arg) -> String {
    let mut doc = plain(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    if !doc.ends_with('.') {
        doc.push('.');
    }
    if arg.get_action().takes_values() {
        let values = arg.get_possible_values();
        let values: Vec<_> = values
            .iter()
            .map(|it| format!("`{}`", it.get_name()))
            .collect();
        if !values.is_empty() {
            write!(doc, " One of {}.", values.join(", ")).unwrap();
        }
        if let Some(variable) = arg.get_env() {
            write!(
                doc,
                " From `{}` where that is set.",
                variable.to_string_lossy()
            )
            .unwrap();
        }
    }
    let defaults = arg.get_default_values();
    let defaults: Vec<_> = defaults.iter().map(|it| it.to_string_lossy()).collect();
    let without = match defaults.join(" ") {
        _ if arg.is_required_set() => "is needed".to_owned(),
        default if default.is_empty() || !arg.get_action().takes_values() => String::new(),
        default => format!("`{default}`"),
    };
    format!("| {} | {without} | {doc} |", spelled(arg))
}

const HEAD: &str = "| option | without it | is |\n|---|---|---|\n";

/// Options that several commands have, not counting commands of one command: in the order in which
/// they first come.
fn common(commands: &[Command]) -> Vec<String> {
    let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut rows = Vec::new();
    for command in commands {
        let top = name(command).split(' ').nth(1).map(str::to_owned);
        for arg in shown(command) {
            let holders = holders.entry(row(arg)).or_default();
            holders.extend(top.clone());
            rows.push(row(arg));
        }
    }
    let mut seen = BTreeSet::new();
    rows.retain(|row| holders[row].len() > 2 && seen.insert(row.clone()));
    rows
}

fn section(command: &Command, common: &[String], page: &mut String) {
    let depth = name(command).split(' ').count();
    let about = command.get_long_about().or(command.get_about()).unwrap();
    let about = plain(about.to_string().trim_end_matches('.'));
    let level = "#".repeat(depth);
    writeln!(page, "{level} `{}`\n\n{about}.\n", name(command)).unwrap();
    let (shared, own): (Vec<_>, Vec<_>) = shown(command)
        .into_iter()
        .partition(|arg| common.contains(&row(arg)));
    if !own.is_empty() {
        page.push_str(HEAD);
        for arg in own {
            writeln!(page, "{}", row(arg)).unwrap();
        }
        page.push('\n');
    }
    if !shared.is_empty() {
        let names: Vec<_> = shared
            .iter()
            .map(|arg| format!("`--{}`", arg.get_long().unwrap()))
            .collect();
        writeln!(
            page,
            "As [above](#options-of-many-commands): {}.\n",
            names.join(", ")
        )
        .unwrap();
    }
    if !command.has_subcommands() {
        let help = command.get_after_help().unwrap().to_string();
        for line in help.lines().skip(1) {
            writeln!(page, "    {}", line.trim_start()).unwrap();
        }
        page.push('\n');
    }
}

#[test]
fn documentation_of_commands_is_made_from_their_definitions() {
    let commands = commands();
    let common = common(&commands);
    let mut page = String::from("## Exit codes\n\n| exit code | means |\n|---|---|\n");
    for exit in EXITS {
        let code = format!("{:?}", std::process::ExitCode::from(exit));
        let digits: String = code.chars().filter(char::is_ascii_digit).collect();
        writeln!(page, "| {digits} | {} |", meaning(exit)).unwrap();
    }
    writeln!(page, "| any | {} |", meaning(Exit::Code(0))).unwrap();
    writeln!(
        page,
        "\n## Options of many commands\n\n{HEAD}{}\n",
        common.join("\n")
    )
    .unwrap();
    for command in commands.iter().skip(1) {
        section(command, &common, &mut page);
    }
    assert_made("commands.md", &page);
}

/// Every page that people read.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let in_docs = fs::read_dir(root.join("docs")).unwrap();
    let mut paths: Vec<_> = in_docs.map(|entry| entry.unwrap().path()).collect();
    for page in [
        "README.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "agent.conf.example",
    ] {
        paths.push(root.join(page));
    }
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

/// What stands as code on a page: spans, and the lines of blocks but for those that are printed or
/// read by something else than a shell.
fn code(page: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut fence: Option<&str> = None;
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() {
                None
            } else {
                Some(language)
            };
        } else if let Some(language) = fence {
            if language.starts_with("sh") {
                code.push(line.to_owned());
            }
        } else if let Some(line) = line.strip_prefix("    ") {
            code.push(line.to_owned());
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

/// The command line of ours that begins a piece of code, behind a prompt or what runs it.
fn ours(code: &str) -> Option<&str> {
    let mut rest = code.trim_start().trim_start_matches(['#', '$', ' ']);
    for runner in [
        "podman exec svid-agent ",
        "/usr/bin/",
        "cargo run --release -- ",
        "SVID_AGENT_WRITE_DOCS=1 ",
    ] {
        rest = rest.strip_prefix(runner).unwrap_or(rest);
    }
    let known = rest.split(' ').next()? == "agent" || code.contains("cargo run --release -- ");
    let line = rest.strip_prefix("agent").unwrap_or(rest).trim_start();
    (known && !line.is_empty()).then_some(line)
}

/// What somebody would type of it: up to a remark or what is left out, with a number for what another
/// program prints.
fn typed(line: &str) -> String {
    let ends = ["  ", " # ", "...", " \\"];
    let end = ends.iter().filter_map(|end| line.find(end)).min();
    let line = &line[..end.unwrap_or(line.len())];
    match (line.find("$("), line.find(')')) {
        (Some(from), Some(to)) => format!("{}1{}", &line[..from], &line[to + 1..]),
        _ => line.to_owned(),
    }
}

/// Whether a command line is refused only because it mentions rather than shows: it lacks what is
/// needed, or has a name for a value.
fn is_mention(error: &clap::Error) -> bool {
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::ValueValidation => true,
        ErrorKind::InvalidValue => {
            let value = error.get(ContextKind::InvalidValue);
            value.is_some_and(|value| value.to_string().is_empty())
        }
        _ => false,
    }
}

#[test]
fn every_command_line_in_the_documentation_is_one_that_the_program_takes() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        for code in code(&page) {
            let Some(line) = ours(&code) else { continue };
            let printed = ["dev serves", "0.1.0", "{", "explain'"];
            if printed.iter().any(|text| line.starts_with(text)) {
                continue;
            }
            let words = words(&format!("agent {}", typed(line)));
            let refused = Cli::try_parse_from(&words).err();
            let fits = refused.as_ref().is_none_or(is_mention);
            if !fits {
                let why = refused.unwrap();
                wrong.push(format!("{}: {code}\n{why}", path.display()));
            }
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 100, "{tried}");
}

/// Options of other programs that the documentation names.
const OTHERS: [&str; 3] = ["authentication-config", "user", "userns"];

#[test]
fn every_option_of_a_command_that_the_documentation_names_is_there() {
    let commands = commands();
    let longs = commands
        .iter()
        .flat_map(Command::get_arguments)
        .filter_map(Arg::get_long);
    let there: BTreeSet<_> = longs.chain(["help", "version"]).collect();
    let mut others = BTreeSet::new();
    for (path, page) in pages() {
        for code in code(&page) {
            let Some(option) = code.strip_prefix("--") else {
                continue;
            };
            let option = option.split(['=', ' ']).next().unwrap();
            if !there.contains(option) {
                assert!(
                    OTHERS.contains(&option),
                    "{}: no command has --{option}",
                    path.display()
                );
                others.insert(option.to_owned());
            }
        }
    }
    assert_eq!(others, OTHERS.iter().map(ToString::to_string).collect());
}
