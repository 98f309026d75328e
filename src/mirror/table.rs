//! All token files there are, and how each stands. Knows no disk and no clock.

mod adopt;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::manifest::Lying;
use super::pace::{FileNo, Influx, Schedule, Slot};
use super::spec::TokenFileSpec;
use crate::durable::FileId;
use crate::issue::Order;
use crate::svid::Validity;

/// What a block wants in its files: replaced as a whole when anything of it changes.
#[derive(Debug)]
pub struct Plan {
    /// The block.
    pub spec: Arc<TokenFileSpec>,
    /// The token, a parameter as it is written; none as long as there is no such entry.
    pub order: Option<Order>,
    superseded: AtomicBool,
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
        (self.state != State::Idle).then_some(self.slot.due)
    }
}

impl Plan {
    /// Whether something else is wanted by now.
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }
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
    /// How often in a row it could not be written.
    pub failures: u32,
    /// The token that lies in it.
    pub written: Option<Written>,
    /// What is wrong; empty where nothing is.
    pub error: Box<str>,
    /// Whether the failures were told to the operator, so that their end is too.
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
}

/// A token that was written to its file.
#[derive(Debug, Clone)]
pub struct Written {
    /// The file.
    pub file: FileId,
    /// The key that signed it.
    pub kid: Arc<str>,
    /// When it holds.
    pub validity: Validity,
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

/// Files that are to be written together.
#[derive(Debug)]
pub struct Batch {
    /// What is wanted in them.
    pub plan: Arc<Plan>,
    /// Which, by number and value, and whether each never held a token of this agent.
    pub files: Vec<(FileNo, Arc<str>, bool)>,
}

/// All files.
#[derive(Debug, Default)]
pub struct Table {
    blocks: BTreeMap<PathBuf, Block>,
    files: BTreeMap<FileNo, Box<TokenFile>>,
    schedule: Schedule,
    next: u64,
}

impl Table {
    fn add_file(&mut self, plan: &Arc<Plan>, value: Arc<str>, due: Duration) -> FileNo {
        let number = FileNo(self.next);
        self.next += 1;
        let slot = Slot { due, first: true };
        let state = if plan.order.is_some() {
            self.schedule.add(number, slot);
            State::Scheduled
        } else {
            State::Idle
        };
        let file = TokenFile {
            plan: Arc::clone(plan),
            value,
            slot,
            state,
            failures: 0,
            written: None,
            error: Box::default(),
            complained: false,
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

    fn idle(&mut self, number: FileNo) {
        if let Some(file) = self.files.get_mut(&number) {
            if file.state == State::Scheduled {
                self.schedule.remove(number, file.slot);
            }
            file.state = State::Idle;
        }
    }

    /// A directory has appeared at the place of a block's parameter.
    pub fn appear(&mut self, block: &Path, name: &str, now: Duration) -> Appeared {
        let Some(held) = self.blocks.get_mut(block) else {
            return Appeared::Known;
        };
        let plan = Arc::clone(&held.plan);
        let Some(parameter) = &plan.spec.parameter else {
            return Appeared::Known;
        };
        if let Some(number) = held.files.get(name).copied() {
            // It may be what a failed file waits for.
            if self
                .files
                .get(&number)
                .is_some_and(|file| file.failures > 0)
            {
                self.make_due(number, now);
            }
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
            file.state == State::Scheduled && file.slot.first && file.failures == 0
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

    /// Takes the files that are to be written next: one, or up to `most` of a block with a parameter.
    pub fn take_due(&mut self, now: Duration, most: usize) -> Option<Batch> {
        let first = self.schedule.first_due(now)?;
        let plan = Arc::clone(&self.files.get(&first)?.plan);
        let most = if plan.spec.parameter.is_some() {
            most
        } else {
            1
        };
        let mut files = Vec::with_capacity(most);
        while files.len() < most
            && let Some(number) = self.schedule.first_due(now)
            && let Some(file) = self.files.get_mut(&number)
            && Arc::ptr_eq(&file.plan, &plan)
        {
            self.schedule.remove(number, file.slot);
            file.state = State::Flying;
            // What failed may have left something too.
            let unknown = file.written.is_none() || file.failures > 0;
            files.push((number, Arc::clone(&file.value), unknown));
        }
        Some(Batch { plan, files })
    }

    /// A file is not being written any more, and due again at `due`, or at `now` where something
    /// else was wanted meanwhile.
    pub fn landed(&mut self, number: FileNo, due: Duration, now: Duration) {
        if let Some(file) = self.files.get_mut(&number) {
            let slot = Slot {
                due: match file.state {
                    State::FlyingInVain => now,
                    _ => due,
                },
                first: file.written.is_none(),
            };
            if file.state != State::Idle {
                (file.slot, file.state) = (slot, State::Scheduled);
                self.schedule.add(number, slot);
            }
        }
    }

    /// Makes a file due.
    pub fn make_due(&mut self, number: FileNo, now: Duration) {
        if let Some(file) = self.files.get_mut(&number) {
            match file.state {
                State::Flying | State::FlyingInVain => file.state = State::FlyingInVain,
                State::Scheduled | State::Idle => {
                    if file.state == State::Scheduled {
                        self.schedule.remove(number, file.slot);
                    }
                    file.slot = Slot {
                        due: now,
                        first: file.written.is_none(),
                    };
                    file.state = State::Scheduled;
                    self.schedule.add(number, file.slot);
                }
            }
        }
    }

    /// Makes files due that a reason applies to.
    pub fn make_due_where(&mut self, now: Duration, applies: impl Fn(&TokenFile) -> bool) {
        let found = self.files().filter(|(_, file)| applies(file));
        let found: Vec<_> = found.map(|(number, _)| number).collect();
        for number in found {
            self.make_due(number, now);
        }
    }

    /// When the next file is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.schedule.next()
    }
}
