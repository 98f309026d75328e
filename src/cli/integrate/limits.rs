//! What each of the others takes, and what of a token it would not.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::facts::{Facts, Source};
use crate::duration::show_duration;
use crate::issuer::AWS_AUDIENCE;
use crate::jose::Algorithm;
use crate::mirror::Format;
use crate::publish::check::Severity;

/// RSA with PKCS #1, and the curves of NIST.
pub const RSA_AND_EC: &[Algorithm] = &[
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];

/// The algorithms of JWT-SVIDs.
pub const ALL_OF_SVIDS: &[Algorithm] = &[
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Ps256,
    Algorithm::Ps384,
    Algorithm::Ps512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];

/// Audiences that somebody is known by.
const KNOWN: [(&str, &str); 3] = [
    ("AWS", AWS_AUDIENCE),
    ("Azure", "api://AzureADTokenExchange"),
    ("Google Cloud", "//iam.googleapis.com/"),
];

/// How long verifiers and web servers keep a JWKS as a rule.
const USUAL_CACHE: Duration = Duration::from_secs(15 * 60);

/// What one of the others takes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Its name in sentences.
    pub who: &'static str,
    /// Whether it looks for the issuer from outside of this network.
    pub is_public: bool,
    /// Whether the issuer may have a port.
    pub takes_port: bool,
    /// The longest issuer, in bytes.
    pub issuer: usize,
    /// What may have signed.
    pub algorithms: &'static [Algorithm],
    /// The length of `sub` in bytes.
    pub sub: RangeInclusive<usize>,
    /// Whether a token may name several audiences.
    pub takes_audiences: bool,
    /// The longest audience, in bytes.
    pub audience: usize,
    /// Whether `azp` counts as the audience.
    pub minds_azp: bool,
    /// The longest life of a token.
    pub longest_life: Option<Duration>,
    /// How long its libraries keep what they have read, and show it again.
    pub kept: Duration,
    /// The forms of a token file that its libraries read.
    pub formats: &'static [Format],
}

impl Limits {
    /// Of somebody of whom no limit is known.
    pub const fn of(who: &'static str) -> Self {
        Self {
            who,
            is_public: false,
            takes_port: true,
            issuer: usize::MAX,
            algorithms: ALL_OF_SVIDS,
            sub: 1..=usize::MAX,
            takes_audiences: true,
            audience: usize::MAX,
            minds_azp: false,
            longest_life: None,
            kept: Duration::ZERO,
            formats: &[Format::Jwt],
        }
    }
}

/// A limit that a token does not keep to, or hardly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern {
    /// An error where nothing would be granted, a warning where it may not always.
    pub severity: Severity,
    /// The limit: `issuer`, `port`, `algorithm`, `sub`, `audience`, `azp`, `ttl`, `format`, `cache`,
    /// `caller` or `pattern`.
    pub limit: &'static str,
    /// What is beyond it.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Self { limit, message, .. } = self;
        write!(f, "{severity} ({limit}): {message}\n  help: {}", self.help)
    }
}

/// Makes an error.
pub fn error(limit: &'static str, message: String, help: impl Into<String>) -> Concern {
    Concern {
        severity: Severity::Error,
        limit,
        message,
        help: help.into(),
    }
}

/// Makes a warning.
pub fn warning(limit: &'static str, message: String, help: impl Into<String>) -> Concern {
    Concern {
        severity: Severity::Warning,
        ..error(limit, message, help)
    }
}

/// That a role is for all subjects like this one, in which `*` takes slashes too.
pub fn wide(subject: &str) -> Concern {
    let message = format!("the role is for every sub like {subject}");
    let help = "* takes slashes too: give nothing else an identity that begins so";
    warning("pattern", message, help)
}

/// Everything of these tokens that is beyond what somebody takes.
pub fn check(facts: &Facts, limits: &Limits) -> Vec<Concern> {
    let checks = [
        issuer, port, algorithm, sub, audience, foreign, azp, life, kept, format, cache, caller,
    ];
    checks
        .iter()
        .filter_map(|check| check(facts, limits))
        .collect()
}

fn issuer(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let (url, who) = (&facts.issuer.url, limits.who);
    let length = url.as_str().len();
    if !url.is_secure() {
        let message = format!("{url} is not https, and {who} takes nothing else");
        return Some(error("issuer", message, "serve the webroot over https"));
    }
    if url.is_loopback() {
        let message = format!("{url} is this machine, and {who} must read the documents there");
        let help = "give the issuer the name under which others reach its web server";
        let make = if limits.is_public { error } else { warning };
        return Some(make("issuer", message, help.to_owned()));
    }
    (length > limits.issuer).then(|| {
        let message = format!(
            "{url} has {length} bytes, and {who} takes {}",
            limits.issuer
        );
        error("issuer", message, "choose a shorter url")
    })
}

fn port(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let url = &facts.issuer.url;
    let port = url.port().filter(|_| !limits.takes_port)?;
    let message = format!("{url} has the port {port}, and {} takes none", limits.who);
    Some(error(
        "port",
        message,
        "serve the webroot at port 443, and take it out of url",
    ))
}

