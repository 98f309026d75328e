//! An agent that sees less: on older kernels, without a capability, in namespaces. Whom it cannot
//! tell gets nothing, and it says what it lacks.

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use callers::{DISCOVER, entry, fetch, fetch_within, granted, sandbox};
use common::{Need, Sandbox, as_user, binary, eventually, have, text};

const CALLER: u32 = 1007;

/// Makes the program that runs others without a part of the kernel.
fn refuse(house: &Sandbox) -> PathBuf {
    let program = house.path("refuse");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/refuse.c");
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-o"]).arg(&program).arg(source);
    assert!(compile.status().unwrap().success());
    program
}

fn metrics(sandbox: &Sandbox) -> String {
    format!(
        "metrics {{\n  socket_path = \"{}\"\n}}\n",
        sandbox.path("metrics/m.sock").display()
    )
}

/// A page of the agent; fails while it does not listen yet.
fn scrape(sandbox: &Sandbox, page: &str) -> std::io::Result<String> {
    use std::io::{Read, Write};

    let socket = sandbox.path("metrics/m.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

/// A process that ends with this.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn on_older_kernels_callers_are_told_by_other_means_and_the_agent_says_so() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = Sandbox::new("");
    let refuse = refuse(&house);
    for lacking in [&[][..], &["peerpidfd"], &["info"], &["peerpidfd", "info"]] {
        let sandbox = sandbox(&[]);
        let uid = format!("unix:uid:{CALLER}");
        let path = format!("unix:path:{}", binary().display());
        let blocks = [
            metrics(&sandbox),
            common::issuer("main", "https://localhost", "ES256"),
            DISCOVER.to_owned(),
            entry("path", &[&uid, &path]),
            entry("other", &["unix:uid:0", &path]),
        ];
        sandbox.configure(&blocks.concat());
        let mut command = Command::new(&refuse);
        command.args(lacking).arg("--").arg(binary());
        let agent = sandbox.start_by(command, &[]);
        for _ in 0..3 {
            let caller = fetch(as_user(CALLER), binary(), &sandbox.socket());
            assert_eq!(granted(caller), ["path"], "{lacking:?}");
        }
        let stranger = fetch(as_user(CALLER + 1), binary(), &sandbox.socket());
        assert_eq!(granted(stranger), [""; 0], "{lacking:?}");
        let page = scrape(&sandbox, "/metrics").unwrap();
        for (name, word) in [("SO_PEERPIDFD", "peerpidfd"), ("PIDFD_GET_INFO", "info")] {
            let value = f64::from(u8::from(lacking.contains(&word)));
            let line = format!("attestation_degraded{{lacks=\"{name}\"}} {value:.1}");
            assert!(page.contains(&line), "{lacking:?}: {line}\n{page}");
        }
        let told = agent.log().matches("the kernel lacks SO_PEERPIDFD").count();
        assert_eq!(told, usize::from(lacking.contains(&"peerpidfd")));
    }
}

#[test]
fn where_a_filter_takes_openat2_away_paths_are_told_all_the_same_and_over_no_link() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = Sandbox::new("");
    let refuse = refuse(&house);
    // Outside of `/tmp`, in a directory that is a link to those who do not mount over it.
    let away = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(away.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(away.path().join("real")).unwrap();
    fs::copy(binary(), away.path().join("real/billing")).unwrap();
    std::os::unix::fs::symlink("real", away.path().join("linked")).unwrap();
    let real = away.path().join("real/billing");
    let linked = away.path().join("linked/billing");
    let uid = format!("unix:uid:{CALLER}");
    for lacking in ["openat2", "openat2-old"] {
        let sandbox = sandbox(&[
            DISCOVER.to_owned(),
            entry("uid", &[&uid]),
            entry("real", &[&uid, &format!("unix:path:{}", real.display())]),
            entry(
                "linked",
                &[&uid, &format!("unix:path:{}", linked.display())],
            ),
        ]);
        let mut command = Command::new(&refuse);
        command.args([lacking, "--"]).arg(binary());
        let agent = sandbox.start_by(command, &[]);
        for _ in 0..2 {
            let call = fetch(as_user(CALLER), &real, &sandbox.socket());
            assert_eq!(granted(call), ["uid", "real"], "{lacking}: {}", agent.log());
        }
        // To whom the link is a directory.
        let kept = tempfile::tempdir().unwrap();
        let script = format!(
            "mount --bind \"$1/real\" \"$2\"; mount -t tmpfs none \"$1\"; mkdir \"$1/linked\"; \
             mount --bind \"$2\" \"$1/linked\"; shift 2; \
             exec setpriv --reuid {CALLER} --regid {CALLER} --clear-groups \"$@\""
        );
        let mut private = Command::new("unshare");
        private.args(["--mount", "sh", "-euc", &script, "sh"]);
        private.args([away.path(), kept.path()]);
        let call = fetch(private, &linked, &sandbox.socket());
        assert_eq!(granted(call), ["uid"], "{lacking}: {}", agent.log());
    }
}

#[test]
fn an_agent_that_wants_peerpidfd_serves_nobody_without_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let refuse = refuse(&sandbox);
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let strict = config.replacen("agent {\n", "agent {\n  require_peerpidfd = true\n", 1);
    fs::write(sandbox.config(), strict).unwrap();
    let mut command = Command::new(&refuse);
    command.args(["peerpidfd", "--"]).arg(binary());
    let agent = sandbox.start_by(command, &[]);
    let output = sandbox.run(&["fetch-jwt", "--audience", "a", "--timeout", "1s"]);
    assert!(!output.status.success());
    assert!(!text(&output.stdout).contains("eyJ"));
    assert!(
        agent.log().contains("require_peerpidfd is set"),
        "{}",
        agent.log()
    );
}

