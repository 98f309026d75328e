//! The commands: one file each, and here what they share.

mod check_webroot;
mod dev;
mod entry;
mod exec;
mod explain;
mod fetch_bundle;
mod fetch_jwt;
mod files;
mod integrate;
mod key;
mod pages;
mod place;
mod quote;
mod run;
mod spire;
mod status;
mod token;
mod validate;
mod validate_jwt;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::client::AdminClient;
use crate::agent::VERSION;
use crate::duration::parse_duration;
use crate::entry::{Audience, AudienceError};
use crate::workload_api::client::{ClientError, WorkloadClient};

/// How a command ended, as its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// It did not work, or was refused.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// The caller has no identity that fits.
    NoIdentity,
    /// Nobody listens, or nobody could answer in time.
    NoAgent,
    /// A fault of the program.
    Internal,
    /// The configuration is wrong.
    Config,
    /// As a program ended that was run, or could not be.
    Code(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NoIdentity => 3,
            Exit::NoAgent => 4,
            Exit::Internal => 70,
            Exit::Config => 78,
            Exit::Code(code) => code,
        })
    }
}

/// A failure that was not yet told to anybody, and how the command ends for it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    reason: anyhow::Error,
}

impl Failure {
    fn new(exit: Exit, reason: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            reason: reason.into(),
        }
    }
}

impl Failure {
    /// The same failure, and what to do about it.
    fn with_help(self, help: &str) -> Self {
        let reason = anyhow::anyhow!("{}; {help}", causes(&self.reason));
        Self { reason, ..self }
    }

    /// Whether the reader of our output went away, as `head` does.
    fn is_closed_pipe(&self) -> bool {
        let error = self.reason.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(reason: E) -> Self {
        let reason = reason.into();
        let exit = match reason.downcast_ref::<ClientError>() {
            Some(ClientError::NoIdentity(_)) => Exit::NoIdentity,
            Some(ClientError::NobodyListens { .. } | ClientError::Unavailable(_)) => Exit::NoAgent,
            _ => Exit::Failure,
        };
        Self { exit, reason }
    }
}

type Outcome = Result<Exit, Failure>;

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
                let _ = error.print();
                return Exit::Success;
            }
            complain(usage(&error).trim_end());
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
            complain(format_args!("agent: {}", causes(&failure.reason)));
        }
        failure.exit
    })
}

/// An error and its causes, each told once: many messages name their cause already.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(colon);
            text.push_str(&cause);
        }
    }
    text
}

/// What clap says about the command line, but for tokens that somebody put there.
fn usage(error: &clap::Error) -> String {
    let mut text = error.render().to_string();
    let arguments = std::env::args_os().filter_map(|argument| argument.into_string().ok());
    for argument in arguments.filter(|argument| argument.starts_with("eyJ")) {
        text = text.replace(&argument, "<a token>");
        text.push_str(
            "\nTokens are read from standard input or --file, where other users cannot see them.\n",
        );
    }
    text
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
