//! `agent status`, `agent health`, `agent reload`: how the agent is, and a new configuration.

mod show;

use clap::Args;
use serde_json::{Value, json};

use self::show::to_text;
use super::{AdminArgs, Exit, Outcome, OutputFormat, ask, complain, look_of_output, problem, say};
use crate::clock::{Clock, SystemClock, from_unix_seconds, unix_seconds};
use crate::pb::admin::{Caller, GetStatusResponse, Issuer, Key, TokenFile};

/// Show on one screen how the agent is, what comes next, and what to do where something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent status
  agent status --output json")]
pub struct StatusArgs {
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    #[command(flatten)]
    admin: AdminArgs,
}

/// Say whether the agent is well: exits with 0 if it is, 1 if something is wrong, 4 if it is down.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agent health --timeout 1s")]
pub struct HealthArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Have the agent read its configuration again.
///
/// All of it comes into force, or nothing changes. Exits with 78 if it is refused.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agent validate && agent reload")]
pub struct ReloadArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn status(args: &StatusArgs) -> Outcome {
    let status = ask(args.admin.client().status())?;
    match args.output {
        OutputFormat::Json => say(format_args!("{:#}", to_json(&status)))?,
        OutputFormat::Text => {
            let now = unix_seconds(SystemClock.now());
            say(to_text(&status, now, look_of_output()))?;
        }
    }
    Ok(Exit::Success)
}

pub(super) fn health(args: &HealthArgs) -> Outcome {
    let status = ask(args.admin.client().status())?;
    if status.problems.is_empty() {
        say("healthy")?;
        return Ok(Exit::Success);
    }
    say(if status.ready {
        "degraded"
    } else {
        "not ready"
    })?;
    for problem in &status.problems {
        say(format_args!("  {problem}"))?;
    }
    Ok(Exit::Failure)
}

pub(super) fn reload(args: &ReloadArgs) -> Outcome {
    match ask(args.admin.client().reload())? {
        Ok(changes) if changes.is_empty() => say("reloaded: nothing has changed")?,
        Ok(changes) => {
            for change in changes {
                say(change)?;
            }
        }
        Err(report) => {
            problem::error("not reloaded, the former configuration stays in force");
            complain(report.trim_end());
            return Ok(Exit::Config);
        }
    }
    Ok(Exit::Success)
}

fn to_json(status: &GetStatusResponse) -> Value {
    let issuer = |issuer: &Issuer| {
        let keys: Vec<_> = issuer.keys.iter().map(key_to_json).collect();
        json!({"name": issuer.name, "url": issuer.url, "webroot": issuer.webroot, "keys": keys})
    };
    let caller = |caller: &Caller| json!({"at": show_time(caller.at), "pid": caller.pid, "uid": caller.uid, "outcome": caller.outcome});
    json!({
        "version": status.version,
        "trust_domain": status.trust_domain,
        "socket_path": status.socket_path,
        "started_at": show_time(status.started_at),
        "ready": status.ready,
        "problems": status.problems,
        "issuers": status.issuers.iter().map(issuer).collect::<Vec<_>>(),
        "entries": {"configured": status.entries_configured, "created": status.entries_created},
        "token_files": status.token_files.iter().map(file_to_json).collect::<Vec<_>>(),
        "recent_callers": status.recent_callers.iter().map(caller).collect::<Vec<_>>(),
    })
}

/// A key for programs.
pub(super) fn key_to_json(key: &Key) -> Value {
    json!({
        "name": key.name, "kid": key.kid, "algorithm": key.algorithm, "state": key.state,
        "age_seconds": key.age, "lifespan_seconds": key.lifespan,
        "next_step_in_seconds": key.next_in,
    })
}

/// A token file for programs.
pub(super) fn file_to_json(file: &TokenFile) -> Value {
    json!({
        "path": file.path, "entry": file.entry, "sub": file.sub, "audience": file.audience,
        "issued_at": show_time(file.issued_at), "expires_at": show_time(file.expires_at),
        "next_refresh_in_seconds": file.next_refresh_in, "error": file.error,
    })
}

fn show_time(seconds: u64) -> Value {
    match seconds {
        0 => Value::Null,
        seconds => json!(super::token::show_time(from_unix_seconds(seconds))),
    }
}
