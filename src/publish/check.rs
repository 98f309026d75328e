//! What relying parties would reject of the documents of an issuer, decided from their bytes.

mod keys;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::webroot::{BUNDLE, DIRECTORY, DISCOVERY, WebrootSpec};
use crate::issuer::{IssuerUrl, MAX_AWS_ISSUER};
use crate::jose::Algorithm;
use crate::jose::json::parse_object;
use crate::jose::jwk::Jwk;
use crate::svid::algorithms;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// A relying party would reject the document or tokens for it.
    Error,
    /// Some relying parties would, or somebody may be unable to read it.
    Warning,
}

/// One thing that is wrong with a webroot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The document or directory that it is about.
    pub path: PathBuf,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// What is to be said of a webroot.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The keys of the JWKS that a verifier can use.
    pub keys: Vec<Jwk>,
    /// Whether there is a SPIFFE bundle beside it.
    pub has_bundle: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// How many findings are as bad as this.
    pub fn count(&self, severity: Severity) -> usize {
        let findings = self.findings.iter();
        findings.filter(|f| f.severity == severity).count()
    }

    /// Whether nothing would be rejected.
    pub fn is_ok(&self) -> bool {
        self.count(Severity::Error) == 0
    }

    /// Room for findings about one document or directory.
    pub(super) fn about<'a>(&'a mut self, path: &'a Path) -> Notes<'a> {
        Notes {
            path,
            findings: &mut self.findings,
        }
    }
}

/// Findings about one document or directory.
pub(super) struct Notes<'a> {
    path: &'a Path,
    findings: &'a mut Vec<Finding>,
}

impl Notes<'_> {
    pub(super) fn error(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Error, message.into(), help.into());
    }

    pub(super) fn warning(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.add(Severity::Warning, message.into(), help.into());
    }

    fn add(&mut self, severity: Severity, message: String, help: String) {
        self.findings.push(Finding {
            severity,
            path: self.path.to_owned(),
            message,
            help,
        });
    }
}

/// Where the documents of an issuer lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The discovery document.
    pub discovery: PathBuf,
    /// The JWKS.
    pub jwks: PathBuf,
    /// The SPIFFE bundle, which not every webroot has.
    pub bundle: PathBuf,
}

impl Places {
    /// Those of this webroot.
    pub fn of(spec: &WebrootSpec) -> Self {
        Self {
            discovery: spec.directory.join(DIRECTORY).join(DISCOVERY),
            jwks: spec.directory.join(spec.jwks_path.trim_start_matches('/')),
            bundle: spec.directory.join(BUNDLE),
        }
    }
}

/// The bytes of the documents; `None` for one that could not be read, about which nothing is said.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// The discovery document.
    pub discovery: Option<Vec<u8>>,
    /// The JWKS.
    pub jwks: Option<Vec<u8>>,
    /// The SPIFFE bundle.
    pub bundle: Option<Vec<u8>>,
}

const NO_OBJECT: &str = "it is no JSON object that has each member once";
const REWRITE: &str = "restart the agent, which writes the document again";

/// Reads the documents as relying parties do.
pub fn check(spec: &WebrootSpec, documents: &Documents) -> Verdict {
    let places = Places::of(spec);
    let mut verdict = Verdict::default();
    url(spec, &mut verdict.about(&places.discovery));
    let mut known = None;
    if let Some(bytes) = &documents.jwks {
        verdict.keys = keys::check_jwks(bytes, &mut verdict.about(&places.jwks));
        // What follows from the keys is said only of a set that is good.
        known = verdict.is_ok().then(|| verdict.keys.clone());
    }
    if let Some(keys) = &known {
        relying_parties(keys, &mut verdict.about(&places.jwks));
    }
    if let Some(bytes) = &documents.discovery {
        let notes = &mut verdict.about(&places.discovery);
        discovery(spec, bytes, known.as_deref(), notes);
    }
    if let Some(bytes) = &documents.bundle {
        verdict.has_bundle = true;
        keys::check_bundle(bytes, &mut verdict.about(&places.bundle));
    }
    verdict
}

