//! Registration entries while the agent runs.

mod common;

use std::fs;
use std::process::{Command, Stdio};
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
    let id = format!("spiffe://example.org/{name}");
    let selector = own_selector();
    let mut arguments = vec![
        "entry",
        "create",
        "--spiffe-id",
        &id,
        "--selector",
        &selector,
    ];
    arguments.extend(more);
    must(sandbox, &arguments)
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

/// Kills the agent at one system call on the store, while entries are made; which of them were
/// confirmed, and whether the call was reached.
fn kill_at(sandbox: &Sandbox, call: &str, number: usize, round: usize) -> (Vec<String>, bool) {
    let store = sandbox.path("data/private/entries.redb");
    let mut traced = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-P"])
        .arg(&store)
        .arg("-e")
        .arg(format!("inject={call}:signal=KILL:when={number}"))
        .arg(binary())
        .args(["run", "--config"])
        .arg(sandbox.config())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut confirmed = Vec::new();
    for step in 0..4 {
        let name = format!("k/{round}/{step}");
        let spiffe_id = format!("spiffe://example.org/{name}");
        let selector = own_selector();
        let made = sandbox.run(&[
            "entry",
            "create",
            "--spiffe-id",
            &spiffe_id,
            "--selector",
            &selector,
        ]);
        // At the start nobody listens yet.
        let made = if step == 0 && made.status.code() == Some(4) {
            eventually("the agent listens or is dead", || {
                if traced.try_wait().unwrap().is_some() {
                    return Some(None);
                }
                let made = sandbox.run(&[
                    "entry",
                    "create",
                    "--spiffe-id",
                    &spiffe_id,
                    "--selector",
                    &selector,
                ]);
                (made.status.code() != Some(4)).then_some(Some(made))
            })
        } else {
            Some(made)
        };
        match made {
            Some(made) if made.status.success() => confirmed.push(name),
            _ => break,
        }
    }
    let reached = traced.try_wait().unwrap().is_some();
    if !reached {
        let children =
            fs::read_to_string(format!("/proc/{0}/task/{0}/children", traced.id())).unwrap();
        for pid in children.split_whitespace() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    traced.wait().unwrap();
    (confirmed, reached)
}

#[test]
fn the_store_survives_a_kill_at_every_write() {
    if !have(&[Need::Strace]) {
        return;
    }
    let sandbox = sandbox();
    drop(sandbox.start());
    let mut round = 0;
    let mut killed = 0;
    for call in ["pwrite64", "fsync", "fdatasync", "ftruncate", "write"] {
        for number in 1.. {
            if !long() && number > 3 {
                break;
            }
            round += 1;
            let (confirmed, reached) = kill_at(&sandbox, call, number, round);
            killed += usize::from(reached);
            let agent = sandbox.start();
            let there = must(&sandbox, &["entry", "list", "--output", "json"]);
            for name in &confirmed {
                assert!(
                    there.contains(&format!("example.org/{name}\"")),
                    "{call} {number}: {name} is lost"
                );
            }
            drop(agent);
            if !reached {
                break;
            }
        }
    }
    println!("{killed} kills in {round} rounds");
    assert!(killed > 0);
}
