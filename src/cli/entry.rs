//! `agent entry`: registration entries while the agent runs.

mod show;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use self::show::{entry_json, entry_text};
use super::spire::{self, Imported};
use super::{AdminArgs, Exit, Failure, Outcome, OutputFormat, ask, parse_timeout, problem, say};
use crate::pb::admin::{Entry, EntrySpec, ListEntriesRequest, Made, NewEntry, SelectorMatch};
use crate::proto_json::object;

/// Entries that are sent at a time.
const BATCH: usize = 1000;

/// List, make, change and remove registration entries.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent entry list
  agent entry create --spiffe-id spiffe://example.org/billing --selector unix:uid:1001")]
pub struct EntryArgs {
    #[command(subcommand)]
    command: EntryCommand,
}

#[derive(Debug, Subcommand)]
enum EntryCommand {
    /// List entries.
    #[command(after_help = "Examples:
  agent entry list
  agent entry list --selector unix:uid:1001 --output json")]
    List(ListArgs),
    /// Show one entry.
    #[command(after_help = "Example:
  agent entry show billing")]
    Show(OneArgs),
    /// Make an entry; prints its id.
    #[command(after_help = "Examples:
  agent entry create --spiffe-id spiffe://example.org/billing --selector unix:uid:1001
  agent entry create --entry-id ci --spiffe-id spiffe://example.org/ci --selector unix:user:ci --audience vault --expires-at 2027-01-31T12:00:00Z")]
    Create(CreateArgs),
    /// Replace an entry as a whole.
    #[command(after_help = "Example:
  agent entry update billing --spiffe-id spiffe://example.org/billing --selector unix:uid:1002")]
    Update(UpdateArgs),
    /// Remove an entry.
    #[command(after_help = "Example:
  agent entry delete billing")]
    Delete(OneArgs),
    /// Count entries.
    #[command(after_help = "Examples:
  agent entry count
  agent entry count --spiffe-id spiffe://example.org/billing")]
    Count(ListArgs),
    /// Make the entries of a file in SPIRE's form, {"entries": [...]}; - is standard input.
    #[command(after_help = "Examples:
  agent entry import ./entries.json
  spire-server entry show -output json | agent entry import -")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only entries of this identity.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<String>,
    /// Only entries with these selectors; may be given several times.
    #[arg(long, value_name = "SELECTOR")]
    selector: Vec<String>,
    /// How the selectors of an entry stand to the given ones.
    #[arg(long, value_enum, default_value_t = Match::Superset)]
    match_selectors_on: Match,
    /// Only entries with this hint.
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Match {
    /// They hold all the given ones.
    Superset,
    /// They are all among the given ones.
    Subset,
    /// They are the given ones.
    Exact,
    /// They hold one of the given ones.
    Any,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Which entry.
    #[arg(value_name = "ENTRY_ID")]
    id: String,
    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The id; chosen by the agent where absent.
    #[arg(long, value_name = "ENTRY_ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// Which entry.
    #[arg(value_name = "ENTRY_ID")]
    id: String,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    admin: AdminArgs,
}

/// What an entry says.
#[derive(Debug, Args)]
struct SpecArgs {
    /// The identity.
    #[arg(long, value_name = "ID")]
    spiffe_id: String,
    /// What a caller must have; may be given several times.
    #[arg(long, value_name = "SELECTOR", required = true)]
    selector: Vec<String>,
    /// An audience that may be asked for; any where absent.
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// Life of its tokens, such as 5m.
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    jwt_svid_ttl: Option<Duration>,
    /// Tells identities of one caller apart.
    #[arg(long, value_name = "HINT", default_value = "")]
    hint: String,
    /// A claim, NAME=VALUE; the value is JSON, or else a string.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_claim)]
    claim: Vec<(String, Value)>,
    /// When it ends, such as 2027-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires_at: Option<u64>,
    /// Which issuer signs; needed where there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    issuer: String,
    /// Which of its keys signs; needed where there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    key: String,
    /// Put a random jti into each token.
    #[arg(long)]
    jti: bool,
    /// Allow selectors that are all of unix:path, unix:sha256 and ns:host.
    #[arg(long)]
    allow_path_only: bool,
}

impl SpecArgs {
    fn to_spec(&self) -> EntrySpec {
        EntrySpec {
            spiffe_id: self.spiffe_id.clone(),
            selectors: self.selector.clone(),
            limit_audiences: !self.audience.is_empty(),
            audiences: self.audience.clone(),
            jwt_svid_ttl: self.jwt_svid_ttl.map_or(0, |ttl| ttl.as_secs()),
            hint: self.hint.clone(),
            claims: Some(object(self.claim.iter().cloned().collect())),
            issuer: self.issuer.clone(),
            key: self.key.clone(),
            jti: self.jti,
            allow_path_only: self.allow_path_only,
            expires_at: self.expires_at.unwrap_or(0),
        }
    }
}

fn parse_claim(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    Ok((name.to_owned(), value))
}

fn parse_time(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write it as 2027-01-31T12:00:00Z")?;
    u64::try_from(time.as_second()).map_err(|_| "it lies before 1970".to_owned())
}

pub(super) fn entry(args: &EntryArgs) -> Outcome {
    match &args.command {
        EntryCommand::List(args) => list(args),
        EntryCommand::Count(args) => count(args),
        EntryCommand::Show(args) => show(args),
        EntryCommand::Create(args) => create(args),
        EntryCommand::Update(args) => {
            let client = args.admin.client();
            let made = ask(client.update(&args.id, args.spec.to_spec()))?;
            warn(&made);
            Ok(Exit::Success)
        }
        EntryCommand::Delete(args) => {
            ask(args.admin.client().delete(&args.id))?;
            Ok(Exit::Success)
        }
        EntryCommand::Import(args) => import(args),
    }
}

fn find(args: &ListArgs) -> Result<Vec<Entry>, Failure> {
    let matching = match args.match_selectors_on {
        Match::Superset => SelectorMatch::Superset,
        Match::Subset => SelectorMatch::Subset,
        Match::Exact => SelectorMatch::Exact,
        Match::Any => SelectorMatch::Any,
    };
    let filter = ListEntriesRequest {
        id: String::new(),
        spiffe_id: args.spiffe_id.clone().unwrap_or_default(),
        hint: args.hint.clone().unwrap_or_default(),
        selectors: args.selector.clone(),
        r#match: matching.into(),
    };
    ask(args.admin.client().list(filter))
}

fn list(args: &ListArgs) -> Outcome {
    let entries = find(args)?;
    match args.output {
        OutputFormat::Json => {
            let all: Vec<_> = entries.iter().map(entry_json).collect();
            say(format_args!("{:#}", json!({ "entries": all })))?;
        }
        OutputFormat::Text if entries.is_empty() => say("no entries")?,
        OutputFormat::Text => {
            let all: Vec<_> = entries.iter().map(entry_text).collect();
            say(all.join("\n").trim_end())?;
        }
    }
    Ok(Exit::Success)
}

fn count(args: &ListArgs) -> Outcome {
    let count = find(args)?.len();
    match args.output {
        OutputFormat::Json => say(json!({ "count": count }))?,
        OutputFormat::Text => say(count)?,
    }
    Ok(Exit::Success)
}

fn show(args: &OneArgs) -> Outcome {
    let filter = ListEntriesRequest {
        id: args.id.clone(),
        ..ListEntriesRequest::default()
    };
    let found = ask(args.admin.client().list(filter))?;
    // An empty id filters nothing.
    let entry = found
        .iter()
        .find(|entry| entry.id == args.id)
        .with_context(|| format!("there is no entry {:?}", args.id))?;
    match args.output {
        OutputFormat::Json => say(format_args!("{:#}", entry_json(entry)))?,
        OutputFormat::Text => say(entry_text(entry).trim_end())?,
    }
    Ok(Exit::Success)
}

fn create(args: &CreateArgs) -> Outcome {
    let entry = NewEntry {
        id: args.entry_id.clone().unwrap_or_default(),
        spec: Some(args.spec.to_spec()),
        kept: None,
    };
    let results = ask(args.admin.client().create(vec![entry]))?;
    let result = results
        .into_iter()
        .next()
        .context("the agent gave no answer")?;
    let Some(made) = result.made else {
        return Err(anyhow::Error::msg(result.error).into());
    };
    warn(&made);
    say(&made.id)?;
    Ok(Exit::Success)
}

fn import(args: &ImportArgs) -> Outcome {
    let problem = || format!("cannot read {}", args.file.display());
    let text = if args.file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).with_context(problem)?
    } else {
        std::fs::read_to_string(&args.file).with_context(problem)?
    };
    let Imported { entries, warnings } = spire::parse(&text).with_context(problem)?;
    for warning in warnings {
        problem::warning(warning);
    }
    let client = args.admin.client();
    let (mut made, mut failed) = (0, 0);
    for batch in entries.chunks(BATCH) {
        let results = ask(client.create(batch.to_vec()))?;
        for (entry, result) in batch.iter().zip(results) {
            match result.made {
                Some(done) => {
                    made += 1;
                    warn(&done);
                }
                None => {
                    failed += 1;
                    let id = entry.spec.as_ref().map_or("", |spec| &spec.spiffe_id);
                    problem::error(format_args!("{id}: {}", result.error));
                }
            }
        }
    }
    say(format_args!("{made} created, {failed} failed"))?;
    Ok(if failed == 0 {
        Exit::Success
    } else {
        Exit::Failure
    })
}

fn warn(made: &Made) {
    for warning in &made.warnings {
        problem::warning(warning);
    }
}
