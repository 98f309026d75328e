//! The commands as their users meet them: output, errors, exit codes.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::{Need, Sandbox, entry, eventually, feed, have, issuer, text};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs a command with something on its standard input.
fn run_with_input(sandbox: &Sandbox, arguments: &[&str], input: &str) -> Output {
    feed(&mut sandbox.command(arguments), input)
}

#[test]
fn a_user_with_an_entry_gets_a_token_and_one_without_is_told_so() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    sandbox.configure(&(issuer("main", "https://localhost", "RS256") + &entry("billing", 1001)));
    let agent = sandbox.start();
    let fetch = ["fetch-jwt", "--audience", "test", "--output", "token"];

    let granted = sandbox.run_as(1001, &fetch);
    assert_eq!(code(&granted), 0, "{}", text(&granted.stderr));
    assert_eq!(text(&granted.stdout).trim_end().split('.').count(), 3);
    assert_eq!(text(&granted.stdout).lines().count(), 1);

    let denied = sandbox.run_as(1002, &fetch);
    assert_eq!(code(&denied), 3);
    assert!(denied.stdout.is_empty());
    assert!(text(&denied.stderr).contains("no identity issued"));

    assert!(agent.stop().success());
    let alone = sandbox.run_as(1001, &fetch);
    assert_eq!(code(&alone), 4);
    assert!(text(&alone.stderr).contains("no agent listens on"));
    let alone = sandbox.run(&["status"]);
    assert_eq!(code(&alone), 4);
    assert!(text(&alone.stderr).contains("with --admin-socket or AGENT_ADMIN_SOCKET"));
}

#[test]
fn another_identity_than_ones_own_is_refused_with_the_code_of_no_identity() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let foreign = [
        "fetch-jwt",
        "--audience",
        "a",
        "--spiffe-id",
        "spiffe://example.org/other",
    ];
    assert_eq!(code(&sandbox.run(&foreign)), 3);
    let malformed = ["fetch-jwt", "--audience", "a", "--spiffe-id", "other"];
    let output = sandbox.run(&malformed);
    assert_eq!(code(&output), 2);
    assert!(text(&output.stderr).contains("it must start with spiffe://"));
    let wrong_hint = ["fetch-jwt", "--audience", "a", "--hint", "none"];
    assert_eq!(code(&sandbox.run(&wrong_hint)), 3);
}

#[test]
fn json_output_tells_the_identity_the_audience_and_the_end_of_each_token() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let output = sandbox.run(&[
        "fetch-jwt",
        "--audience",
        "a",
        "--audience",
        "b",
        "--output",
        "json",
    ]);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let svid = &reply["svids"][0];
    assert_eq!(svid["spiffe_id"], "spiffe://example.org/me");
    assert_eq!(svid["audience"], serde_json::json!(["a", "b"]));
    assert!(svid["expires_at"].as_str().unwrap().ends_with('Z'));
    assert!(svid["token"].as_str().unwrap().starts_with("eyJ"));
}

#[test]
fn a_token_is_validated_from_standard_input_or_a_file_and_never_from_an_argument() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let token = sandbox.token("vault");
    let check = ["validate-jwt", "--audience", "vault"];

    let good = run_with_input(&sandbox, &check, &format!("{token}\n"));
    assert_eq!(code(&good), 0, "{}", text(&good.stderr));
    assert!(text(&good.stdout).contains("spiffe://example.org/me"));

    let file = sandbox.path("token");
    std::fs::write(&file, &token).unwrap();
    let file = file.to_str().unwrap();
    let json = sandbox.run(&[
        "validate-jwt",
        "--audience",
        "vault",
        "--output",
        "json",
        "--file",
        file,
    ]);
    let reply: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(reply["claims"]["aud"], serde_json::json!(["vault"]));

    let other = run_with_input(&sandbox, &["validate-jwt", "--audience", "other"], &token);
    assert_eq!(code(&other), 1);
    let message = text(&other.stderr);
    assert!(message.contains("not for this audience"), "{message}");
    assert!(message.contains("untrusted claims"), "{message}");
    assert!(!message.contains(&token));

    let empty = run_with_input(&sandbox, &check, "");
    assert_eq!(code(&empty), 1);
    let argument = sandbox.run(&["validate-jwt", "--audience", "vault", &token]);
    assert_eq!(code(&argument), 2);
    let message = text(&argument.stderr);
    assert!(
        !message.contains(&token) && message.contains("standard input"),
        "{message}"
    );
    assert_eq!(code(&sandbox.run(&["validate-jwt", "--audience", ""])), 2);
}

