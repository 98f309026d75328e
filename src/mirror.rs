//! Token files: the same tokens that a caller would fetch, for programs that read a file.
//!
//! Each file is rewritten when a share of the token's life has passed. The clock for that counts
//! the time that the machine sleeps. A file that cannot be written keeps its old token and is
//! tried again, soon at first and then less often. A start writes every file anew, whatever lies
//! there.

mod error;
mod flight;
mod landing;
mod late;
mod manifest;
mod pace;
mod parameter;
mod places;
mod removal;
mod renew;
mod spec;
mod status;
mod table;
mod user;
mod watch;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch as state;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::flight::{Flight, Landed, Launch};
use self::landing::Complaints;
use self::manifest::Lying;
pub use self::manifest::{Former, Manifest};
pub use self::pace::retry_after;
pub use self::parameter::{DirectoryOwner, Parameter, Pattern, Template};
use self::places::{News, Places};
use self::removal::Removals;
pub use self::renew::Renewal;
pub use self::spec::{Chosen, Format, Holder, TokenFileSpec};
pub use self::status::FileStatus;
use self::table::{Table, TokenFile, Written};
use self::writer::Writers;
use crate::attest::names::Names;
use crate::audit::Audit;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::issue::Minter;
use crate::registry::Snapshot;
use crate::sys;

/// The longest sleep: after a suspend the clock is looked at within this time, and what no event
/// tells of.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// So many flights are under way at a time. One that hangs holds up no other.
const MAX_FLIGHTS: usize = 128;

/// So many files of a block are written in one flight.
const MAX_BATCH: usize = 16;

/// So many files written one after the other leave memory behind that is not needed again soon.
const CROWD: usize = 1000;

/// How long a change of the sources waits for files to be removed.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(50);

/// How far the wall clock may move from the clock that nobody sets before that counts as a step.
const LARGEST_DRIFT: Duration = Duration::from_secs(5);

/// What the mirror follows.
pub struct Sources {
    /// The blocks that are configured.
    pub files: state::Receiver<Arc<Vec<TokenFileSpec>>>,
    /// The entries whose identities they have.
    pub registry: state::Receiver<Arc<Snapshot>>,
    /// Numbers of owners and groups.
    pub names: state::Receiver<Arc<Names>>,
    /// The keys that sign.
    pub authority: Arc<Authority>,
    /// Keeps the record.
    pub audit: Arc<Audit>,
    /// Changes when the wall clock is set.
    pub steps: state::Receiver<()>,
}

/// How the files stand, for whoever asks.
#[derive(Debug, Clone, Default)]
pub struct Files(Arc<Mutex<Table>>);

impl Files {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps all token files fresh.
pub struct Mirror {
    sources: Sources,
    minter: Arc<Minter>,
    clock: Arc<dyn Clock>,
    files: Files,
    places: Places,
    removals: Removals,
    /// Files that are being written.
    flights: JoinSet<Landed>,
    writers: Writers,
    manifest: Arc<Manifest>,
    /// When the list of files may be written anew.
    list_due: Duration,
    /// What earlier agents wrote and nobody has asked for yet.
    former: Former,
    complaints: Complaints,
    /// How many files were written since memory was last given back.
    unsettled: usize,
    /// Both clocks when the wall clock was last known to go with the other.
    in_step: (SystemTime, Duration),
}

impl Mirror {
    /// A mirror of what the sources say, all files due at once. `list` is that of the data directory,
    /// with the files of earlier agents.
    pub fn new(
        sources: Sources,
        minter: Arc<Minter>,
        clock: Arc<dyn Clock>,
        (manifest, former): (Manifest, Former),
    ) -> Self {
        let manifest = Arc::new(manifest);
        Self {
            sources,
            minter,
            in_step: (clock.now(), clock.since_boot()),
            clock,
            files: Files::default(),
            places: Places::new(),
            removals: Removals::default(),
            flights: JoinSet::new(),
            writers: Writers::new(Arc::clone(&manifest)),
            manifest,
            list_due: Duration::ZERO,
            former,
            complaints: Complaints::default(),
            unsettled: 0,
        }
    }

