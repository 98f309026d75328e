//! Sixteen users call while entries come and go: each answer must be one that was right at some
//! moment between request and reply, and nobody ever gets the identity of another; be it that each has
//! entries of his own, or that all have the same ones, whose identities each completes.

mod common;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Need, Sandbox, have, issuer, long, text};
use load::pb::{JwtBundlesRequest, JwtsvidRequest};
use nix::time::{ClockId, clock_gettime};

const USERS: std::ops::Range<u32> = 2001..2017;
/// The group that all of them have.
const GROUP: u32 = 2000;

/// The clock that all processes of the machine share, in nanoseconds.
fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

fn identity(uid: u32, number: usize) -> String {
    format!("spiffe://example.org/user/{uid}/{number}")
}

/// What a caller does when this program calls itself under another user.
#[test]
#[ignore = "it is a part of the test below, as a process of its own"]
fn caller() {
    let (Ok(socket), Ok(count)) = (std::env::var("MIXED_SOCKET"), std::env::var("MIXED_CALLS"))
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    runtime.block_on(async {
        let mut client = load::connect(Path::new(&socket)).await.unwrap();
        for number in 0..count.parse::<usize>().unwrap() {
            let wanted = match number % 4 {
                0 => identity(uid, number % 3),
                1 => identity(uid + 1, number % 3),
                _ => String::new(),
            };
            let start = now();
            let answer = if number % 16 == 15 {
                let call = client.fetch_jwt_bundles(load::request(JwtBundlesRequest {}));
                call.await.map(|_| vec!["bundle".to_owned()])
            } else {
                let message = JwtsvidRequest {
                    audience: vec![format!("a{}", number % 5)],
                    spiffe_id: wanted.clone(),
                };
                let call = client.fetch_jwtsvid(load::request(message)).await;
                call.map(|reply| {
                    let svids = reply.into_inner().svids.into_iter();
                    svids.map(|svid| subject(&svid.svid)).collect()
                })
            };
            let end = now();
            let answer =
                answer.map_or_else(|status| format!("{:?}", status.code()), |ids| ids.join(","));
            println!("CALL {start} {end} {uid} {wanted:?} {answer}");
        }
    });
}

/// The `sub` of a token: what a verifier would go by.
fn subject(token: &str) -> String {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    let payload = token.split('.').nth(1).unwrap();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

/// The lives of each identity.
type Lives = BTreeMap<String, Vec<Life>>;

/// The present lives of what an entry gives.
fn last<'a>(lives: &'a mut Lives, subject: &Subject) -> Vec<&'a mut Life> {
    let ours = lives
        .iter_mut()
        .filter(|(id, _)| subject.grants.contains(id));
    ours.filter_map(|(_, lives)| lives.last_mut()).collect()
}

/// When an entry was there: at the latest and at the earliest that it can have come, and gone.
#[derive(Debug, Clone, Copy)]
struct Life {
    asked: i64,
    there: i64,
    leaving: i64,
    gone: i64,
}

/// An entry that comes and goes.
struct Subject {
    name: String,
    spiffe_id: String,
    selector: String,
    /// Whom it gives what.
    grants: Vec<String>,
}

/// An entry of each user, for each number.
fn own_entries(number: usize) -> Vec<Subject> {
    let own = |uid: u32| Subject {
        name: format!("u{uid}-{number}"),
        spiffe_id: identity(uid, number),
        selector: format!("unix:uid:{uid}"),
        grants: vec![identity(uid, number)],
    };
    USERS.map(own).collect()
}

/// One entry of all users for each number.
fn common_entry(number: usize) -> Vec<Subject> {
    vec![Subject {
        name: format!("all-{number}"),
        spiffe_id: format!("spiffe://example.org/user/{{unix:uid}}/{number}"),
        selector: format!("unix:gid:{GROUP}"),
        grants: USERS.map(|uid| identity(uid, number)).collect(),
    }]
}

#[test]
fn every_answer_was_right_at_some_moment_of_its_call() {
    mixed(own_entries);
}

#[test]
fn nobody_gets_what_another_makes_of_an_entry_that_both_complete() {
    mixed(common_entry);
}

