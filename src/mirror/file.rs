//! One token file: what is to be in it, how it is written, and when.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use thiserror::Error;

use super::renew::Renewal;
use crate::attest::names::{Account, Names, NoAccount};
use crate::clock::unix_seconds;
use crate::durable::{Attributes, Dir, DirError, FileId, Persistence};
use crate::entry::{Audience, Claims, EntrySet, KeyRef};
use crate::issue::{IssueError, Order};
use crate::svid::{AudienceClaim, JwtSvid, Sub};

/// One token file.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenFileSpec {
    /// Where it lies.
    pub path: PathBuf,
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
}

/// An issuer that a block has chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its label.
    pub name: Arc<str>,
    /// The claims of all its tokens.
    pub claims: Claims,
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
            Holder::Own(_) => None,
        }
    }

    /// The token that the file is to hold, if there is such an entry and it allows the audience.
    pub fn order(&self, entries: &EntrySet) -> Option<Order> {
        let order = |key, sub, claims: &Claims, jti| Order {
            key,
            sub,
            audience: self.audience.clone(),
            claims: claims.merged_with(&self.claims),
            ttl: self.ttl,
            nbf_margin: self.nbf_margin,
            jti: jti || self.jti,
        };
        match &self.holder {
            Holder::Own(sub) => {
                let issuer = self.issuer.as_ref()?;
                let key = KeyRef {
                    issuer: Arc::clone(&issuer.name),
                    key: Arc::clone(self.key.as_ref()?),
                };
                Some(order(key, sub.clone(), &issuer.claims, false))
            }
            Holder::Entry(id) => {
                let entry = entries.by_id(id)?;
                let mut key = entry.key.clone();
                let mut claims = entry.claims.clone();
                if let Some(issuer) = &self.issuer {
                    key.issuer = Arc::clone(&issuer.name);
                    claims = issuer.claims.merged_with(&entry.own_claims);
                }
                if let Some(chosen) = &self.key {
                    key.key = Arc::clone(chosen);
                }
                let allowed = entry.allows(self.audience.as_slice());
                allowed.then(|| order(key, Sub::from(&entry.spiffe_id), &claims, entry.jti))
            }
        }
    }
}

/// Why a file was not written.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// There is no token.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// Its owner or its group is nobody.
    #[error(transparent)]
    NoAccount(#[from] NoAccount),
    /// We may not give it away.
    #[error("{0}: giving a file to another user or group needs root or CAP_CHOWN and CAP_FOWNER")]
    Owner(io::Error),
    /// Its directory belongs to somebody, and the file is to belong to somebody else.
    #[error(
        "its directory belongs to uid {0}, so it can belong to nobody else: leave out owner, or use a directory of root"
    )]
    OtherOwner(u32),
    /// Its directory belongs to somebody who is not in that group.
    #[error("its directory belongs to uid {0}, who is not in the group {1}")]
    OtherGroup(u32, u32),
    /// Its directory belongs to somebody whom we cannot become.
    #[error(
        "its directory belongs to uid {uid}: writing there needs root, or CAP_SETUID and CAP_SETGID ({source})"
    )]
    Become {
        /// Whose it is.
        uid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another token belongs in it by now.
    #[error("another token belongs in it")]
    Obsolete,
    /// Its file system does not answer.
    #[error("its directory does not answer")]
    Hangs,
    /// It cannot be written.
    #[error(transparent)]
    Write(io::Error),
}

impl MirrorError {
    /// Tells the operator, as loudly as it deserves; whether it did.
    pub fn complain(&self, path: &Path) -> bool {
        let path = path.display();
        match self {
            // The keys come in a moment, and the file with them.
            Self::Issue(IssueError::NotReady(_)) => return false,
            Self::Directory(error) if error.is_missing() => {
                tracing::info!(%path, %error, "the token file waits for its directory");
            }
            error => {
                tracing::warn!(%path, %error, "the token file cannot be written; trying again");
            }
        }
        true
    }
}

/// Where a file lies: its directory, and its name there.
///
/// # Errors
///
/// It lies nowhere.
pub fn place(path: &Path) -> Result<(&Path, &str), MirrorError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let invalid = || MirrorError::Write(io::ErrorKind::InvalidFilename.into());
    path.parent().zip(name).ok_or_else(invalid)
}

/// Writes one file into a directory of root or of the agent's user. What is lost in a power cut is
/// made again at the next start, so nothing is waited for.
pub fn put(spec: &TokenFileSpec, names: &Names, content: &[u8]) -> Result<FileId, MirrorError> {
    let (directory, name) = place(&spec.path)?;
    let dir = if spec.create_directory {
        Dir::create(directory, 0o755)?
    } else {
        Dir::open(directory)?
    };
    dir.sweep().map_err(MirrorError::Write)?;
    let (owner, group) = dir.owner().map_err(MirrorError::Write)?;
    let owner = match &spec.owner {
        Some(account) => account.uid(names)?,
        None => owner,
    };
    let group = match &spec.group {
        Some(account) => account.gid(names)?,
        None => group,
    };
    let attributes = Attributes {
        mode: spec.mode,
        owner: Some(owner),
        group: Some(group),
    };
    let written = dir.replace(name, content, attributes, Persistence::Volatile);
    written.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => MirrorError::Owner(error),
        _ => MirrorError::Write(error),
    })
}

/// How long a fresh token stays in its file: a share of its life, moved by up to a tenth for each
/// path, so that files made together are not rewritten together for ever.
pub fn refresh_after(spec: &TokenFileSpec, life: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut hasher = DefaultHasher::new();
    spec.path.hash(&mut hasher);
    let step = u32::try_from(hasher.finish() % 1001).unwrap_or(500);
    let jitter = 0.9 + 0.2 * f64::from(step) / 1000.0;
    life.mul_f64((spec.refresh_at * jitter).clamp(0.05, 0.9))
}

/// How long to wait after a failure: from the shorter of a second and a twentieth of the life,
/// doubling up to the shorter of thirty seconds and a tenth of it.
pub fn retry_after(ttl: Duration, failures: u32) -> Duration {
    let first = (ttl / 20).min(Duration::from_secs(1));
    let most = (ttl / 10).min(Duration::from_secs(30));
    first.saturating_mul(1 << failures.min(10)).min(most)
}