    /// How the files stand, now and later.
    pub fn files(&self) -> Files {
        self.files.clone()
    }

    /// Writes what is due until told to stop. The files stay: their readers outlive the agent.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(|_| false) => {}
        }
    }

    /// Writes each file once, and gives those that could not be written. A directory that is not
    /// there, or an entry, counts as a failure: nobody waits for it.
    pub async fn run_once(mut self) -> Vec<FileStatus> {
        self.follow(Self::has_tried_all).await;
        let mut failed = self.files.all();
        failed.retain(|file| !file.error.is_empty());
        failed
    }

    fn has_tried_all(&self) -> bool {
        let quiet =
            self.flights.is_empty() && self.places.are_surveyed() && !self.removals.are_under_way();
        let table = self.files.lock();
        let tried = |file: &TokenFile| file.written.is_some() || file.trouble.is_some();
        quiet && table.files().all(|(_, file)| tried(file))
    }

    async fn follow(&mut self, enough: fn(&Self) -> bool) {
        let mut changes = self.sources.authority.changes();
        self.places.watch();
        self.adopt().await;
        loop {
            self.removals.start(&self.writers, self.clock.since_boot());
            self.notice_clock_step();
            if !self.sources_changed() {
                self.look_for_directories();
                self.launch();
            }
            self.keep_list();
            self.settle();
            if enough(self) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(self.pause()) => {}
                Some(landed) = self.flights.join_next() => {
                    let others = std::iter::from_fn(|| self.flights.try_join_next());
                    let all: Vec<_> = std::iter::once(landed).chain(others).collect();
                    all.into_iter().flatten().for_each(|landed| self.land(landed));
                }
                () = self.removals.one_ended(), if self.removals.are_under_way() => {}
                news = self.places.news() => self.heed(news),
                Ok(()) = self.sources.steps.changed() => {}
                Ok(()) = self.sources.files.changed() => self.adopt().await,
                Ok(()) = self.sources.registry.changed() => self.adopt().await,
                Ok(()) = changes.changed() => self.follow_keys(),
                // New names may be what the failed ones wait for.
                Ok(()) = self.sources.names.changed() => {
                    self.retry_failed();
                    self.places.look_again(&self.files.lock(), true);
                }
            }
        }
    }

    fn look_for_directories(&mut self) {
        let table = self.files.lock();
        self.places.look_again(&table, false);
        self.places.survey(&table, &self.sources.names.borrow());
    }

    fn heed(&mut self, news: News) {
        let now = self.clock.since_boot();
        let is_survey = matches!(news, News::Survey(_));
        let gone = self.places.heed(news, &mut self.files.lock(), now);
        self.forget(gone);
        if is_survey {
            self.sort_former();
        }
    }

    /// Follows the sources: what is as it was goes on, what is new or different is due at once, and
    /// a file whose block or entry is gone is removed, if it is still the one that was written.
    async fn adopt(&mut self) {
        let specs = Arc::clone(&self.sources.files.borrow_and_update());
        let entries = self.sources.registry.borrow_and_update().entries.clone();
        let now = self.clock.since_boot();
        self.removals
            .add(self.files.lock().adopt(&specs, &entries, now));
        self.places.adopt(&self.files.lock());
        self.sort_former();
        self.removals
            .run_for(REMOVAL_PATIENCE, &self.writers, now)
            .await;
    }

    /// What earlier agents wrote is ours again where a block wants it, and else is removed, as soon
    /// as all directories are known.
    fn sort_former(&mut self) {
        if self.former.is_empty() {
            return;
        }
        let table = self.files.lock();
        for (_, file) in table.files() {
            if file.plan.order.is_ok() {
                self.former.remove(&*file.plan.spec.path_of(&file.value));
            }
        }
        drop(table);
        if self.places.are_known(&self.files.lock()) {
            let left = std::mem::take(&mut self.former).into_iter();
            self.removals
                .add(left.map(|(path, ids)| Lying { path, ids }));
        }
    }

    /// Takes files off the list whose directory is gone, and which are gone with it.
    fn forget(&self, gone: Vec<Lying>) {
        for file in gone {
            self.manifest.forget(&file.path);
        }
    }

    /// Whether what the files follow has changed since they were last adopted.
    fn sources_changed(&self) -> bool {
        let changed = |result: Result<bool, state::error::RecvError>| result.unwrap_or(false);
        changed(self.sources.registry.has_changed()) || changed(self.sources.files.has_changed())
    }

    /// Starts to write what is due, up to so many flights at a time.
    fn launch(&mut self) {
        let (wall, now) = self.both_clocks();
        while self.flights.len() < MAX_FLIGHTS
            && let Some(batch) = self.files.lock().take_due(now, MAX_BATCH)
        {
            let flight = Flight {
                batch,
                launched: Launch { wall, boot: now },
                names: Arc::clone(&self.sources.names.borrow()),
                minter: Arc::clone(&self.minter),
                audit: Arc::clone(&self.sources.audit),
                writers: self.writers.clone(),
            };
            self.flights.spawn(flight.fly());
        }
    }

    fn pause(&self) -> Duration {
        let now = self.clock.since_boot();
        if self.flights.len() >= MAX_FLIGHTS {
            return LOOK_EVERY;
        }
        let next = [self.files.lock().next_due(), self.removals.due()];
        let next = next.into_iter().flatten().min();
        next.map_or(LOOK_EVERY, |due| due.saturating_sub(now).min(LOOK_EVERY))
    }

    /// Both clocks at one moment: the machine may sleep between two looks.
    fn both_clocks(&self) -> (SystemTime, Duration) {
        loop {
            let before = self.clock.since_boot();
            let wall = self.clock.now();
            let boot = self.clock.since_boot();
            if boot.saturating_sub(before) < LARGEST_DRIFT {
                return (wall, boot);
            }
        }
    }

    /// A token from before the wall clock was set may have expired, or not hold yet.
    fn notice_clock_step(&mut self) {
        let (wall, boot) = self.both_clocks();
        let (wall_then, boot_then) = self.in_step;
        let expected = wall_then + boot.saturating_sub(boot_then);
        let step = expected
            .duration_since(wall)
            .unwrap_or_else(|ahead| ahead.duration());
        if step > LARGEST_DRIFT {
            self.in_step = (wall, boot);
            self.files
                .lock()
                .make_due_where(boot, |file| file.written.is_some());
        }
    }

    /// A token whose key is not published any more is of no use. New keys may be what the failed
    /// files wait for.
    fn follow_keys(&mut self) {
        let now = self.clock.since_boot();
        let authority = &self.sources.authority;
        let orphaned = |written: &Written| !authority.believes(&written.kid);
        let mut table = self.files.lock();
        table.make_due_where(now, |file| file.written.as_ref().is_some_and(orphaned));
        table.retry_all(now);
    }

    fn retry_failed(&mut self) {
        let now = self.clock.since_boot();
        self.files.lock().retry_all(now);
    }

    /// Gives back the memory that a crowd of files needed while they were written.
    fn settle(&mut self) {
        if self.unsettled >= CROWD && self.flights.is_empty() {
            self.unsettled = 0;
            sys::trim_memory();
        }
    }

    /// Writes the list of files anew when it has grown too long, or could not be written.
    fn keep_list(&mut self) {
        let now = self.clock.since_boot();
        let files = self.files.clone();
        let table = files.lock();
        // What is being removed is known to the removal alone.
        if now < self.list_due
            || self.removals.are_under_way()
            || !self.manifest.is_long(table.len())
        {
            return;
        }
        self.list_due = now + LOOK_EVERY;
        let written = table.files().filter_map(|(_, file)| {
            let written = file.written.as_ref()?;
            Some((file.plan.spec.path_of(&file.value), [written.file]))
        });
        let written: Vec<_> = written.collect();
        let gone = self.removals.left();
        let gone = gone.map(|file| (&*file.path, &*file.ids));
        let former = self.former.iter().map(|(path, ids)| (&**path, &**ids));
        let current = written.iter().map(|(path, ids)| (&**path, &ids[..]));
        if let Err(error) = self.manifest.rewrite(current.chain(former).chain(gone)) {
            tracing::warn!(%error, "the list of token files cannot be written; trying again");
        }
    }
}

#[cfg(test)]
mod tests;
