//! Which directories there are for blocks with a path parameter, and which are there again for files
//! that wait for theirs: sets surveys going, and turns what is heard into files.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::LOOK_EVERY;
use super::error::MirrorError;
use super::manifest::Lying;
use super::spec::TokenFileSpec;
use super::table::{Appeared, Table};
use super::watch::{Notice, Survey, Watcher};
use crate::attest::names::Names;
use crate::quiet::Quiet;

/// How long events wait for surveys. One that hangs keeps only its own block from being surveyed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was heard.
pub enum News {
    /// A survey has ended.
    Survey(Box<Survey>),
    /// Directories have come and gone.
    Notices(io::Result<Vec<Notice>>),
}

/// The places of all blocks.
pub struct Places {
    watcher: Option<Watcher>,
    /// Blocks that are to be surveyed.
    wanted: BTreeSet<Arc<Path>>,
    /// Blocks that are being surveyed.
    under_way: BTreeSet<Arc<Path>>,
    surveys: JoinSet<Survey>,
    /// Until when events wait for them.
    patience: Instant,
    /// Blocks whose file a survey did not find.
    lacking: BTreeSet<Arc<Path>>,
    /// The blocks as they were last adopted.
    followed: HashMap<Arc<Path>, Arc<TokenFileSpec>>,
    /// Blocks whose directories have been seen, or seen not to be there.
    known: HashSet<Arc<Path>>,
    /// When what no event tells of is looked at again.
    look_at: Instant,
    refusals: Quiet<Arc<Path>>,
}

impl Places {
    /// No places yet.
    pub fn new() -> Self {
        Self {
            watcher: None,
            wanted: BTreeSet::new(),
            under_way: BTreeSet::new(),
            surveys: JoinSet::new(),
            patience: Instant::now(),
            lacking: BTreeSet::new(),
            followed: HashMap::new(),
            known: HashSet::new(),
            look_at: Instant::now() + LOOK_EVERY,
            refusals: Quiet::default(),
        }
    }

    /// Begins to watch, on the runtime that this is called on.
    pub fn watch(&mut self) {
        let watcher = Watcher::new().inspect_err(|error| {
            tracing::warn!(%error, "directories cannot be watched, and are looked at every 30 seconds: raise the sysctl fs.inotify.max_user_instances");
        });
        self.watcher = watcher.ok();
    }

    /// Follows the blocks: those that are new or different are surveyed, those that are gone are
    /// forgotten.
    pub fn adopt(&mut self, table: &Table) {
        self.known.retain(|block| table.block(block).is_some());
        self.lacking.retain(|block| table.block(block).is_some());
        self.followed
            .retain(|block, _| table.block(block).is_some());
        if let Some(watcher) = &mut self.watcher {
            watcher.keep(|block| table.block(block).is_some());
        }
        for (path, block) in table.blocks() {
            let spec = &block.plan.spec;
            let followed = self.followed.get(path.as_path());
            if !followed.is_some_and(|followed| Arc::ptr_eq(followed, spec)) {
                if let Err(waits) = &block.plan.order {
                    tracing::info!(path = %path.display(), why = %waits, "the token file is not written");
                }
                let path: Arc<Path> = path.as_path().into();
                self.followed.insert(Arc::clone(&path), Arc::clone(spec));
                self.wanted.insert(path);
            }
        }
    }

    /// A file could not be written: where its directory is missing, it is waited for.
    pub fn miss(&mut self, error: &MirrorError, spec: &TokenFileSpec) {
        let missing = |error: &MirrorError| matches!(error, MirrorError::Directory(error) if error.is_missing());
        if missing(error) && self.watcher.is_some() {
            self.wanted.insert(spec.path.as_path().into());
        }
    }

    /// A directory was not where an event had told: the block is looked at again.
    pub fn doubt(&mut self, block: &Path) {
        self.wanted.insert(block.into());
    }

    /// Looks again at what no event tells of, when it is time, or `now`.
    pub fn look_again(&mut self, table: &Table, now: bool) {
        if !now && Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        let blind = self.watcher.is_none();
        let troubled = table.blocks().filter(|(_, block)| {
            let unsure = blind || block.is_full || !block.trouble.is_empty();
            unsure && block.plan.spec.parameter.is_some()
        });
        self.wanted
            .extend(troubled.map(|(path, _)| Arc::from(path.as_path())));
    }

    /// Sets the surveys going that are wanted.
    pub fn survey(&mut self, table: &Table, names: &Arc<Names>) {
        for block in std::mem::take(&mut self.wanted) {
            let Some(spec) = table.block(&block).map(|held| Arc::clone(&held.plan.spec)) else {
                continue;
            };
            if !self.under_way.insert(Arc::clone(&block)) {
                // What it sees may be old by now.
                self.wanted.insert(block);
                continue;
            }
            let handle = self.watcher.as_ref().map(Watcher::handle);
            let names = Arc::clone(names);
            self.patience = Instant::now() + PATIENCE;
            self.surveys
                .spawn_blocking(move || Survey::make(handle.as_deref(), &spec, &names));
        }
    }

    /// Whether all blocks have been surveyed as they are now.
    pub fn are_surveyed(&self) -> bool {
        self.wanted.is_empty() && self.under_way.is_empty()
    }

    /// Whether it is known of all blocks which directories they have.
    pub fn are_known(&self, table: &Table) -> bool {
        let mut blocks = table.blocks();
        blocks.all(|(path, block)| {
            block.plan.spec.parameter.is_none() || self.known.contains(path.as_path())
        })
    }

