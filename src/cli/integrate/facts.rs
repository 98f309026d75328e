//! What is known of the tokens that the other side is to take, out of the configuration alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};

use super::super::DEFAULT_SOCKET;
use crate::config::Config;
use crate::entry::{Audience, Claims, Entry, EntrySet, Grants, KeyRef};
use crate::issuer::IssuerUrl;
use crate::jose::Algorithm;
use crate::mirror::{Format, Holder, Parameter, TokenFileSpec};
use crate::rotator::IssuerSpec;

/// The share of a token's life after which `agent exec` has replaced it.
const EXEC_REPLACES: f64 = 0.6;

/// How much later than `refresh_at` says a token file may be replaced.
const FILE_LATER: f64 = 1.1;

/// The longest name of a user that the tools of Linux make, in bytes.
const LONGEST_USER: usize = 32;

/// What the other side is told of tokens, and what decides whether it takes them.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Who signs.
    pub issuer: Issuer,
    /// What things are called that are made for the holder: lower-case letters, digits and hyphens.
    pub name: String,
    /// Whose tokens they are.
    pub subject: Subject,
    /// Whom they are for; at least one.
    pub audiences: Vec<String>,
    /// What they are signed with.
    pub algorithm: Algorithm,
    /// How long they live.
    pub life: Duration,
    /// The claim `azp`, where one is configured.
    pub azp: Option<String>,
    /// How the workload comes by them.
    pub source: Source,
    /// The Workload API socket, where it is not where commands look for it.
    pub socket: Option<PathBuf>,
    /// This program.
    pub program: PathBuf,
}

/// The part of an issuer that others see.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its URL.
    pub url: IssuerUrl,
    /// Where its keys are found.
    pub jwks_uri: String,
    /// How long a key is published before it signs.
    pub publish_margin: Duration,
}

/// The `sub` of tokens: one, or all that a path parameter or the fields of an entry can make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// As it is written in the configuration.
    pub written: String,
    /// What stands before, between and after the places where a name is filled in; a single text where
    /// there is no such place.
    pub texts: Vec<String>,
    /// The longest name that can be filled in, in bytes, as far as the pattern shows.
    pub longest_name: usize,
}

/// How a workload comes by its tokens.
#[derive(Debug, Clone)]
pub enum Source {
    /// By a command that it runs, as the entry allows.
    Command {
        /// The identity to ask for; none where each caller has his own.
        spiffe_id: Option<String>,
        /// Whether the entry allows the audience.
        allowed: bool,
        /// A selector that this program does not have, and that speaks of the program that asks.
        other_program: Option<String>,
    },
    /// From a token file.
    File {
        /// Where it lies, a parameter as it is written.
        path: PathBuf,
        /// How the token is written.
        format: Format,
        /// The share of its life after which it is replaced.
        refresh_at: f64,
    },
}

impl Facts {
    /// The tokens that callers fetch by an entry for an audience.
    ///
    /// # Errors
    ///
    /// There is no such entry, or this program cannot be found.
    pub fn of_entry(config: &Config, id: &str, audience: &str) -> anyhow::Result<Self> {
        let entry = config.entries.iter().find(|entry| *entry.id == *id);
        let entry = entry.with_context(|| {
            let known = config.entries.iter().map(|entry| entry.id.to_string());
            let known = listed(known.collect());
            format!(
                "the configuration has no entry {id:?}: {known}; those made while the agent runs are not in it"
            )
        })?;
        let audience: Audience = audience.parse()?;
        let spiffe_id = entry.grants.fixed().map(|one| one.spiffe_id.to_string());
        let program = program()?;
        Ok(Self {
            issuer: Issuer::of(config, &entry.key)?,
            name: plain_name(id),
            subject: Subject::granted(&entry.grants),
            audiences: vec![audience.as_str().to_owned()],
            algorithm: algorithm(config, &entry.key)?,
            life: entry.ttl,
            azp: azp(&entry.grants.written_claims()),
            source: Source::Command {
                allowed: entry.allows(&[audience]),
                other_program: other_program(entry, &program),
                spiffe_id,
            },
            socket: socket(config),
            program,
        })
    }

