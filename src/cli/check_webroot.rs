//! `agent check-webroot`: would those who verify tokens take what is published?

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{ConfigArgs, Exit, Outcome, OutputFormat, complain, count, say};
use crate::config::Config;
use crate::jose::Algorithm;
use crate::publish::check::{Finding, Places, Severity, Verdict};
use crate::publish::examine::examine;
use crate::rotator::IssuerSpec;
use crate::svid::algorithms;

/// Check the webroot of every issuer as a verifier would, from its files alone.
///
/// Needs neither a network nor a running agent. Exits with 1 if a relying party would reject
/// something, with 78 if the configuration is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent check-webroot
  agent check-webroot --output json")]
pub struct CheckWebrootArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
}

pub(super) fn check_webroot(args: &CheckWebrootArgs) -> Outcome {
    let (config, _) = match Config::load(&args.config.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            complain(report.to_string().trim_end());
            return Ok(Exit::Config);
        }
    };
    let issuers = config.issuers.iter();
    let checked: Vec<_> = issuers
        .map(|issuer| (issuer, examine(&issuer.webroot)))
        .collect();
    let ok = checked.iter().all(|(_, verdict)| verdict.is_ok());
    match args.output {
        OutputFormat::Json => {
            let issuers: Vec<_> = checked.iter().map(|(i, v)| to_json(i, v)).collect();
            say(format_args!("{:#}", json!({"ok": ok, "issuers": issuers})))?;
        }
        OutputFormat::Text => {
            let blocks: Vec<_> = checked.iter().map(|(i, v)| to_text(i, v)).collect();
            say(blocks.join("\n").trim_end())?;
        }
    }
    Ok(if ok { Exit::Success } else { Exit::Failure })
}

/// A block for people.
fn to_text(issuer: &IssuerSpec, verdict: &Verdict) -> String {
    let places = Places::of(&issuer.webroot);
    let mut text = format!("issuer {}  {}\n", issuer.name, issuer.webroot.url);
    let _ = writeln!(text, "  discovery  {}", places.discovery.display());
    let _ = writeln!(text, "  jwks       {}", places.jwks.display());
    if verdict.has_bundle {
        let _ = writeln!(text, "  bundle     {}", places.bundle.display());
    }
    let tally = |severity, one, many| match verdict.count(severity) {
        0 => None,
        n => Some(count(n, one, many)),
    };
    let errors = tally(Severity::Error, "error", "errors");
    let warnings = tally(Severity::Warning, "warning", "warnings");
    let says = if errors.is_none() {
        let keys = count(verdict.keys.len(), "key", "keys");
        format!("ok: {keys}, algorithms {}", names(verdict).join(", "))
    } else {
        "not ok".to_owned()
    };
    let parts: Vec<_> = [Some(says), errors, warnings]
        .into_iter()
        .flatten()
        .collect();
    let _ = writeln!(text, "  {}", parts.join("; "));
    for finding in &verdict.findings {
        finding_text(&mut text, finding);
    }
    text
}

fn finding_text(text: &mut String, finding: &Finding) {
    const INDENT: &str = "           ";
    let path = finding.path.display();
    let _ = writeln!(text, "  {:<8} {path}", severity(finding.severity));
    wrap(text, INDENT, &finding.message);
    wrap(text, INDENT, &format!("help: {}", finding.help));
}

/// Adds lines of at most 80 columns, where words allow it.
fn wrap(text: &mut String, indent: &str, sentence: &str) {
    const COLUMNS: usize = 80;
    let mut line = String::new();
    for word in sentence.split(' ') {
        let width = indent.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && width > COLUMNS {
            let _ = writeln!(text, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{indent}{line}");
}

fn to_json(issuer: &IssuerSpec, verdict: &Verdict) -> Value {
    let places = Places::of(&issuer.webroot);
    let bundle = verdict
        .has_bundle
        .then(|| places.bundle.display().to_string());
    let finding = |finding: &Finding| {
        json!({
            "severity": severity(finding.severity), "path": finding.path.display().to_string(),
            "message": finding.message, "help": finding.help,
        })
    };
    json!({
        "name": &*issuer.name,
        "url": issuer.webroot.url.as_str(),
        "webroot": issuer.webroot.directory.display().to_string(),
        "discovery": places.discovery.display().to_string(),
        "jwks": places.jwks.display().to_string(),
        "bundle": bundle,
        "ok": verdict.is_ok(),
        "keys": verdict.keys.len(),
        "algorithms": names(verdict),
        "findings": verdict.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

fn names(verdict: &Verdict) -> Vec<&'static str> {
    let algorithms = algorithms(&verdict.keys).into_iter();
    algorithms.map(Algorithm::name).collect()
}
