//! JWT-SVIDs (JWT-SVID, sections 2 to 4): what is signed, and what is believed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::bundle::Bundle;
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::entry::{Audience, Claims};
use crate::jose::jwk::Jwk;
use crate::jose::jws::{JwsError, Unverified};
use crate::jose::{Algorithm, encode_base64url};
use crate::spiffe_id::SpiffeId;

/// The `aud` of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AudienceClaim {
    /// A string.
    One(Audience),
    /// An array, even of one, in this order.
    List(Vec<Audience>),
}

impl AudienceClaim {
    /// The audiences in order.
    pub fn as_slice(&self) -> &[Audience] {
        match self {
            Self::One(audience) => std::slice::from_ref(audience),
            Self::List(audiences) => audiences,
        }
    }
}

impl Serialize for AudienceClaim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(audience) => serializer.serialize_str(audience.as_str()),
            Self::List(list) => serializer.collect_seq(list.iter().map(Audience::as_str)),
        }
    }
}

/// The `sub` of a token: a SPIFFE ID, or in a token file any text that names its holder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sub(Arc<str>);

/// Why a text is no `sub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubError {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// Nobody takes so long a one: AWS and Snowflake take 255 bytes, Azure 600.
    #[error("it has more than 600 bytes")]
    Long,
    /// A control character stands in it.
    #[error("it holds a control character")]
    Control,
}

impl Sub {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&SpiffeId> for Sub {
    fn from(id: &SpiffeId) -> Self {
        Self(id.shared())
    }
}

impl FromStr for Sub {
    type Err = SubError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            Err(SubError::Empty)
        } else if text.len() > 600 {
            Err(SubError::Long)
        } else if text.chars().any(char::is_control) {
            Err(SubError::Control)
        } else {
            Ok(Self(text.into()))
        }
    }
}

impl fmt::Display for Sub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a token will say, times aside.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `sub`.
    pub sub: &'a Sub,
    /// `aud`.
    pub audience: &'a AudienceClaim,
    /// Configured claims.
    pub claims: &'a Claims,
    /// `jti`, where one is wanted.
    pub jti: Option<&'a str>,
}

/// When a token holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `iat`, whole seconds.
    pub issued_at: SystemTime,
    /// `exp`, whole seconds.
    pub expires_at: SystemTime,
    not_before: SystemTime,
}

impl Validity {
    /// From `now`, rounded down so that nobody sees a token from the future, for `ttl`; verifiers
    /// whose clocks lag by up to `nbf_margin` take it at once.
    pub fn starting(now: SystemTime, ttl: Duration, nbf_margin: Duration) -> Self {
        let now = unix_seconds(now);
        Self {
            issued_at: from_unix_seconds(now),
            expires_at: from_unix_seconds(now.saturating_add(ttl.as_secs())),
            not_before: from_unix_seconds(now.saturating_sub(nbf_margin.as_secs())),
        }
    }

    /// From `iat` to `exp`.
    pub fn life(&self) -> Duration {
        self.expires_at
            .duration_since(self.issued_at)
            .unwrap_or_default()
    }
}

