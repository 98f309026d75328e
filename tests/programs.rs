//! What it costs to tell programs: each is read once, whoever runs it, and large ones hold up nobody.

#[path = "common/callers.rs"]
mod callers;
mod common;
#[path = "common/load.rs"]
mod load;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use callers::{DISCOVER, entry, fetch, granted, names, sandbox};
use common::{Agent, Need, as_user, binary, have, long, text};
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

const UNLIMITED: &str = "attestor \"unix\" {\n  discover_workload_path = true\n  workload_size_limit = 0\n  timeout = \"1s\"\n}\n";
const MIB: u64 = 1 << 20;
const USERS: std::ops::Range<u32> = 3001..3005;

/// A program that is as large as this, mostly of nothing.
fn program(directory: &Path, size: u64) -> PathBuf {
    let program = directory.join("large");
    fs::copy(binary(), &program).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&program).unwrap();
    file.set_len(size).unwrap();
    program
}

fn digest(program: &Path) -> String {
    let output = Command::new("sha256sum").arg(program).output().unwrap();
    text(&output.stdout).split(' ').next().unwrap().to_owned()
}

/// Bytes that the agent has read so far.
fn read_by(agent: &Agent) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", agent.pid())).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

fn house() -> tempfile::TempDir {
    let house = tempfile::tempdir().unwrap();
    fs::set_permissions(house.path(), fs::Permissions::from_mode(0o755)).unwrap();
    house
}

#[test]
fn a_large_program_is_read_once_for_all_its_callers_and_again_when_it_changed() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = house();
    let size = 100 * MIB;
    let program = program(house.path(), size);
    let hash = format!("unix:sha256:{}", digest(&program));
    let mut blocks = vec![DISCOVER.to_owned()];
    for user in USERS {
        let uid = format!("unix:uid:{user}");
        blocks.push(entry(&format!("user-{user}"), &[&uid, &hash]));
    }
    let sandbox = sandbox(&blocks);
    let agent = sandbox.start();
    let before = read_by(&agent);
    let callers: Vec<(u32, Child)> = USERS
        .chain(USERS)
        .map(|user| {
            let mut call = fetch(as_user(user), &program, &sandbox.socket());
            let call = call.stdout(Stdio::piped()).stderr(Stdio::piped());
            (user, call.spawn().unwrap())
        })
        .collect();
    for (user, caller) in callers {
        let output = caller.wait_with_output().unwrap();
        assert_eq!(names(&output), [format!("user-{user}")]);
    }
    let once = read_by(&agent) - before;
    assert!((size..size + size / 2).contains(&once), "{once} bytes");

    // As large and as old as before, and another program all the same.
    let meta = fs::metadata(&program).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&program).unwrap();
    file.write_all_at(b"x", size - 1).unwrap();
    let time = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    futimens(&file, &time, &time).unwrap();
    drop(file);
    let call = fetch(as_user(USERS.start), &program, &sandbox.socket());
    assert_eq!(granted(call), [""; 0]);
    assert!(read_by(&agent) - before > 2 * size);
}

/// How long a token takes on a connection of its own.
async fn timed(socket: &Path) -> Duration {
    let start = Instant::now();
    let mut client = load::connect(socket).await.unwrap();
    load::fetch(&mut client, "a").await.unwrap();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_too_large_to_read_in_time_hold_up_nobody() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = house();
    let program = program(house.path(), 10 << 30);
    let hash = format!("unix:sha256:{}", "0".repeat(64));
    let mut blocks = vec![UNLIMITED.to_owned(), entry("root", &["unix:uid:0"])];
    for user in USERS {
        let uid = format!("unix:uid:{user}");
        blocks.push(entry(&format!("user-{user}"), &[&uid, &hash]));
    }
    let sandbox = sandbox(&blocks);
    let agent = sandbox.start();
    let each = if long() { 25 } else { 2 };
    let callers: Vec<Child> = USERS
        .flat_map(|user| std::iter::repeat_n(user, each))
        .map(|user| {
            let mut call = fetch(as_user(user), &program, &sandbox.socket());
            call.stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut times = Vec::new();
    for _ in 0..if long() { 1000 } else { 20 } {
        times.push(timed(&sandbox.socket()).await);
    }
    for mut caller in callers {
        assert!(!caller.wait().unwrap().success());
    }
    let log = agent.log();
    assert!(log.contains("the program cannot be read in time"), "{log}");
    if long() {
        times.sort_unstable();
        let p99 = times[times.len() * 99 / 100];
        println!("p99 of others while 10 GiB programs are read: {p99:?}");
        assert!(p99 < Duration::from_millis(50), "{p99:?}");
    }
}

#[test]
fn a_program_too_large_to_read_in_time_keeps_its_path() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = house();
    let program = program(house.path(), 10 << 30);
    let uid = format!("unix:uid:{}", USERS.start);
    let path = format!("unix:path:{}", program.display());
    let hash = format!("unix:sha256:{}", "0".repeat(64));
    let blocks = [
        UNLIMITED.to_owned(),
        entry("path", &[&uid, &path]),
        entry("hash", &[&uid, &hash]),
    ];
    let sandbox = sandbox(&blocks);
    let agent = sandbox.start();
    let call = || granted(fetch(as_user(USERS.start), &program, &sandbox.socket()));
    assert_eq!(call(), ["path"]);
    // The hash is looked for again, and whoever waits for it has his path meanwhile.
    assert_eq!(call(), ["path"]);
    let log = agent.log();
    assert!(log.contains("facts=\"the hash of the program\""), "{log}");
}
