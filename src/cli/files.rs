//! `agent files`: the token files of a running agent.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::status::file_to_json;
use super::{AdminArgs, Exit, Outcome, OutputFormat, ask, say};
use crate::clock::{Clock, SystemClock, unix_seconds};
use crate::duration::show_duration;
use crate::pb::admin::TokenFile;

/// Show every token file: whose token it holds, for whom, how long it lasts, and what is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent files
  agent files --output json")]
pub struct FilesArgs {
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn files(args: &FilesArgs) -> Outcome {
    let status = ask(args.admin.client().status())?;
    let files = &status.token_files;
    match args.output {
        OutputFormat::Json => {
            let files: Vec<_> = files.iter().map(file_to_json).collect();
            say(format_args!("{:#}", json!({ "token_files": files })))?;
        }
        OutputFormat::Text if files.is_empty() => {
            say("no token_file is configured")?;
        }
        OutputFormat::Text => {
            let now = unix_seconds(SystemClock.now());
            for file in files {
                say(file.path.as_str())?;
                say(format_args!("  {}", holder(file)))?;
                say(format_args!("  {}", state(file, now)))?;
            }
        }
    }
    Ok(Exit::Success)
}

fn holder(file: &TokenFile) -> String {
    let audience = file.audience.join(", ");
    match (file.sub.as_str(), file.entry.as_str()) {
        ("", entry) => format!("waits for the entry {entry}, for {audience}"),
        (sub, _) => format!("{sub} for {audience}"),
    }
}

fn state(file: &TokenFile, now: u64) -> String {
    let next = show_duration(Duration::from_secs(file.next_refresh_in));
    let told = file_text(file, now);
    if file.sub.is_empty() {
        told
    } else {
        format!("{told}, written again in {next}")
    }
}

/// How the token of a file stands.
fn file_text(file: &TokenFile, now: u64) -> String {
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
