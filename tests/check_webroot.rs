//! `agent check-webroot` on the webroot of a real agent, good and then broken in every way that a
//! disk can be.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Sandbox, issuer, text};
use serde_json::Value;

const URL: &str = "https://id.example.org";

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A sandbox in which an agent has published the issuer `main` and was stopped.
fn published(algorithm: &str) -> Sandbox {
    let sandbox = Sandbox::new("");
    sandbox.configure(&issuer("main", URL, algorithm));
    assert!(sandbox.start().stop().success());
    sandbox
}

fn at(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.path("data/webroot/main").join(name)
}

fn check(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let config = sandbox.config();
    let command = ["check-webroot", "--config", config.to_str().unwrap()];
    sandbox.run(&[&command[..], arguments].concat())
}

/// The exit code, and of each finding below the sandbox its severity, path, message and help.
fn findings(sandbox: &Sandbox) -> (i32, Vec<[String; 4]>) {
    let output = check(sandbox, &["--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], code(&output) == 0, "{report}");
    let finding = |finding: &Value| {
        ["severity", "path", "message", "help"]
            .map(|name| finding[name].as_str().unwrap().to_owned())
    };
    let all = report["issuers"].as_array().unwrap().iter();
    let all = all.flat_map(|issuer| issuer["findings"].as_array().unwrap());
    let ours = |finding: &[String; 4]| Path::new(&finding[1]).starts_with(sandbox.path(""));
    (code(&output), all.map(finding).filter(ours).collect())
}

/// Wants one finding, and gives its help.
fn only(sandbox: &Sandbox, exit: i32, severity: &str, path: &Path, message: &str) -> String {
    let found = findings(sandbox);
    let (code, [[is, about, says, help]]) = (found.0, &found.1[..]) else {
        panic!("one finding was to be about {message:?}: {found:?}");
    };
    assert_eq!(
        (code, is.as_str(), Path::new(about)),
        (exit, severity, path),
        "{says}"
    );
    assert!(says.contains(message), "{says}");
    help.clone()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_webroot_of_an_agent_is_good_whether_it_runs_or_not() {
    let sandbox = Sandbox::new("");
    sandbox.configure(
        &(issuer("main", URL, "RS256") + &issuer("other", "https://other.example.org", "ES256")),
    );
    let agent = sandbox.start();
    sandbox.settle();
    let output = check(&sandbox, &[]);
    let shown = text(&output.stdout);
    assert_eq!(code(&output), 0, "{shown}");
    assert!(shown.contains(&format!("issuer main  {URL}\n")), "{shown}");
    assert!(shown.contains("  ok: 2 keys, algorithms RS256"), "{shown}");
    assert!(shown.contains("  ok: 2 keys, algorithms ES256"), "{shown}");
    assert!(shown.contains("Entra ID takes nothing else"), "{shown}");
    assert!(agent.stop().success());

    let output = check(&sandbox, &["--output", "json"]);
    assert_eq!(code(&output), 0);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let main = &report["issuers"][0];
    assert_eq!(report["ok"], true);
    assert_eq!(main["name"], "main");
    assert_eq!(main["url"], URL);
    assert_eq!(main["keys"], 2);
    assert_eq!(main["algorithms"], serde_json::json!(["RS256"]));
    assert_eq!(main["jwks"], at(&sandbox, "jwks.json").to_str().unwrap());
    let discovery = at(&sandbox, ".well-known/openid-configuration");
    assert_eq!(main["discovery"], discovery.to_str().unwrap());
}

#[test]
fn another_issuer_than_the_configured_one_is_an_error_that_fits_a_terminal() {
    let sandbox = published("RS256");
    sandbox.configure(&issuer("main", "https://elsewhere.example.org", "RS256"));
    let output = check(&sandbox, &[]);
    let shown = text(&output.stdout);
    assert_eq!(code(&output), 1, "{shown}");
    assert!(shown.contains("  not ok; 2 errors\n"), "{shown}");
    let discovery = at(&sandbox, ".well-known/openid-configuration");
    let line = format!("  error    {}\n           issuer is", discovery.display());
    assert!(shown.contains(&line), "{shown}");
    assert!(
        shown.contains("\n           help: every byte counts"),
        "{shown}"
    );
    let sentences = shown.lines().filter(|line| line.starts_with("           "));
    for line in sentences {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn a_wrong_configuration_is_told_as_validate_does() {
    let sandbox = Sandbox::new("issuer \"main\" {}\n");
    let output = check(&sandbox, &[]);
    assert_eq!(code(&output), 78);
    let config = sandbox.config();
    let validated = sandbox.run(&["validate", "--config", config.to_str().unwrap()]);
    assert_eq!(output, validated);
    assert!(output.stdout.is_empty());
}

#[test]
fn documents_that_are_not_there_or_are_no_files_are_errors() {
    let sandbox = Sandbox::new("");
    sandbox.configure(&issuer("main", URL, "RS256"));
    let webroot = at(&sandbox, "");
    let webroot = webroot.components().as_path();
    let help = only(&sandbox, 1, "error", webroot, "No such file");
    assert_eq!(help, "start the agent, which makes it");

    assert!(sandbox.start().stop().success());
    for name in ["jwks.json", ".well-known/openid-configuration"] {
        let path = at(&sandbox, name);
        let kept = sandbox.path("kept");
        fs::rename(&path, &kept).unwrap();
        only(&sandbox, 1, "error", &path, "No such file");
        symlink(&kept, &path).unwrap();
        only(&sandbox, 1, "error", &path, "not a regular file");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        only(&sandbox, 1, "error", &path, "not a regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        only(&sandbox, 1, "error", &path, "not a regular file");
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        only(&sandbox, 1, "error", &path, "larger than 1 MiB");
        fs::rename(&kept, &path).unwrap();
        assert_eq!(findings(&sandbox), (0, Vec::new()));
    }
}

#[test]
fn what_a_web_server_cannot_read_is_a_warning_that_says_what_to_run() {
    let sandbox = published("RS256");
    let jwks = at(&sandbox, "jwks.json");
    chmod(&jwks, 0o600);
    let help = only(&sandbox, 0, "warning", &jwks, "only its owner can read it");
    assert!(help.contains("chmod o+r"), "{help}");
    chmod(&jwks, 0o640);
    if nix::unistd::geteuid().is_root() {
        let help = only(&sandbox, 0, "warning", &jwks, "only its owner and root");
        assert!(!help.contains("group"), "{help}");
        chown(&jwks, None, Some(1001)).unwrap();
    }
    let help = only(&sandbox, 0, "warning", &jwks, "only its owner and group");
    assert!(help.contains("add the web server to that group"), "{help}");
    chmod(&jwks, 0o644);
    for directory in [
        at(&sandbox, ".well-known"),
        sandbox.path("data"),
        sandbox.path("data/webroot/main"),
    ] {
        let directory = directory.components().as_path();
        chmod(directory, 0o744);
        let help = only(
            &sandbox,
            0,
            "warning",
            directory,
            "only its owner can enter it",
        );
        assert!(help.contains("chmod o+x"), "{help}");
        chmod(directory, 0o755);
    }
    assert_eq!(findings(&sandbox), (0, Vec::new()));
}

#[test]
fn what_a_killed_agent_left_behind_is_a_warning() {
    let sandbox = published("RS256");
    for directory in ["", ".well-known"] {
        let name = format!(".agent-{:032x}.tmp", 7);
        let path = at(&sandbox, directory).join(name);
        fs::write(&path, "half").unwrap();
        only(&sandbox, 0, "warning", &path, "has left it behind");
        fs::remove_file(&path).unwrap();
    }
    fs::write(at(&sandbox, ".agent-7.tmp"), "not ours").unwrap();
    assert_eq!(findings(&sandbox), (0, Vec::new()));
}

#[test]
fn a_bundle_is_looked_at_where_there_is_one() {
    let sandbox = published("RS256");
    let bundle = at(&sandbox, "bundle.json");
    fs::write(
        &bundle,
        "{\"spiffe_sequence\": 1, \"spiffe_refresh_hint\": 1}",
    )
    .unwrap();
    only(&sandbox, 1, "error", &bundle, "keys is missing");
    fs::remove_file(&bundle).unwrap();

    let jwks = format!("  jwks_path = \"/bundle.json\"\n  url = \"{URL}\"");
    let at_its_place = issuer("main", URL, "RS256").replace(&format!("  url = \"{URL}\""), &jwks);
    sandbox.configure(&at_its_place);
    assert!(sandbox.start().stop().success());
    assert_eq!(findings(&sandbox), (0, Vec::new()));
}

#[test]
fn a_document_that_the_caller_cannot_read_is_an_error_and_not_an_absence() {
    if !common::have(&[common::Need::Root]) {
        return;
    }
    let sandbox = published("RS256");
    let jwks = at(&sandbox, "jwks.json");
    chmod(&jwks, 0o600);
    let config = sandbox.config();
    chmod(&config, 0o644);
    let output = sandbox.run_as(
        1001,
        &["check-webroot", "--config", config.to_str().unwrap()],
    );
    let shown = text(&output.stdout);
    assert_eq!(code(&output), 1, "{shown}{}", text(&output.stderr));
    assert!(shown.contains("Permission denied"), "{shown}");
}
