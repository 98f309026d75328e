//! Token files: the same tokens that a caller would fetch, for programs that read a file.
//!
//! Each file is rewritten when a share of the token's life has passed. The clock for that counts
//! the time that the machine sleeps. A file that cannot be written keeps its old token and is
//! tried again, soon at first and then less often.

mod file;
mod flight;
mod renew;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use self::file::refresh_after;
pub use self::file::{Chosen, Format, Holder, TokenFileSpec, retry_after};
use self::flight::{Flight, Landed};
pub use self::renew::Renewal;
use self::writer::Writers;
use crate::attest::names::Names;
use crate::audit::Audit;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::durable::FileId;
use crate::issue::{Minter, Order};
use crate::registry::Snapshot;
use crate::svid::{AudienceClaim, Sub, Validity};

/// The longest sleep: after a suspend the clock is looked at within this time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// So many files are written at a time. One that hangs holds up no other.
const MAX_FLIGHTS: usize = 32;

/// How long a round waits for files to be removed.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(50);

/// How far the wall clock may move from the clock that nobody sets before that counts as a step.
const LARGEST_DRIFT: Duration = Duration::from_secs(5);

/// What the mirror follows.
pub struct Sources {
    /// The files that are configured.
    pub files: watch::Receiver<Arc<Vec<TokenFileSpec>>>,
    /// The entries whose identities they have.
    pub registry: watch::Receiver<Arc<Snapshot>>,
    /// Numbers of owners and groups.
    pub names: watch::Receiver<Arc<Names>>,
    /// The keys that sign.
    pub authority: Arc<Authority>,
    /// Keeps the record.
    pub audit: Arc<Audit>,
    /// Changes when the wall clock is set.
    pub steps: watch::Receiver<()>,
}

/// Keeps all token files fresh.
pub struct Mirror {
    sources: Sources,
    minter: Arc<Minter>,
    clock: Arc<dyn Clock>,
    files: Vec<Scheduled>,
    /// Files that are to be removed.
    gone: Vec<(PathBuf, FileId)>,
    /// Files that are being removed; gives back those that could not be.
    removal: Option<JoinHandle<Vec<(PathBuf, FileId)>>>,
    /// Files that are being written.
    flights: JoinSet<Landed>,
    writers: Writers,
    shown: watch::Sender<Arc<Vec<FileStatus>>>,
}

/// A file and when it is due, on the clock that counts from boot.
struct Scheduled {
    spec: Arc<TokenFileSpec>,
    /// The token that belongs in it; none as long as there is no such entry.
    order: Option<Arc<Order>>,
    due: Duration,
    /// Whether it is being written.
    flies: bool,
    failures: u32,
    /// The token that lies in it.
    written: Option<Written>,
    /// Why it could not be written the last time.
    error: String,
    /// Whether the failures were told to the operator, so that their end is too.
    complained: bool,
}

/// A token that was written to its file.
#[derive(Debug, Clone)]
struct Written {
    file: FileId,
    /// The key that signed it.
    kid: Arc<str>,
    validity: Validity,
    /// When, on the clock that counts from boot.
    at: Duration,
}

/// How a file stands, for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Where it lies.
    pub path: PathBuf,
    /// The entry that it leans on; none where the block names the holder itself.
    pub entry: Option<Arc<str>>,
    /// `sub` of its token; none as long as there is no such entry.
    pub sub: Option<Sub>,
    /// `aud`.
    pub audience: AudienceClaim,
    /// The times of its token; `None` where there is none.
    pub validity: Option<Validity>,
    /// When it is to be written next, on the clock that counts from boot.
    pub due: Duration,
    /// What is wrong; empty where nothing is.
    pub error: String,
}

impl Mirror {
    /// A mirror of what the sources say, all files due at once.
    pub fn new(sources: Sources, minter: Arc<Minter>, clock: Arc<dyn Clock>) -> Self {
        Self {
            sources,
            minter,
            clock,
            files: Vec::new(),
            gone: Vec::new(),
            removal: None,
            flights: JoinSet::new(),
            writers: Writers::default(),
            shown: watch::Sender::default(),
        }
    }