    /// What is heard next. Loses nothing when it is dropped.
    pub async fn news(&mut self) -> News {
        loop {
            let waits = !self.surveys.is_empty() && Instant::now() < self.patience;
            tokio::select! {
                Some(survey) = self.surveys.join_next() => {
                    if let Ok(survey) = survey {
                        return News::Survey(Box::new(survey));
                    }
                    // A survey that panicked has been told of; nobody knows whose it was.
                    self.under_way.clear();
                }
                notices = hear(&mut self.watcher), if !waits => return News::Notices(notices),
                () = tokio::time::sleep_until(self.patience), if waits => {}
            }
        }
    }

    /// Does what follows from what was heard. Gives the files that are gone with their directory.
    pub fn heed(&mut self, news: News, table: &mut Table, now: Duration) -> Vec<Lying> {
        let mut gone = Vec::new();
        match news {
            News::Survey(survey) => self.take_over(*survey, table, now, &mut gone),
            News::Notices(Ok(notices)) => {
                for notice in notices {
                    self.heed_notice(notice, table, now, &mut gone);
                }
            }
            News::Notices(Err(error)) => {
                tracing::warn!(%error, "directories are not watched any more, and are looked at every 30 seconds");
                self.watcher = None;
            }
        }
        gone
    }

    fn heed_notice(
        &mut self,
        notice: Notice,
        table: &mut Table,
        now: Duration,
        gone: &mut Vec<Lying>,
    ) {
        match notice {
            Notice::Appeared(block, name) => {
                self.appear(&block, &name, true, table, now);
            }
            Notice::Changed(block, name) => {
                table.doubt(&block, &name, now);
                self.appear(&block, &name, false, table, now);
            }
            Notice::Vanished(block, name) => gone.extend(table.vanish(&block, &name)),
            Notice::Missing(block) => table.hasten(&block, now),
            Notice::Unreadable(block) => self.refuse(&block, "a name that is no text"),
            Notice::Elsewhere(block) => {
                self.wanted.insert(block);
            }
            Notice::Lost => {
                tracing::info!("the kernel has lost events: all directories are looked at again");
                self.wanted.extend(self.followed.keys().cloned());
            }
        }
    }

    /// Follows what a survey has found.
    fn take_over(
        &mut self,
        mut survey: Survey,
        table: &mut Table,
        now: Duration,
        gone: &mut Vec<Lying>,
    ) {
        let block = Arc::clone(&survey.block);
        self.under_way.remove(&block);
        if let Some(watcher) = &mut self.watcher {
            watcher.adopt(&mut survey);
        }
        let Some(held) = table.block_mut(&block) else {
            return;
        };
        let has_parameter = held.plan.spec.parameter.is_some();
        let (trouble, missing) = match &survey.found {
            Ok(_) => (String::new(), false),
            Err(error) => {
                let missing = matches!(error, MirrorError::Directory(error) if error.is_missing());
                (error.to_string(), missing)
            }
        };
        if has_parameter && held.plan.order.is_ok() && held.trouble != trouble {
            let path = block.display();
            match (trouble.as_str(), missing) {
                ("", _) => tracing::info!(%path, "the directory of the token files is there again"),
                (error, true) => tracing::info!(%path, error, "token files wait for a directory"),
                (error, false) => {
                    tracing::warn!(%path, error, "token files cannot be written; trying again");
                }
            }
            held.trouble = trouble;
        }
        let names = match survey.found {
            Ok(names) => names,
            Err(_) if missing => Vec::new(),
            // They may be as they were; each file tells for itself.
            Err(_) => return,
        };
        if !has_parameter {
            if !missing {
                table.retry_block(&block, now);
            }
            self.miss_file(&block, survey.lacks_file, table, now);
            return;
        }
        self.known.insert(Arc::clone(&block));
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        for value in table.values(&block) {
            if !there.contains(&*value) {
                gone.extend(table.vanish(&block, &value));
            }
        }
        let mut too_many = false;
        for name in &names {
            too_many |= self.appear(&block, name, false, table, now);
        }
        if let Some(held) = table.block_mut(&block) {
            held.is_full = too_many;
        }
    }

    /// A survey did not find the file of a block. It may have been written since, so that another
    /// survey must not find it either.
    fn miss_file(&mut self, block: &Arc<Path>, lacks: bool, table: &mut Table, now: Duration) {
        let lacked = self.lacking.remove(block);
        if lacks && lacked {
            table.hasten(block, now);
        } else if lacks && table.has_written(block) {
            self.lacking.insert(Arc::clone(block));
            self.wanted.insert(Arc::clone(block));
        }
    }

    /// Takes a directory in; whether there are too many.
    fn appear(
        &self,
        block: &Arc<Path>,
        name: &str,
        was_made: bool,
        table: &mut Table,
        now: Duration,
    ) -> bool {
        match table.appear(block, name, was_made, now) {
            Appeared::Taken | Appeared::Known => false,
            Appeared::Refused => {
                self.refuse(block, name);
                false
            }
            Appeared::TooMany(is_new) => {
                if is_new {
                    let block = block.display();
                    tracing::warn!(%block, "there are more directories than max_directories: the others get no token");
                }
                true
            }
        }
    }

    fn refuse(&self, block: &Arc<Path>, name: &str) {
        if let Some(suppressed) = self.refusals.may_say(Arc::clone(block)) {
            let block = block.display();
            tracing::warn!(%block, ?name, suppressed, "this directory gets no token: its name does not fit the pattern");
        }
    }
}

async fn hear(watcher: &mut Option<Watcher>) -> io::Result<Vec<Notice>> {
    match watcher {
        Some(watcher) => watcher.notices().await,
        None => std::future::pending().await,
    }
}
