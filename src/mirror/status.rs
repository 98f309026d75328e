//! How the token files stand, for whoever asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Files;
use super::table::{Block, Plan, TokenFile, Written};
use crate::svid::{AudienceClaim, Sub};

/// How a file stands, for whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Its block, by the path that is written there.
    pub block: PathBuf,
    /// Where it lies.
    pub path: PathBuf,
    /// The entry that it leans on; none where the block names the holder itself.
    pub entry: Option<Arc<str>>,
    /// `sub` of its token; none as long as there is no such entry.
    pub sub: Option<Sub>,
    /// `aud`.
    pub audience: AudienceClaim,
    /// `iat` and `exp` of its token; `None` where there is none.
    pub times: Option<(SystemTime, SystemTime)>,
    /// When it is to be written next, on the clock that counts from boot; none as long as there is
    /// nothing to write.
    pub due: Option<Duration>,
    /// What is wrong; empty where nothing is.
    pub error: String,
}

/// How the files of a block stand together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockStatus {
    /// The block, by the path that is written there.
    pub block: PathBuf,
    /// How many files hold a token.
    pub held: usize,
    /// How many could not be written the last time.
    pub failing: usize,
    /// When the first of their tokens ends.
    pub soonest_expiry: Option<SystemTime>,
    /// When the oldest of them was made.
    pub oldest_issue: Option<SystemTime>,
    /// When the next of them is to be written, on the clock that counts from boot.
    pub next_due: Option<Duration>,
}

impl Files {
    /// Each file, block by block; a block without a file, or with something wrong with its place,
    /// stands for itself.
    pub fn all(&self) -> Vec<FileStatus> {
        let table = self.lock();
        let mut all = Vec::with_capacity(table.len());
        for (path, block) in table.blocks() {
            if let Some(itself) = of_place(path.clone(), block) {
                all.push(itself);
            }
            for file in table.of_block(block) {
                let path = block.plan.spec.path_of(&file.value).into_owned();
                all.push(status(&block.plan, path, Some(file), file.error()));
            }
        }
        all
    }

    /// Each block.
    pub fn blocks(&self) -> Vec<BlockStatus> {
        let table = self.lock();
        let of_block = |(path, block): (&PathBuf, &Block)| {
            let mut summary = BlockStatus {
                block: path.clone(),
                failing: usize::from(!block.trouble.is_empty()),
                ..BlockStatus::default()
            };
            for file in table.of_block(block) {
                summary.count(file);
            }
            summary
        };
        table.blocks().map(of_block).collect()
    }

    /// What is wrong at the time `now`: up to `most` files by path, and how many more there are.
    pub fn problems(&self, now: SystemTime, most: usize) -> (Vec<String>, usize) {
        let table = self.lock();
        let (mut told, mut others) = (Vec::new(), 0);
        let mut tell = |path: &std::path::Path, what: &str| {
            if told.len() < most {
                told.push(format!("token file {}{what}", path.display()));
            } else {
                others += 1;
            }
        };
        for (path, block) in table.blocks() {
            if let Some(itself) = of_place(path.clone(), block)
                && !itself.error.is_empty()
            {
                tell(path, &format!(": {}", itself.error));
            }
            for file in table.of_block(block) {
                let path = || block.plan.spec.path_of(&file.value);
                let ends = file.written.as_ref().map(Written::expires_at);
                if !file.error().is_empty() {
                    tell(&path(), &format!(": {}", file.error()));
                } else if ends.is_some_and(|at| at <= now) {
                    tell(&path(), " has expired");
                }
            }
        }
        (told, others)
    }
}

impl BlockStatus {
    fn count(&mut self, file: &TokenFile) {
        fn earlier<T: Ord>(known: &mut Option<T>, new: T) {
            if known.as_ref().is_none_or(|known| new < *known) {
                *known = Some(new);
            }
        }
        self.failing += usize::from(!file.error().is_empty());
        if let Some(due) = file.due() {
            earlier(&mut self.next_due, due);
        }
        if let Some(written) = &file.written {
            self.held += 1;
            earlier(&mut self.soonest_expiry, written.expires_at());
            earlier(&mut self.oldest_issue, written.issued_at());
        }
    }
}

/// How the place of a block with a parameter stands, where that must be told.
fn of_place(path: PathBuf, block: &Block) -> Option<FileStatus> {
    let of_parameter = block.plan.spec.parameter.is_some();
    let tells = block.is_empty() || !block.trouble.is_empty();
    (of_parameter && tells).then(|| status(&block.plan, path, None, &block.trouble))
}

fn status(plan: &Plan, path: PathBuf, file: Option<&TokenFile>, error: &str) -> FileStatus {
    let order = plan.order.as_ref().ok();
    let sub = |file: &TokenFile| Some(plan.spec.fill(order?, &file.value).ok()?.sub);
    FileStatus {
        block: plan.spec.path.clone(),
        path,
        entry: plan.spec.entry().cloned(),
        sub: match file {
            Some(file) => sub(file),
            None => order.map(|order| order.sub.clone()),
        },
        audience: plan.spec.audience.clone(),
        times: file.and_then(|file| {
            let written = file.written.as_ref()?;
            Some((written.issued_at(), written.expires_at()))
        }),
        due: file.and_then(TokenFile::due),
        error: error.to_owned(),
    }
}