    /// How the files stand, now and later.
    pub fn status(&self) -> watch::Receiver<Arc<Vec<FileStatus>>> {
        self.shown.subscribe()
    }

    /// Writes what is due until told to stop. The files stay: their readers outlive the agent.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.sources.authority.changes();
        self.adopt().await;
        loop {
            self.remove_gone().await;
            self.notice_clock_steps();
            if !self.sources_changed() {
                self.launch();
            }
            self.show();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.pause()) => {}
                Some(landed) = self.flights.join_next() => {
                    let others = std::iter::from_fn(|| self.flights.try_join_next());
                    let all: Vec<_> = std::iter::once(landed).chain(others).collect();
                    all.into_iter().flatten().for_each(|landed| self.land(landed));
                }
                Ok(()) = self.sources.steps.changed() => {}
                Ok(()) = self.sources.files.changed() => self.adopt().await,
                Ok(()) = self.sources.registry.changed() => self.adopt().await,
                Ok(()) = changes.changed() => self.follow_keys(),
                // New names may be what the failed ones wait for.
                Ok(()) = self.sources.names.changed() => self.retry_failed(),
            }
        }
    }

    /// Follows the sources: what is as it was goes on, what is new or different is due at once, and
    /// a file whose block or entry is gone is removed, if it is still the one that was written.
    async fn adopt(&mut self) {
        let specs = Arc::clone(&self.sources.files.borrow_and_update());
        let entries = self.sources.registry.borrow_and_update().entries.clone();
        let mut former: HashMap<PathBuf, Scheduled> = HashMap::new();
        for file in self.files.drain(..) {
            former.insert(file.spec.path.clone(), file);
        }
        for spec in specs.iter() {
            let order = spec.order(&entries).map(Arc::new);
            let old = former.remove(&spec.path);
            let mut file = match old {
                Some(old) if *old.spec == *spec && old.order == order => old,
                old => Scheduled {
                    spec: Arc::new(spec.clone()),
                    order,
                    due: Duration::ZERO,
                    flies: old.as_ref().is_some_and(|old| old.flies),
                    failures: 0,
                    written: old.and_then(|old| old.written),
                    error: String::new(),
                    complained: false,
                },
            };
            if file.order.is_none() {
                file.flies = false;
                file.error = format!(
                    "there is no entry {:?} that allows its audience",
                    spec.entry().map_or("", |entry| entry)
                );
                self.gone.extend(
                    file.written
                        .take()
                        .map(|written| (spec.path.clone(), written.file)),
                );
            }
            self.files.push(file);
        }
        for (path, file) in former {
            self.gone
                .extend(file.written.map(|written| (path, written.file)));
        }
        self.remove_gone().await;
    }

    /// Removes files whose token nobody is to have any more; one that cannot be is tried again with
    /// the next round, and one in a directory that does not answer is not waited for.
    async fn remove_gone(&mut self) {
        if self.removal.is_none() && !self.gone.is_empty() {
            let gone = std::mem::take(&mut self.gone);
            let writers = self.writers.clone();
            let work = move || writers.remove_all(gone);
            self.removal = Some(tokio::task::spawn_blocking(work));
        }
        let Some(removal) = &mut self.removal else {
            return;
        };
        if let Ok(left) = tokio::time::timeout(REMOVAL_PATIENCE, removal).await {
            self.gone.extend(left.unwrap_or_default());
            self.removal = None;
        }
    }

    /// Whether what the files follow has changed since they were last adopted.
    fn sources_changed(&self) -> bool {
        let changed = |result: Result<bool, watch::error::RecvError>| result.unwrap_or(false);
        changed(self.sources.registry.has_changed()) || changed(self.sources.files.has_changed())
    }

    fn show(&self) {
        let status = |file: &Scheduled| FileStatus {
            path: file.spec.path.clone(),
            entry: file.spec.entry().cloned(),
            sub: file.order.as_ref().map(|order| order.sub.clone()),
            audience: file.spec.audience.clone(),
            validity: file.written.as_ref().map(|written| written.validity),
            due: file.due,
            error: file.error.clone(),
        };
        let all: Vec<_> = self.files.iter().map(status).collect();
        self.shown.send_if_modified(|old| {
            let changed = **old != all;
            if changed {
                *old = Arc::new(all);
            }
            changed
        });
    }

    /// Starts to write what is due, up to so many files at a time.
    fn launch(&mut self) {
        let now = self.clock.since_boot();
        for file in &mut self.files {
            if self.flights.len() >= MAX_FLIGHTS {
                return;
            }
            if let Some(order) = &file.order
                && file.due <= now
                && !file.flies
            {
                file.flies = true;
                let flight = Flight {
                    spec: Arc::clone(&file.spec),
                    order: Arc::clone(order),
                    names: Arc::clone(&self.sources.names.borrow()),
                    minter: Arc::clone(&self.minter),
                    audit: Arc::clone(&self.sources.audit),
                    writers: self.writers.clone(),
                };
                self.flights.spawn(flight.fly());
            }
        }
    }

    /// Notes how the writing of a file went. What it was written for may be gone by now.
    fn land(&mut self, landed: Landed) {
        let now = self.clock.since_boot();
        let path = &landed.spec.path;
        let file = self.files.iter_mut().find(|file| file.spec.path == *path);
        let Some(file) = file.filter(|file| file.order.is_some()) else {
            // Nobody is to have it any more.
            let written = landed.result.ok().map(|done| (path.clone(), done.file));
            self.gone.extend(written);
            return;
        };
        let as_wanted = file
            .order
            .as_ref()
            .is_some_and(|order| Arc::ptr_eq(order, &landed.order));
        file.flies = false;
        match landed.result {
            Ok(done) => {
                if std::mem::take(&mut file.complained) {
                    tracing::info!(path = %path.display(), "the token file is written again");
                }
                file.failures = 0;
                file.error = done.untold;
                // A key may have been tainted while the file was written.
                let good = as_wanted && self.sources.authority.believes(&done.kid);
                file.due = if good {
                    now + refresh_after(&landed.spec, done.validity.life())
                } else {
                    Duration::ZERO
                };
                file.written = Some(Written {
                    file: done.file,
                    kid: done.kid,
                    validity: done.validity,
                    at: now,
                });
            }
            Err(_) if !as_wanted => file.due = Duration::ZERO,
            Err(error) => {
                let wait = retry_after(landed.spec.ttl, file.failures);
                if !file.complained {
                    file.complained = error.complain(path);
                } else {
                    tracing::debug!(path = %path.display(), %error, "the token file cannot be written yet");
                }
                file.error = error.to_string();
                file.failures = file.failures.saturating_add(1);
                file.due = now + wait;
            }
        }
    }

    fn pause(&self) -> Duration {
        let now = self.clock.since_boot();
        if self.flights.len() >= MAX_FLIGHTS {
            return LOOK_EVERY;
        }
        let waiting = self
            .files
            .iter()
            .filter(|file| file.order.is_some() && !file.flies);
        let next = waiting.map(|file| file.due.saturating_sub(now)).min();
        next.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))
    }

    /// A token from before the wall clock was set may have expired, or not hold yet.
    fn notice_clock_steps(&mut self) {
        let (wall, boot) = (self.clock.now(), self.clock.since_boot());
        for file in &mut self.files {
            if let Some(written) = &file.written {
                let expected = written.validity.issued_at + boot.saturating_sub(written.at);
                let step = expected
                    .duration_since(wall)
                    .unwrap_or_else(|ahead| ahead.duration());
                if step > LARGEST_DRIFT {
                    file.due = Duration::ZERO;
                }
            }
        }
    }

    /// A token whose key is not published any more is of no use. New keys may be what the failed
    /// files wait for.
    fn follow_keys(&mut self) {
        for file in &mut self.files {
            let authority = &self.sources.authority;
            let orphaned = |written: &Written| !authority.believes(&written.kid);
            if file.written.as_ref().is_some_and(orphaned) {
                file.due = Duration::ZERO;
            }
        }
        self.retry_failed();
    }

    fn retry_failed(&mut self) {
        for file in self.files.iter_mut().filter(|file| file.failures > 0) {
            file.due = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests;