#[test]
fn a_capability_that_entries_need_is_named_and_they_match_nobody() {
    if !have(&[Need::Root]) {
        return;
    }
    let uid = format!("unix:uid:{CALLER}");
    let path = format!("unix:path:{}", binary().display());
    let digest = format!("unix:sha256:{}", "0".repeat(64));
    let sandbox = sandbox(&[
        DISCOVER.to_owned(),
        entry("uid", &[&uid]),
        entry("host", &[&uid, "ns:host"]),
        entry("path", &[&uid, &path]),
        entry("hash", &[&uid, &digest]),
    ]);
    let without = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]);
        command.arg(binary());
        command
    };
    let why = "lacks CAP_SYS_PTRACE and sees no program of another user: entry path and 1 more";
    let mut validate = without();
    let output = validate
        .args(["validate", "--config"])
        .arg(sandbox.config());
    let output = output.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr).contains(why),
        "{}",
        text(&output.stderr)
    );

    let agent = sandbox.start_by(without(), &[]);
    let call = || granted(fetch(as_user(CALLER), binary(), &sandbox.socket()));
    assert_eq!(call(), ["uid", "host"]);
    // The links of namespaces, which would tell, are closed to it as well.
    let mut of_user = as_user(CALLER);
    of_user.args(["unshare", "--user", "--map-root-user"]);
    let mut of_pid = Command::new("unshare");
    of_pid.args(["--pid", "--fork", "setpriv"]);
    let id = CALLER.to_string();
    of_pid.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    for inside in [of_user, of_pid] {
        let call = fetch(inside, binary(), &sandbox.socket());
        assert_eq!(granted(call), ["uid"]);
    }
    assert!(agent.log().contains(why), "{}", agent.log());
    let health = sandbox.run(&["health"]);
    assert_eq!(health.status.code(), Some(1));
    assert!(
        text(&health.stdout).contains(why),
        "{}",
        text(&health.stdout)
    );
    drop(agent);

    let _agent = sandbox.start();
    assert_eq!(call(), ["uid", "host", "path"]);
    let health = sandbox.run(&["health"]);
    assert!(!text(&health.stdout).contains("CAP_SYS_PTRACE"));
}

