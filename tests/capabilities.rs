//! What the agent may do beyond its user: no more than its work takes, whatever it was started with.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::process::Command;

use common::{Agent, Need, Sandbox, as_user, binary, capable, eventually, have, issuer, text};

const SERVICE: u32 = 1008;
const CALLER: u32 = 1009;

/// CAP_CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID and SYS_PTRACE.
const USED: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 19;
const NET_BIND_SERVICE: u64 = 1 << 10;

/// The sets of each thread: inheritable, permitted, effective, bounding and ambient.
fn sets(agent: &Agent) -> Vec<[u64; 5]> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let of_task = |status: String| {
        ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let (_, number) = line.split_once(":\t").unwrap();
            u64::from_str_radix(number, 16).unwrap()
        })
    };
    // A thread may have ended since.
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    statuses.map(of_task).collect()
}

#[test]
fn of_what_root_may_do_the_agent_keeps_in_every_thread_what_its_work_takes_and_tells_the_rest() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    sandbox.token("a");
    let all = sets(&agent);
    assert!(all.len() > 2, "{all:?}");
    for sets in all {
        assert_eq!(sets, [0, USED, USED, USED, 0]);
    }
    let log = agent.log();
    let line = log
        .lines()
        .find(|line| line.contains("are given up"))
        .unwrap();
    let (kept, given_up) = line.split_once("given_up=").unwrap();
    for name in ["CAP_SYS_PTRACE", "CAP_KILL", "CAP_DAC_READ_SEARCH"] {
        assert!(kept.contains(name) && !given_up.contains(name), "{line}");
    }
    for name in [
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
    ] {
        assert!(given_up.contains(name) && !kept.contains(name), "{line}");
    }
}

#[test]
fn as_the_unit_starts_it_the_agent_has_nothing_to_give_up_and_passes_nothing_on() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    sandbox.belongs_to(SERVICE);
    let agent = sandbox.start_by(capable(SERVICE), &[]);
    for [inheritable, permitted, effective, _, ambient] in sets(&agent) {
        assert_eq!(
            [inheritable, permitted, effective, ambient],
            [0, USED, USED, 0]
        );
    }
    assert!(!agent.log().contains("are given up"), "{}", agent.log());
}

#[test]
fn what_is_kept_is_enough_for_all_that_a_reload_adds() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let theirs = sandbox.path("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(CALLER), Some(CALLER)).unwrap();
    let (given, written) = (sandbox.path("ours/given"), theirs.join("written"));
    let file = |path: &std::path::Path| {
        format!(
            "token_file \"{}\" {{\n  entry = \"me\"\n  audience = \"a\"\n  owner = \"{CALLER}\"\n}}\n",
            path.display()
        )
    };
    fs::create_dir(sandbox.path("ours")).unwrap();
    let added = format!(
        "attestor \"unix\" {{\n  discover_workload_path = true\n}}\n\
         entry \"program\" {{\n  spiffe_id = \"spiffe://example.org/program\"\n  \
         selectors = [\"unix:uid:{CALLER}\", \"unix:path:{}\"]\n}}\n{}{}",
        binary().display(),
        file(&given),
        file(&written),
    );
    let config = fs::read_to_string(sandbox.config()).unwrap();
    fs::write(sandbox.config(), config + &added).unwrap();
    let reload = sandbox.run(&["reload"]);
    assert!(reload.status.success(), "{}", text(&reload.stderr));
    for path in [given, written] {
        let owner = eventually("the file is there", || {
            Some(fs::metadata(&path).ok()?.uid())
        });
        assert_eq!(owner, CALLER, "{}", path.display());
    }
    let mut fetch = as_user(CALLER);
    fetch
        .arg(binary())
        .args(["fetch-jwt", "--audience", "a"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket());
    let fetched = fetch.output().unwrap();
    assert!(
        fetched.status.success(),
        "{}\n{}",
        text(&fetched.stderr),
        agent.log()
    );
}

#[test]
fn a_low_port_for_metrics_keeps_the_capability_to_listen_on_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let metrics = "metrics {\n  address = \"127.9.8.7:847\"\n}\n";
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + metrics));
    let agent = sandbox.start_by(Command::new(binary()), &[]);
    for [_, permitted, effective, ..] in sets(&agent) {
        assert_eq!([permitted, effective], [USED | NET_BIND_SERVICE; 2]);
    }
    std::net::TcpStream::connect("127.9.8.7:847").unwrap();
}
