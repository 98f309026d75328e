//! `entry` and `token_file` blocks.

use std::path::Path;
use std::time::Duration;

use super::context::{Context, choose, is_label, name};
use super::diagnostic::Place;
use super::hcl::Block;
use super::issuers::{block_claims, claims};
use super::value::{nearest, show_duration};
use crate::attest::unix::{self, UnixSpec, Wanted};
use crate::entry::{Audience, Entry, KeyRef};
use crate::issue::Order;
use crate::mirror::{Account, TokenFileSpec};
use crate::selector::{Selector, SelectorSet};
use crate::spiffe_id::SpiffeId;
use crate::svid::AudienceClaim;

/// SPIFFE Workload API, section 8: longer hints are not to be supported, in bytes.
const MAX_HINT_BYTES: usize = 1024;
/// Cloud SDKs keep what they read from a file for up to ten minutes.
const SDK_CACHE: Duration = Duration::from_secs(600);

/// Reads all entries into the context.
pub fn build_entries(root: &Block, unix: UnixSpec, known_domain: bool, context: &mut Context<'_>) {
    for block in root.children("entry") {
        let id = name(block, context.report);
        let spiffe_id = spiffe_id(block, known_domain, context);
        let selectors = selectors(block, unix, context);
        let audiences = block.texts("audiences").map(|(items, _)| {
            if items.is_empty() {
                let help = "remove the option to allow any audience";
                context.report.error(
                    block.place_of("audiences"),
                    "audiences is empty, which would allow none",
                    help,
                );
            }
            audiences(&items, context)
        });
        let hint = hint(block, context);
        let key = key_ref(block, context);
        let own = block_claims(block, context);
        let (Some(spiffe_id), Some(selectors), Some(key)) = (spiffe_id, selectors, key) else {
            continue;
        };
        let entry = Entry {
            id,
            spiffe_id,
            selectors,
            audiences,
            ttl: ttl(block, "jwt_svid_ttl", context).unwrap_or(context.default_ttl),
            hint,
            claims: claims(root, &key.issuer, context).merged_with(&own),
            key,
            jti: block.flag("jti"),
        };
        context.entries.push(entry);
    }
}

fn spiffe_id(block: &Block, known_domain: bool, context: &mut Context<'_>) -> Option<SpiffeId> {
    let text = block.text("spiffe_id")?;
    let place = block.place_of("spiffe_id");
    let ours = &context.trust_domain;
    let mut refuse = |message: String, help: String| {
        context.report.error(place, message, help);
        None
    };
    let id: SpiffeId = match text.parse() {
        Ok(id) => id,
        Err(why) => {
            let help = format!("write it as spiffe://{ours}/name");
            return refuse(format!("spiffe_id {text:?}: {why}"), help);
        }
    };
    if known_domain && id.trust_domain() != ours {
        let message = format!("{id} is not of the trust domain {ours}");
        return refuse(message, format!("write it as spiffe://{ours}{}", id.path()));
    }
    if id.path().is_empty() {
        let message = format!("{id} names the trust domain and no workload");
        return refuse(message, format!("add a path, such as {id}/name"));
    }
    if id.as_str().len() > 127 {
        let help = "GCP takes 127 bytes as google.subject, AWS and Snowflake 255";
        context.report.warning(
            place,
            format!("the identity has {} bytes", id.as_str().len()),
            help,
        );
    }
    Some(id)
}