#[test]
fn users_that_the_agents_namespace_does_not_know_are_not_told_apart() {
    if !have(&[Need::Root]) {
        return;
    }
    // Every user and group that the namespace leaves out looks like this one.
    let sandbox = sandbox(&[
        entry("nobody", &["unix:uid:65534"]),
        entry("nogroup", &["unix:gid:65534"]),
        entry("among", &["unix:supplementary_gid:65534"]),
        entry("root", &["unix:uid:0"]),
    ]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user"]).arg(binary());
    let agent = sandbox.start_by(unshare, &[]);
    let by_root = fetch(Command::new("env"), binary(), &sandbox.socket());
    assert_eq!(granted(by_root), ["root"]);
    // Of a group that it leaves out one is and is not told.
    let among = fetch(
        as_ids(0, 0, &CALLER.to_string()),
        binary(),
        &sandbox.socket(),
    );
    assert_eq!(granted(among), ["root"]);
    let why = "does not exist in the agent's user namespace";
    for (user, group) in [(CALLER, 0), (65534, 0), (0, CALLER), (0, 65534)] {
        let by = as_ids(user, group, "");
        let mut call = fetch_within("1s", by, binary(), &sandbox.socket());
        let output = call.output().unwrap();
        assert!(!output.status.success(), "{user}:{group}");
        assert!(!text(&output.stdout).contains("eyJ"), "{user}:{group}");
    }
    assert!(agent.log().contains(why), "{}", agent.log());

    // The same of processes that are named by their number.
    let explain = |process: &Killed| {
        let mut enter = Command::new("nsenter");
        enter.args([
            "--target",
            &agent.pid().to_string(),
            "--user",
            "--preserve-credentials",
        ]);
        enter
            .arg(binary())
            .args(["explain", "--pid", &process.0.id().to_string()]);
        enter.arg("--admin-socket").arg(sandbox.admin_socket());
        let output = enter.output().unwrap();
        text(&output.stdout) + &text(&output.stderr)
    };
    for (user, group) in [(CALLER, 0), (0, CALLER)] {
        let told = explain(&sleeping(as_ids(user, group, "")));
        assert!(
            told.contains("does not exist in the"),
            "{user}:{group}: {told}"
        );
    }
    let told = explain(&sleeping(as_ids(0, 0, &CALLER.to_string())));
    assert!(told.contains("spiffe://example.org/root"), "{told}");
    assert!(
        told.contains("lacks  unix:supplementary_gid:65534"),
        "{told}"
    );
}

/// A command that becomes a process of these ids, with one further group or none.
fn as_ids(user: u32, group: u32, further: &str) -> Command {
    let mut command = Command::new("setpriv");
    let (user, group) = (user.to_string(), group.to_string());
    command.args(["--reuid", &user, "--regid", &group]);
    if further.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.args(["--groups", further]);
    }
    command
}

/// A process of a command that becomes it, which waits.
fn sleeping(mut command: Command) -> Killed {
    let process = Killed(command.args(["sleep", "600"]).spawn().unwrap());
    eventually("it sleeps", || {
        let exe = fs::read_link(format!("/proc/{}/exe", process.0.id())).ok()?;
        exe.ends_with("sleep").then_some(())
    });
    process
}

#[test]
fn an_agent_with_the_wrong_proc_tells_nobody_and_says_so() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = sandbox(&[]);
    let blocks = [
        metrics(&sandbox),
        common::issuer("main", "https://localhost", "ES256"),
        common::own_entry(),
    ];
    sandbox.configure(&blocks.concat());
    // In a pid namespace of its own, with the /proc of the outer one.
    let agent = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child"])
        .arg(binary())
        .args(["run", "--config"])
        .arg(sandbox.config())
        .stdout(Stdio::null())
        .stderr(fs::File::create(sandbox.path("log")).unwrap())
        .spawn()
        .unwrap();
    let agent = Killed(agent);
    eventually("the agent is ready", || {
        let page = scrape(&sandbox, "/ready").ok()?;
        page.starts_with("HTTP/1.1 200").then_some(())
    });
    let inside = Command::new("nsenter")
        .arg("--target")
        .arg(child_of(agent.0.id()))
        .arg("--pid")
        .arg(binary())
        .args(["fetch-jwt", "--audience", "a", "--timeout", "1s"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket())
        .output()
        .unwrap();
    let ready = scrape(&sandbox, "/ready").unwrap();
    let log = fs::read_to_string(sandbox.path("log")).unwrap();
    assert!(
        log.contains("/proc is that of another pid namespace than the agent's"),
        "{log}"
    );
    assert!(!inside.status.success());
    assert!(!text(&inside.stdout).contains("eyJ"));
    assert!(
        ready.contains("/proc is that of another pid namespace"),
        "{ready}"
    );
}

/// The only child of a process.
fn child_of(pid: u32) -> String {
    eventually("its child", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    })
}
