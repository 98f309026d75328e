//! Registration entries while the agent runs.

mod common;
#[path = "common/load.rs"]
mod load;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Need, Sandbox, binary, eventually, have, issuer, long, own_entry, text};
use spiffe::WorkloadApiClient;

fn uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn own_selector() -> String {
    format!("unix:uid:{}", uid())
}

fn sandbox() -> Sandbox {
    Sandbox::new(&issuer("main", "https://id.example.org", "ES256"))
}

/// Runs a command that must succeed; its output.
fn must(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = sandbox.run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout).trim().to_owned()
}

fn create(sandbox: &Sandbox, name: &str, more: &[&str]) -> String {
    let output = try_create(sandbox, name, more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

fn try_create(sandbox: &Sandbox, name: &str, more: &[&str]) -> Output {
    let id = format!("spiffe://example.org/{name}");
    let selector = own_selector();
    let fixed = [
        "entry",
        "create",
        "--spiffe-id",
        &id,
        "--selector",
        &selector,
    ];
    sandbox.run(&[&fixed, more].concat())
}

#[test]
fn an_entry_is_made_shown_changed_and_removed() {
    let sandbox = sandbox();
    sandbox.configure(&(issuer("main", "https://id.example.org", "ES256") + &own_entry()));
    let agent = sandbox.start();
    let id = create(
        &sandbox,
        "made",
        &[
            "--hint",
            "h",
            "--claim",
            "level=3",
            "--audience",
            "vault",
            "--jwt-svid-ttl",
            "1m",
        ],
    );
    let shown: serde_json::Value =
        serde_json::from_str(&must(&sandbox, &["entry", "show", &id, "--output", "json"])).unwrap();
    let unnamed = sandbox.run(&["entry", "show", ""]);
    assert!(text(&unnamed.stderr).contains("there is no entry"));
    assert_eq!(shown["spiffe_id"], "spiffe://example.org/made");
    assert_eq!(
        (&shown["jwt_svid_ttl"], &shown["claims"]["level"]),
        (&60.into(), &3.into())
    );
    assert_eq!(must(&sandbox, &["entry", "count"]), "2");
    let of = |name: &str| {
        must(
            &sandbox,
            &[
                "entry",
                "count",
                "--spiffe-id",
                &format!("spiffe://example.org/{name}"),
            ],
        )
    };
    assert_eq!((of("made"), of("none")), ("1".to_owned(), "0".to_owned()));

    assert!(agent.stop().success());
    let _agent = sandbox.start();
    let all = must(&sandbox, &["fetch-jwt", "--audience", "vault"]);
    let (first, second) = (all.find("example.org/me"), all.find("example.org/made"));
    assert!(first.is_some() && first < second, "{all}");

    must(
        &sandbox,
        &[
            "entry",
            "update",
            &id,
            "--spiffe-id",
            "spiffe://example.org/other",
            "--selector",
            &own_selector(),
        ],
    );
    assert!(must(&sandbox, &["fetch-jwt", "--audience", "any"]).contains("example.org/other"));
    must(&sandbox, &["entry", "delete", &id]);
    let again = sandbox.run(&["entry", "delete", &id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("there is no entry"));
    let configured = sandbox.run(&["entry", "delete", "me"]);
    assert!(text(&configured.stderr).contains("is of the configuration"));
    let wrong = sandbox.run(&[
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://other.org/x",
        "--selector",
        "unix:uid:x",
    ]);
    let message = text(&wrong.stderr);
    assert!(
        message.contains("not of the trust domain") && message.contains("unix:uid takes a number"),
        "{message}"
    );
}

#[test]
fn what_a_load_warns_of_is_told_to_whoever_makes_such_an_entry_too() {
    let sandbox = sandbox();
    let files = sandbox.path("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("program"), "").unwrap();
    std::os::unix::fs::symlink("program", files.join("link")).unwrap();
    let discover = "attestor \"unix\" {\n  discover_workload_path = true\n}\n";
    let template = "entry \"user\" {\n  spiffe_id = \"spiffe://example.org/{unix:user}\"\n  selectors = [\"unix:gid:7\"]\n  hint = \"h\"\n}\n";
    let issuer = issuer("main", "https://id.example.org", "ES256");
    sandbox.configure(&[&issuer, discover, template].concat());
    let _agent = sandbox.start();
    let warned = |path: &str, selectors: &[&str], more: &[&str], expected: &str| {
        let id = format!("spiffe://example.org{path}");
        let mut arguments = vec!["entry", "create", "--spiffe-id", &id];
        arguments.extend(selectors.iter().flat_map(|one| ["--selector", one]));
        arguments.extend(more);
        let output = sandbox.run(&arguments);
        let told = text(&output.stderr);
        assert!(output.status.success(), "{told}");
        assert_eq!(
            told.matches("agent: warning: ").count(),
            usize::from(!expected.is_empty()),
            "{told}"
        );
        assert!(told.contains(expected), "{told}");
    };
    let (uid, only) = ("unix:uid:1", ["--allow-path-only"]);
    let link = format!("unix:path:{}", files.join("link").display());
    let real = format!("unix:path:{}", files.join("program").display());
    warned("/p/a", &[uid, "unix:gid:8"], &[], "");
    warned("/p/b", &["unix:uid:65534"], &[], "is nobody");
    warned(
        "/p/c",
        &[uid, "unix:path:/nonexistent/perl"],
        &[],
        "is an interpreter",
    );
    warned(
        "/p/d",
        &[uid, "docker:label:a:b"],
        &[],
        "no container engine is asked",
    );
    warned("/p/e", &[uid, "unix:uid:2"], &[], "so this never matches");
    warned(
        "/p/f",
        &["ns:host"],
        &only,
        "matches every process of this machine",
    );
    warned(
        "/p/g",
        &[uid, &link],
        &[],
        "is reached over a link, so this never matches",
    );
    warned("/p/h", &[uid, &real], &[], "");
    warned(
        "/name",
        &[uid],
        &[],
        "the identity of this entry, by entry \"user\"",
    );
    warned(
        "/{unix:group}",
        &[uid],
        &[],
        "a caller can come to spiffe://example.org/name",
    );
    warned(
        "/p/i",
        &["unix:gid:7", uid],
        &["--hint", "h"],
        "and both have this hint",
    );
    warned("/p/{unix:group}/x", &["unix:gid:9"], &["--hint", "h"], "");
    // One that is changed is looked at anew.
    let made = create(&sandbox, "p/j", &[]);
    let selector = own_selector();
    let update = [
        "entry",
        "update",
        &made,
        "--spiffe-id",
        "spiffe://example.org/again",
        "--selector",
        &selector,
    ];
    let told = text(&sandbox.run(&update).stderr);
    assert!(
        told.contains("the identity of this entry, by entry \"user\""),
        "{told}"
    );
    // Without a user it is refused, as in the configuration.
    let alone = [
        "entry",
        "create",
        "--spiffe-id",
        "spiffe://example.org/x",
        "--selector",
        &real,
    ];
    let refused = sandbox.run(&alone);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("tell no user from another"));
}

#[test]
fn entries_of_spire_are_imported_as_they_are() {
    let sandbox = sandbox();
    let _agent = sandbox.start();
    let uid = uid();
    let file = sandbox.path("entries.json");
    let entries = format!(
        r#"{{"entries": [
            {{"spiffe_id": "spiffe://example.org/one", "parent_id": "spiffe://example.org/agent", "selectors": [{{"type": "unix", "value": "uid:{uid}"}}], "jwt_svid_ttl": 60}},
            {{"spiffe_id": "spiffe://other.org/two", "selectors": [{{"type": "unix", "value": "uid:{uid}"}}]}}
        ]}}"#
    );
    fs::write(&file, entries).unwrap();
    let output = sandbox.run(&["entry", "import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).trim(), "1 created, 1 failed");
    let report = text(&output.stderr);
    assert!(
        report.contains("parent_id: no meaning here") && report.contains("other.org/two"),
        "{report}"
    );
    assert!(must(&sandbox, &["fetch-jwt", "--audience", "a"]).contains("example.org/one"));
    fs::write(
        &file,
        r#"{"entries": [{"spiffe_id": "spiffe://example.org/x", "admin": true}]}"#,
    )
    .unwrap();
    let refused = sandbox.run(&["entry", "import", file.to_str().unwrap()]);
    assert!(text(&refused.stderr).contains("admin is true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_entry_ends_the_streams_and_removes_the_tokens_that_leaned_on_it() {
    use futures_util::StreamExt;

    let sandbox = sandbox();
    let path = sandbox.path("run/tokens/t");
    let file = format!(
        "token_file \"{}\" {{\n  entry = \"made\"\n  audience = \"a\"\n}}\n",
        path.display()
    );
    sandbox.configure(&(issuer("main", "https://id.example.org", "ES256") + &file));
    let _agent = sandbox.start();
    sandbox.settle();
    for _ in 0..if long() { 20 } else { 3 } {
        create(&sandbox, "made", &["--entry-id", "made"]);
        eventually("the token file is there", || path.exists().then_some(()));
        let address = format!("unix://{}", sandbox.socket().display());
        let client = WorkloadApiClient::connect_to(&address).await.unwrap();
        let mut stream = client.stream_jwt_bundles().await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        let watch = {
            let path = path.clone();
            std::thread::spawn(move || {
                eventually("the token file is gone", || {
                    (!path.exists()).then(Instant::now)
                })
            })
        };
        must(&sandbox, &["entry", "delete", "made"]);
        let deleted = Instant::now();
        let end = stream.next().await.unwrap().unwrap_err();
        let ended = Instant::now();
        assert!(
            format!("{end}{end:?}").contains("no identity issued"),
            "{end:?}"
        );
        let gone = watch.join().unwrap();
        if long() {
            let limit = Duration::from_millis(100);
            println!(
                "after delete: stream {:?}, file {:?}",
                ended.saturating_duration_since(deleted),
                gone.saturating_duration_since(deleted)
            );
            assert!(ended.saturating_duration_since(deleted) < limit);
            assert!(gone.saturating_duration_since(deleted) < limit);
        }
    }
}

#[test]
fn an_entry_among_many_is_in_force_at_once() {
    let count = if long() { 100_000 } else { 2_000 };
    let sandbox = sandbox();
    let _agent = sandbox.start();
    let file = sandbox.path("many.json");
    let entries: Vec<_> = (0..count)
        .map(|n| format!(r#"{{"spiffe_id":"spiffe://example.org/w/{n}","selectors":["unix:uid:{}","unix:gid:{n}"]}}"#, 3_000_000 + n))
        .collect();
    fs::write(&file, format!("{{\"entries\":[{}]}}", entries.join(","))).unwrap();
    let made = must(
        &sandbox,
        &["entry", "import", "--timeout", "1m", file.to_str().unwrap()],
    );
    assert_eq!(made, format!("{count} created, 0 failed"));
    for round in 0..5 {
        let start = Instant::now();
        create(
            &sandbox,
            &format!("mine/{round}"),
            &["--entry-id", &format!("mine{round}")],
        );
        let id = format!("spiffe://example.org/mine/{round}");
        must(
            &sandbox,
            &[
                "fetch-jwt",
                "--audience",
                "a",
                "--output",
                "token",
                "--spiffe-id",
                &id,
            ],
        );
        let took = start.elapsed();
        println!("{count} entries: created and fetched in {took:?}");
        if long() {
            assert!(took < Duration::from_millis(100), "{took:?}");
        }
    }
}

/// An agent with an entry for this user among `count` others, of which each asks for a program of a
/// user of its own.
fn among(count: usize) -> (Sandbox, common::Agent) {
    let sandbox = sandbox();
    let paths = "attestor \"unix\" {\n  discover_workload_path = true\n}\n";
    sandbox.configure(&(issuer("main", "https://id.example.org", "ES256") + paths));
    let agent = sandbox.start();
    let entries: Vec<_> = (0..count)
        .map(|n| format!(r#"{{"spiffe_id":"spiffe://example.org/w/{n}","selectors":["unix:gid:{}","unix:uid:{}","unix:path:/bin/{n}"]}}"#, 7_000_000, 3_000_000 + n))
        .collect();
    let file = sandbox.path("many.json");
    fs::write(&file, format!("{{\"entries\":[{}]}}", entries.join(","))).unwrap();
    must(
        &sandbox,
        &["entry", "import", "--timeout", "1m", file.to_str().unwrap()],
    );
    create(&sandbox, "mine", &[]);
    (sandbox, agent)
}

#[tokio::test]
async fn a_call_among_many_entries_costs_what_one_among_ten_costs() {
    let (counts, calls, rounds) = if long() {
        ([10, 1_000, 100_000], 4_000, 9)
    } else {
        ([10, 100, 1_000], 50, 1)
    };
    let agents = counts.map(among);
    let mut medians: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds {
        for ((sandbox, _), medians) in agents.iter().zip(&mut medians) {
            let figures = load::sequential(&sandbox.socket(), calls).await;
            medians.push(figures.p50);
        }
    }
    let [few, more, most] = medians.map(|mut medians| {
        medians.sort_by(f64::total_cmp);
        medians[medians.len() / 2]
    });
    println!("p50 of a call among {counts:?} entries: {few:.1}, {more:.1}, {most:.1} us");
    if long() {
        assert!(more < few * 1.1 && most < few * 1.1);
    }
}

#[test]
fn an_entry_of_the_configuration_displaces_one_of_the_same_id_that_can_then_be_removed() {
    let sandbox = sandbox();
    let _agent = sandbox.start();
    create(&sandbox, "made", &["--entry-id", "same"]);
    let configured = common::entry("same", 4_000_000);
    sandbox.configure(&(issuer("main", "https://id.example.org", "ES256") + &configured));
    must(&sandbox, &["reload"]);
    assert_eq!(
        sandbox.run(&["fetch-jwt", "--audience", "a"]).status.code(),
        Some(3)
    );
    assert!(
        must(&sandbox, &["entry", "list"]).contains("the configuration has an entry of this id")
    );
    must(&sandbox, &["entry", "delete", "same"]);
    assert_eq!(must(&sandbox, &["entry", "count"]), "1");
}

#[test]
fn an_error_of_the_disk_ends_nothing_for_good() {
    if !have(&[Need::Strace]) {
        return;
    }
    let sandbox = sandbox();
    let agent = sandbox.start();
    for call in ["pwrite64", "fsync", "fdatasync"] {
        let mut strace = strace(&sandbox, &format!("{call}:error=EIO"));
        let mut strace = strace
            .arg("-p")
            .arg(agent.pid().to_string())
            .spawn()
            .unwrap();
        wait_until_traced(agent.pid());
        let failed = !try_create(&sandbox, call, &[]).status.success();
        let health = text(&sandbox.run(&["health"]).stdout);
        assert_eq!(
            failed,
            health.contains("entries cannot be kept"),
            "{health}"
        );
        let pid = nix::unistd::Pid::from_raw(strace.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        strace.wait().unwrap();
        create(&sandbox, &format!("after/{call}"), &[]);
        assert_eq!(must(&sandbox, &["health"]), "healthy");
    }
}

/// `strace` that injects something into system calls on the store.
fn strace(sandbox: &Sandbox, injection: &str) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(sandbox.path("data/private/entries.redb"))
        .arg("-e")
        .arg(format!("inject={injection}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    strace
}

/// `strace` that kills at one system call on the store.
fn killer(sandbox: &Sandbox, call: &str, number: usize) -> Command {
    strace(sandbox, &format!("{call}:signal=KILL:when={number}"))
}

fn wait_until_traced(pid: u32) {
    eventually("strace holds every thread", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let traced = |path: &std::path::Path| {
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        tasks
            .map(|task| task.unwrap().path())
            .all(|path| traced(&path))
            .then_some(())
    });
}

/// Makes entries until one is not confirmed; those that were.
fn create_until_dead(sandbox: &Sandbox, round: usize) -> Vec<String> {
    let mut confirmed = Vec::new();
    for step in 0..4 {
        let name = format!("k/{round}/{step}");
        let spiffe_id = format!("spiffe://example.org/{name}");
        let selector = own_selector();
        let create = [
            "entry",
            "create",
            "--spiffe-id",
            &spiffe_id,
            "--selector",
            &selector,
        ];
        if !sandbox.run(&create).status.success() {
            break;
        }
        confirmed.push(name);
    }
    confirmed
}

/// Kills an agent at one system call on its store while it starts; whether the call was reached.
fn kill_at_start(sandbox: &Sandbox, call: &str, number: usize) -> bool {
    let mut strace = killer(sandbox, call, number);
    strace
        .arg(binary())
        .args(["run", "--config"])
        .arg(sandbox.config());
    let mut traced = strace.spawn().unwrap();
    let reached = eventually("the agent serves or is dead", || {
        if traced.try_wait().unwrap().is_some() {
            return Some(true);
        }
        sandbox.run(&["health"]).status.success().then_some(false)
    });
    let children = format!("/proc/{0}/task/{0}/children", traced.id());
    for pid in fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
    {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    traced.wait().unwrap();
    reached
}

/// Kills a serving agent at one system call on its store while entries are made; those that were
/// confirmed, and whether the call was reached.
fn kill_while_serving(
    sandbox: &Sandbox,
    call: &str,
    number: usize,
    round: usize,
) -> (Vec<String>, bool) {
    let agent = sandbox.start();
    let mut strace = killer(sandbox, call, number)
        .arg("-p")
        .arg(agent.pid().to_string())
        .spawn()
        .unwrap();
    wait_until_traced(agent.pid());
    let confirmed = create_until_dead(sandbox, round);
    let reached = confirmed.len() < 4;
    agent.kill();
    strace.wait().unwrap();
    (confirmed, reached)
}

#[test]
fn the_store_survives_a_kill_at_every_write() {
    if !have(&[Need::Strace]) {
        return;
    }
    let sandbox = sandbox();
    drop(sandbox.start());
    let (mut round, mut killed) = (0, 0);
    for serving in [false, true] {
        for call in [
            "pwrite64",
            "fsync",
            "fdatasync",
            "ftruncate",
            "fallocate",
            "write",
        ] {
            for number in 1.. {
                if !long() && number > 2 {
                    break;
                }
                round += 1;
                let (confirmed, reached) = if serving {
                    kill_while_serving(&sandbox, call, number, round)
                } else {
                    (Vec::new(), kill_at_start(&sandbox, call, number))
                };
                let agent = sandbox.start();
                let there = must(&sandbox, &["entry", "list", "--output", "json"]);
                for name in &confirmed {
                    let entry = format!("example.org/{name}\"");
                    assert!(there.contains(&entry), "{call} {number}: {name} is lost");
                }
                drop(agent);
                if !reached {
                    break;
                }
                killed += 1;
            }
        }
    }
    println!("{killed} kills in {round} rounds");
    assert!(killed > 0);
}
