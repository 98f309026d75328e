//! All token files there are, and how each stands. Knows no disk and no clock.

mod adopt;
mod due;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use self::due::Queue;
pub use self::due::{Batch, Wanted};
use super::late::Lateness;
use super::manifest::Lying;
use super::pace::{FileNo, Influx, Slot};
use super::spec::{TokenFileSpec, Waits};
use crate::clock::{from_unix_seconds, unix_seconds};
use crate::durable::FileId;
use crate::issue::Order;
use crate::svid::Validity;

/// What a block wants in its files: replaced as a whole when anything of it changes.
#[derive(Debug)]
pub struct Plan {
    /// The block.
    pub spec: Arc<TokenFileSpec>,
    /// The token, a parameter as it is written, or what the file waits for.
    pub order: Result<Order, Waits>,
    superseded: AtomicBool,
    /// What was left behind while it wrote.
    pub lateness: Arc<Lateness>,
}

/// A block and its files, by the value of its parameter; one without a parameter has one file.
#[derive(Debug)]
pub struct Block {
    /// What it wants.
    pub plan: Arc<Plan>,
    files: BTreeMap<Arc<str>, FileNo>,
    /// Why there may be directories that have no file; empty where nothing is wrong.
    pub trouble: String,
    influx: Influx,
    /// Whether directories were passed over because there are too many.
    pub is_full: bool,
    /// Whether the operator knows that its files reach a disk.
    pub told_of_disk: bool,
}

/// A file.
#[derive(Debug)]
pub struct TokenFile {
    /// What is wanted in it.
    pub plan: Arc<Plan>,
    /// The value of the parameter in its path.
    pub value: Arc<str>,
    slot: Slot,
    state: State,
    /// Whether something half-written may lie beside it.
    pub sweeps: bool,
    /// The token that lies in it.
    pub written: Option<Written>,
    /// What is wrong with it, if something is.
    pub trouble: Option<Box<Trouble>>,
}

/// What is wrong with a file.
#[derive(Debug, Default)]
pub struct Trouble {
    /// In words.
    pub error: String,
    /// How often in a row it could not be written.
    pub failures: u32,
    /// Whether that was told to the operator, so that its end is too.
    pub complained: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for an entry.
    Idle,
    Scheduled,
    Flying,
    /// Being written, and due again when that is done.
    FlyingInVain,
    /// Being written, and due again if that fails: what it waited for has come meanwhile.
    FlyingInHope,
    /// Being written where somebody else may read by now: due again soon, whether it fails or not.
    FlyingInDoubt,
}

/// A token that was written to its file.
#[derive(Debug, Clone)]
pub struct Written {
    /// The file.
    pub file: FileId,
    /// The key that signed it.
    pub kid: Arc<str>,
    issued_at: u64,
    expires_at: u64,
}

impl Written {
    /// A token of this key and these times in this file.
    pub fn new(file: FileId, kid: Arc<str>, validity: Validity) -> Self {
        Self {
            file,
            kid,
            issued_at: unix_seconds(validity.issued_at),
            expires_at: unix_seconds(validity.expires_at),
        }
    }

    /// Its `iat`.
    pub fn issued_at(&self) -> SystemTime {
        from_unix_seconds(self.issued_at)
    }

    /// Its `exp`.
    pub fn expires_at(&self) -> SystemTime {
        from_unix_seconds(self.expires_at)
    }
}

impl Block {
    /// Whether it has no file.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl TokenFile {
    /// When it is to be written next, on the clock that counts from boot; none as long as there is
    /// nothing to write.
    pub fn due(&self) -> Option<Duration> {
        (self.state != State::Idle).then_some(self.slot.due.into())
    }

    /// What is wrong; empty where nothing is.
    pub fn error(&self) -> &str {
        self.trouble.as_ref().map_or("", |trouble| &trouble.error)
    }

    /// Whether it could not be written the last time.
    pub fn is_failing(&self) -> bool {
        self.trouble
            .as_ref()
            .is_some_and(|trouble| trouble.failures > 0)
    }
}

impl Plan {
    /// Whether something else is wanted by now.
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }
}

/// What became of a directory that appeared.
#[derive(Debug, PartialEq, Eq)]
pub enum Appeared {
    /// It gets a file.
    Taken,
    /// It had one.
    Known,
    /// Its name is not taken.
    Refused,
    /// There are too many; whether that is new.
    TooMany(bool),
}

