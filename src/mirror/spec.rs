//! What is to be in a token file, and where.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use thiserror::Error;

use super::parameter::{Parameter, Template, Unfit};
use super::renew::Renewal;
use crate::attest::names::Account;
use crate::clock::unix_seconds;
use crate::entry::{Audience, Claims, EntrySet, KeyRef};
use crate::issue::Order;
use crate::svid::{AudienceClaim, JwtSvid, Sub};

/// One `token_file` block: a file, or with a path parameter one for each directory that appears.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenFileSpec {
    /// Where it lies, a parameter as it is written.
    pub path: PathBuf,
    /// The parameter in the path.
    pub parameter: Option<Parameter>,
    /// Whose token it is.
    pub holder: Holder,
    /// The issuer; that of the entry where absent.
    pub issuer: Option<Chosen>,
    /// Which of its keys signs; that of the entry where absent.
    pub key: Option<Arc<str>>,
    /// Further claims, over those of the issuer and the entry.
    pub claims: Claims,
    /// Whether each token carries a random `jti`, whatever the entry says.
    pub jti: bool,
    /// How the token is written.
    pub format: Format,
    /// `aud`.
    pub audience: AudienceClaim,
    /// Life of the token.
    pub ttl: Duration,
    /// How far `nbf` lies before `iat`.
    pub nbf_margin: Duration,
    /// The share of the token's life after which it is replaced, 0.1 to 0.8.
    pub refresh_at: f64,
    /// Permission bits.
    pub mode: u32,
    /// The owner; that of the directory where absent.
    pub owner: Option<Account>,
    /// The group; that of the directory where absent.
    pub group: Option<Account>,
    /// Whether missing directories are made.
    pub create_directory: bool,
    /// Whom to tell of each write.
    pub renewal: Option<Renewal>,
}

/// Whose token a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// That of an entry; the file waits for it where there is none.
    Entry(Arc<str>),
    /// One that the block names itself.
    Own(Sub),
    /// One for each directory, by its name.
    Each(Template),
}

/// An issuer that a block has chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its label.
    pub name: Arc<str>,
    /// The claims of all its tokens.
    pub claims: Claims,
}

/// Why a file has no token, and waits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Waits {
    /// For the entry.
    #[error(
        "it waits for the entry {0:?}, which is not there: agent entry create --entry-id makes it"
    )]
    Entry(Arc<str>),
    /// For an entry of this name that is no template: a caller completes those, and a file has none.
    #[error(
        "the entry {0:?} has a field, which each caller completes, and a file has no caller: give the file a spiffe_id of its own"
    )]
    Template(Arc<str>),
    /// For an entry that allows its audience.
    #[error("the entry {0:?} does not allow its audience")]
    Audience(Arc<str>),
    /// For an identity, a key and an issuer, which the configuration gives to all that name none.
    #[error("it has no identity, no issuer or no key")]
    Incomplete,
}

/// How a token is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The token alone, without a newline.
    Jwt,
    /// As an HTTP header, for `curl -H @file`.
    Header,
    /// As an object with what is known of the token.
    Json,
}

impl Format {
    /// The content of a file.
    pub fn render(self, svid: &JwtSvid, audience: &AudienceClaim) -> String {
        let token = svid.token.reveal();
        match self {
            Self::Jwt => token.to_owned(),
            Self::Header => format!("Authorization: Bearer {token}\n"),
            Self::Json => {
                let audience: Vec<_> = audience.as_slice().iter().map(Audience::as_str).collect();
                let document = json!({
                    "sub": svid.sub.as_str(),
                    "audience": audience,
                    "issued_at": unix_seconds(svid.validity.issued_at),
                    "expires_at": unix_seconds(svid.validity.expires_at),
                    "token": token,
                });
                format!("{document}\n")
            }
        }
    }
}

impl TokenFileSpec {
    /// The entry that it leans on, if it does.
    pub fn entry(&self) -> Option<&Arc<str>> {
        match &self.holder {
            Holder::Entry(id) => Some(id),
            Holder::Own(_) | Holder::Each(_) => None,
        }
    }

    /// Where the file for this value of the parameter lies; the value is of no matter where there is
    /// no parameter.
    pub fn path_of(&self, value: &str) -> Cow<'_, Path> {
        match &self.parameter {
            Some(parameter) => parameter.path_of(value).into(),
            None => Cow::Borrowed(&self.path),
        }
    }

    /// The token for this value of the parameter, made of the one for all of them.
    ///
    /// # Errors
    ///
    /// The value cannot stand in it.
    pub fn fill(&self, order: &Order, value: &str) -> Result<Order, Unfit> {
        let mut order = order.clone();
        if let Some(parameter) = &self.parameter {
            if let Holder::Each(template) = &self.holder {
                order.sub = parameter.sub(template, value)?;
            }
            order.claims = parameter.claims(&order.claims, value);
        }
        Ok(order)
    }

    /// The token that the file is to hold, a parameter as it is written.
    ///
    /// # Errors
    ///
    /// What it waits for.
    pub fn order(&self, entries: &EntrySet) -> Result<Order, Waits> {
        let order = |key, sub, claims: &Claims, jti| Order {
            key,
            sub,
            audience: self.audience.clone(),
            claims: claims.merged_with(&self.claims),
            ttl: self.ttl,
            nbf_margin: self.nbf_margin,
            jti: jti || self.jti,
        };
        let own = match &self.holder {
            Holder::Own(sub) => Some(sub.clone()),
            Holder::Each(template) => template.text.parse().ok(),
            Holder::Entry(id) => {
                let entry = entries.by_id(id);
                let entry = entry.ok_or_else(|| Waits::Entry(Arc::clone(id)))?;
                let identity = entry.grants.fixed();
                let identity = identity.ok_or_else(|| Waits::Template(Arc::clone(id)))?;
                let mut key = entry.key.clone();
                let mut claims = identity.claims.clone();
                if let Some(issuer) = &self.issuer {
                    key.issuer = Arc::clone(&issuer.name);
                    claims = issuer.claims.merged_with(&identity.own_claims);
                }
                if let Some(chosen) = &self.key {
                    key.key = Arc::clone(chosen);
                }
                if !entry.allows(self.audience.as_slice()) {
                    return Err(Waits::Audience(Arc::clone(id)));
                }
                return Ok(order(
                    key,
                    Sub::from(&identity.spiffe_id),
                    &claims,
                    entry.jti,
                ));
            }
        };
        let (issuer, key) = (self.issuer.as_ref(), self.key.as_ref());
        let (Some(sub), Some(issuer), Some(key)) = (own, issuer, key) else {
            return Err(Waits::Incomplete);
        };
        let key = KeyRef {
            issuer: Arc::clone(&issuer.name),
            key: Arc::clone(key),
        };
        Ok(order(key, sub, &issuer.claims, false))
    }
}
