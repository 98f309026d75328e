//! Killed at every call, and at random.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Need, binary, eventually, have, long};
use crate::plant::Plant;

/// What changes something in a directory. These are counted for each directory by itself, since
/// strace counts the calls of each thread by itself: the agent begins on one thread and goes on on
/// another, whose first calls would hide behind those of the first.
const OF_DIRECTORIES: [&str; 7] = [
    "mkdirat",
    "openat",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
    "fsync",
];
/// What works on a file that has no name yet, so that no path tells it from others; and what makes
/// the store of entries, whose name is not its last.
const OF_FILES: [&str; 9] = [
    "write",
    "fchmod",
    "fchown",
    "fsync",
    "fdatasync",
    "pwrite64",
    "ftruncate",
    "unlink",
    "rename",
];
/// So many keys sign before a run counts as one that reaches the call no more.
const KEYS: usize = 3;

/// One agent under strace; killed when dropped.
struct Traced(Child);

impl Traced {
    /// Dies at one call, if it comes to it; on one of the `directories` where that is given.
    fn start(plant: &Plant, call: &str, directory: Option<usize>, number: usize) -> Self {
        let mut strace = Command::new("strace");
        // strace steps aside, so that the child is the agent itself.
        strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject={call}:signal=KILL:when={number}"));
        if let Some(directory) = directory {
            strace.arg("-P").arg(&plant.directories()[directory]);
        }
        strace
            .arg(binary())
            .args(["run", "--config"])
            .arg(plant.sandbox.config());
        strace.stdin(Stdio::null()).stdout(Stdio::null());
        Self(strace.stderr(Stdio::null()).spawn().unwrap())
    }

    fn is_dead(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets an agent run into one call; whether it came to it.
fn kill_at(
    plant: &mut Plant,
    (call, directory): (&str, Option<usize>),
    number: usize,
    keys: usize,
) -> bool {
    let mut agent = Traced::start(plant, call, directory, number);
    let first = eventually("the agent serves or is dead", || {
        let dead = agent.is_dead();
        if dead {
            Some(None)
        } else {
            plant.fetch().map(Some)
        }
    });
    if first.is_some() {
        plant.fetch_keys(keys);
    }
    // Whoever serves until enough keys have signed does not come to the call any more.
    let reached = plant.fetch().is_none();
    drop(agent);
    plant.note_crash();
    reached
}

/// Where and at which calls to kill. The short run leaves out what is not called but once in a life.
fn points(fresh: bool) -> Vec<(&'static str, Option<usize>)> {
    let count = Plant::new().directories().len();
    let of = |call: &'static str| (0..count).map(move |directory| (call, Some(directory)));
    let of_directories = OF_DIRECTORIES.into_iter().flat_map(of);
    let all = of_directories.chain(OF_FILES.map(|call| (call, None)));
    let makes = |call: &str| matches!(call, "mkdirat" | "renameat2");
    // Nothing but directories is made in the data directory and in the webroots themselves.
    let holds = |directory: Option<usize>| !matches!(directory, Some(0 | 3));
    let wanted = |(call, directory): &(&str, _)| {
        long() || makes(call) != holds(*directory) && (fresh || !makes(call))
    };
    all.filter(wanted).collect()
}

/// What became of many kills.
#[derive(Default)]
struct Tally {
    kills: AtomicUsize,
    runs: AtomicUsize,
    reads: AtomicUsize,
    slowest: AtomicUsize,
}

impl Tally {
    fn add(&self, plant: &Plant) {
        let millis = usize::try_from(plant.slowest.as_millis()).unwrap();
        self.slowest.fetch_max(millis, Ordering::Relaxed);
        self.reads
            .fetch_add(plant.watcher.reads(), Ordering::Relaxed);
    }

    fn summary(&self) -> String {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        format!(
            "{} kills in {} runs, documents read {} times meanwhile, slowest start {} ms",
            of(&self.kills),
            of(&self.runs),
            of(&self.reads),
            of(&self.slowest)
        )
    }
}

/// Kills at each call of each point until a run does not come to it; several points at a time, since
/// most of the time nothing happens.
fn kill_everywhere(fresh: bool) -> Tally {
    let (points, next, tally) = (points(fresh), AtomicUsize::new(0), Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    kill_one_by_one(fresh, *point, &tally);
                }
            });
        }
    });
    tally
}

fn kill_one_by_one(fresh: bool, point: (&str, Option<usize>), tally: &Tally) {
    let mut plant = Plant::new();
    // A first start is over when the second key signs.
    let keys = if fresh { 2 } else { KEYS };
    if !fresh {
        drop(plant.start());
    }
    for number in 1.. {
        if !long() && number > 2 {
            break;
        }
        let reached = kill_at(&mut plant, point, number, keys);
        tally.runs.fetch_add(1, Ordering::Relaxed);
        drop(plant.start());
        tally.add(&plant);
        if !reached {
            break;
        }
        tally.kills.fetch_add(1, Ordering::Relaxed);
        if fresh {
            plant = Plant::new();
        }
    }
}

/// The first start makes directories, records, a key and documents where there are none; a crash in
/// the middle of it must leave nothing that the next start stumbles over or leaves lying.
#[test]
fn a_first_start_that_is_killed_at_any_call_can_be_made_again() {
    if !have(&[Need::Strace]) {
        return;
    }
    let tally = kill_everywhere(true);
    println!("first start: {}", tally.summary());
    assert!(tally.kills.into_inner() > 10);
}

/// Each turn of a key is a dozen of durable writes in an order; a crash between any two of them must
/// leave a key that signs, in documents that have it.
#[test]
fn a_rotation_that_is_killed_at_any_call_goes_on_after_a_restart() {
    if !have(&[Need::Strace]) {
        return;
    }
    let tally = kill_everywhere(false);
    println!("rotations: {}", tally.summary());
    assert!(tally.kills.into_inner() > 10);
}

/// Not only at calls that somebody thought of, and with callers that are served meanwhile.
#[test]
fn kills_at_random_moments_under_load_lose_nothing() {
    let rounds = if long() { 1000 } else { 50 };
    let mut plant = Plant::new();
    let (mut tokens, mut starting) = (0, 0);
    let mut signed = std::collections::BTreeSet::new();
    for round in 0..rounds {
        let agent = if round % 4 == 3 {
            starting += 1;
            plant.sandbox.spawn()
        } else {
            plant.start()
        };
        let limit = if round % 4 == 3 { 60 } else { 400 };
        let until = Instant::now() + Duration::from_millis(random(limit));
        while Instant::now() < until {
            if let Some(token) = plant.fetch() {
                tokens += 1;
                signed.insert(token.kid);
            }
        }
        agent.kill();
        plant.note_crash();
    }
    drop(plant.start());
    println!(
        "{rounds} random kills, {starting} of them while starting: {tokens} tokens of {} keys, documents read {} times, slowest start {} ms",
        signed.len(),
        plant.watcher.reads(),
        plant.slowest.as_millis()
    );
    assert!(signed.len() > rounds / 25, "the keys stood still");
}

fn random(limit: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(()) % limit
}