fn url(spec: &WebrootSpec, notes: &mut Notes<'_>) {
    let url: &IssuerUrl = &spec.url;
    if !url.is_secure() {
        notes.warning(
            "the issuer is not https, so only verifiers on this machine take it",
            "give the issuer an https url",
        );
    } else if url.is_loopback() {
        notes.warning(
            "the host of the issuer is this machine, so no other finds it",
            "give the issuer a url that its verifiers can reach",
        );
    } else if url.port().is_some() {
        notes.warning(
            "the issuer has a port, which AWS does not take",
            "serve it at port 443 and leave the port out of url",
        );
    }
    if url.is_secure() && !spec.jwks_uri.starts_with("https://") {
        notes.warning(
            "jwks_uri is not https, so only verifiers on this machine fetch the keys",
            "write an https jwks_uri, or leave it out",
        );
    }
    let bytes = url.as_str().len();
    if bytes > MAX_AWS_ISSUER {
        notes.warning(
            format!("the issuer has {bytes} bytes and AWS takes {MAX_AWS_ISSUER} at most"),
            "shorten the path in url",
        );
    }
}

fn relying_parties(keys: &[Jwk], notes: &mut Notes<'_>) {
    let has = |algorithm| keys.iter().any(|key| key.algorithm() == algorithm);
    if !has(Algorithm::Rs256) {
        notes.warning(
            "there is no RS256 key, and Entra ID takes nothing else",
            "add a key block with algorithm = \"RS256\" if Entra ID is to take the tokens",
        );
    }
    if has(Algorithm::EdDsa) {
        notes.warning(
            "there is an EdDSA key, which AWS, GCP and Kubernetes do not take",
            "sign tokens for them with a key of another algorithm",
        );
    }
}

fn discovery(spec: &WebrootSpec, bytes: &[u8], keys: Option<&[Jwk]>, notes: &mut Notes<'_>) {
    let Some(members) = parse_object(bytes) else {
        notes.error(NO_OBJECT, REWRITE);
        return;
    };
    let configured = [
        ("issuer", spec.url.as_str()),
        ("jwks_uri", spec.jwks_uri.as_str()),
    ];
    for (name, wanted) in configured {
        match members.get(name).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => notes.error(
                format!("{name} is {found:?} where the configuration says {wanted:?}"),
                format!("every byte counts: {REWRITE}"),
            ),
            None => notes.error(format!("{name} is missing or no text"), REWRITE),
        }
    }
    if !texts(&members, "response_types_supported").contains(&"id_token") {
        notes.error("response_types_supported does not name id_token", REWRITE);
    }
    if texts(&members, "subject_types_supported").is_empty() {
        notes.error("subject_types_supported names no type", REWRITE);
    }
    supported_algorithms(&members, keys, notes);
}

fn supported_algorithms(members: &Map<String, Value>, keys: Option<&[Jwk]>, notes: &mut Notes<'_>) {
    const NAME: &str = "id_token_signing_alg_values_supported";
    let supported = texts(members, NAME);
    if supported.is_empty() {
        notes.error(format!("{NAME} names no algorithm"), REWRITE);
        return;
    }
    let rs256 = Algorithm::Rs256.name();
    if supported.contains(&rs256) && supported.first() != Some(&rs256) {
        notes.warning(
            format!("{NAME} does not begin with RS256, and some take the first only"),
            REWRITE,
        );
    }
    let Some(keys) = keys else { return };
    let used: Vec<_> = algorithms(keys).iter().map(|a| a.name()).collect();
    for name in used.iter().filter(|name| !supported.contains(name)) {
        notes.error(
            format!("{NAME} lacks {name}, so tokens that such a key signed are refused"),
            REWRITE,
        );
    }
    for name in supported.iter().filter(|name| !used.contains(name)) {
        notes.warning(
            format!("{NAME} names {name:?}, for which there is no key"),
            REWRITE,
        );
    }
}

/// The texts of an array; none where the member is anything else.
fn texts<'a>(members: &'a Map<String, Value>, name: &str) -> Vec<&'a str> {
    let items = members.get(name).and_then(Value::as_array);
    let texts: Option<_> = items.and_then(|items| items.iter().map(Value::as_str).collect());
    texts.unwrap_or_default()
}

#[cfg(test)]
mod tests;
