//! `agent dev`: an agent for the current user, without any configuration.

use std::fmt::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use nix::unistd::Uid;

use super::place::{make_private, remove, runtime_dir};
use super::run::serve;
use super::{Exit, Failure, Outcome, quote, say};
use crate::config::Config;
use crate::durable::{Attributes, Dir, Persistence};
use crate::jose::jws::Unverified;
use crate::socket::MAX_SOCKET_PATH;
use crate::telemetry;
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
}

const AUDIENCE: &str = "test";
/// The configuration, in the directory.
const FILE: &str = "agent.conf";
/// The longest name below the directory that a socket has.
const LONGEST: &str = "/private/admin.sock";

pub(super) fn dev(args: &DevArgs) -> Outcome {
    let place = Place::choose(args)?;
    let text = configuration(&place.path);
    let (config, _) = Config::parse(&place.path.join(FILE), &text)
        .map_err(|report| Failure::new(Exit::Config, anyhow::Error::msg(report.to_string())))?;
    telemetry::init(config.log);
    let client = WorkloadClient {
        socket: config.socket_path.clone(),
        timeout: Duration::from_secs(5),
        wait: true,
    };
    let path = place.path.clone();
    let served = serve(config, None, || async move {
        let kept = keep_configuration(&path, &text)?;
        let svids = client.fetch_jwt(&[AUDIENCE.to_owned()], None).await?;
        let token = svids.first().map_or("", |svid| &svid.svid);
        say(welcome(&path, kept, token)?)?;
        Ok(())
    });
    served.map_err(|failure| failure.with_help("choose another directory with --dir"))
}

/// Keeps the configuration beside the rest, to be read and changed; one that somebody else wrote
/// or changed stays as it is. Tells whether it is there.
fn keep_configuration(directory: &Path, text: &str) -> anyhow::Result<bool> {
    let dir = Dir::open(directory)?;
    match dir.read(FILE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            dir.replace(
                FILE,
                text.as_bytes(),
                Attributes::own(0o600),
                Persistence::Volatile,
            )?;
            Ok(true)
        }
        found => Ok(found.is_ok_and(|found| found == text.as_bytes())),
    }
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
        let length = std::path::absolute(&path)?.as_os_str().len() + LONGEST.len();
        anyhow::ensure!(
            length <= MAX_SOCKET_PATH,
            "{} is too long for the path of a socket, which has {MAX_SOCKET_PATH} bytes at most: choose a shorter directory with --dir",
            path.display()
        );
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
    let tokens = quoted(&directory.join("tokens").join("me"));
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

/// What somebody sees who starts it for the first time.
fn welcome(directory: &Path, kept: bool, token: &str) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("this program cannot be found")?;
    let agent = shell(&program);
    let address = |place: &str| {
        let path = directory.join(place);
        shell(Path::new(&format!("unix://{}", path.display())))
    };
    let (socket, admin) = (address("api/api.sock"), address("private/admin.sock"));
    let file = shell(&directory.join("tokens/me"));
    let unverified = Unverified::parse(token).context("the agent gave no usable token")?;
    let subject = unverified
        .untrusted_payload()
        .get("sub")
        .and_then(|sub| sub.as_str());
    let mut text = String::new();
    writeln!(
        text,
        "agent dev serves uid {} until Ctrl-C.",
        Uid::effective()
    )?;
    writeln!(text)?;
    for (name, place) in [
        ("socket", "api/api.sock"),
        ("token file", "tokens/me"),
        ("webroot", "webroot/dev"),
        ("configuration", FILE),
    ] {
        if place == FILE && !kept {
            continue;
        }
        writeln!(text, "  {name:<14} {}", directory.join(place).display())?;
    }
    writeln!(text)?;
    writeln!(
        text,
        "A token of {} for the audience {AUDIENCE}:",
        subject.unwrap_or("nobody")
    )?;
    writeln!(text, "\n{token}\n")?;
    writeln!(text, "In another terminal:\n")?;
    writeln!(text, "  export SPIFFE_ENDPOINT_SOCKET={socket}")?;
    writeln!(text, "  export AGENT_ADMIN_SOCKET={admin}")?;
    writeln!(text, "  export SVID_TOKEN_FILE={file}\n")?;
    writeln!(text, "Then try:\n")?;
    for (what, command) in [
        (
            "fetch a token",
            format!("{agent} fetch-jwt --audience {AUDIENCE}"),
        ),
        (
            "validate the one in the file",
            format!("{agent} validate-jwt --audience {AUDIENCE} --file \"$SVID_TOKEN_FILE\""),
        ),
        (
            "be refused an identity that is not yours",
            format!("{agent} fetch-jwt --audience {AUDIENCE} --spiffe-id spiffe://dev.test/other"),
        ),
        (
            "see keys, files and who has called",
            format!("{agent} status"),
        ),
    ] {
        writeln!(text, "  # {what}\n  {command}\n")?;
    }
    Ok(text.trim_end().to_owned())
}

/// A path as a word of a shell command.
fn shell(path: &Path) -> String {
    quote::shell(&path.to_string_lossy())
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
