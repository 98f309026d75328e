//! Disks that are full, read-only or broken: what signs goes on, the agent tells, and makes up for
//! the rest as soon as it can.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Agent, Need, eventually, have, long};
use crate::plant::{Plant, names};

/// Two probe intervals: until what failed is done again.
const RECOVERY: Duration = Duration::from_secs(2);
/// The margin that a successor waits for after that, if it was not out before.
const MARGIN: Duration = Duration::from_secs(1);

/// A small file system in memory.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Below a directory of an agent that has not started yet.
    fn mount(plant: &mut Plant, path: &str) -> Self {
        let path = plant.sandbox.path(path);
        fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=755", "none"]);
        must(mount.arg(&path));
        plant.disk = Some(Mounted(path.clone()));
        Self(path)
    }

    fn remount(&self, how: &str) {
        // Not while something is being written.
        eventually("it is mounted anew", || {
            let mut mount = Command::new("mount");
            mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
            let status = mount.stderr(Stdio::null()).status().unwrap();
            status.success().then_some(())
        });
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        for size in [1 << 16, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

/// Takes the file system away.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn must(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// What a fault is like, from first to last: tokens come, `agent health` tells why no key turns over,
/// and once it is `gone` another key signs, without a restart. Tells how long that took.
fn endure(plant: &mut Plant, reason: &str, gone: impl FnOnce()) -> String {
    let health = eventually("the agent tells", || {
        plant.fetch_now();
        let health = plant.health();
        health.contains(reason).then_some(health)
    });
    assert!(health.starts_with("degraded\n"), "{health}");
    let former = plant.fetch_now();
    for _ in 0..20 {
        assert_eq!(plant.fetch_now().kid, former.kid, "a key without a record");
    }
    gone();
    let since = Instant::now();
    let works = eventually("the disk is written again", || {
        (!plant.health().contains(reason)).then(|| since.elapsed())
    });
    assert!(!long() || works < RECOVERY, "{reason}: {works:?}");
    eventually("another key signs and all is well", || {
        let other = plant.fetch_now().kid != former.kid;
        (other && plant.health() == "healthy\n").then_some(())
    });
    let took = since.elapsed();
    assert!(!long() || took < RECOVERY + MARGIN, "{reason}: {took:?}");
    format!("{works:.2?} (another key signs after {took:.2?})")
}

/// Neither keys nor records nor documents can be written; it must not cost anybody a token.
#[test]
fn on_a_full_disk_the_key_signs_on_and_when_there_is_room_another_one_follows() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut plant = Plant::new();
    let disk = Tmpfs::mount(&mut plant, "data");
    let agent = plant.start();
    disk.fill();
    let took = endure(&mut plant, "No space left", || {
        fs::remove_file(disk.filler()).unwrap();
    });
    drop(agent);
    disk.fill();
    let _agent = plant.sandbox.start();
    let again = endure(&mut plant, "No space left", || {
        fs::remove_file(disk.filler()).unwrap();
    });
    println!("full disk: goes on after {took}, started on it after {again}");
}

/// The webroot may lie on a disk of its own, which the kernel makes read-only when it breaks.
#[test]
fn on_a_read_only_webroot_the_key_signs_on_and_when_it_is_writable_another_one_follows() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut plant = Plant::new();
    let disk = Tmpfs::mount(&mut plant, "data/webroot");
    let _agent = plant.start();
    disk.remount("ro");
    let took = endure(&mut plant, "Read-only file system", || disk.remount("rw"));
    println!("read-only webroot: goes on after {took}");
}

/// What was made once serves from a disk that nothing can be written to, entries that were made at
/// run time among it; whatever it was that left them unclosed. And it can be locked.
#[test]
fn an_agent_that_is_started_on_a_read_only_disk_serves_what_it_has() {
    if !have(&[Need::Root]) {
        return;
    }
    for killed in [false, true] {
        let mut plant = Plant::new();
        let disk = Tmpfs::mount(&mut plant, "data");
        let agent = plant.start();
        let selector = format!("unix:gid:{}", nix::unistd::getegid());
        let create = [
            "--spiffe-id",
            "spiffe://example.org/made",
            "--selector",
            &selector,
        ];
        let create = || {
            plant
                .sandbox
                .run(&[&["entry", "create"], &create[..]].concat())
        };
        assert!(create().status.success());
        if killed {
            agent.kill();
        } else {
            agent.stop();
        }
        disk.remount("ro");
        let _agent = plant.sandbox.start();
        let count = || plant.sandbox.run(&["entry", "count"]).stdout;
        assert_eq!(count(), b"2\n");
        assert!(!create().status.success(), "nothing can be kept");
        assert!(plant.health().contains("entries cannot be kept"));
        let second = plant.sandbox.spawn().wait();
        assert_eq!(second.code(), Some(1), "it is locked all the same");
        let took = endure(&mut plant, "Read-only file system", || disk.remount("rw"));
        assert_eq!(plant.sandbox.run(&["entry", "count"]).stdout, b"2\n");
        println!("started read-only: goes on after {took}");
    }
}

/// A disk that fails at one kind of call.
struct Broken(Child);

impl Broken {
    fn attach(agent: &Agent, plant: &Plant, call: &str) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject={call}:error=EIO"));
        if call == "openat" {
            // Sockets and processes go on.
            for directory in plant.directories() {
                strace.arg("-P").arg(directory);
            }
        }
        strace.arg("-p").arg(agent.pid().to_string());
        let strace = strace.stdout(Stdio::null()).stderr(Stdio::null());
        Self(strace.spawn().unwrap())
    }

    fn detach(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whatever the call is that fails, the next one of its kind may work, and nothing may hang on the
/// one that did not.
#[test]
fn an_error_of_the_disk_at_any_call_is_told_and_over_when_the_disk_works_again() {
    if !have(&[Need::Strace]) {
        return;
    }
    let mut plant = Plant::new();
    let agent = plant.start();
    let mut times = Vec::new();
    for call in [
        "openat", "fchmod", "fsync", "linkat", "renameat", "unlinkat",
    ] {
        let broken = Broken::attach(&agent, &plant, call);
        let took = endure(&mut plant, "Input/output error", || broken.detach());
        times.push(format!("{call} {took}"));
        let private = plant.sandbox.path("data/private");
        eventually("each key file has its record", || {
            let state = fs::read_to_string(private.join("state.json")).unwrap();
            let named = |name: &String| state.contains(name.trim_end_matches(".pem"));
            names(&private.join("keys")).iter().all(named).then_some(())
        });
    }
    println!("after errors: {}", times.join(", "));
    assert!(names(&plant.sandbox.path("data/private/quarantine")).is_empty());
}