/// All files.
#[derive(Debug, Default)]
pub struct Table {
    blocks: BTreeMap<PathBuf, Block>,
    files: BTreeMap<FileNo, Box<TokenFile>>,
    /// What is due: of each block with a parameter by its path, and of all others together.
    queues: BTreeMap<PathBuf, Queue>,
    renewals_in_a_row: u32,
    next: u64,
}

impl Table {
    fn add_file(&mut self, plan: &Arc<Plan>, value: Arc<str>, due: Duration) -> FileNo {
        let number = FileNo(self.next);
        self.next += 1;
        let slot = Slot {
            due: due.into(),
            first: true,
        };
        let state = if plan.order.is_ok() {
            self.queue(plan).schedule.add(number, slot);
            State::Scheduled
        } else {
            State::Idle
        };
        let file = TokenFile {
            plan: Arc::clone(plan),
            value,
            slot,
            state,
            sweeps: true,
            written: None,
            trouble: None,
        };
        self.files.insert(number, Box::new(file));
        number
    }

    fn drop_file(&mut self, number: FileNo) -> Option<Lying> {
        self.idle(number);
        let file = self.files.remove(&number)?;
        let path = file.plan.spec.path_of(&file.value).into_owned();
        file.written.map(|written| Lying::of(path, written.file))
    }

    /// A directory has appeared at the place of a block's parameter; whether it `was_made` there just
    /// now, so that nobody has left anything in it.
    pub fn appear(&mut self, block: &Path, name: &str, was_made: bool, now: Duration) -> Appeared {
        let Some(held) = self.blocks.get_mut(block) else {
            return Appeared::Known;
        };
        let plan = Arc::clone(&held.plan);
        let Some(parameter) = &plan.spec.parameter else {
            return Appeared::Known;
        };
        if let Some(number) = held.files.get(name).copied() {
            // It may be what a failed file waits for.
            self.retry(number, now);
            return Appeared::Known;
        }
        if !parameter.pattern.fits(name) {
            return Appeared::Refused;
        }
        if held.files.len() >= parameter.most {
            let is_new = !std::mem::replace(&mut held.is_full, true);
            return Appeared::TooMany(is_new);
        }
        let due = held.influx.take(now, parameter.most);
        let value = Arc::<str>::from(name);
        let number = self.add_file(&plan, Arc::clone(&value), due);
        if let Some(file) = self.files.get_mut(&number) {
            file.sweeps = !was_made;
        }
        if let Some(held) = self.blocks.get_mut(block) {
            held.files.insert(value, number);
        }
        Appeared::Taken
    }

    /// A directory is gone, and its file with it; where it lay.
    pub fn vanish(&mut self, block: &Path, name: &str) -> Option<Lying> {
        let held = self.blocks.get_mut(block)?;
        let number = held.files.remove(name)?;
        let untouched = |file: &TokenFile| {
            file.state == State::Scheduled && file.slot.first && file.trouble.is_none()
        };
        if self.files.get(&number).is_some_and(|file| untouched(file))
            && let Some(parameter) = &held.plan.spec.parameter
        {
            held.influx.give_back(parameter.most);
        }
        self.drop_file(number)
    }

    /// The directories of a block that have a file.
    pub fn values(&self, block: &Path) -> Vec<Arc<str>> {
        let files = self.blocks.get(block).map(|block| block.files.keys());
        files.into_iter().flatten().cloned().collect()
    }

    /// A block by its path.
    pub fn block(&self, block: &Path) -> Option<&Block> {
        self.blocks.get(block)
    }

    /// As [`Table::block`].
    pub fn block_mut(&mut self, block: &Path) -> Option<&mut Block> {
        self.blocks.get_mut(block)
    }

    /// The files of a block, by value.
    pub fn of_block<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = &'a TokenFile> {
        let numbers = block.files.values();
        numbers.filter_map(|number| self.files.get(number).map(|file| &**file))
    }

    /// Whether a file of a block holds a token.
    pub fn has_written(&self, block: &Path) -> bool {
        let held = self.blocks.get(block);
        held.is_some_and(|held| self.of_block(held).any(|file| file.written.is_some()))
    }

    /// All blocks.
    pub fn blocks(&self) -> impl Iterator<Item = (&PathBuf, &Block)> {
        self.blocks.iter()
    }

    /// A file by its number.
    pub fn file_mut(&mut self, number: FileNo) -> Option<&mut TokenFile> {
        self.files.get_mut(&number).map(|file| &mut **file)
    }

    /// All files, by number.
    pub fn files(&self) -> impl Iterator<Item = (FileNo, &TokenFile)> {
        self.files.iter().map(|(number, file)| (*number, &**file))
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }
}
