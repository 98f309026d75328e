//! What is to be written next. Each block with a parameter has a queue of its own, and all other files
//! share one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Plan, State, Table, TokenFile};
use crate::mirror::pace::{FileNo, Moment, Schedule, Slot, retry_after};

/// So many flights of a block with a parameter are under way at a time.
const FLIGHTS_OF_BLOCK: usize = 2;

/// After so many flights of renewals, files that wait for their first token have a turn: where more is
/// due than can be done, those would wait for ever.
const RENEWALS_TO_A_FIRST: u32 = 3;

/// Files that are to be written together.
#[derive(Debug)]
pub struct Batch {
    /// What is wanted in them.
    pub plan: Arc<Plan>,
    /// Which.
    pub files: Vec<Wanted>,
}

/// A file that is to be written.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which it is.
    pub number: FileNo,
    /// Its value of the parameter.
    pub value: Arc<str>,
    /// Whether something may have been left beside it.
    pub sweep: bool,
    /// Whether it holds no token of this agent yet.
    pub first: bool,
}

/// What is due, and how much of it is being done.
#[derive(Debug, Default)]
pub struct Queue {
    /// Which files are due when.
    pub schedule: Schedule,
    flights: usize,
    /// Whether that is limited: a place that hangs must not use up all flights.
    narrow: bool,
}

impl Queue {
    fn has_room(&self) -> bool {
        !self.narrow || self.flights < FLIGHTS_OF_BLOCK
    }
}

impl TokenFile {
    /// When it is due after a first failure.
    fn soon(&self, now: Duration) -> Duration {
        now + retry_after(self.plan.spec.ttl, 0)
    }
}

impl Table {
    /// Takes the files that are to be written next: one, or up to `most` of a block with a parameter.
    /// [`Table::flight_ended`] must follow.
    pub fn take_due(&mut self, now: Duration, most: usize) -> Option<Batch> {
        let (now, turn) = (now.into(), self.renewals_in_a_row >= RENEWALS_TO_A_FIRST);
        let queues = self.queues.values_mut().filter(|queue| queue.has_room());
        let due = queues.filter_map(|queue| Some((queue.schedule.first_due(now, turn)?, queue)));
        let order = |slot: Slot, number: FileNo| (slot.first != turn, slot.due, number);
        let ((slot, number), queue) =
            due.min_by_key(|((slot, number), _)| order(*slot, *number))?;
        self.renewals_in_a_row = if slot.first {
            0
        } else {
            self.renewals_in_a_row.saturating_add(1)
        };
        let plan = Arc::clone(&self.files.get(&number)?.plan);
        let most = if queue.narrow { most } else { 1 };
        let mut files = Vec::with_capacity(most);
        while files.len() < most
            && let Some((slot, number)) = queue.schedule.first_due(now, turn)
            && let Some(file) = self.files.get_mut(&number)
            && Arc::ptr_eq(&file.plan, &plan)
        {
            queue.schedule.remove(number, slot);
            file.state = State::Flying;
            files.push(Wanted {
                number,
                value: Arc::clone(&file.value),
                // What failed may have left something.
                sweep: file.sweeps || file.is_failing(),
                first: file.written.is_none(),
            });
        }
        queue.flights += 1;
        Some(Batch { plan, files })
    }

    /// A flight of files of this plan is over.
    pub fn flight_ended(&mut self, plan: &Plan) {
        let queue = self.queue(plan);
        queue.flights = queue.flights.saturating_sub(1);
        if plan.is_superseded() {
            self.drop_queues();
        }
    }

    /// A file is not being written any more, and due again at `due`, or at `now` where something
    /// else was wanted meanwhile.
    pub fn landed(&mut self, number: FileNo, due: Duration, now: Duration) {
        let Some(file) = self.files.get(&number) else {
            return;
        };
        let due = match (file.state, file.is_failing()) {
            (State::FlyingInVain, _) | (State::FlyingInHope, true) => now,
            (State::FlyingInDoubt, _) => due.min(file.soon(now)),
            (State::Flying, _) | (State::FlyingInHope, false) => due,
            (State::Scheduled | State::Idle, _) => return,
        };
        self.schedule(number, due.into());
    }

    /// Makes a file due.
    pub fn make_due(&mut self, number: FileNo, now: Duration) {
        let Some(file) = self.files.get_mut(&number) else {
            return;
        };
        match file.state {
            State::Flying | State::FlyingInVain | State::FlyingInHope | State::FlyingInDoubt => {
                file.state = State::FlyingInVain;
            }
            State::Scheduled | State::Idle => {
                self.unschedule(number);
                self.schedule(number, now.into());
            }
        }
    }

