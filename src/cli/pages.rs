//! `agent completions` and `agent man`: shells and manuals, of the same definitions as the commands.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, Exit, Outcome, say};
use crate::agent::VERSION;

/// Print completions of the command line for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent completions bash > /usr/share/bash-completion/completions/agent
  agent completions zsh > /usr/share/zsh/vendor-completions/_agent
  agent completions fish > /usr/share/fish/vendor_completions.d/agent.fish")]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Write a manual page for each command. For whoever makes a package.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write them; it must exist.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Outcome {
    // Bash would be offered hidden commands too.
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|it| !it.is_hide_set());
    let mut shown = Command::new("agent").version(VERSION).subcommands(shown);
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut shown, "agent", &mut text);
    say(String::from_utf8_lossy(&text).trim_end())?;
    Ok(Exit::Success)
}

pub(super) fn man(args: &ManArgs) -> Outcome {
    write_pages(&described(), &args.directory)?;
    Ok(Exit::Success)
}

/// All commands, each with its full name.
fn described() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_pages(command: &Command, directory: &Path) -> anyhow::Result<()> {
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    for subcommand in shown {
        write_pages(subcommand, directory)?;
    }
    let man = Man::new(command.clone()).source(format!("agent {VERSION}"));
    let path = directory.join(man.get_filename());
    let write = || fs::write(&path, page(&man, command)?);
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A page, in which examples keep their lines.
fn page(man: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(help) = command.get_after_help() {
        examples(&help.to_string(), &mut page)?;
    }
    Ok(page)
}

fn examples(help: &str, page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in help.lines().skip(1) {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
    roff.to_writer(page)
}

#[cfg(test)]
mod documentation;
#[cfg(test)]
mod tests;
