//! `agent key`: the signing keys of a running agent.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::status::key_to_json;
use super::{AdminArgs, Exit, Outcome, OutputFormat, ask, say};
use crate::duration::show_duration;
use crate::pb::admin::{Issuer, Key};

/// List signing keys, replace one, or take a compromised one out of use.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent key list
  agent key rotate --issuer main")]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Show every key, where it is in its life, and what comes next.
    #[command(after_help = "Examples:
  agent key list
  agent key list --output json")]
    List(ListArgs),
    /// Have a key replaced ahead of its time, as soon as verifiers can have its successor.
    #[command(after_help = "Examples:
  agent key rotate
  agent key rotate --issuer main --key main")]
    Rotate(RotateArgs),
    /// Take a compromised key out of use and out of every document, at once.
    ///
    /// Its tokens are worth nothing from then on: token files are written anew, and callers must
    /// fetch again. A verifier that keeps the JWKS for a while believes it for as long.
    #[command(after_help = "Example:
  agent key taint FVg2YcwDn3Rz0OKHp8DYQcGDfzuoB8cGyR4gSm4v0pY")]
    Taint(TaintArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The issuer, where there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    issuer: String,

    /// The key block, where the issuer has several.
    #[arg(long, value_name = "NAME", default_value = "")]
    key: String,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct TaintArgs {
    /// The id of the key, as `agent key list` shows it.
    // One in sixty-four begins with a hyphen.
    #[arg(allow_hyphen_values = true)]
    kid: String,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &KeyArgs) -> Outcome {
    match &args.command {
        KeyCommand::List(args) => list(args),
        KeyCommand::Rotate(args) => rotate(args),
        KeyCommand::Taint(args) => taint(args),
    }
}

fn list(args: &ListArgs) -> Outcome {
    let status = ask(args.admin.client().status())?;
    match args.output {
        OutputFormat::Json => {
            let key = |issuer: &Issuer, key: &Key| {
                let mut shown = key_to_json(key);
                if let Some(members) = shown.as_object_mut() {
                    members.insert("issuer".to_owned(), json!(issuer.name));
                }
                shown
            };
            let issuers = status.issuers.iter();
            let keys: Vec<_> = issuers
                .flat_map(|issuer| issuer.keys.iter().map(move |k| key(issuer, k)))
                .collect();
            say(format_args!("{:#}", json!({ "keys": keys })))?;
        }
        OutputFormat::Text => {
            for issuer in &status.issuers {
                say(format_args!("issuer {}  {}", issuer.name, issuer.url))?;
                for key in &issuer.keys {
                    say(format_args!(
                        "  {}  {:<6} {:<10} {}\n    {}",
                        key.kid,
                        key.algorithm,
                        key.name,
                        key.state,
                        describe(key)
                    ))?;
                }
            }
        }
    }
    Ok(Exit::Success)
}

fn rotate(args: &RotateArgs) -> Outcome {
    let client = args.admin.client();
    let done = ask(client.rotate_key(&args.issuer, &args.key))?;
    let chain = format!("{}/{}", done.issuer, done.key);
    if done.kid.is_empty() {
        let wait = show_duration(Duration::from_secs(done.ready_in));
        say(format_args!(
            "the successor of {chain} takes over in {wait}, when verifiers have it"
        ))?;
    } else {
        say(format_args!("{} signs for {chain} now", done.kid))?;
    }
    Ok(Exit::Success)
}

fn taint(args: &TaintArgs) -> Outcome {
    let client = args.admin.client();
    let successor = ask(client.taint_key(&args.kid))?;
    say(format_args!(
        "{} is out of use and out of every document",
        args.kid
    ))?;
    if !successor.is_empty() {
        say(format_args!("{successor} signs now"))?;
    }
    Ok(Exit::Success)
}

/// What a key has done and what comes next, in words.
fn describe(key: &Key) -> String {
    let of = |seconds| show_duration(Duration::from_secs(seconds));
    let age = of(key.age);
    let next = key.next_in.map(of);
    match (key.state.as_str(), next) {
        ("active", Some(next)) if key.age <= key.lifespan => {
            format!("signs since {age}, replaced in {next}")
        }
        ("active", _) => format!(
            "signs since {age}, past its lifespan of {}",
            of(key.lifespan)
        ),
        ("published", Some(next)) => format!("published since {age}, signs in {next}"),
        ("retired", Some(next)) => format!("retired since {age}, leaves in {next}"),
        (state, _) => format!("{state} since {age}"),
    }
}
