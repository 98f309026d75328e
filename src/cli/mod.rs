//! The commands: one file each, and here what they share.

mod check_webroot;
mod dev;
mod entry;
mod exec;
mod explain;
mod failure;
mod fetch_bundle;
mod fetch_jwt;
mod files;
mod integrate;
mod key;
mod pages;
mod place;
mod problem;
mod progress;
mod quote;
mod run;
mod screen;
mod spire;
mod status;
mod token;
mod validate;
mod validate_jwt;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::failure::Exit;
use self::failure::{Failure, Outcome, advised};
use self::progress::Progress;
use crate::admin::client::AdminClient;
use crate::agent::VERSION;
use crate::duration::parse_duration;
use crate::entry::{Audience, AudienceError};
use crate::terminal::Look;
use crate::workload_api::client::{ClientError, WorkloadClient};

const DEFAULT_CONFIG: &str = "/etc/agent/agent.conf";
const DEFAULT_SOCKET: &str = "/run/agent/api/api.sock";
const DEFAULT_ADMIN_SOCKET: &str = "/run/agent/private/admin.sock";

/// Short-lived identities for the processes of this machine: SPIFFE JWT-SVIDs over a Unix socket
/// and in files, and the documents by which others come to trust them.
#[derive(Debug, Parser)]
#[command(
    name = "agent",
    version = VERSION,
    max_term_width = 100,
    after_help = "Examples:
  agent dev
  agent validate --config ./agent.conf
  agent fetch-jwt --audience vault
  agent status"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Dev(dev::DevArgs),
    Validate(validate::ValidateArgs),
    CheckWebroot(check_webroot::CheckWebrootArgs),
    FetchJwt(fetch_jwt::FetchJwtArgs),
    Exec(exec::ExecArgs),
    ValidateJwt(validate_jwt::ValidateJwtArgs),
    FetchBundle(fetch_bundle::FetchBundleArgs),
    Explain(explain::ExplainArgs),
    Status(status::StatusArgs),
    Health(status::HealthArgs),
    Reload(status::ReloadArgs),
    Entry(entry::EntryArgs),
    Key(key::KeyArgs),
    Files(files::FilesArgs),
    Integrate(integrate::IntegrateArgs),
    Completions(pages::CompletionsArgs),
    #[command(hide = true)]
    Man(pages::ManArgs),
}

/// Which configuration.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Where the agent is.
#[derive(Debug, Args)]
struct SocketArgs {
    /// The Workload API socket: a path, or unix:///path.
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET", default_value = DEFAULT_SOCKET, value_parser = parse_socket)]
    socket: PathBuf,

    /// How long to try, such as 5s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    timeout: Duration,

    /// Wait for an agent that does not listen yet.
    #[arg(long)]
    wait: bool,
}

impl SocketArgs {
    fn client(&self) -> WorkloadClient {
        WorkloadClient {
            socket: self.socket.clone(),
            timeout: self.timeout,
            wait: self.wait,
        }
    }
}

/// Where the agent is administered.
#[derive(Debug, Args)]
struct AdminArgs {
    /// The admin socket: a path, or unix:///path.
    #[arg(long, value_name = "PATH", env = "AGENT_ADMIN_SOCKET", default_value = DEFAULT_ADMIN_SOCKET, value_parser = parse_socket)]
    admin_socket: PathBuf,

    /// How long to try, such as 5s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    timeout: Duration,
}

impl AdminArgs {
    fn client(&self) -> AdminClient {
        AdminClient {
            socket: self.admin_socket.clone(),
            timeout: self.timeout,
        }
    }
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let path = match text.split_once(':') {
        Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
        Some((scheme, _)) if !scheme.contains('/') => {
            return Err(format!(
                "{scheme} is not served: give a path or unix:///path"
            ));
        }
        _ => text,
    };
    if path.is_empty() || (text.starts_with("unix:") && !path.starts_with('/')) {
        return Err("give a path or unix:///absolute/path".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// An audience as the agent would take it.
fn parse_audience(text: &str) -> Result<String, AudienceError> {
    text.parse::<Audience>().map(|_| text.to_owned())
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "give a duration such as 5s or 1m".to_owned())
}

/// Runs the command that the arguments of the process name.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if !error.use_stderr() {
                return told(&error);
            }
            problem::usage(&error);
            return Exit::Usage;
        }
    };
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Dev(args) => dev::dev(&args),
        Command::Validate(args) => validate::validate(&args),
        Command::CheckWebroot(args) => check_webroot::check_webroot(&args),
        Command::FetchJwt(args) => fetch_jwt::fetch_jwt(&args),
        Command::Exec(args) => exec::exec(&args),
        Command::ValidateJwt(args) => validate_jwt::validate_jwt(&args),
        Command::FetchBundle(args) => fetch_bundle::fetch_bundle(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Status(args) => status::status(&args),
        Command::Health(args) => status::health(&args),
        Command::Reload(args) => status::reload(&args),
        Command::Entry(args) => entry::entry(&args),
        Command::Key(args) => key::run(&args),
        Command::Files(args) => files::files(&args),
        Command::Integrate(args) => integrate::integrate(&args),
        Command::Completions(args) => pages::completions(&args),
        Command::Man(args) => pages::man(&args),
    };
    outcome.unwrap_or_else(|failure| {
        if !failure.is_closed_pipe() {
            problem::failed(&failure);
        }
        failure.exit
    })
}

/// Prints what was asked for of the command line itself, such as help.
fn told(asked: &clap::Error) -> Exit {
    let text = asked.render();
    let text = if look_of_output().colours {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    let _ = say(text.trim_end());
    Exit::Success
}

/// How many there are of what is called `one` or `many`.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Prints a line for the user.
fn say(line: impl fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Prints a line about what went wrong. There is nobody to tell where that fails.
fn complain(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// How screens may look.
fn look_of_output() -> Look {
    Look::of(&io::stdout())
}

/// Asks the agent, and tells whoever waits that this takes its time.
fn ask<T>(question: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
    let _progress = Progress::of("waiting for the agent");
    Ok(runtime()?.block_on(question)?)
}

/// What the commands that are clients run on.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sockets_are_paths_or_unix_addresses() {
        for text in ["/run/a.sock", "unix:///run/a.sock", "unix:/run/a.sock"] {
            assert_eq!(
                parse_socket(text),
                Ok(PathBuf::from("/run/a.sock")),
                "{text}"
            );
        }
        assert_eq!(parse_socket("a/b:c"), Ok(PathBuf::from("a/b:c")));
        for text in [
            "",
            "unix:",
            "unix://",
            "unix://a.sock",
            "tcp://127.0.0.1:1",
            "http://x",
        ] {
            assert!(parse_socket(text).is_err(), "{text}");
        }
    }
}
