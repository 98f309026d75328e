//! The admin socket: who may, and what it tells.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use common::{Need, Sandbox, binary, have, text};

fn status_through(mut wrapper: Command, sandbox: &Sandbox) -> Output {
    wrapper
        .arg(binary())
        .arg("status")
        .env("AGENT_ADMIN_SOCKET", sandbox.admin_socket())
        .output()
        .unwrap()
}

#[test]
fn other_users_are_kept_out_by_the_directory_and_by_the_agent() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let socket = sandbox.admin_socket();
    let directory = socket.parent().unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(directory), mode(&socket)), (0o700, 0o600));
    let refused = status_through(common::as_user(1001), &sandbox);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("Permission denied"));

    // Even if somebody opened the door.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    for uid in [1, 1001, 65_534] {
        let refused = status_through(common::as_user(uid), &sandbox);
        assert_eq!(refused.status.code(), Some(1));
        let message = text(&refused.stderr);
        assert!(
            message.contains("only root and the user of the agent"),
            "{message}"
        );
    }
    assert!(sandbox.run(&["status"]).status.success());
}

#[test]
fn root_of_a_container_is_no_operator() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    for arguments in [
        &["--pid", "--fork", "--mount-proc"][..],
        &["--user", "--map-root-user"],
        &[
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
        ],
    ] {
        let mut unshare = Command::new("unshare");
        unshare.args(arguments);
        let refused = status_through(unshare, &sandbox);
        let message = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{arguments:?} {message}");
        assert!(
            message.contains("another pid or user namespace"),
            "{arguments:?} {message}"
        );
    }
    let mut mounts = Command::new("unshare");
    mounts.arg("--mount");
    assert!(
        status_through(mounts, &sandbox).status.success(),
        "a mount namespace is no container"
    );
}

#[test]
fn status_and_health_tell_the_same_to_people_and_to_programs() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    sandbox.token("a");
    let shown = text(&sandbox.run(&["status"]).stdout);
    for word in [
        "for example.org: ",
        " healthy, up ",
        "issuer main",
        "ES256",
        "signs since",
        "1 configured, 0 created",
        "spiffe://example.org/me",
    ] {
        assert!(shown.contains(word), "{shown}\nlacks {word}");
    }
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    let json = sandbox.run(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&status["ready"], &status["entries"]["configured"]),
        (&true.into(), &1.into())
    );
    assert_eq!(status["issuers"][0]["keys"][0]["state"], "active");
    assert_eq!(
        status["recent_callers"][0]["outcome"],
        "spiffe://example.org/me"
    );

    let health = sandbox.run(&["health"]);
    assert_eq!(
        (health.status.code(), text(&health.stdout).trim()),
        (Some(0), "healthy")
    );
    let file = "token_file \"/nonexistent/dir/t\" {\n  entry = \"me\"\n  audience = \"a\"\n}\n";
    let config = fs::read_to_string(sandbox.config()).unwrap();
    fs::write(sandbox.config(), config + file).unwrap();
    assert!(sandbox.run(&["reload"]).status.success());
    common::eventually("the health is degraded", || {
        let health = sandbox.run(&["health"]);
        (health.status.code() == Some(1) && text(&health.stdout).contains("/nonexistent/dir"))
            .then_some(())
    });
    assert!(agent.stop().success());
    assert_eq!(sandbox.run(&["health"]).status.code(), Some(4));
}

#[test]
fn the_admin_services_have_no_call_that_gives_out_a_key_or_a_token() {
    let proto = include_str!("../proto/agent/v1/admin.proto");
    let calls: Vec<_> = proto
        .lines()
        .filter(|line| line.trim().starts_with("rpc "))
        .collect();
    let names = [
        "GetStatus",
        "Reload",
        "ListEntries",
        "CreateEntries",
        "UpdateEntry",
        "DeleteEntry",
        "RotateKey",
        "TaintKey",
        "ExplainProcess",
    ];
    assert_eq!(calls.len(), names.len());
    for name in names {
        assert!(
            calls
                .iter()
                .any(|call| call.contains(&format!("rpc {name}("))),
            "{name}"
        );
    }
}