    /// The tokens in a file: that of a block without a parameter, all of a block with one (named as it
    /// is written), or that for one directory.
    ///
    /// # Errors
    ///
    /// There is no such file, its entry is not in the configuration, or this program cannot be found.
    pub fn of_file(config: &Config, path: &Path) -> anyhow::Result<Self> {
        let (spec, value) = find(config, path).with_context(|| {
            let known = config.token_files.iter();
            let known = listed(known.map(|spec| spec.path.display().to_string()).collect());
            format!(
                "the configuration has no token file {}: {known}",
                path.display()
            )
        })?;
        let entries: EntrySet = config.entries.iter().cloned().collect();
        let order = spec.order(&entries);
        let order = order.map_err(|waits| anyhow!("{}: {waits}", path.display()))?;
        let (order, subject) = match (&spec.holder, &spec.parameter, &value) {
            (Holder::Each(template), Some(parameter), None) => {
                (order, Subject::many(&template.text, parameter))
            }
            (_, _, value) => {
                let order = spec.fill(&order, value.as_deref().unwrap_or_default())?;
                let subject = Subject::one(order.sub.as_str());
                (order, subject)
            }
        };
        let audiences = order.audience.as_slice().iter();
        let name = spec
            .entry()
            .map_or_else(|| subject.name(), |id| plain_name(id));
        Ok(Self {
            issuer: Issuer::of(config, &order.key)?,
            name,
            subject,
            audiences: audiences
                .map(|audience| audience.as_str().to_owned())
                .collect(),
            algorithm: algorithm(config, &order.key)?,
            life: order.ttl,
            azp: azp(&order.claims),
            source: Source::File {
                path: path.to_owned(),
                format: spec.format,
                refresh_at: spec.refresh_at,
            },
            socket: None,
            program: program()?,
        })
    }

    /// The least that is left of a token's life when the workload reads it.
    pub fn least_left(&self) -> Duration {
        let latest = match &self.source {
            Source::Command { .. } => EXEC_REPLACES,
            Source::File { refresh_at, .. } => refresh_at * FILE_LATER,
        };
        self.life.mul_f64((1.0 - latest).max(0.0))
    }

    /// The one audience that counts for somebody who has a usual one.
    pub fn audience<'a>(&'a self, usual: &'a str) -> &'a str {
        let mut audiences = self.audiences.iter();
        let found = audiences.find(|audience| *audience == usual);
        found
            .or(self.audiences.first())
            .map_or(usual, String::as_str)
    }

    /// The name as Terraform writes labels.
    pub fn label(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Where the file lies, for workloads that read one.
    pub fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::File { path, .. } => Some(path),
            Source::Command { .. } => None,
        }
    }
}

impl Issuer {
    /// What others see of the issuer with this key.
    fn of(config: &Config, key: &KeyRef) -> anyhow::Result<Self> {
        let spec = issuer(config, key)?;
        let chain = spec.chains.get(&key.key);
        Ok(Self {
            url: spec.webroot.url.clone(),
            jwks_uri: spec.webroot.jwks_uri.clone(),
            publish_margin: chain.map_or(Duration::ZERO, |chain| chain.policy.publish_margin),
        })
    }

    /// Its URL without the scheme, as AWS names it.
    pub fn bare(&self) -> &str {
        let url = self.url.as_str();
        url.split_once("://").map_or(url, |(_, rest)| rest)
    }
}

impl Subject {
    /// A single one.
    pub fn one(sub: &str) -> Self {
        Self {
            written: sub.to_owned(),
            texts: vec![sub.to_owned()],
            longest_name: 0,
        }
    }

    /// What an entry grants: one, or one for each caller.
    fn granted(grants: &Grants) -> Self {
        match grants {
            Grants::Fixed(identity) => Self::one(identity.spiffe_id.as_str()),
            Grants::Template(template) => Self {
                written: template.spiffe_id.to_string(),
                texts: template.spiffe_id.texts(),
                longest_name: LONGEST_USER,
            },
        }
    }

    /// All that a parameter can make of a text.
    fn many(text: &str, parameter: &Parameter) -> Self {
        // No text of the configuration holds this character.
        let marked = parameter.fill(text, "\0");
        let taken = |length: &usize| {
            let names = ["a", "0"].map(|letter| letter.repeat(*length));
            names.iter().any(|name| parameter.pattern.fits(name))
        };
        Self {
            written: text.to_owned(),
            texts: marked.split('\0').map(str::to_owned).collect(),
            longest_name: (1..=255).rev().find(taken).unwrap_or(255),
        }
    }

