//! `agent integrate`: what somebody who is to trust the issuer needs, and what the workload has.
//!
//! One file for each of them, with its text in a template beside it: what is known of the tokens
//! (`facts`) goes in, texts come out, and nothing is read or asked. `limits` says what of it the other
//! side would not take.

mod aws;
mod azure;
mod facts;
mod gcp;
mod kubernetes;
mod limits;
mod nginx;
mod text;
mod vault;
mod voidkey;
mod workload;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::facts::{Facts, plain_name};
use self::limits::{Concern, Limits, check};
use self::text::{Blanks, comment};
use super::{ConfigArgs, Exit, Failure, Outcome, complain, parse_audience, problem, say};
use crate::config::Config;
use crate::publish::check::Severity;

/// Print what a cloud, a vault, a cluster or a web server needs to trust this agent, and what the
/// workload sets.
///
/// Everything comes from the configuration; no agent needs to run. What is printed is input for the
/// tool that it is for, with the rest as comments; --part prints one part alone. What only you know is
/// an option, or a word in capitals to be replaced. Exits with 1 if the other side would refuse the
/// tokens, with 78 if the configuration is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate aws --entry billing --account-id 123456789012 > billing.tf
  agent integrate gcp --token-file /run/agent/tokens/billing/gcp --part credentials
  agent integrate nginx")]
pub struct IntegrateArgs {
    #[command(subcommand)]
    with: With,
}

#[derive(Debug, Subcommand)]
enum With {
    Aws(aws::AwsArgs),
    Gcp(gcp::GcpArgs),
    Azure(azure::AzureArgs),
    Vault(vault::VaultArgs),
    Kubernetes(kubernetes::KubernetesArgs),
    Voidkey(voidkey::VoidkeyArgs),
    Nginx(nginx::NginxArgs),
}

/// Whose tokens, and what is made of them.
#[derive(Debug, Args)]
struct HolderArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Tokens that a workload fetches by this entry.
    #[arg(
        long,
        value_name = "ENTRY_ID",
        required_unless_present = "token_file",
        conflicts_with = "token_file"
    )]
    entry: Option<String>,

    /// Tokens in this file: the label of its block, or the path of one file where a block has many.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,

    /// Whom fetched tokens are for, unless it is the usual one.
    #[arg(long, value_name = "AUDIENCE", conflicts_with = "token_file", value_parser = parse_audience)]
    audience: Option<String>,

    /// What to call what is made for the workload: a-z, 0-9 and hyphens.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// Print this part alone.
    #[arg(long, value_name = "PART")]
    part: Option<String>,
}

fn parse_name(text: &str) -> Result<String, String> {
    if plain_name(text) == text {
        Ok(text.to_owned())
    } else {
        Err(format!("write it as {}", plain_name(text)))
    }
}

/// Somebody who takes tokens.
trait RelyingParty {
    /// Whose.
    fn holder(&self) -> &HolderArgs;

    /// Whom they are for, where nothing else is said.
    fn usual_audience(&self) -> String;

    /// What it takes of them.
    fn limits(&self, facts: &Facts) -> Limits;

    /// What to think of when they are for all that a name can make of a text.
    fn pattern(&self, facts: &Facts) -> Option<Concern>;

    /// What else there is to think of.
    fn further(&self, _: &Facts) -> Option<Concern> {
        None
    }

    /// What of them it would not take.
    fn concerns(&self, facts: &Facts) -> Vec<Concern> {
        let mut concerns = check(facts, &self.limits(facts));
        if facts.subject.only().is_none() {
            concerns.extend(self.pattern(facts));
        }
        concerns.extend(self.further(facts));
        concerns
    }

    /// What it needs, and then what the workload has.
    fn parts(&self, facts: &Facts, blanks: &mut Blanks) -> Vec<Part>;
}

/// A text for one reader.
struct Part {
    /// What it is called on the command line.
    name: &'static str,
    /// What it is, for people.
    title: &'static str,
    text: String,
}

pub(super) fn integrate(args: &IntegrateArgs) -> Outcome {
    match &args.with {
        With::Aws(args) => with(args),
        With::Gcp(args) => with(args),
        With::Azure(args) => with(args),
        With::Vault(args) => with(args),
        With::Kubernetes(args) => with(args),
        With::Voidkey(args) => with(args),
        With::Nginx(args) => nginx::nginx(args),
    }
}

/// The configuration, if it is good; what is wrong with it is told.
fn load(args: &ConfigArgs) -> Option<Config> {
    Config::load(&args.config)
        .map(|(config, _)| config)
        .inspect_err(|report| problem::diagnosed(report.iter()))
        .ok()
}

fn with(party: &impl RelyingParty) -> Outcome {
    let args = party.holder();
    let Some(config) = load(&args.config) else {
        return Ok(Exit::Config);
    };
    let mut facts = match (&args.token_file, &args.entry) {
        (Some(path), _) => Facts::of_file(&config, path)?,
        (None, entry) => {
            let audience = args.audience.clone();
            let audience = audience.unwrap_or_else(|| party.usual_audience());
            Facts::of_entry(&config, entry.as_deref().unwrap_or_default(), &audience)?
        }
    };
    if let Some(name) = &args.name {
        facts.name.clone_from(name);
    }
    let mut blanks = Blanks::default();
    let parts = party.parts(&facts, &mut blanks);
    deliver(
        &parts,
        args.part.as_deref(),
        &party.concerns(&facts),
        &blanks,
    )
}

/// Prints all parts or one, and tells what stands in the way.
fn deliver(parts: &[Part], only: Option<&str>, concerns: &[Concern], blanks: &Blanks) -> Outcome {
    let text = match only {
        None => together(parts, concerns),
        Some(name) => {
            let part = parts.iter().find(|part| part.name == name);
            let part = part.ok_or_else(|| {
                let names: Vec<_> = parts.iter().map(|part| part.name).collect();
                let reason = anyhow::anyhow!(
                    "there is no part {name:?} here: there are {}",
                    names.join(", ")
                );
                Failure::new(Exit::Usage, reason)
            })?;
            part.text.clone()
        }
    };
    say(text.trim_end())?;
    for concern in concerns {
        complain(concern);
    }
    for note in blanks.notes(&text) {
        complain(format_args!("note: {note}"));
    }
    let refused = concerns.iter().any(|it| it.severity == Severity::Error);
    Ok(if refused {
        Exit::Failure
    } else {
        Exit::Success
    })
}

/// The first part as it is, and everything else as comments in it.
fn together(parts: &[Part], concerns: &[Concern]) -> String {
    let warnings = concerns.iter().map(|concern| comment(&concern.to_string()));
    let mut text: String = warnings.collect();
    if !text.is_empty() {
        text.push('\n');
    }
    for (number, part) in parts.iter().enumerate() {
        if number == 0 {
            text.push_str(&part.text);
        } else {
            text.push_str(&format!(
                "\n# ---- {} (--part {})\n#\n",
                part.title, part.name
            ));
            text.push_str(&comment(&part.text));
        }
    }
    text
}

#[cfg(test)]
mod tests;
