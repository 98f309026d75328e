//! Token files: the same tokens that a caller would fetch, for programs that read a file.
//!
//! Each file is rewritten when a share of the token's life has passed. The clock for that counts
//! the time that the machine sleeps. A file that cannot be written keeps its old token and is
//! tried again, soon at first and then less often.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::attest::names::Names;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::durable::{Attributes, Dir, DirError, Persistence};
use crate::issue::{IssueError, Minter, Order};
use crate::svid::Validity;

/// The longest sleep: after a suspend the clock is looked at within this time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How far the wall clock may move from the clock that nobody sets before that counts as a step.
const LARGEST_DRIFT: Duration = Duration::from_secs(5);

/// A user or a group, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By name; looked up off the path of callers.
    Name(String),
}

/// One token file.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenFileSpec {
    /// Where it lies.
    pub path: PathBuf,
    /// The token in it.
    pub order: Order,
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
}

/// Why a file was not written.
#[derive(Debug, Error)]
enum MirrorError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Directory(#[from] DirError),
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("there is no group {0}")]
    NoGroup(String),
    #[error("{0}: giving a file to another user or group needs root or CAP_CHOWN and CAP_FOWNER")]
    Owner(io::Error),
    #[error(transparent)]
    Write(io::Error),
}

impl MirrorError {
    /// Tells the operator, as loudly as it deserves; whether it did.
    fn complain(&self, path: &Path) -> bool {
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

/// Keeps all token files fresh.
pub struct Mirror {
    minter: Arc<Minter>,
    authority: Arc<Authority>,
    names: watch::Receiver<Arc<Names>>,
    clock: Arc<dyn Clock>,
    files: Vec<Scheduled>,
}

/// A file and when it is due, on the clock that counts from boot.
struct Scheduled {
    spec: Arc<TokenFileSpec>,
    due: Duration,
    failures: u32,
    /// When the token in the file was made, on both clocks.
    written: Option<(SystemTime, Duration)>,
    /// Whether the failures were told to the operator, so that their end is too.
    complained: bool,
}

impl Mirror {
    /// A mirror of these files, all of them due at once.
    pub fn new(
        files: Vec<TokenFileSpec>,
        minter: Arc<Minter>,
        authority: Arc<Authority>,
        names: watch::Receiver<Arc<Names>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let schedule = |spec| Scheduled {
            spec: Arc::new(spec),
            due: Duration::ZERO,
            failures: 0,
            written: None,
            complained: false,
        };
        Self {
            minter,
            authority,
            names,
            clock,
            files: files.into_iter().map(schedule).collect(),
        }
    }

    /// Writes what is due until told to stop. The files stay: their readers outlive the agent.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.authority.changes();
        loop {
            self.notice_clock_steps();
            for index in 0..self.files.len() {
                if stop.is_cancelled() {
                    return;
                }
                self.visit(index).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause()) => {}
                // New keys may be what the failed ones wait for.
                _ = changes.changed() => self.retry_failed(),
                _ = self.names.changed() => self.retry_failed(),
            }
        }
    }

    async fn visit(&mut self, index: usize) {
        let now = self.clock.since_boot();
        let Some(spec) = self.files.get(index).filter(|file| file.due <= now) else {
            return;
        };
        let spec = Arc::clone(&spec.spec);
        let result = self.write(&spec).await;
        let now = self.clock.since_boot();
        let Some(file) = self.files.get_mut(index) else {
            return;
        };
        let path = spec.path.display();
        match result {
            Ok(validity) => {
                if std::mem::take(&mut file.complained) {
                    tracing::info!(%path, "the token file is written again");
                }
                file.failures = 0;
                file.due = now + refresh_after(&spec, validity.life());
                file.written = Some((validity.issued_at, now));
            }
            Err(error) => {
                let wait = retry_after(spec.order.ttl, file.failures);
                if !file.complained {
                    file.complained = error.complain(&spec.path);
                } else {
                    tracing::debug!(%path, %error, "the token file cannot be written yet");
                }
                file.failures = file.failures.saturating_add(1);
                file.due = now + wait;
            }
        }
    }