fn mixed(entries: impl Fn(usize) -> Vec<Subject>) {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let limits = "limits {\n  signatures_per_second_per_uid = 0\n}\n";
    sandbox.configure(&(limits.to_owned() + &issuer("main", "https://localhost", "ES256")));
    let _agent = sandbox.start();
    let program = sandbox.path("mixed");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let calls = if long() { 100_000 } else { 4_000 };
    let start = |uid: u32| -> Child {
        let id = uid.to_string();
        Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &GROUP.to_string()])
            .arg("--clear-groups")
            .arg(&program)
            .args(["--ignored", "--exact", "caller", "--nocapture"])
            .env("MIXED_SOCKET", sandbox.socket())
            .env("MIXED_CALLS", (calls / USERS.len()).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let callers: Vec<Child> = USERS.map(start).collect();
    let waiting = std::thread::spawn(move || {
        let outputs = callers
            .into_iter()
            .map(|child| child.wait_with_output().unwrap());
        outputs
            .map(|output| text(&output.stdout))
            .collect::<Vec<_>>()
    });

    let mut lives = Lives::new();
    let mut versions = 0;
    while !waiting.is_finished() {
        for subject in entries(versions % 3) {
            let before = now();
            let there = subject.grants.iter().any(|id| {
                let known = lives.get(id).and_then(|lives| lives.last());
                known.is_some_and(|life| life.gone == i64::MAX)
            });
            let mut arguments = vec!["entry", "delete", &subject.name];
            if there {
                for life in last(&mut lives, &subject) {
                    life.leaving = before;
                }
            } else {
                arguments = vec!["entry", "create", "--entry-id", &subject.name];
                arguments.extend(["--spiffe-id", &subject.spiffe_id]);
                arguments.extend(["--selector", &subject.selector]);
            }
            let done = sandbox.run(&arguments);
            assert!(done.status.success(), "{}", text(&done.stderr));
            if there {
                for life in last(&mut lives, &subject) {
                    life.gone = now();
                }
                continue;
            }
            for id in subject.grants {
                lives.entry(id).or_default().push(Life {
                    asked: before,
                    there: now(),
                    leaving: i64::MAX,
                    gone: i64::MAX,
                });
            }
        }
        versions += 1;
    }

    let mut checked = 0;
    let (mut granted, mut refused) = (0, 0);
    for line in waiting.join().unwrap().iter().flat_map(|out| out.lines()) {
        let Some(line) = line.split("CALL ").nth(1) else {
            continue;
        };
        let words: Vec<_> = line.split(' ').collect();
        let (start, end): (i64, i64) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        let (uid, wanted, answer) = (words[2].parse::<u32>().unwrap(), words[3], words[4]);
        let ids = (0..3).map(|number| identity(uid, number));
        let of = |id: &str| lives.get(id).cloned().unwrap_or_default();
        let may = |id: &str| of(id).iter().any(|l| l.asked <= end && l.gone >= start);
        let must = |id: &str| of(id).iter().any(|l| l.there <= start && l.leaving >= end);
        let matters = |id: &String| wanted == "\"\"" || wanted.trim_matches('"') == *id;
        match answer {
            "PermissionDenied" => {
                refused += 1;
                let owed = ids.clone().filter(matters).find(|id| must(id));
                assert_eq!(owed, None, "refused what it had: {line}");
            }
            "bundle" => assert!(ids.clone().any(|id| may(&id)), "{line}"),
            given => {
                granted += 1;
                let given: Vec<_> = given.split(',').collect();
                for id in &given {
                    assert!(
                        id.starts_with(&format!("spiffe://example.org/user/{uid}/")),
                        "{line}"
                    );
                    assert!(
                        may(id) && matters(&(*id).to_owned()),
                        "not in force: {line}"
                    );
                }
                let owed = ids
                    .clone()
                    .filter(matters)
                    .find(|id| must(id) && !given.contains(&id.as_str()));
                assert_eq!(owed, None, "left out: {line}");
            }
        }
        checked += 1;
    }
    if long() {
        println!(
            "{checked} calls, {granted} with tokens, {refused} refused, {versions} rounds of changes"
        );
    }
    assert_eq!(checked, calls / USERS.len() * USERS.len());
    assert!(granted > 0 && refused > 0 && versions > 1);
}