fn algorithm(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let Facts { algorithm, .. } = facts;
    (!limits.algorithms.contains(algorithm)).then(|| {
        let taken: Vec<_> = limits.algorithms.iter().map(|taken| taken.name()).collect();
        let message = format!(
            "the key signs with {algorithm}, and {} takes {}",
            limits.who,
            taken.join(", ")
        );
        error(
            "algorithm",
            message,
            "choose another key with issuer and key",
        )
    })
}

fn sub(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let subject = &facts.subject;
    let (least, most, longest) = (limits.sub.start(), limits.sub.end(), subject.longest());
    if longest > *most {
        let (who, written) = (limits.who, &subject.written);
        let message = format!("{written} has up to {longest} bytes, and {who} takes {most}");
        return Some(if subject.only().is_some() {
            error("sub", message, "choose a shorter identity")
        } else {
            warning("sub", message, "allow only shorter names with pattern")
        });
    }
    (longest < *least).then(|| {
        let message = format!(
            "{} has {longest} bytes, and {} wants {least}",
            subject.written, limits.who
        );
        error("sub", message, "choose a longer one")
    })
}

fn audience(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let (who, names) = (limits.who, facts.audiences.join(", "));
    if let Source::Command { allowed: false, .. } = facts.source {
        let message = format!("the entry does not allow the audience {names}");
        let help = "add it to audiences of the entry, or name another with --audience";
        return Some(error("audience", message, help));
    }
    if let Some(long) = facts
        .audiences
        .iter()
        .find(|name| name.len() > limits.audience)
    {
        let message = format!(
            "{long} has {} bytes, and {who} takes {}",
            long.len(),
            limits.audience
        );
        return Some(error("audience", message, "choose a shorter audience"));
    }
    if facts.audiences.len() < 2 {
        return None;
    }
    Some(if limits.takes_audiences {
        let message = format!("each of {names} could use the token at the others");
        warning("audience", message, "give each a token file of its own")
    } else {
        let message = format!("the token is for {names}, and {who} takes one audience alone");
        error("audience", message, "give each a token file of its own")
    })
}

fn foreign(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let others = KNOWN.iter().filter(|(who, _)| *who != limits.who);
    let mut named = others.filter(|(_, known)| {
        let mut audiences = facts.audiences.iter();
        audiences.any(|audience| audience.trim_start_matches("https:").starts_with(known))
    });
    let (other, audience) = named.next()?;
    let message = format!(
        "the token is for {audience}: {} could use it at {other}",
        limits.who
    );
    Some(warning("audience", message, "give each a token of its own"))
}

fn azp(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let azp = facts.azp.as_ref().filter(|_| limits.minds_azp)?;
    let message = format!(
        "the claim azp is {azp}, which {} takes for the audience",
        limits.who
    );
    Some(error("azp", message, "remove it from claims"))
}

fn life(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let longest = limits
        .longest_life
        .filter(|longest| facts.life > *longest)?;
    let (life, longest) = (show_duration(facts.life), show_duration(longest));
    let message = format!("tokens live for {life}, and {} takes {longest}", limits.who);
    Some(error("ttl", message, "lower the ttl"))
}

fn kept(facts: &Facts, limits: &Limits) -> Option<Concern> {
    // Some time is lost between the reading and the end of the request.
    let needed = limits.kept + Duration::from_secs(60);
    let left = facts.least_left();
    (!limits.kept.is_zero() && left < needed).then(|| {
        let message = format!(
            "tokens may have only {} left, and libraries of {} show what they have read for {}",
            show_duration(left),
            limits.who,
            show_duration(limits.kept)
        );
        let option = match facts.source {
            Source::Command { .. } => "jwt_svid_ttl = \"1h\" in the entry",
            Source::File { .. } => "ttl = \"1h\" in the block, or a smaller refresh_at",
        };
        warning("ttl", message, format!("write {option}"))
    })
}

fn format(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let Source::File { format, .. } = facts.source else {
        return None;
    };
    (!limits.formats.contains(&format)).then(|| {
        let message = format!(
            "the file holds more than the token, and {} sends all of it",
            limits.who
        );
        error("format", message, "write format = \"jwt\"")
    })
}

fn cache(facts: &Facts, limits: &Limits) -> Option<Concern> {
    let margin = facts.issuer.publish_margin;
    (margin < USUAL_CACHE).then(|| {
        let message = format!(
            "keys sign {} after they are published, and {} may keep the older ones for longer",
            show_duration(margin),
            limits.who
        );
        warning(
            "cache",
            message,
            "raise publish_margin of the key; an hour is the default",
        )
    })
}

fn caller(facts: &Facts, _: &Limits) -> Option<Concern> {
    let Source::Command { other_program, .. } = &facts.source else {
        return None;
    };
    let selector = other_program.as_ref()?;
    let message = format!(
        "the entry wants {selector}, and what fetches the token is {}",
        facts.program.display()
    );
    let help = "tell the caller by its user, or use a token file";
    Some(warning("caller", message, help))
}
