//! Disks that are full, read-only or broken, and directories that are not there: the old token
//! stays, the operator is told, and the file is written again soon after the fault is over.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Agent, Need, eventually, long};
use crate::house::{House, OTHER, against_each_agent, is_token, logged, names, renewed, token_of};
use crate::mounts::Mounted;

/// Until a file is written again after a fault, at the most.
const RECOVERY: Duration = Duration::from_secs(30);

/// Two directories on small disks, one of the attacker and one of the agent, with a file in each.
struct Disks {
    paths: [PathBuf; 2],
    disks: [Mounted; 2],
}

impl Disks {
    /// Mounts them, with so much room.
    fn mount(house: &House, room: &str) -> Self {
        let ours = house.sandbox.path("disk");
        fs::create_dir(&ours).unwrap();
        let at = |path: &Path, uid: u32| {
            Mounted::memory(path, &format!("{room},mode=755,uid={uid},gid={uid}"))
        };
        Self {
            disks: [at(&house.home, OTHER), at(&ours, house.runner.uid())],
            paths: [house.home.join("token"), ours.join("token")],
        }
    }

    fn configure(&self, house: &House, options: &str) {
        let files = self.paths.clone().map(|path| (path, options));
        house.configure(&files);
    }

    /// Leaves no byte and no inode.
    fn fill(&self) {
        for path in &self.paths {
            let directory = path.parent().unwrap();
            let mut file = fs::File::create(directory.join("filler")).unwrap();
            for size in [1 << 12, 1] {
                while file.write_all(&vec![0; size]).is_ok() {}
            }
        }
    }

    fn empty(&self) {
        for path in &self.paths {
            fs::remove_file(path.with_file_name("filler")).unwrap();
        }
    }

    fn remount(&self, options: &str) {
        self.disks.iter().for_each(|disk| disk.remount(options));
    }
}

/// What a fault is like, from first to last.
fn endure(house: &House, paths: &[PathBuf], reason: &str, repair: impl FnOnce()) -> Duration {
    paths.iter().for_each(|path| house.tells(path, reason));
    let old = |path: &PathBuf| {
        let token = fs::read_to_string(path).unwrap();
        assert!(is_token(&token), "{token:?}");
        (token, fs::metadata(path).unwrap().ino())
    };
    let before: Vec<_> = paths.iter().map(old).collect();
    if !paths.contains(&house.honest()) {
        house.others_are_served();
        paths.iter().for_each(|path| house.tells(path, reason));
    }
    assert_eq!(
        paths.iter().map(old).collect::<Vec<_>>(),
        before,
        "the old tokens stay"
    );
    repair();
    let since = Instant::now();
    for (path, before) in paths.iter().zip(before) {
        eventually("the file is written again", || {
            (old(path) != before).then_some(())
        });
    }
    let took = since.elapsed();
    assert!(!long() || took < RECOVERY, "{reason}: {took:?}");
    for path in paths {
        let directory = path.parent().unwrap();
        eventually("nothing is left half-written", || {
            let left = names(directory)
                .iter()
                .any(|name| name.starts_with(".agent-"));
            (!left).then_some(())
        });
    }
    took
}

/// A14 and row 61.
#[test]
fn on_a_full_or_read_only_disk_the_old_token_stays_and_a_new_one_comes_when_it_can() {
    against_each_agent(&[], |house| {
        let disks = Disks::mount(&house, "size=64k");
        disks.configure(&house, "ttl = \"2s\"");
        let agent = house.start();
        disks.paths.iter().for_each(|path| renewed(path));
        disks.fill();
        let full = endure(&house, &disks.paths, "No space left", || disks.empty());
        disks.remount("ro");
        let closed = endure(&house, &disks.paths, "Read-only file system", || {
            disks.remount("rw");
        });
        logged(&agent, "the token file is written again");
        println!(
            "{:?}: written {full:.1?} after the disk was full, {closed:.1?} after it was read-only",
            house.runner
        );
        house.is_unharmed();
    });
}

