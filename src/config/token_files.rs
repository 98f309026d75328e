//! `token_file` blocks.

mod holder;
mod parameter;

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use self::holder::{holder, issuer, key, refuse_unmeant_sharing};
use self::parameter::{parameter, refuse_overlaps};
use super::context::{Context, account, claims};
use super::diagnostic::Place;
use super::hcl::Block;
use super::value::closest;
use crate::duration::show_duration;
use crate::entry::Audience;
use crate::mirror::{Format, Holder, Renewal, TokenFileSpec};
use crate::registry::rules::Rules;
use crate::svid::AudienceClaim;

/// Cloud SDKs keep what they read from a file for up to ten minutes.
const SDK_CACHE: Duration = Duration::from_secs(600);

/// Reads all token files.
pub fn build(root: &Block, rules: &Rules, context: &mut Context<'_>) -> Vec<TokenFileSpec> {
    refuse_overlaps(root, context);
    refuse_unmeant_sharing(root, context);
    root.children("token_file")
        .filter_map(|block| token_file(root, block, rules, context))
        .collect()
}

fn token_file(
    root: &Block,
    block: &Block,
    rules: &Rules,
    context: &mut Context<'_>,
) -> Option<TokenFileSpec> {
    let path = Path::new(&block.label).to_owned();
    check_path(block, &path, context);
    let audience = audience(block, context)?;
    let parameter = parameter(block, context)?;
    let holder = holder(block, parameter.as_ref(), rules, context)?;
    let issuer = issuer(block, &holder, rules, context)?;
    if let Holder::Entry(entry) = &holder {
        check_entry(root, block, entry, &audience, context);
    }
    let key = key(block, &holder, issuer.as_ref(), rules, context)?;
    let ttl = ttl(block, "ttl", context)?;
    let refresh_at = block.share("refresh_at")?;
    warn_of_short_rest(block, ttl, refresh_at, context);
    let below_tokens = path.starts_with(context.runtime_dir.join("tokens"));
    Some(TokenFileSpec {
        owner: account(block, "owner", "user", context),
        group: account(block, "group", "group", context),
        path,
        parameter,
        holder,
        issuer,
        key,
        claims: claims(block, context),
        jti: block.flag("jti"),
        format: match block.text("format").as_deref() {
            Some("header") => Format::Header,
            Some("json") => Format::Json,
            _ => Format::Jwt,
        },
        audience,
        ttl,
        nbf_margin: block.duration("nbf_margin")?,
        refresh_at,
        mode: mode(block, context)?,
        create_directory: block.flag("create_directory") && below_tokens,
        renewal: renewal(block, context),
    })
}

fn warn_of_short_rest(block: &Block, ttl: Duration, refresh_at: f64, context: &mut Context<'_>) {
    let left = ttl.mul_f64(1.0 - (refresh_at * 1.1).min(0.9));
    if left < SDK_CACHE {
        let place = if block.has("ttl") {
            block.place_of("ttl")
        } else {
            &block.place
        };
        let message = format!(
            "the token may have only {} left when it is replaced",
            show_duration(left)
        );
        context.report.warning(place, message, "Azure's SDKs keep what they read for ten minutes: raise ttl or lower refresh_at if they are meant");
    }
}

fn renewal(block: &Block, context: &mut Context<'_>) -> Option<Renewal> {
    let signal = match block.text("renew_signal").as_deref() {
        Some("SIGINT") => Some(Signal::INT),
        Some("SIGTERM") => Some(Signal::TERM),
        Some("SIGUSR1") => Some(Signal::USR1),
        Some("SIGUSR2") => Some(Signal::USR2),
        Some(_) => Some(Signal::HUP),
        None => None,
    };
    match (block.path("pid_file"), signal) {
        (Some(pid_file), Some(signal)) => Some(Renewal { pid_file, signal }),
        (None, None) => None,
        (pid_file, _) => {
            let (there, lacking) = match pid_file {
                Some(_) => ("pid_file", "renew_signal"),
                None => ("renew_signal", "pid_file"),
            };
            let message = format!("{there} is of no use without {lacking}");
            let help = format!("write {lacking} too, or remove {there}");
            context.report.error(block.place_of(there), message, help);
            None
        }
    }
}