    /// Makes a file due that could not be written, since what it waited for may have come.
    pub fn retry(&mut self, number: FileNo, now: Duration) {
        match self.files.get_mut(&number) {
            Some(file) if !file.is_failing() => {}
            Some(file) if file.state == State::Flying => file.state = State::FlyingInHope,
            Some(file) if file.state == State::Scheduled => self.make_due(number, now),
            _ => {}
        }
    }

    /// As [`Table::retry`], all files.
    pub fn retry_all(&mut self, now: Duration) {
        for number in self.files.keys().copied().collect::<Vec<_>>() {
            self.retry(number, now);
        }
    }

    /// As [`Table::retry`], the files of a block.
    pub fn retry_block(&mut self, block: &Path, now: Duration) {
        let held = self.blocks.get(block).map(|held| held.files.values());
        for number in held.into_iter().flatten().copied().collect::<Vec<_>>() {
            self.retry(number, now);
        }
    }

    /// The written file of a block without a parameter is gone: it is due soon.
    pub fn hasten(&mut self, block: &Path, now: Duration) {
        let held = self.blocks.get(block).map(|held| held.files.values());
        for number in held.into_iter().flatten().copied().collect::<Vec<_>>() {
            self.hasten_file(number, now);
        }
    }

    /// A directory may be another one than that in which its file lies, or somebody else's: the file
    /// is due soon.
    pub fn doubt(&mut self, block: &Path, name: &str, now: Duration) {
        let held = self.blocks.get(block);
        let Some(number) = held.and_then(|held| held.files.get(name)).copied() else {
            return;
        };
        match self.files.get_mut(&number) {
            Some(file) if matches!(file.state, State::Flying | State::FlyingInHope) => {
                file.state = State::FlyingInDoubt;
            }
            _ => self.hasten_file(number, now),
        }
    }

    /// Makes a written file due as soon as after a failure, so that whoever removes it all the time
    /// keeps nobody busy.
    fn hasten_file(&mut self, number: FileNo, now: Duration) {
        let file = self.files.get(&number);
        let sooner = file.and_then(|file| {
            let soon = file.soon(now);
            let later = Duration::from(file.slot.due) > soon;
            let waits = file.written.is_some() && file.state == State::Scheduled && later;
            waits.then_some(soon)
        });
        if let Some(soon) = sooner {
            self.make_due(number, soon);
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

    /// When the next file is due that there is room for.
    pub fn next_due(&self) -> Option<Duration> {
        let queues = self.queues.values().filter(|queue| queue.has_room());
        let next = queues.filter_map(|queue| queue.schedule.next()).min();
        next.map(Duration::from)
    }

    pub(super) fn idle(&mut self, number: FileNo) {
        self.unschedule(number);
        if let Some(file) = self.files.get_mut(&number) {
            file.state = State::Idle;
        }
    }

    /// Takes a file out of its queue, where it is in one.
    fn unschedule(&mut self, number: FileNo) {
        if let Some(file) = self.files.get(&number)
            && file.state == State::Scheduled
        {
            let slot = file.slot;
            let plan = Arc::clone(&file.plan);
            self.queue(&plan).schedule.remove(number, slot);
        }
    }

    /// Puts a file that is in no queue into its own.
    fn schedule(&mut self, number: FileNo, due: Moment) {
        if let Some(file) = self.files.get_mut(&number) {
            let first = file.written.is_none();
            (file.slot, file.state) = (Slot { first, due }, State::Scheduled);
            let (slot, plan) = (file.slot, Arc::clone(&file.plan));
            self.queue(&plan).schedule.add(number, slot);
        }
    }

    /// Forgets the queues of blocks that are gone, as soon as nothing of theirs is under way.
    pub(super) fn drop_queues(&mut self) {
        let blocks = &self.blocks;
        self.queues
            .retain(|path, queue| queue.flights > 0 || !queue.narrow || blocks.contains_key(path));
    }

    pub(super) fn queue(&mut self, plan: &Plan) -> &mut Queue {
        let narrow = plan.spec.parameter.is_some();
        let name = if narrow {
            plan.spec.path.as_path()
        } else {
            Path::new("")
        };
        self.queues.entry(name.to_owned()).or_insert_with(|| Queue {
            narrow,
            ..Queue::default()
        })
    }
}
