//! `agent check-webroot`: would those who verify tokens take what is published?

use clap::Args;
use serde_json::{Value, json};

use super::screen::Screen;
use super::{
    ConfigArgs, Exit, Outcome, OutputFormat, Progress, count, look_of_output, problem, say,
};
use crate::config::Config;
use crate::jose::Algorithm;
use crate::publish::check::{Finding, Places, Severity, Verdict};
use crate::publish::examine::examine;
use crate::rotator::IssuerSpec;
use crate::svid::algorithms;
use crate::terminal::Style;

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
            problem::diagnosed(report.iter());
            return Ok(Exit::Config);
        }
    };
    let issuers = config.issuers.iter();
    let progress = Progress::of("reading webroots");
    let checked: Vec<_> = issuers
        .map(|issuer| (issuer, examine(&issuer.webroot)))
        .collect();
    drop(progress);
    let ok = checked.iter().all(|(_, verdict)| verdict.is_ok());
    match args.output {
        OutputFormat::Json => {
            let issuers: Vec<_> = checked.iter().map(|(i, v)| to_json(i, v)).collect();
            say(format_args!("{:#}", json!({"ok": ok, "issuers": issuers})))?;
        }
        OutputFormat::Text => {
            let mut screen = Screen::new(look_of_output());
            for (issuer, verdict) in &checked {
                show(&mut screen, issuer, verdict);
                screen.gap();
            }
            say(screen.finish())?;
        }
    }
    Ok(if ok { Exit::Success } else { Exit::Failure })
}

/// A block for people.
fn show(screen: &mut Screen, issuer: &IssuerSpec, verdict: &Verdict) {
    let places = Places::of(&issuer.webroot);
    let name = format!("issuer {}", issuer.name);
    let url = format!("  {}", issuer.webroot.url);
    screen.line(&[(Style::Bold, &name), (Style::Plain, &url)]);
    let bundle = verdict.has_bundle.then_some(("bundle", &places.bundle));
    let documents = [("discovery", &places.discovery), ("jwks", &places.jwks)];
    for (name, path) in documents.into_iter().chain(bundle) {
        let path = path.display().to_string();
        screen.line(&[
            (Style::Dim, &format!("  {name:<11}")),
            (Style::Plain, &path),
        ]);
    }
    let tally = |severity, one, many| match verdict.count(severity) {
        0 => None,
        n => Some(count(n, one, many)),
    };
    let errors = tally(Severity::Error, "error", "errors");
    let warnings = tally(Severity::Warning, "warning", "warnings");
    let (style, says) = if errors.is_none() {
        let keys = count(verdict.keys.len(), "key", "keys");
        let names = names(verdict).join(", ");
        (Style::Good, format!("ok: {keys}, algorithms {names}"))
    } else {
        (Style::Bad, "not ok".to_owned())
    };
    let parts: Vec<_> = [Some(says), errors, warnings]
        .into_iter()
        .flatten()
        .collect();
    screen.paragraph(style, "  ", "    ", &parts.join("; "));
    for finding in &verdict.findings {
        show_finding(screen, finding);
    }
}

fn show_finding(screen: &mut Screen, finding: &Finding) {
    const INDENT: &str = "           ";
    let style = match finding.severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Doubtful,
    };
    let word = format!("  {:<9}", severity(finding.severity));
    let path = finding.path.display().to_string();
    screen.line(&[(style, &word), (Style::Plain, &path)]);
    screen.paragraph(Style::Plain, INDENT, INDENT, &finding.message);
    let help = format!("help: {}", finding.help);
    screen.paragraph(Style::Action, INDENT, INDENT, &help);
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
