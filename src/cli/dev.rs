//! `agent dev`: an agent for the current user, without any configuration.

mod welcome;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nix::unistd::Uid;

use self::welcome::Welcome;
use super::place::{make_private, remove, runtime_dir};
use super::run::serve;
use super::{Exit, Failure, Outcome, Progress, advised, look_of_output, quote, say};
use crate::config::Config;
use crate::durable::{Attributes, Dir, Persistence};
use crate::socket::MAX_SOCKET_PATH;
use crate::telemetry::{self, LogLevel, LogSpec};
use crate::workload_api::client::WorkloadClient;

/// Try the agent out: serve the current user, without any configuration, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent dev
  agent dev --dir ./try")]
pub struct DevArgs {
    /// Where to keep keys, socket and files. Without it: svid-agent in $XDG_RUNTIME_DIR, or else a
    /// new directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Show the log of the agent too.
    #[arg(short, long)]
    verbose: bool,
}

const AUDIENCE: &str = "test";
/// What is in the directory.
const CONFIGURATION: &str = "agent.conf";
const ENVIRONMENT: &str = "env";
const SOCKET: &str = "api/api.sock";
const ADMIN_SOCKET: &str = "private/admin.sock";
const TOKEN_FILE: &str = "tokens/me";
const WEBROOT: &str = "webroot/dev";

/// How the file for shells begins, so that it is not mistaken for one of somebody else.
const ENVIRONMENT_BEGINS: &str = "# Written by agent dev";

pub(super) fn dev(args: &DevArgs) -> Outcome {
    let place = Place::choose(args)?;
    let text = configuration(&place.path);
    let (config, _) = Config::parse(&place.path.join(CONFIGURATION), &text)
        .map_err(|report| Failure::new(Exit::Config, anyhow::Error::msg(report.to_string())))?;
    telemetry::init(LogSpec {
        level: if args.verbose {
            LogLevel::Info
        } else {
            LogLevel::Error
        },
        ..config.log
    });
    let client = WorkloadClient {
        socket: config.socket_path.clone(),
        timeout: Duration::from_secs(5),
        wait: true,
    };
    let progress = Progress::of("making a signing key");
    let (path, temporary) = (place.path.clone(), place.temporary);
    let served = serve(config, None, || async move {
        let dir = Dir::open(&path)?;
        let keeps_configuration = keep_configuration(&dir, &text)?;
        put_environment(&dir, &environment(&path)?)?;
        let svids = client.fetch_jwt(&[AUDIENCE.to_owned()], None).await?;
        let welcome = Welcome {
            directory: &path,
            temporary,
            keeps_configuration,
            token: svids.first().map_or("", |svid| &svid.svid),
        };
        drop(progress);
        say(welcome.show(look_of_output())?)?;
        Ok(())
    });
    served.map_err(|failure| failure.or_help("choose another directory with --dir"))
}

/// Keeps the configuration beside the rest, to be read and changed; one that somebody else wrote
/// or changed stays as it is. Tells whether it is there.
fn keep_configuration(dir: &Dir, text: &str) -> anyhow::Result<bool> {
    match dir.read(CONFIGURATION) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            put(dir, CONFIGURATION, text)?;
            Ok(true)
        }
        found => Ok(found.is_ok_and(|found| found == text.as_bytes())),
    }
}

/// Writes the file for shells, unless there is one of somebody else.
fn put_environment(dir: &Dir, text: &str) -> anyhow::Result<()> {
    match dir.read(ENVIRONMENT) {
        Ok(found) if !found.starts_with(ENVIRONMENT_BEGINS.as_bytes()) => {
            let path = dir.path().join(ENVIRONMENT);
            anyhow::bail!("{} was not written by agent dev", path.display())
        }
        _ => put(dir, ENVIRONMENT, text),
    }
}

fn put(dir: &Dir, name: &str, text: &str) -> anyhow::Result<()> {
    let own = Attributes::own(0o600);
    dir.replace(name, text.as_bytes(), own, Persistence::Volatile)?;
    Ok(())
}

/// Where the agent lives.
struct Place {
    path: PathBuf,
    temporary: bool,
}

impl Place {
    fn choose(args: &DevArgs) -> anyhow::Result<Self> {
        let (path, temporary) = match (&args.dir, runtime_dir()) {
            (Some(dir), _) => (dir.clone(), false),
            (None, Some(runtime)) => (runtime.join("svid-agent"), false),
            (None, None) => (make_private(&std::env::temp_dir())?, true),
        };
        let longest = std::path::absolute(&path)?.join(ADMIN_SOCKET);
        let length = longest.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let reason = anyhow::anyhow!(
                "{} is too long for the path of a socket, which has {MAX_SOCKET_PATH} bytes at most",
                path.display()
            );
            return Err(advised(reason, "choose a shorter directory with --dir"));
        }
        if !temporary {
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path);
            made.with_context(|| format!("cannot make {}", path.display()))?;
        }
        let whole = path.canonicalize();
        Ok(Self {
            path: whole.with_context(|| format!("cannot use {}", path.display()))?,
            temporary,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary {
            remove(&self.path);
        }
    }
}

/// The configuration as a text, so that it can be read, kept and changed.
fn configuration(directory: &Path) -> String {
    let tokens = quoted(&directory.join(TOKEN_FILE));
    let directory = quoted(directory);
    let uid = Uid::effective();
    format!(
        r#"# What `agent dev` runs with; a start for a configuration of your own.
agent {{
  trust_domain = "dev.test"
  data_dir     = {directory}
  runtime_dir  = {directory}
  log_level    = "warn"
}}

issuer "dev" {{
  url = "https://localhost"
  key "dev" {{
    algorithm = "RS256"
  }}
}}

attestor "unix" {{
  discover_workload_path = true
}}

entry "me" {{
  spiffe_id = "spiffe://dev.test/me"
  selectors = ["unix:uid:{uid}"]
}}

token_file {tokens} {{
  entry    = "me"
  audience = "{AUDIENCE}"
}}
"#
    )
}

/// A path as a string of the configuration.
fn quoted(path: &Path) -> String {
    quote::hcl(&path.to_string_lossy())
}

/// What a shell of another terminal sources.
fn environment(directory: &Path) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let address = |socket: &str| quote::shell(&format!("unix://{}", path(socket)));
    Ok(format!(
        r#"{ENVIRONMENT_BEGINS}; a shell sources it to find this agent.
export SPIFFE_ENDPOINT_SOCKET={}
export AGENT_ADMIN_SOCKET={}
export SVID_TOKEN_FILE={}
agent() {{ {} "$@"; }}
"#,
        address(SOCKET),
        address(ADMIN_SOCKET),
        quote::shell(&path(TOKEN_FILE)),
        quote::shell(&program.to_string_lossy()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_wherever_the_directory_is() {
        for directory in ["/tmp/x", "/tmp/a b/${x}/%{y}/\"q\""] {
            let text = configuration(Path::new(directory));
            let parsed = Config::parse(Path::new("agent.conf"), &text);
            let (config, _) = parsed.unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(config.data_dir, Path::new(directory));
        }
    }
}
