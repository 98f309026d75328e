//! `agent status`, `agent health`, `agent reload`: how the agent is, and a new configuration.

use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::key::describe;
use super::{AdminArgs, Exit, Outcome, OutputFormat, complain, runtime, say};
use crate::clock::{Clock, SystemClock, from_unix_seconds, unix_seconds};
use crate::duration::show_duration;
use crate::pb::admin::{Caller, GetStatusResponse, Issuer, Key, TokenFile};

/// Show issuers, keys, entries, token files and recent callers.
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
    let status = runtime()?.block_on(args.admin.client().status())?;
    match args.output {
        OutputFormat::Json => say(format_args!("{:#}", to_json(&status)))?,
        OutputFormat::Text => say(to_text(&status, unix_seconds(SystemClock.now())).trim_end())?,
    }
    Ok(Exit::Success)
}

pub(super) fn health(args: &HealthArgs) -> Outcome {
    let status = runtime()?.block_on(args.admin.client().status())?;
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
    match runtime()?.block_on(args.admin.client().reload())? {
        Ok(changes) if changes.is_empty() => say("reloaded: nothing has changed")?,
        Ok(changes) => {
            for change in changes {
                say(change)?;
            }
        }
        Err(report) => {
            complain("agent: not reloaded, the former configuration stays in force");
            complain(report.trim_end());
            return Ok(Exit::Config);
        }
    }
    Ok(Exit::Success)
}

/// A screen for people.
fn to_text(status: &GetStatusResponse, now: u64) -> String {
    let mut text = String::new();
    let well = match (status.ready, status.problems.is_empty()) {
        (true, true) => "healthy",
        (true, false) => "degraded",
        (false, _) => "not ready",
    };
    let up = show_duration(Duration::from_secs(now.saturating_sub(status.started_at)));
    let _ = writeln!(
        text,
        "agent {} for {}: {well}, up {up}",
        status.version, status.trust_domain
    );
    for problem in &status.problems {
        let _ = writeln!(text, "  ! {problem}");
    }
    let _ = writeln!(text, "socket  unix://{}", status.socket_path);
    for issuer in &status.issuers {
        issuer_text(&mut text, issuer);
    }
    let (configured, created) = (status.entries_configured, status.entries_created);
    let _ = writeln!(
        text,
        "\nentries  {configured} configured, {created} created"
    );
    if !status.token_files.is_empty() {
        let _ = writeln!(text, "\ntoken files");
        for file in &status.token_files {
            let _ = writeln!(text, "  {:<44} {}", file.path, file_text(file, now));
        }
    }
    if !status.recent_callers.is_empty() {
        let _ = writeln!(text, "\nrecent callers");
        for caller in &status.recent_callers {
            let _ = writeln!(text, "  {}", caller_text(caller, now));
        }
    }
    text
}

fn issuer_text(text: &mut String, issuer: &Issuer) {
    let _ = writeln!(
        text,
        "\nissuer {}  {}\n  webroot {}",
        issuer.name, issuer.url, issuer.webroot
    );
    for key in &issuer.keys {
        let kid = key.kid.get(..12).unwrap_or(&key.kid);
        let _ = writeln!(
            text,
            "  {:<8} {}  {kid}  {}",
            key.name,
            key.algorithm,
            describe(key)
        );
    }
}

/// How the token of a file stands.
pub(super) fn file_text(file: &TokenFile, now: u64) -> String {
    let left = file.expires_at.saturating_sub(now);
    let state = match (file.expires_at, left) {
        (0, _) => "no token".to_owned(),
        (_, 0) => "expired".to_owned(),
        _ => format!("{} left", show_duration(Duration::from_secs(left))),
    };
    if file.error.is_empty() {
        state
    } else {
        format!("{state}: {}", file.error)
    }
}

fn caller_text(caller: &Caller, now: u64) -> String {
    let ago = show_duration(Duration::from_secs(now.saturating_sub(caller.at)));
    format!(
        "{ago:>8} ago  uid {:<6} pid {:<8} {}",
        caller.uid, caller.pid, caller.outcome
    )
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
