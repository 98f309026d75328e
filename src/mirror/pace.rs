//! When a file is written: after a share of its token's life, soon after a failure, and later where
//! directories appear faster than anybody can mean.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

/// As many directories as a block may have may appear at once, and then so many again in this time.
const REFILL: Duration = Duration::from_secs(60);

/// A file, for as long as the agent runs: no other ever has its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileNo(pub u64);

/// A moment on the clock that counts from boot, in nanoseconds: half as large as a duration, for there
/// are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl From<Duration> for Moment {
    fn from(since_boot: Duration) -> Self {
        Self(u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Moment> for Duration {
    fn from(moment: Moment) -> Self {
        Self::from_nanos(moment.0)
    }
}

/// A file's place in a schedule. Those that hold a token go before those that never held one, so that
/// no crowd of new directories delays a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Whether it never held a token.
    pub first: bool,
    /// When it is due.
    pub due: Moment,
}

/// Which file is due when.
#[derive(Debug, Default)]
pub struct Schedule {
    renewals: BTreeSet<(Moment, FileNo)>,
    firsts: BTreeSet<(Moment, FileNo)>,
}

impl Schedule {
    /// Puts a file in.
    pub fn add(&mut self, file: FileNo, slot: Slot) {
        self.queue(slot).insert((slot.due, file));
    }

    /// Takes a file out.
    pub fn remove(&mut self, file: FileNo, slot: Slot) {
        self.queue(slot).remove(&(slot.due, file));
    }

    fn queue(&mut self, slot: Slot) -> &mut BTreeSet<(Moment, FileNo)> {
        if slot.first {
            &mut self.firsts
        } else {
            &mut self.renewals
        }
    }

    fn heads(&self) -> impl Iterator<Item = (Slot, FileNo)> {
        let queues = [(false, &self.renewals), (true, &self.firsts)].into_iter();
        queues.filter_map(|(first, queue)| {
            let (due, file) = *queue.first()?;
            Some((Slot { first, due }, file))
        })
    }

    /// The file that is to be written now, if one is: one that holds a token, or rather one that never
    /// did where it is the turn of those.
    pub fn first_due(&self, now: Moment, turn_of_firsts: bool) -> Option<(Slot, FileNo)> {
        let due = self.heads().filter(|(slot, _)| slot.due <= now);
        due.min_by_key(|(slot, _)| slot.first != turn_of_firsts)
    }

    /// When the next file is due.
    pub fn next(&self) -> Option<Moment> {
        self.heads().map(|(slot, _)| slot.due).min()
    }
}

/// How fast new directories get their first token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Influx {
    /// When all that have appeared would have been taken at the steady pace.
    caught_up: Duration,
}

impl Influx {
    /// When one that appears `now` is due, where up to `most` may appear at once. None waits for
    /// longer than until as many could appear again.
    pub fn take(&mut self, now: Duration, most: usize) -> Duration {
        let later = self.caught_up.max(now) + step(most);
        self.caught_up = later.min(now + 2 * REFILL);
        now.max(self.caught_up.saturating_sub(REFILL))
    }

    /// One that was due is gone before anything was done for it.
    pub fn give_back(&mut self, most: usize) {
        self.caught_up = self.caught_up.saturating_sub(step(most));
    }
}

fn step(most: usize) -> Duration {
    REFILL / u32::try_from(most.max(1)).unwrap_or(u32::MAX)
}

/// How long a fresh token stays in its file: the share `at` of its life, moved by up to a tenth for
/// each path, so that files made together are not rewritten together for ever.
pub fn refresh_after(path: &Path, at: f64, life: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    let step = u32::try_from(hasher.finish() % 1001).unwrap_or(500);
    let jitter = 0.9 + 0.2 * f64::from(step) / 1000.0;
    life.mul_f64((at * jitter).clamp(0.05, 0.9))
}

/// How long to wait after a failure: from the shorter of a second and a twentieth of the life,
/// doubling up to the shorter of thirty seconds and a tenth of it.
pub fn retry_after(ttl: Duration, failures: u32) -> Duration {
    let first = (ttl / 20).min(Duration::from_secs(1));
    let most = (ttl / 10).min(Duration::from_secs(30));
    first.saturating_mul(1 << failures.min(10)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_file_is_refreshed_well_before_its_token_ends_and_files_differ() {
        let after = |name: &str| refresh_after(Path::new(name), 0.45, secs(3600));
        let all: Vec<_> = (0..100).map(|i| after(&format!("/run/{i}"))).collect();
        for wait in &all {
            assert!((1458..=1782).contains(&wait.as_secs()), "{wait:?}");
        }
        assert!(all.iter().any(|wait| *wait != all[0]));
        assert_eq!(after("/run/token1"), after("/run/token1"));
    }

    #[test]
    fn retries_start_soon_and_grow_to_a_tenth_of_the_life_at_most() {
        let waits: Vec<_> = (0..8)
            .map(|n| retry_after(secs(3600), n).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(retry_after(secs(2), 0), Duration::from_millis(100));
        assert_eq!(retry_after(secs(2), u32::MAX), Duration::from_millis(200));
    }

    #[test]
    fn a_renewal_goes_before_any_number_of_first_tokens() {
        let mut schedule = Schedule::default();
        let slot = |first, due| Slot {
            first,
            due: secs(due).into(),
        };
        for number in 0..10 {
            schedule.add(FileNo(number), slot(true, number));
        }
        schedule.add(FileNo(99), slot(false, 9));
        let first_due = |schedule: &Schedule, now| {
            let due = schedule.first_due(secs(now).into(), false);
            due.map(|(_, number)| number)
        };
        assert_eq!(first_due(&schedule, 8), Some(FileNo(0)));
        assert_eq!(first_due(&schedule, 9), Some(FileNo(99)));
        let turn = schedule.first_due(secs(9).into(), true);
        assert_eq!(turn.map(|(_, number)| number), Some(FileNo(0)));
        assert_eq!(schedule.next(), Some(secs(0).into()));
        schedule.remove(FileNo(99), slot(false, 9));
        assert_eq!(first_due(&schedule, 9), Some(FileNo(0)));
    }

    #[test]
    fn as_many_directories_as_there_may_be_are_taken_at_once_and_more_at_a_steady_pace() {
        let mut influx = Influx::default();
        let start = secs(1000);
        let due: Vec<_> = (0..180).map(|_| influx.take(start, 60)).collect();
        assert!(due[..60].iter().all(|due| *due == start));
        assert_eq!(due[60], start + secs(1));
        assert_eq!(due[119], start + secs(60));
        assert_eq!(due[179], start + secs(60), "the longest wait");
        for _ in 0..120 {
            influx.give_back(60);
        }
        assert_eq!(
            influx.take(start, 60),
            start,
            "those that went cost nothing"
        );
        // After a quiet while, as many again.
        assert_eq!(influx.take(start + secs(240), 60), start + secs(240));
    }
}