/// A14: there is room, but not for a file.
#[test]
fn on_a_disk_that_takes_no_more_files_the_old_token_stays_and_a_new_one_comes_when_it_can() {
    against_each_agent(&[], |house| {
        let disks = Disks::mount(&house, "size=1m,nr_inodes=8");
        disks.configure(&house, "ttl = \"2s\"");
        let _agent = house.start();
        disks.paths.iter().for_each(|path| renewed(path));
        let mut fillers = Vec::new();
        for path in &disks.paths {
            let filler = |i: usize| path.with_file_name(format!("filler{i}"));
            let made = (0..)
                .map(filler)
                .take_while(|at| fs::File::create(at).is_ok());
            fillers.extend(made);
        }
        endure(&house, &disks.paths, "No space left", || {
            fillers
                .iter()
                .for_each(|filler| fs::remove_file(filler).unwrap());
        });
    });
}

/// A14: started on a disk that is full, so that the pauses between the attempts grow.
#[test]
fn a_file_that_could_not_be_written_for_long_is_written_soon_after_the_fault_is_over() {
    against_each_agent(&[], |house| {
        let disks = Disks::mount(&house, "size=64k");
        disks.configure(&house, "");
        disks.fill();
        let _agent = house.start();
        disks
            .paths
            .iter()
            .for_each(|path| house.tells(path, "No space left"));
        let start = Instant::now();
        while long() && start.elapsed() < RECOVERY * 3 / 2 {
            house.others_are_served();
        }
        disks.empty();
        let since = Instant::now();
        token_of(OTHER, &disks.paths[0]);
        token_of(house.runner.uid(), &disks.paths[1]);
        let took = since.elapsed();
        println!(
            "{:?}: written {took:.1?} after the disk was full for long",
            house.runner
        );
    });
}

/// Calls that work on a file that has no name yet.
const WITHOUT_PATH: [&str; 2] = ["fchown", "fchmod"];

/// Calls of the agent that fail; until it is dropped.
struct Broken(Child);

