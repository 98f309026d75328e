//! `issuer` and `key` blocks.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::context::{Context, account, claims, name};
use super::diagnostic::Place;
use super::hcl::Block;
use crate::duration::show_duration;
use crate::issuer::{IssuerUrl, MAX_AWS_ISSUER};
use crate::jose::{Algorithm, Family};
use crate::key::plan::{ChainSpec, RotationPolicy};
use crate::key::signing::{KeySpec, RsaSize};
use crate::publish::webroot::WebrootSpec;
use crate::registry::rules::IssuerRules;
use crate::rotator::IssuerSpec;

/// Reads all issuers.
pub fn build(root: &Block, context: &mut Context<'_>) -> BTreeMap<Arc<str>, IssuerRules> {
    let mut rules = BTreeMap::new();
    let mut webroots: Vec<(PathBuf, Place)> = Vec::new();
    for block in root.children("issuer") {
        let issuer = issuer(block, context);
        let claims = claims(block, context);
        let place = block.place_of("webroot");
        if let Some(issuer) = issuer {
            let directory = &issuer.webroot.directory;
            let clash = |other: &Path| other.starts_with(directory) || directory.starts_with(other);
            if let Some((other, first)) = webroots.iter().find(|(other, _)| clash(other)) {
                let message = format!(
                    "the webroots {} and {} hold each other",
                    directory.display(),
                    other.display()
                );
                let help = format!(
                    "each issuer has its own documents; the other is at line {}",
                    first.line
                );
                context.report.error(place, message, help);
            }
            if context
                .issuers
                .iter()
                .any(|other| other.webroot.url == issuer.webroot.url)
            {
                let message = format!("two issuers have the url {}", issuer.webroot.url);
                context.report.error(
                    block.place_of("url"),
                    message,
                    "give one issuer several keys instead",
                );
            }
            webroots.push((directory.clone(), place.clone()));
            if context
                .issuers
                .iter()
                .all(|other| other.name != issuer.name)
            {
                let chains = issuer.chains.iter();
                let keys = chains
                    .map(|(name, spec)| (Arc::clone(name), spec.key.algorithm))
                    .collect();
                rules.insert(Arc::clone(&issuer.name), IssuerRules { keys, claims });
                context.issuers.push(issuer);
            }
        }
    }
    if !root.mentions("issuer") {
        let help = "write issuer \"main\" { url = \"https://...\" and a key block in it }";
        context
            .report
            .error(&root.place, "there is no issuer block", help);
    }
    rules
}

fn issuer(block: &Block, context: &mut Context<'_>) -> Option<IssuerSpec> {
    let name = name(block, context.report);
    let mut chains = BTreeMap::new();
    for key in block.children("key") {
        let label = self::name(key, context.report);
        chains.extend(key_spec(key, context).map(|spec| (label, spec)));
    }
    if !block.mentions("key") {
        let help = "write key \"main\" { algorithm = \"RS256\" } in it";
        context
            .report
            .error(&block.place, "the issuer has no key block", help);
    }
    let url = url(block, context)?;
    let jwks_path = jwks_path(block, context)?;
    let default = context.data_dir.join("webroot").join(&*name);
    let directory = block.path("webroot").unwrap_or_else(|| default.clone());
    context.refuse_private("the webroot", &directory, block.place_of("webroot"));
    Some(IssuerSpec {
        webroot: WebrootSpec {
            owner: account(block, "webroot_owner", "user", context),
            group: account(block, "webroot_group", "group", context),
            mode: block.mode("webroot_mode")?,
            jwks_uri: jwks_uri(block, &url, &jwks_path, context),
            create: directory == default,
            directory,
            jwks_path,
            url,
        },
        name,
        bundle: false,
        chains,
    })
}

/// The issuer whose webroot holds the bundle: the one that is named, or the only one.
pub fn choose_bundle_issuer(agent: &Block, context: &mut Context<'_>) {
    let wanted = agent.text("bundle_issuer");
    let chosen = match (&wanted, context.issuers.len()) {
        (None, 1) => context.issuers.first_mut(),
        (None, _) => None,
        (Some(name), _) => context
            .issuers
            .iter_mut()
            .find(|issuer| *issuer.name == **name),
    };
    match (chosen, wanted) {
        (Some(issuer), _) => issuer.bundle = true,
        (None, None) => {}
        (None, Some(name)) => {
            let known: Vec<_> = context.issuers.iter().map(|issuer| &*issuer.name).collect();
            let help = format!("there are {}", known.join(", "));
            let message = format!("there is no issuer {name:?}");
            let place = agent.place_of("bundle_issuer");
            context.report.error(place, message, help);
        }
    }
}