fn mode(block: &Block, context: &mut Context<'_>) -> Option<u32> {
    let mode = block.mode("mode")?;
    let place = block.place_of("mode");
    if mode & 0o133 != 0 {
        let message =
            format!("mode {mode:04o} lets others write the token, or somebody execute it");
        context.report.error(
            place,
            message,
            "0400 is for its owner, 0440 for a group too",
        );
    } else if mode & 0o004 != 0 {
        let message = format!("mode {mode:04o} lets every user read the token");
        context.report.warning(
            place,
            message,
            "0400 is for its owner, 0440 for a group too",
        );
    }
    Some(mode)
}

fn check_path(block: &Block, path: &Path, context: &mut Context<'_>) {
    let text = &block.label;
    let place = &block.label_place;
    let rooted = text.starts_with('/') && !text.ends_with('/') && path.file_name().is_some();
    let plain = !text
        .split('/')
        .skip(1)
        .any(|part| matches!(part, "" | "." | ".."));
    if !rooted || !plain || text.chars().any(char::is_control) {
        let help = "write an absolute path without '.', '..' and empty components";
        context
            .report
            .error(place, format!("{text:?} is no path of a file"), help);
        return;
    }
    context.refuse_private("the token file", path, place);
    let webroot = context
        .issuers
        .iter()
        .find(|i| path.starts_with(&i.webroot.directory));
    if let Some(issuer) = webroot {
        let message = format!("{text:?} lies in the webroot of issuer {:?}", issuer.name);
        context
            .report
            .error(place, message, "a web server would hand it to everybody");
    }
}

fn audience(block: &Block, context: &mut Context<'_>) -> Option<AudienceClaim> {
    let (items, bare) = block.texts("audience")?;
    let parsed = audiences(&items, context);
    match parsed.as_slice() {
        [] => {
            if items.is_empty() {
                context.report.error(
                    block.place_of("audience"),
                    "audience is empty",
                    "name whom the token is for",
                );
            }
            None
        }
        [only] if bare => Some(AudienceClaim::One(only.clone())),
        _ => Some(AudienceClaim::List(parsed)),
    }
}

/// An entry that is written must allow the audience. One that is not may be made while the agent
/// runs; the file waits for it.
fn check_entry(
    root: &Block,
    block: &Block,
    wanted: &str,
    audience: &AudienceClaim,
    context: &mut Context<'_>,
) {
    let found = context.entries.iter().find(|entry| *entry.id == *wanted);
    if let Some(entry) = found.cloned() {
        if !entry.allows(audience.as_slice()) {
            let message = format!("entry {wanted:?} does not allow this audience");
            let help = "add it to the audiences of the entry, or choose one of them";
            context
                .report
                .error(block.place_of("audience"), message, help);
        }
        return;
    }
    let known: Vec<_> = root
        .children("entry")
        .map(|block| block.label.as_str())
        .collect();
    // One that is there and wrong has been complained about already.
    if known.contains(&wanted) {
        return;
    }
    let message = format!("there is no entry {wanted:?} in the configuration");
    let place = block.place_of("entry");
    let waits = "the file waits for one that is made with agent entry create --entry-id";
    let help = match closest(wanted, &known) {
        Some(meant) => format!("did you mean {meant}? If not, {waits}"),
        None => waits.to_owned(),
    };
    context.report.warning(place, message, help);
}

fn audiences(items: &[(String, Place)], context: &mut Context<'_>) -> Vec<Audience> {
    let mut parsed = Vec::with_capacity(items.len());
    for (text, place) in items {
        match text.parse() {
            Ok(audience) => parsed.push(audience),
            Err(why) => context
                .report
                .error(place, format!("audience {text:?}: {why}"), ""),
        }
    }
    parsed
}

/// A written ttl, which must not be above `max_ttl`.
fn ttl(block: &Block, option: &str, context: &mut Context<'_>) -> Option<Duration> {
    let ttl = block.duration(option)?;
    let max = context.max_ttl;
    if ttl > max && block.has(option) {
        let message = format!(
            "{option} {} is above max_ttl {}",
            show_duration(ttl),
            show_duration(max)
        );
        context.report.error(
            block.place_of(option),
            message,
            "lower it, or raise max_ttl in agent",
        );
    }
    Some(ttl.min(max))
}

#[cfg(test)]
mod tests;