/// What a token says.
struct Payload<'a>(Subject<'a>, Validity);

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(subject, validity) = self;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("iss", subject.issuer)?;
        members.serialize_entry("sub", subject.sub.as_str())?;
        members.serialize_entry("aud", subject.audience)?;
        members.serialize_entry("iat", &unix_seconds(validity.issued_at))?;
        members.serialize_entry("nbf", &unix_seconds(validity.not_before))?;
        members.serialize_entry("exp", &unix_seconds(validity.expires_at))?;
        if let Some(jti) = subject.jti {
            members.serialize_entry("jti", jti)?;
        }
        // None of them has a name from above.
        for (name, value) in subject.claims.as_map() {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

/// The bytes that a signature covers: header, dot, payload.
///
/// # Errors
///
/// The claims cannot be written as JSON.
pub fn signing_input(
    key: &Jwk,
    subject: Subject<'_>,
    validity: Validity,
) -> serde_json::Result<String> {
    let (algorithm, kid) = (key.algorithm().name(), key.kid());
    // Both are plain: JSON would escape nothing of them.
    let header = format!(r#"{{"alg":"{algorithm}","kid":"{kid}","typ":"JWT"}}"#);
    let payload = serde_json::to_vec(&Payload(subject, validity))?;
    Ok([encode_base64url(header), encode_base64url(payload)].join("."))
}

/// A token that somebody may use: it never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    fingerprint: u64,
}

impl Token {
    /// Joins what was signed and the signature.
    pub fn assemble(signing_input: String, signature: &[u8]) -> Self {
        let mut token = signing_input;
        let signature = encode_base64url(signature);
        // Tokens are kept: none has room to grow.
        token.reserve_exact(1 + signature.len());
        token.extend([".", &signature]);
        let hash = digest(&SHA256, token.as_bytes());
        let start = hash.as_ref().first_chunk().copied().unwrap_or_default();
        Self {
            text: token,
            fingerprint: u64::from_be_bytes(start),
        }
    }

    /// The token itself, to be handed to its owner and to nobody else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The first 16 hexadecimal digits of its SHA-256: enough to find it again.
    pub fn fingerprint(&self) -> String {
        format!("{:016x}", self.fingerprint)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A signed JWT-SVID and what is known of it.
#[derive(Debug, Clone)]
pub struct JwtSvid {
    /// The compact JWS.
    pub token: Token,
    /// Its subject.
    pub sub: Sub,
    /// Its times.
    pub validity: Validity,
    /// The key that signed it.
    pub kid: Arc<str>,
    /// Its `jti`, where it has one.
    pub jti: Option<String>,
}

/// Why a token is not believed. No message holds a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ValidationError {
    /// Its form is wrong.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// `sub` is missing or no SPIFFE ID.
    #[error("the sub of the token is not a SPIFFE ID")]
    Subject,
    /// Nothing is known about the trust domain of `sub`.
    #[error("no bundle is known for the trust domain of the token")]
    TrustDomain,
    /// No key of the trust domain made the signature.
    #[error("the token is not signed by a key of its trust domain")]
    Signature,
    /// `exp` is missing or no number.
    #[error("the token has no usable exp")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is no number.
    #[error("the nbf or iat of the token is not a number")]
    Time,
    /// `nbf` or `iat` lies ahead.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` is missing, empty or malformed.
    #[error("the token has no usable aud")]
    NoAudience,
    /// `aud` does not hold the audience.
    #[error("the token is not for this audience")]
    Audience,
}

/// Checks a token against the bundle of its trust domain (JWT-SVID, section 4).
///
/// # Errors
///
/// The first rule that it breaks.
pub fn validate(
    token: &str,
    bundle: &Bundle,
    audience: &str,
    now: SystemTime,
    leeway: Duration,
) -> Result<(SpiffeId, Map<String, Value>), ValidationError> {
    let unverified = Unverified::parse(token)?;
    let spiffe_id: SpiffeId = unverified
        .untrusted_payload()
        .get("sub")
        .and_then(Value::as_str)
        .and_then(|sub| sub.parse().ok())
        .ok_or(ValidationError::Subject)?;
    if spiffe_id.trust_domain() != &bundle.trust_domain {
        return Err(ValidationError::TrustDomain);
    }
    let claims = unverified
        .verified_by(bundle.keys.iter())
        .ok_or(ValidationError::Signature)?;
    check_times(&claims, now, leeway)?;
    check_audience(&claims, audience)?;
    Ok((spiffe_id, claims))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numeric dates up to the year 9999 are exact in a double"
)]
fn check_times(
    claims: &Map<String, Value>,
    now: SystemTime,
    leeway: Duration,
) -> Result<(), ValidationError> {
    const END_OF_9999: f64 = 253_402_300_799.0;
    let (now, leeway) = (unix_seconds(now) as f64, leeway.as_secs_f64());
    let date = |value: &Value| {
        value
            .as_f64()
            .filter(|seconds| (0.0..=END_OF_9999).contains(seconds))
    };
    let expiry = claims.get("exp").and_then(date);
    if expiry.ok_or(ValidationError::NoExpiry)? + leeway <= now {
        return Err(ValidationError::Expired);
    }
    for name in ["nbf", "iat"] {
        let Some(value) = claims.get(name) else {
            continue;
        };
        if date(value).ok_or(ValidationError::Time)? > now + leeway {
            return Err(ValidationError::NotYet);
        }
    }
    Ok(())
}

fn check_audience(claims: &Map<String, Value>, wanted: &str) -> Result<(), ValidationError> {
    let audiences = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(list)) => list
            .iter()
            .map(Value::as_str)
            .collect::<Option<Vec<_>>>()
            .ok_or(ValidationError::NoAudience)?,
        _ => return Err(ValidationError::NoAudience),
    };
    if audiences.is_empty() {
        Err(ValidationError::NoAudience)
    } else if audiences.contains(&wanted) {
        Ok(())
    } else {
        Err(ValidationError::Audience)
    }
}

/// The algorithms that some of `keys` are for, each once, RS256 first.
pub fn algorithms<'a>(keys: impl IntoIterator<Item = &'a Jwk>) -> Vec<Algorithm> {
    let mut found: Vec<_> = keys.into_iter().map(Jwk::algorithm).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests;