    /// Mints and writes; tells when the token holds.
    async fn write(&self, spec: &Arc<TokenFileSpec>) -> Result<Validity, MirrorError> {
        let names = Arc::clone(&self.names.borrow());
        let svid = self.minter.mint(&spec.order).await?;
        let validity = svid.validity;
        let spec = Arc::clone(spec);
        let work = move || put(&spec, &names, svid.token.reveal().as_bytes());
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| MirrorError::Write(io::Error::other(error)))??;
        Ok(validity)
    }

    fn pause(&self) -> Duration {
        let now = self.clock.since_boot();
        let next = self
            .files
            .iter()
            .map(|file| file.due.saturating_sub(now))
            .min();
        next.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))
    }

    /// A token from before the wall clock was set may have expired, or not hold yet.
    fn notice_clock_steps(&mut self) {
        let (wall, boot) = (self.clock.now(), self.clock.since_boot());
        for file in &mut self.files {
            if let Some((issued_at, written)) = file.written {
                let expected = issued_at + boot.saturating_sub(written);
                let step = expected
                    .duration_since(wall)
                    .unwrap_or_else(|ahead| ahead.duration());
                if step > LARGEST_DRIFT {
                    file.due = Duration::ZERO;
                }
            }
        }
    }

    fn retry_failed(&mut self) {
        for file in self.files.iter_mut().filter(|file| file.failures > 0) {
            file.due = Duration::ZERO;
        }
    }
}

/// Writes one file. What is lost in a power cut is made again at the next start, so nothing is
/// waited for.
fn put(spec: &TokenFileSpec, names: &Names, token: &[u8]) -> Result<(), MirrorError> {
    let (Some(directory), Some(name)) = (
        spec.path.parent(),
        spec.path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(MirrorError::Write(io::ErrorKind::InvalidFilename.into()));
    };
    let dir = if spec.create_directory {
        Dir::create(directory, 0o755)?
    } else {
        Dir::open(directory)?
    };
    dir.sweep().map_err(MirrorError::Write)?;
    let (owner, group) = dir.owner().map_err(MirrorError::Write)?;
    let owner = match &spec.owner {
        None => owner,
        Some(Account::Id(uid)) => *uid,
        Some(Account::Name(name)) => names
            .uid(name)
            .ok_or_else(|| MirrorError::NoUser(name.clone()))?,
    };
    let group = match &spec.group {
        None => group,
        Some(Account::Id(gid)) => *gid,
        Some(Account::Name(name)) => names
            .gid(name)
            .ok_or_else(|| MirrorError::NoGroup(name.clone()))?,
    };
    let attributes = Attributes {
        mode: spec.mode,
        owner: Some(owner),
        group: Some(group),
    };
    let written = dir.replace(name, token, attributes, Persistence::Volatile);
    written.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => MirrorError::Owner(error),
        _ => MirrorError::Write(error),
    })
}

/// How long a fresh token stays in its file: a share of its life, moved by up to a tenth for each
/// path, so that files made together are not rewritten together for ever.
fn refresh_after(spec: &TokenFileSpec, life: Duration) -> Duration {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut hasher = DefaultHasher::new();
    spec.path.hash(&mut hasher);
    let step = u32::try_from(hasher.finish() % 1001).unwrap_or(500);
    let jitter = 0.9 + 0.2 * f64::from(step) / 1000.0;
    life.mul_f64((spec.refresh_at * jitter).clamp(0.05, 0.9))
}

/// How long to wait after a failure: from the shorter of a second and a twentieth of the life,
/// doubling up to the shorter of thirty seconds and a tenth of it.
fn retry_after(ttl: Duration, failures: u32) -> Duration {
    let first = (ttl / 20).min(Duration::from_secs(1));
    let most = (ttl / 10).min(Duration::from_secs(30));
    first.saturating_mul(1 << failures.min(10)).min(most)
}

#[cfg(test)]
mod tests;
