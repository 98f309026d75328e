//! nginx: the webroot at the issuer's URL.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::super::quote::json;
use super::limits::{Concern, warning};
use super::text::{Blanks, fill};
use super::{ConfigArgs, Exit, Outcome, Part, deliver, load};
use crate::rotator::IssuerSpec;

/// Print a server block of nginx that publishes the documents of an issuer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent integrate nginx > /etc/nginx/conf.d/agent.conf
  agent integrate nginx --issuer main --certificate /etc/ssl/id.pem --certificate-key /etc/ssl/id.key")]
pub struct NginxArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Which issuer, where there are several.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,

    /// The certificate of the host, with those between it and its root.
    #[arg(long, value_name = "FILE")]
    certificate: Option<String>,

    /// Its private key.
    #[arg(long, value_name = "FILE")]
    certificate_key: Option<String>,
}

/// How long clients may keep the documents, unless keys sign sooner.
const USUAL_AGE: Duration = Duration::from_secs(300);

pub(super) fn nginx(args: &NginxArgs) -> Outcome {
    let Some(config) = load(&args.config) else {
        return Ok(Exit::Config);
    };
    let issuer = choose(&config.issuers, args.issuer.as_deref())?;
    let mut blanks = Blanks::default();
    let certificate = blanks.take(args.certificate.as_ref(), "--certificate", "CERTIFICATE");
    let key = args.certificate_key.as_ref();
    let key = blanks.take(key, "--certificate-key", "PRIVATE_KEY");
    let part = Part {
        name: "server",
        title: "A server block",
        text: server(issuer, &certificate, &key),
    };
    deliver(&[part], None, &concerns(issuer), &blanks)
}

fn choose<'a>(issuers: &'a [IssuerSpec], name: Option<&str>) -> anyhow::Result<&'a IssuerSpec> {
    let names: Vec<_> = issuers.iter().map(|issuer| &*issuer.name).collect();
    let names = names.join(", ");
    match (name, issuers) {
        (None, [only]) => Ok(only),
        (None, _) => anyhow::bail!("there are several issuers, {names}: choose one with --issuer"),
        (Some(name), all) => {
            let found = all.iter().find(|issuer| *issuer.name == *name);
            found.with_context(|| format!("there is no issuer {name:?}: there are {names}"))
        }
    }
}

/// The shortest time for which a key of the issuer is published before it signs.
fn margin(issuer: &IssuerSpec) -> Duration {
    let margins = issuer
        .chains
        .values()
        .map(|chain| chain.policy.publish_margin);
    margins.min().unwrap_or_default()
}

fn concerns(issuer: &IssuerSpec) -> Vec<Concern> {
    let webroot = &issuer.webroot;
    let usual = format!("{}{}", webroot.url, webroot.jwks_path);
    let mut concerns = Vec::new();
    if webroot.jwks_uri != usual {
        let message = format!("verifiers look for the keys at {}", webroot.jwks_uri);
        let help = format!("serve {usual} there too");
        concerns.push(warning("issuer", message, help));
    }
    if margin(issuer) < Duration::from_secs(60) {
        let message = "keys sign less than a minute after they are published".to_owned();
        let help = "raise publish_margin: many verifiers keep what they have read for minutes";
        concerns.push(warning("cache", message, help));
    }
    concerns
}

fn server(issuer: &IssuerSpec, certificate: &str, key: &str) -> String {
    let (url, directory) = (&issuer.webroot.url, &issuer.webroot.directory);
    let bare = url.as_str().split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = match bare.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}/")),
        None => (bare, "/".to_owned()),
    };
    let port = url.port().unwrap_or(if url.is_secure() { 443 } else { 80 });
    let host = authority
        .strip_suffix(&format!(":{port}"))
        .unwrap_or(authority);
    let place = |directory: PathBuf| json(&directory.to_string_lossy());
    let place = if path == "/" {
        format!("    root {};", place(directory.clone()))
    } else {
        let directory = place(directory.join(""));
        format!("    location {path} {{\n        alias {directory};\n    }}")
    };
    let (listen, tls) = if url.is_secure() {
        let tls = format!(
            "    ssl_certificate     {};\n    ssl_certificate_key {};\n",
            json(certificate),
            json(key)
        );
        (format!("{port} ssl"), tls)
    } else {
        (port.to_string(), String::new())
    };
    fill(
        include_str!("nginx.conf"),
        &[
            ("issuer", url.as_str()),
            ("listen", &listen),
            ("host", host),
            ("tls", &tls),
            ("place", &place),
            ("age", &margin(issuer).min(USUAL_AGE).as_secs().to_string()),
        ],
    )
}
