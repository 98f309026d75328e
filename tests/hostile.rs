//! Callers that mean harm: they say nothing, too much, or nonsense. Others are served meanwhile, the
//! memory of the agent stays bounded, and whoever overdoes it loses his connection.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/wire.rs"]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{
    Agent, DEADLINE, Need, Sandbox, as_user, entry, eventually, have, issuer, long, own_entry,
    python,
};
use tonic::Code;

/// Opens so many connections and says nothing, until it is killed.
fn silent(socket: &Path, count: usize) -> Child {
    let script = "
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(True)
    s.connect(sys.argv[1])
    held.append(s)
print('open', flush=True)
sys.stdin.read()
";
    let mut child = as_user(1001)
        .arg(python().unwrap())
        .args(["-c", script])
        .arg(socket)
        .arg(count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn descriptors(agent: &Agent) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .unwrap()
        .count()
}

/// Resident memory in megabytes.
fn resident(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().next().unwrap();
    kilobytes.parse::<u64>().unwrap() / 1024
}

/// Time that it has computed, in ticks of 10 ms.
fn computed(agent: &Agent) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn served(socket: &Path) -> Duration {
    let start = Instant::now();
    let mut client = load::connect(socket).await.unwrap();
    load::fetch(&mut client, "a").await.unwrap();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_go_and_keep_nobody_waiting() {
    if !have(&[Need::Root, Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let mut client = load::connect(&sandbox.socket()).await.unwrap();
    load::fetch(&mut client, "a").await.unwrap();
    let (base, ready) = (descriptors(&agent), resident(&agent));
    let count = if long() { 10_000 } else { 1_500 };
    let socket = sandbox.socket();
    let opening = tokio::task::spawn_blocking(move || silent(&socket, count));
    let mut times = Vec::new();
    while !opening.is_finished() || times.len() < 500 {
        let start = Instant::now();
        load::fetch(&mut client, "a").await.unwrap();
        times.push(start.elapsed());
    }
    let opened = Instant::now();
    let child = opening.await.unwrap();
    eventually("the silent ones are gone", || {
        (descriptors(&agent) <= base + 2).then_some(())
    });
    let gone = opened.elapsed();
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    if long() {
        std::thread::sleep(Duration::from_secs(30));
        let after = resident(&agent);
        println!(
            "{count} silent connections: {} calls of another user, p99 {p99:?}; gone after {gone:?}; RSS {ready} MB at ready, {after} MB 30 s later",
            times.len()
        );
        assert!(p99 < Duration::from_millis(20) && after <= ready + 8);
    }
    end(child);
    served(&sandbox.socket()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_descriptors_are_neither_a_reason_to_spin_nor_the_end() {
    if !have(&[Need::Root, Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let pid = agent.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--nofile=64:64", "--pid", &pid])
        .status();
    assert!(limited.unwrap().success());
    let child = silent(&sandbox.socket(), 200);
    let before = computed(&agent);
    if long() {
        std::thread::sleep(Duration::from_secs(4));
        let share = computed(&agent) - before;
        println!("64 descriptors, 200 connections: {share} of 400 ticks computed");
        assert!(share < 20);
    }
    // Another user is served all the same: no user gets all the places.
    served(&sandbox.socket()).await;
    end(child);
    served(&sandbox.socket()).await;
}

/// Sends `start` and then `more` again and again until the agent closes the connection.
fn floods(socket: &Path, start: &[u8], more: &[u8]) -> usize {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut reader = reader;
        let mut buffer = [0; 65536];
        while reader.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    let begun = Instant::now();
    let mut sent = 0;
    let mut result = stream.write_all(start);
    while result.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "still open after {sent} rounds");
        result = stream.write_all(more);
        sent += 1;
    }
    reading.join().unwrap();
    sent
}

fn hello() -> Vec<u8> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, wire::frame(4, 0, 0, &[])].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_the_connection_that_makes_them() {
    // A connection without a request would otherwise end before its flood does.
    let sandbox = Sandbox::new("");
    let patient = "limits {\n  request_timeout = \"0s\"\n}\n".to_owned();
    let issuer = issuer("main", "https://localhost", "ES256");
    sandbox.configure(&(patient + &issuer + &own_entry()));
    let agent = sandbox.start();
    served(&sandbox.socket()).await;
    let before = resident(&agent);
    let block = wire::headers("localhost", "/SpiffeWorkloadAPI/FetchJWTSVID");
    // Requests that are taken back at once, each on a stream of its own.
    let resets: Vec<u8> = (0..20_000u32)
        .flat_map(|number| {
            let stream = (2 * number + 1).to_be_bytes();
            let mut frames = [
                wire::frame(1, 4, 0, &block),
                wire::frame(3, 0, 0, &[0, 0, 0, 8]),
            ];
            for frame in &mut frames {
                frame[5..9].copy_from_slice(&stream);
            }
            frames.concat()
        })
        .collect();
    let bomb = [
        &[0x40, 1, b'x', 0x7f, 0x81, 0x7d],
        vec![b'y'; 16_256].as_slice(),
    ]
    .concat();
    let fragment = wire::frame(1, 0, 1, &block);
    for (name, start, more) in [
        ("rapid reset", hello(), resets),
        (
            "continuation",
            [hello(), fragment.clone()].concat(),
            wire::frame(9, 0, 1, &[0; 1024]),
        ),
        (
            "empty continuation",
            [hello(), fragment].concat(),
            wire::frame(9, 0, 1, &[]),
        ),
        ("header bomb", hello(), wire::frame(1, 4, 1, &bomb)),
        ("ping", hello(), wire::frame(6, 0, 0, &[0; 8]).repeat(64)),
        ("settings", hello(), wire::frame(4, 0, 0, &[]).repeat(64)),
        (
            "window update",
            hello(),
            wire::frame(8, 0, 0, &[0, 0, 0, 1]).repeat(64),
        ),
        (
            "unknown frames",
            hello(),
            wire::frame(0xbb, 0, 0, &[0; 8]).repeat(64),
        ),
        (
            "no HTTP/2",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"x".repeat(1024),
        ),
    ] {
        let socket = sandbox.socket();
        let flooding = tokio::task::spawn_blocking(move || floods(&socket, &start, &more));
        while !flooding.is_finished() {
            served(&sandbox.socket()).await;
        }
        let rounds = flooding.await.unwrap_or_else(|_| panic!("{name} goes on"));
        if long() {
            println!(
                "{name}: closed after {rounds} rounds, RSS {} MB",
                resident(&agent)
            );
        }
    }
    assert!(
        resident(&agent) <= before + 16,
        "{before} MB before, {} MB now",
        resident(&agent)
    );
    served(&sandbox.socket()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_requests_are_refused_and_nobody_notices() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    served(&sandbox.socket()).await;
    let before = resident(&agent);
    for _ in 0..50 {
        let mut client = load::connect(&sandbox.socket()).await.unwrap();
        let refused = load::fetch(&mut client, &"x".repeat(1 << 20))
            .await
            .unwrap_err();
        assert!(
            matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted),
            "{refused}"
        );
        served(&sandbox.socket()).await;
    }
    assert!(resident(&agent) <= before + 16);
}

#[test]
fn a_process_that_writes_to_the_connection_of_another_gets_nothing() {
    if !have(&[Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let hex = wire::hex("/SpiffeWorkloadAPI/FetchJWTSVID");
    // The parent connects and lives on; the child writes.
    let script = "
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(30)
if os.fork() == 0:
    s.sendall(bytes.fromhex(sys.argv[2])); os._exit(0)
os.wait()
got = b''
try:
    while data := s.recv(65536): got += data
except ConnectionResetError: pass
sys.exit(b'eyJ' in got)
";
    let run = |hex: &str| {
        let mut command = Command::new(python().unwrap());
        let command = command.args(["-c", script]).arg(sandbox.socket()).arg(hex);
        command.status().unwrap().success()
    };
    assert!(run(&hex));
    assert!(
        agent
            .log()
            .contains("another process than the one that connected writes to it")
    );
}

#[test]
fn descriptors_that_are_sent_along_are_not_received() {
    if !have(&[Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let base = descriptors(&agent);
    let script = "
import array, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
fds = array.array('i', [0] * 50)
try:
    s.sendmsg([b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
except PermissionError:
    sys.exit(0)
s.settimeout(30)
try:
    while s.recv(65536): pass
except ConnectionResetError: pass
";
    let mut command = Command::new(python().unwrap());
    let status = command.args(["-c", script]).arg(sandbox.socket()).status();
    assert!(status.unwrap().success());
    eventually("no descriptor is left", || {
        (descriptors(&agent) <= base).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_asks_for_too_many_signatures_waits_and_others_do_not() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let own = own_entry().replace("selectors", "jti = true\n  selectors");
    let limits = "limits {\n  signatures_per_second_per_uid = 5\n}\n";
    let issuer = issuer("main", "https://localhost", "ES256");
    sandbox.configure(&(limits.to_owned() + &issuer + &own + &entry("other", 1001)));
    let _agent = sandbox.start();
    let mut client = load::connect(&sandbox.socket()).await.unwrap();
    let mut refusals = Vec::new();
    for _ in 0..50 {
        refusals.extend(load::fetch(&mut client, "a").await.err());
    }
    assert!(refusals.len() >= 30, "{}", refusals.len());
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::Unavailable);
        assert_eq!(refusal.message(), "rate limit exceeded for FetchJWTSVID");
    }
    let output = sandbox.run_as(1001, &["fetch-jwt", "--audience", "a"]);
    assert!(output.status.success());
}