impl Broken {
    fn attach(agent: &Agent, paths: &[PathBuf], calls: &str, error: &str) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject={calls}:error={error}"));
        if !WITHOUT_PATH.contains(&calls) {
            // Sockets, processes and the files for others go on.
            for path in paths {
                strace.arg("-P").arg(path.parent().unwrap());
            }
        }
        strace.arg("-p").arg(agent.pid().to_string());
        let strace = strace.stdout(Stdio::null()).stderr(Stdio::null());
        Self(strace.spawn().unwrap())
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// Before Linux 6.10 a descriptor has no name for whoever lacks CAP_DAC_READ_SEARCH.
#[test]
fn where_a_file_cannot_be_linked_by_its_descriptor_it_is_by_way_of_proc() {
    against_each_agent(&[Need::Strace], |house| {
        house.prepare(&["mkdir", "his"]);
        let his = house.home.join("his/token");
        house.configure(&[(his.clone(), "ttl = \"2s\"")]);
        // In each thread the first way fails, and the second does not.
        let _agent = house.start_injected("linkat:error=ENOENT:when=1+2");
        renewed(&his);
    });
}

/// A14: whichever call it is that fails.
#[test]
fn an_error_of_the_disk_at_any_call_leaves_the_old_token_and_nothing_half_written() {
    against_each_agent(&[Need::Strace], |house| {
        let [his, ours] = [
            house.home.join("his"),
            house.sandbox.path("run/tokens/ours"),
        ];
        house.prepare(&["mkdir", "his"]);
        let paths = [his.join("token"), ours.join("token")];
        house.configure(&[
            (paths[0].clone(), "ttl = \"2s\""),
            (paths[1].clone(), "owner = \"1003\"\n  ttl = \"2s\""),
        ]);
        let agent = house.start();
        paths.iter().for_each(|path| renewed(path));
        let mut times = Vec::new();
        for (calls, error, reason) in [
            ("openat", "EIO", "Input/output error"),
            ("openat", "EDQUOT", "Disk quota exceeded"),
            ("openat", "ENFILE", "Too many open files"),
            ("fchown", "EDQUOT", "Disk quota exceeded"),
            ("fchown", "EIO", "Input/output error"),
            ("fchmod", "EIO", "Input/output error"),
            ("linkat", "EDQUOT", "Disk quota exceeded"),
            ("linkat", "EROFS", "Read-only file system"),
            ("renameat", "EIO", "Input/output error"),
            ("renameat,unlinkat", "EIO", "Input/output error"),
        ] {
            let hit = match calls {
                // His belongs to him from the start.
                "fchown" => vec![paths[1].clone()],
                "fchmod" => [&paths[..], &[house.honest()]].concat(),
                _ => paths.to_vec(),
            };
            let broken = Broken::attach(&agent, &paths, calls, error);
            let took = endure(&house, &hit, reason, || drop(broken));
            times.push(format!("{calls} {error} {took:.1?}"));
        }
        println!(
            "{:?}: written again after {}",
            house.runner,
            times.join(", ")
        );
        house.is_unharmed();
    });
}

/// A19: what a service manager does with the directory of a service that is started again.
#[test]
fn a_directory_that_is_removed_and_made_again_gets_its_file_again() {
    against_each_agent(&[], |house| {
        let [his, ours] = [
            house.home.join("his"),
            house.sandbox.path("run/tokens/ours"),
        ];
        house.prepare(&["mkdir", "his"]);
        let files = [&his, &ours].map(|directory| (directory.join("token"), "ttl = \"2s\""));
        house.configure(&files);
        let agent = house.start();
        token_of(OTHER, &his.join("token"));
        token_of(house.runner.uid(), &ours.join("token"));
        house.prepare(&["rm", "-r", "his"]);
        fs::remove_dir_all(&ours).unwrap();
        // Those below the directory for tokens are made by the agent.
        token_of(house.runner.uid(), &ours.join("token"));
        logged(&agent, "waits for its directory");
        house.others_are_served();
        house.prepare(&["mkdir", "his"]);
        let since = Instant::now();
        token_of(OTHER, &his.join("token"));
        println!(
            "{:?}: written {:.1?} after the directory was made",
            house.runner,
            since.elapsed()
        );
        logged(&agent, "the token file is written again");
    });
}

/// A19: also where the next token is due much later.
#[test]
fn a_file_that_is_removed_comes_back_before_its_token_is_due() {
    against_each_agent(&[], |house| {
        house.prepare(&["mkdir", "his", "kept"]);
        let [his, kept] = ["his", "kept"].map(|name| house.home.join(name).join("token"));
        let ours = house.sandbox.path("run/tokens/ours/token");
        house.configure(&[&his, &kept, &ours].map(|path| (path.clone(), "")));
        let _agent = house.start();
        for path in [&his, &kept, &ours] {
            eventually("the file is there", || path.exists().then_some(()));
        }
        house.prepare(&["rm", "-r", "his"]);
        house.prepare(&["rm", "-f", "kept/token"]);
        fs::remove_dir_all(ours.parent().unwrap()).unwrap();
        house.prepare(&["mkdir", "his"]);
        for path in [&his, &kept, &ours] {
            let what = format!("{} is there again", path.display());
            eventually(&what, || path.exists().then_some(()));
        }
    });
}

/// Writes many files of one directory at the same time; none may fail.
fn beside_one_another(house: &House, directory: &Path) {
    let paths = (0..40).map(|i| directory.join(format!("token{i}")));
    let paths: Vec<_> = paths.collect();
    let often = "ttl = \"2s\"\n  refresh_at = 0.1";
    let blocks: Vec<_> = paths.iter().map(|path| (path.clone(), often)).collect();
    house.configure(&blocks);
    let agent = house.start();
    for _ in 0..5 {
        paths.iter().for_each(|path| renewed(path));
    }
    let log = agent.log();
    let failed = log
        .lines()
        .filter(|line| line.contains("cannot be written"));
    assert_eq!(failed.count(), 0, "{log}");
}

/// What one of them has half-written is not what a dead agent has left.
#[test]
fn files_beside_one_another_do_not_hinder_each_other() {
    against_each_agent(&[], |house| {
        beside_one_another(&house, &house.sandbox.path("run/tokens/many"));
    });
}

/// That one of them is being written is no reason to say of another that its directory hangs.
#[test]
fn files_beside_one_another_in_a_directory_of_another_user_do_not_hinder_each_other() {
    against_each_agent(&[], |house| beside_one_another(&house, &house.home));
}