fn url(block: &Block, context: &mut Context<'_>) -> Option<IssuerUrl> {
    let text = block.text("url")?;
    let place = block.place_of("url");
    let url: IssuerUrl = match text.parse() {
        Ok(url) => url,
        Err(why) => {
            let help = "write it as https://id.example.org, or with a path behind it";
            context
                .report
                .error(place, format!("url {text:?}: {why}"), help);
            return None;
        }
    };
    let mut warn = |message: String, help: &str| context.report.warning(place, message, help);
    if !url.is_secure() {
        warn(
            format!("{url} is not https"),
            "only verifiers on this machine can use it",
        );
    } else if url.is_loopback() {
        // Good for trying things out; said so that nobody wonders later.
        warn(
            format!("{url} is this machine"),
            "only verifiers on this machine can use it",
        );
    } else if url.port().is_some() {
        warn(
            format!("{url} has a port"),
            "AWS takes no issuer with a port",
        );
    }
    if text.len() > MAX_AWS_ISSUER {
        warn(
            format!("the url has {} bytes", text.len()),
            "AWS takes 255 at most",
        );
    }
    Some(url)
}

fn jwks_path(block: &Block, context: &mut Context<'_>) -> Option<String> {
    let text = block.text("jwks_path")?;
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    let path = Path::new(&text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let whole = !text.contains("//") && !text.ends_with('/') && !text.contains("/./");
    if !path.is_absolute() || !path.components().all(plain) || !whole || !text.bytes().all(allowed)
    {
        let help = "write it as /jwks.json: letters, digits and -._~ between single slashes";
        context.report.error(
            block.place_of("jwks_path"),
            format!("jwks_path {text:?} is no path of a file"),
            help,
        );
        return None;
    }
    if text == "/.well-known/openid-configuration" || text == "/.well-known" {
        let help = "the discovery document lies there";
        context.report.error(
            block.place_of("jwks_path"),
            format!("jwks_path {text:?} is taken"),
            help,
        );
        return None;
    }
    Some(text)
}

fn jwks_uri(block: &Block, url: &IssuerUrl, path: &str, context: &mut Context<'_>) -> String {
    let Some(text) = block.text("jwks_uri") else {
        return format!("{url}{path}");
    };
    // The form is that of an issuer, which is stricter than verifiers are.
    if let Err(why) = text.parse::<IssuerUrl>() {
        let message = format!("jwks_uri {text:?}: {why}");
        context.report.error(
            block.place_of("jwks_uri"),
            message,
            "write the URL at which the JWKS is served",
        );
    }
    text
}

/// A JWKS with more keys is a burden to verifiers, and some take no more.
const MAX_KEYS: u128 = 16;

fn key_spec(block: &Block, context: &mut Context<'_>) -> Option<ChainSpec> {
    let algorithm: Algorithm = block.text("algorithm")?.parse().ok()?;
    let bits = block.int("size")?;
    let rsa_size = RsaSize::from_bits(bits);
    if rsa_size.is_none() {
        context.report.error(
            block.place_of("size"),
            format!("there is no size {bits}"),
            "there are 2048, 3072 and 4096",
        );
    }
    if block.has("size") && algorithm.family() != Family::Rsa {
        let message = format!("{algorithm} keys have one size");
        context
            .report
            .warning(block.place_of("size"), message, "remove it");
    }
    Some(ChainSpec {
        key: KeySpec {
            algorithm,
            rsa_size: rsa_size?,
        },
        policy: rotation_policy(block, context)?,
    })
}

/// A successor must have been published for its margin when its predecessor is over, and the keys
/// of the tokens that still hold must fit into the documents.
fn rotation_policy(block: &Block, context: &mut Context<'_>) -> Option<RotationPolicy> {
    let lifespan = block.duration("lifespan")?;
    let publish_margin = block.duration("publish_margin")?;
    let keep = context.max_ttl + context.leeway + publish_margin;
    let place = if block.has("publish_margin") {
        block.place_of("publish_margin")
    } else {
        block.place_of("lifespan")
    };
    if publish_margin >= lifespan {
        let message = format!(
            "publish_margin {} is not below lifespan {}",
            show_duration(publish_margin),
            show_duration(lifespan)
        );
        let help = "a key is published for the margin while its predecessor signs: lower publish_margin, or raise lifespan";
        context.report.error(place, message, help);
        return None;
    }
    let keys = 2 + keep.as_millis().div_ceil(lifespan.as_millis().max(1));
    if keys > MAX_KEYS {
        let message = format!(
            "keys that sign for {} and stay for max_ttl, leeway and publish_margin ({}) would be {keys} at a time",
            show_duration(lifespan),
            show_duration(keep)
        );
        let help = format!("at most {MAX_KEYS} fit: raise lifespan, or lower max_ttl in agent");
        context
            .report
            .error(block.place_of("lifespan"), message, help);
        return None;
    }
    Some(RotationPolicy {
        lifespan,
        publish_margin,
        keep,
    })
}