    /// The only one, if there is only one.
    pub fn only(&self) -> Option<&str> {
        match self.texts.as_slice() {
            [text] => Some(text),
            _ => None,
        }
    }

    /// All of them with something in the place of names, and the texts between as `literal` writes them.
    pub fn with(&self, name: &str, literal: impl Fn(&str) -> String) -> String {
        let texts: Vec<_> = self.texts.iter().map(|text| literal(text)).collect();
        texts.join(name)
    }

    /// A test in the Common Expression Language for whether a claim is one of them.
    pub fn test(&self, claim: &str, quote: impl Fn(&str) -> String) -> String {
        match (self.only(), self.texts.last().map_or("", String::as_str)) {
            (Some(sub), _) => format!("{claim} == {}", quote(sub)),
            (None, "") => format!("{claim}.startsWith({})", quote(self.beginning())),
            (None, end) => {
                let (begins, ends) = (quote(self.beginning()), quote(end));
                format!("{claim}.startsWith({begins}) && {claim}.endsWith({ends})")
            }
        }
    }

    /// What all of them begin with.
    pub fn beginning(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    /// The length of the longest, in bytes.
    pub fn longest(&self) -> usize {
        let texts: usize = self.texts.iter().map(String::len).sum();
        texts + self.texts.len().saturating_sub(1) * self.longest_name
    }

    /// A name for its holder, of the last words that it has.
    fn name(&self) -> String {
        let text = self.only().unwrap_or(self.beginning());
        let text = text.trim_end_matches('/');
        plain_name(text.rsplit('/').next().unwrap_or(text))
    }
}

/// The block of a file, and the name of the directory where one of many files is meant.
fn find<'a>(config: &'a Config, path: &Path) -> Option<(&'a TokenFileSpec, Option<String>)> {
    let files = || config.token_files.iter();
    if let Some(spec) = files().find(|spec| spec.path == path) {
        return Some((spec, None));
    }
    files().find_map(|spec| {
        let parameter = spec.parameter.as_ref()?;
        let below = path.strip_prefix(&parameter.parent).ok()?;
        let name = below.iter().next()?.to_str()?;
        let fits = parameter.pattern.fits(name) && parameter.path_of(name) == path;
        fits.then(|| (spec, Some(name.to_owned())))
    })
}

fn issuer<'a>(config: &'a Config, key: &KeyRef) -> anyhow::Result<&'a IssuerSpec> {
    let mut issuers = config.issuers.iter();
    let found = issuers.find(|issuer| issuer.name == key.issuer);
    found.ok_or_else(|| anyhow!("there is no issuer {}", key.issuer))
}

fn algorithm(config: &Config, key: &KeyRef) -> anyhow::Result<Algorithm> {
    let chain = issuer(config, key)?.chains.get(&key.key);
    let chain = chain.with_context(|| format!("there is no key {key}"))?;
    Ok(chain.key.algorithm)
}

fn other_program(entry: &Entry, program: &Path) -> Option<String> {
    let own = format!("unix:path:{}", program.display());
    let mut selectors = entry.selectors.iter().map(ToString::to_string);
    selectors.find(|text| {
        let path = text.starts_with("unix:path:") && *text != own;
        path || text.starts_with("unix:sha256:")
    })
}

fn azp(claims: &Claims) -> Option<String> {
    claims.as_map().get("azp").map(ToString::to_string)
}

fn socket(config: &Config) -> Option<PathBuf> {
    let path = &config.socket_path;
    (path != Path::new(DEFAULT_SOCKET)).then(|| path.clone())
}

fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("this program cannot be found")
}

/// A text as a name that every tool takes: it begins with a letter, and has 32 characters at most.
pub fn plain_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.to_ascii_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        name.insert_str(0, "agent-");
    }
    name.truncate(32);
    name.trim_end_matches('-').to_owned()
}

/// What there is instead.
fn listed(known: Vec<String>) -> String {
    match known.as_slice() {
        [] => "it has none".to_owned(),
        all => format!("it has {}", all.join(", ")),
    }
}
