//! An agent that is killed at any call by which it writes a token file: the file is whole or not
//! there yet, nothing else in its directory is touched, and the next agent leaves nothing behind.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Agent, Need, eventually, have, long};
use crate::house::{House, Runner, is_token, names, renewed};

/// The calls by which a file is written.
const CALLS: [&str; 11] = [
    "mkdirat",
    "openat",
    "getdents64",
    "fchown",
    "fchmod",
    "write",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
    "close",
];

/// A call and its number, counted in each thread by itself from when the agent is traced.
type Point = (&'static str, usize);

/// Those by which it is written again: its directory is there, and was swept at the first write.
fn is_of_renewals(call: &str) -> bool {
    !matches!(call, "mkdirat" | "getdents64" | "unlinkat")
}

fn points(fresh: bool) -> Vec<Point> {
    let numbers = |call: &str| -> Vec<usize> {
        match (call, long()) {
            // The way to the directory and the names of users take some.
            ("openat" | "close", true) => (1..=32).collect(),
            (_, true) => (1..=8).collect(),
            ("openat" | "close", false) => vec![5, 12],
            _ => vec![1, 2],
        }
    };
    let all = CALLS
        .into_iter()
        .filter(|call| fresh || is_of_renewals(call));
    all.flat_map(|call| numbers(call).into_iter().map(move |number| (call, number)))
        .collect()
}

/// strace, which kills the agent at one call.
struct Killer(Child);

impl Killer {
    fn attach(agent: &mut Agent, (call, number): Point) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject={call}:signal=KILL:when={number}"));
        strace.arg("-p").arg(agent.pid().to_string());
        let strace = strace.stdout(Stdio::null()).stderr(Stdio::null());
        let killer = Self(strace.spawn().unwrap());
        let tasks = format!("/proc/{}/task", agent.pid());
        let traced = |path: PathBuf| {
            let status = fs::read_to_string(path.join("status"));
            status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
        };
        eventually("all threads are traced", || {
            let all = fs::read_dir(&tasks).into_iter().flatten().flatten();
            let attached = all.map(|task| task.path()).all(traced);
            // It may have come to the call already.
            (attached || agent.is_dead()).then_some(())
        });
        killer
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One directory of the attacker and one of the agent, each with a file of its owner and one that a
/// dead agent has left.
struct Scene {
    house: House,
    paths: [PathBuf; 2],
    kept: Vec<(PathBuf, String, u64)>,
}

const OFTEN: &str = "ttl = \"2s\"\n  refresh_at = 0.1";

impl Scene {
    fn new(runner: Runner) -> Self {
        let house = House::new(runner);
        house.prepare(&["mkdir", "his"]);
        house.prepare(&["sh", "-c", "echo his own > his/file"]);
        let (his, ours) = (
            house.home.join("his"),
            house.sandbox.path("run/tokens/ours"),
        );
        let facts = |path: PathBuf| {
            let (content, inode) = (fs::read_to_string(&path), fs::metadata(&path));
            (path, content.unwrap(), inode.unwrap().ino())
        };
        Self {
            kept: vec![facts(his.join("file"))],
            paths: [his.join("token"), ours.join("token")],
            house,
        }
    }

    fn configure(&self) {
        // So that it is given away.
        let given = format!("owner = \"1003\"\n  {OFTEN}");
        let [his, ours] = self.paths.clone();
        self.house.configure_alone(&[(his, OFTEN), (ours, &given)]);
    }

    /// Leaves something as a dead agent does.
    fn litter(&self) {
        for path in &self.paths {
            let directory = path.parent().unwrap();
            if directory.exists() {
                let left = directory.join(format!(".agent-{:032x}.tmp", 1));
                fs::write(&left, "half a tok").unwrap();
            }
        }
    }

    /// Lets an agent run into one call while it writes for the first time, or again; whether it came
    /// to it.
    fn kill_at(&self, fresh: bool, point: Point) -> bool {
        if fresh {
            self.house.configure_alone(&[]);
        } else {
            self.configure();
        }
        let mut agent = self.house.start();
        if !fresh {
            self.paths.iter().for_each(|path| renewed(path));
            self.litter();
        }
        let killer = Killer::attach(&mut agent, point);
        if fresh && !agent.is_dead() {
            self.configure();
            agent.signal(nix::sys::signal::Signal::SIGHUP);
        }
        let inodes = || {
            self.paths
                .iter()
                .map(|path| inode(path))
                .collect::<Vec<_>>()
        };
        let (mut seen, mut writes) = (inodes(), 0);
        let reached = eventually("the agent is dead or writes on", || {
            if agent.is_dead() {
                return Some(true);
            }
            let now = inodes();
            let both = now
                .iter()
                .zip(&seen)
                .all(|(now, seen)| now.is_some() && now != seen);
            if both {
                seen = now;
                writes += 1;
            }
            (writes == 3).then_some(false)
        });
        drop(killer);
        agent.kill();
        reached
    }

    /// What holds at every moment.
    fn check(&self, fresh: bool, point: Point) {
        for path in &self.paths {
            match fs::read_to_string(path) {
                Ok(token) => assert!(is_token(&token), "{point:?}: {token:?}"),
                Err(error) => assert!(fresh, "{point:?}: {error}"),
            }
        }
        for (path, content, inode) in &self.kept {
            assert_eq!(fs::read_to_string(path).unwrap(), *content);
            assert_eq!(fs::metadata(path).unwrap().ino(), *inode);
        }
        self.house.is_unharmed();
    }

    fn left(&self) -> usize {
        let directories = self.paths.iter().filter_map(|path| path.parent());
        let all = directories.filter(|path| path.exists()).flat_map(names);
        all.filter(|name| name.starts_with(".agent-")).count()
    }

    /// The next agent writes whole files and leaves nothing behind.
    fn restart(&self) {
        self.configure();
        let agent = self.house.start();
        self.paths.iter().for_each(|path| renewed(path));
        eventually("nothing is left half-written", || {
            (self.left() == 0).then_some(())
        });
        let tokens = names(&self.house.sandbox.path("run/tokens"));
        assert_eq!(tokens, ["ours"]);
        agent.kill();
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

fn kill_everywhere(fresh: bool) {
    if !have(&[Need::Root, Need::Strace]) {
        return;
    }
    let runners = [Runner::Root, Runner::Capable];
    let points = points(fresh);
    let all = runners
        .into_iter()
        .flat_map(|runner| points.iter().map(move |point| (runner, *point)));
    let all = Mutex::new(all);
    let (kills, runs, left) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = all.lock().unwrap().next();
                    let Some((runner, point)) = next else {
                        return;
                    };
                    let scene = Scene::new(runner);
                    let reached = scene.kill_at(fresh, point);
                    scene.check(fresh, point);
                    kills.fetch_add(usize::from(reached), Ordering::Relaxed);
                    runs.fetch_add(1, Ordering::Relaxed);
                    left.fetch_add(scene.left(), Ordering::Relaxed);
                    scene.restart();
                    scene.check(false, point);
                }
            });
        }
    });
    let (kills, runs) = (kills.into_inner(), runs.into_inner());
    println!(
        "{kills} kills in {runs} runs, {} files left and removed",
        left.into_inner()
    );
    assert!(kills > points.len(), "{kills} kills in {runs} runs");
}

/// A15.
#[test]
fn a_first_write_that_is_killed_at_any_call_leaves_no_half_of_a_file() {
    kill_everywhere(true);
}

/// A15.
#[test]
fn a_renewal_that_is_killed_at_any_call_leaves_a_whole_token() {
    kill_everywhere(false);
}
