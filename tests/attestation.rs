//! What callers cannot talk the agent into: paths, hosts and containers that are not theirs.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use common::{Cgroup, Need, Sandbox, as_user, binary, have, issuer, text};

const CALLER: u32 = 1005;
const DISCOVER: &str = "attestor \"unix\" {\n  discover_workload_path = true\n}\n";

/// An entry `name` for callers with these selectors.
fn entry(name: &str, selectors: &[&str]) -> String {
    format!(
        "entry \"{name}\" {{\n  spiffe_id = \"spiffe://example.org/{name}\"\n  selectors = {selectors:?}\n}}\n"
    )
}

fn sandbox(blocks: &[String]) -> Sandbox {
    Sandbox::new(&(issuer("main", "https://localhost", "ES256") + &blocks.concat()))
}

/// The names of the entries that granted a caller something, in order.
fn granted(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    names(&output)
}

fn names(output: &Output) -> Vec<String> {
    if output.status.code() == Some(3) {
        return Vec::new();
    }
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let svids = reply["svids"].as_array().unwrap().iter();
    svids
        .map(|svid| svid["spiffe_id"].as_str().unwrap())
        .map(|id| id.rsplit('/').next().unwrap().to_owned())
        .collect()
}

/// Adds a call of this program to a command that becomes it.
fn fetch(mut by: Command, program: &Path, socket: &Path) -> Command {
    by.arg(program)
        .args(["fetch-jwt", "--audience", "a", "--output", "json"])
        .env("SPIFFE_ENDPOINT_SOCKET", socket);
    by
}

/// A directory outside of `/tmp` with a copy of the program, which is told too.
fn house() -> (tempfile::TempDir, std::path::PathBuf) {
    let house = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(house.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = house.path().join("billing");
    fs::copy(binary(), &program).unwrap();
    (house, program)
}

#[test]
fn a_service_with_a_private_tmp_keeps_path_and_host_and_a_forger_has_neither() {
    if !have(&[Need::Root]) {
        return;
    }
    let (house, program) = house();
    let uid = format!("unix:uid:{CALLER}");
    let path = format!("unix:path:{}", program.display());
    let sandbox = sandbox(&[
        DISCOVER.to_owned(),
        entry("uid", &[&uid]),
        entry("path", &[&uid, &path]),
        entry("host", &[&uid, "ns:host"]),
    ]);
    let _agent = sandbox.start();
    let all = ["uid", "path", "host"];
    let own = fetch(as_user(CALLER), &program, &sandbox.socket());
    assert_eq!(granted(own), all);

    // As PrivateTmp= of systemd does.
    let mut private = Command::new("unshare");
    let run = sandbox.path("run");
    let script = format!(
        "mount --bind {} /mnt && mount -t tmpfs none /tmp && exec \"$@\"",
        run.display()
    );
    private.args(["--mount", "sh", "-c", &script, "sh", "setpriv"]);
    let id = CALLER.to_string();
    private.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    let private = fetch(private, &program, Path::new("/mnt/api/api.sock"));
    assert_eq!(granted(private), all);

    // A program of one's own, mounted over that path where one may mount.
    let evil = house.path().join("evil");
    fs::copy(binary(), &evil).unwrap();
    chown(&evil, Some(CALLER), Some(CALLER)).unwrap();
    let script = format!(
        "mount --bind {} {} && exec \"$@\"",
        evil.display(),
        program.display()
    );
    let mut forger = as_user(CALLER);
    forger.args(["unshare", "--user", "--map-root-user", "--mount"]);
    forger.args(["sh", "-c", &script, "sh"]);
    let forger = fetch(forger, &program, &sandbox.socket());
    assert_eq!(granted(forger), ["uid"]);
}

#[test]
fn a_container_is_told_by_the_word_of_root_alone() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let id = "5a".repeat(32);
    let uid = format!("unix:uid:{CALLER}");
    let sandbox = sandbox(&[
        entry("host", &[&uid, "ns:host"]),
        entry("container", &[&uid, &format!("container:id:{id}")]),
    ]);
    let _agent = sandbox.start();
    let call = |mut by: Command| {
        let id = CALLER.to_string();
        by.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        granted(fetch(by, binary(), &sandbox.socket()))
    };
    assert_eq!(call(Command::new("env")), ["host"]);
    let real = Cgroup::new(&format!("svid-agent-test.slice/docker-{id}.scope"));
    assert_eq!(call(real.shell()), ["container"]);
    let deeper = Cgroup::new(&format!(
        "svid-agent-test.slice/docker-{id}.scope/init/docker-{}.scope",
        "5b".repeat(32)
    ));
    assert_eq!(call(deeper.shell()), ["container"]);

    // A directory of the caller's own, as users have below user@UID.service.
    let own = Cgroup::new("svid-agent-test-own.service");
    chown(own.path(), Some(CALLER), Some(CALLER)).unwrap();
    let forged = Cgroup::new(&format!("svid-agent-test-own.service/docker-{id}.scope"));
    assert_eq!(call(forged.shell()), [""; 0]);
}