fn selectors(block: &Block, unix: UnixSpec, context: &mut Context<'_>) -> Option<SelectorSet> {
    let (items, _) = block.texts("selectors")?;
    let mut selectors = Vec::with_capacity(items.len());
    let mut wants_program = None;
    for (text, place) in &items {
        let selector: Selector = match text.parse() {
            Ok(selector) => selector,
            Err(why) => {
                context
                    .report
                    .error(place, format!("selector {text:?}: {why}"), "");
                continue;
            }
        };
        if selector.kind() != unix::KIND {
            let message = format!("no attestor gives {:?} selectors", selector.kind());
            context
                .report
                .error(place, message, "there is unix, such as unix:uid:1001");
            continue;
        }
        match unix::check(&selector) {
            Err(why) => context
                .report
                .error(place, format!("selector {text:?}"), why),
            Ok(Wanted::User(name)) => context.want("user", &name, place),
            Ok(Wanted::Group(name)) => context.want("group", &name, place),
            Ok(Wanted::Program) => wants_program = Some(place),
            Ok(Wanted::Plain) => {}
        }
        selectors.push(selector);
    }
    let set: SelectorSet = selectors.into_iter().collect();
    if items.is_empty() {
        let help = "an entry without selectors would match everybody";
        context
            .report
            .error(block.place_of("selectors"), "selectors is empty", help);
        return None;
    }
    if let Some(place) = wants_program.filter(|_| !unix.discover_path) {
        let help = "write attestor \"unix\" { discover_workload_path = true }";
        context.report.warning(
            place,
            "unix:path and unix:sha256 are not discovered, so this never matches",
            help,
        );
    }
    let path_only = !set.is_empty() && set.iter().all(|s| unix::wants(s).is_something());
    if path_only && !block.flag("allow_path_only") {
        let help = "any user may run that program: add unix:uid or unix:user, or allow_path_only = true if every user is meant";
        context.report.error(
            block.place_of("selectors"),
            "the selectors name a program and no user",
            help,
        );
    }
    Some(set)
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

fn hint(block: &Block, context: &mut Context<'_>) -> String {
    let hint = block.text("hint").unwrap_or_default();
    if hint.len() > MAX_HINT_BYTES || hint.chars().any(char::is_control) {
        let message = "the hint is longer than 1024 bytes or has control characters";
        context.report.error(block.place_of("hint"), message, "");
    }
    hint
}

fn key_ref(block: &Block, context: &mut Context<'_>) -> Option<KeyRef> {
    let issuers: Vec<_> = context.issuers.iter().map(|i| (&*i.name, i)).collect();
    let issuer = choose(block, "issuer", &issuers, context.report)?;
    let keys: Vec<_> = issuer.chains.keys().map(|key| (&**key, key)).collect();
    let key = choose(block, "key", &keys, context.report)?;
    Some(KeyRef {
        issuer: issuer.name.clone(),
        key: (*key).clone(),
    })
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

/// Reads all token files.
pub fn build_token_files(root: &Block, context: &mut Context<'_>) -> Vec<TokenFileSpec> {
    root.children("token_file")
        .filter_map(|block| token_file(root, block, context))
        .collect()
}

fn token_file(root: &Block, block: &Block, context: &mut Context<'_>) -> Option<TokenFileSpec> {
    let path = Path::new(&block.label).to_owned();
    check_path(block, &path, context);
    let audience = audience(block, context);
    let entry = entry(root, block, context)?;
    let audience = audience?;
    if !entry.allows(audience.as_slice()) {
        let message = format!("entry {:?} does not allow this audience", entry.id);
        let help = "add it to the audiences of the entry, or choose one of them";
        context
            .report
            .error(block.place_of("audience"), message, help);
    }
    let order = Order {
        key: entry.key,
        spiffe_id: entry.spiffe_id,
        audience,
        claims: entry.claims,
        ttl: ttl(block, "ttl", context)?,
        nbf_margin: block.duration("nbf_margin")?,
        jti: entry.jti,
    };
    let refresh_at = block.share("refresh_at")?;
    let left = order.ttl.mul_f64(1.0 - (refresh_at * 1.1).min(0.9));
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
    let below_tokens = path.starts_with(context.runtime_dir.join("tokens"));
    Some(TokenFileSpec {
        owner: account(block, "owner", "user", context),
        group: account(block, "group", "group", context),
        path,
        order,
        refresh_at,
        mode: mode(block, context)?,
        create_directory: block.flag("create_directory") && below_tokens,
    })
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
    if text.contains("/:") {
        let message = format!("{text:?}: path parameters are not supported");
        context
            .report
            .error(place, message, "write one token_file block for each file");
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

fn entry(root: &Block, block: &Block, context: &mut Context<'_>) -> Option<Entry> {
    let wanted = block.text("entry")?;
    let found = context
        .entries
        .iter()
        .find(|entry| *entry.id == *wanted)
        .cloned();
    let written = root.children("entry").any(|block| block.label == wanted);
    // One that is there and wrong has been complained about already.
    if found.is_none() && !written {
        let known: Vec<_> = root
            .children("entry")
            .map(|block| block.label.as_str())
            .collect();
        let help = nearest(&wanted, &known);
        let message = format!("there is no entry {wanted:?}");
        context.report.error(block.place_of("entry"), message, help);
    }
    found
}

fn account(block: &Block, option: &str, kind: &str, context: &mut Context<'_>) -> Option<Account> {
    let text = block.text(option)?;
    if let Ok(id) = text.parse() {
        return Some(Account::Id(id));
    }
    if !is_label(&text.replace(['@', '+', '$', '\\', ' '], "_")) {
        let message = format!("{text:?} is no name of a {kind}");
        context
            .report
            .error(block.place_of(option), message, "write a name or a number");
        return None;
    }
    context.want(kind, &text, block.place_of(option));
    Some(Account::Name(text))
}