#[test]
fn waiting_for_an_agent_succeeds_when_it_comes() {
    let sandbox = Sandbox::with_entry("ES256");
    let mut waiting = sandbox
        .command(&[
            "fetch-jwt",
            "--audience",
            "a",
            "--output",
            "token",
            "--wait",
            "--timeout",
            "30s",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(waiting.try_wait().unwrap().is_none());
    let _agent = sandbox.start();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).starts_with("eyJ"));
}

#[test]
fn the_bundle_is_printed_written_and_followed() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let jwks = sandbox.run(&["fetch-bundle"]);
    let jwks: serde_json::Value = serde_json::from_slice(&jwks.stdout).unwrap();
    assert_eq!(jwks["keys"][0]["kty"], "EC");
    assert!(jwks["keys"][0].get("use").is_none());

    let file = sandbox.path("bundle.json");
    let spiffe = [
        "fetch-bundle",
        "--format",
        "spiffe",
        "--write",
        file.to_str().unwrap(),
    ];
    assert!(sandbox.run(&spiffe).status.success());
    let written: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written["keys"][0]["use"], "jwt-svid");

    std::fs::remove_file(&file).unwrap();
    let mut watching = sandbox
        .command(&["fetch-bundle", "--watch", "--write", file.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the bundle is written", || file.exists().then_some(()));
    assert!(agent.stop().success());
    assert!(
        watching.try_wait().unwrap().is_none(),
        "it waits for the next agent"
    );
    std::fs::remove_file(&file).unwrap();
    let _agent = sandbox.start();
    eventually("the bundle is written again", || {
        file.exists().then_some(())
    });
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn every_command_has_help_and_a_wrong_one_exits_with_2() {
    let sandbox = Sandbox::new("");
    let shown = text(&sandbox.run(&["--help"]).stdout);
    let (_, listed) = shown.split_once("Commands:\n").unwrap();
    let (listed, _) = listed.split_once("\n\n").unwrap();
    let verbs = listed.lines().filter_map(|line| line.strip_prefix("  "));
    let verbs = verbs.filter(|line| !line.starts_with(' '));
    let verbs: Vec<_> = verbs.filter_map(|line| line.split(' ').next()).collect();
    assert!(
        verbs.contains(&"run") && verbs.contains(&"integrate"),
        "{verbs:?}"
    );
    for verb in verbs.into_iter().filter(|verb| *verb != "help") {
        let help = sandbox.run(&[verb, "--help"]);
        assert_eq!(code(&help), 0, "{verb}");
        let help = text(&help.stdout);
        assert!(
            help.contains("Usage: agent") && help.contains("\nExample"),
            "{verb}"
        );
    }
    assert_eq!(code(&sandbox.run(&["no-such-command"])), 2);
    assert_eq!(code(&sandbox.run(&["fetch-jwt"])), 2);
    let version = text(&sandbox.run(&["--version"]).stdout);
    assert!(
        version.starts_with("agent ") && version.contains('('),
        "{version}"
    );
}

#[test]
fn nothing_is_printed_about_a_reader_that_went_away() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let mut command = sandbox.command(&["fetch-jwt", "--audience", "a"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_socket_that_cannot_be_used_is_told_from_an_agent_that_is_not_there() {
    let sandbox = Sandbox::new("");
    let fetch = |socket: &str| {
        let output = sandbox.run(&[
            "fetch-jwt",
            "--audience",
            "a",
            "--timeout",
            "1s",
            "--socket",
            socket,
        ]);
        (code(&output), text(&output.stderr))
    };
    let (exit, message) = fetch("/nonexistent/api.sock");
    assert!(
        exit == 4 && message.contains("start one with agent run"),
        "{exit} {message}"
    );
    assert_eq!(message.matches("os error").count(), 1, "{message}");
    let (exit, message) = fetch(&format!("/{}", "x".repeat(120)));
    assert!(
        exit == 1 && message.contains("107 bytes"),
        "{exit} {message}"
    );

    let path = sandbox.path("other.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in other.incoming() {
            let mut stream = stream.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .unwrap();
            open.push(stream);
        }
    });
    let (exit, message) = fetch(path.to_str().unwrap());
    assert!(
        exit == 4 && message.contains("is it an agent that listens there?"),
        "{exit} {message}"
    );
}
