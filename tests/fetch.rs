//! `agent fetch-jwt` for other programs: its outputs, its file, and how it goes on.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use common::{Sandbox, claims, eventually, issuer, lines, own_entry, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const TOKEN: [&str; 5] = ["fetch-jwt", "--audience", "a", "--output", "token"];
const GCP: [&str; 3] = ["fetch-jwt", "--output", "gcp-executable"];
const KUBERNETES: [&str; 5] = [
    "fetch-jwt",
    "--audience",
    "a",
    "--output",
    "k8s-exec-credential",
];

/// With an entry for this user whose block ends with these options.
fn sandbox(options: &str) -> Sandbox {
    let sandbox = Sandbox::new("");
    let entry = own_entry().replace("\n}\n", &format!("\n{options}\n}}\n"));
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + &entry));
    sandbox
}

/// With tokens of two seconds.
fn short_lived() -> Sandbox {
    sandbox("  jwt_svid_ttl = \"2s\"")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn object(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A command that goes on, killed if the test fails.
struct Watching(Child);

impl Watching {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(piped.spawn().unwrap())
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        lines(self.0.stdout.take().unwrap())
    }

    fn errors(&mut self) -> impl Iterator<Item = String> + use<> {
        lines(self.0.stderr.take().unwrap())
    }

    fn end_with(&mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the command ends", || self.0.try_wait().unwrap())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn googles_libraries_get_the_token_for_the_audience_that_they_name() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p";
    let mut command = sandbox.command(&GCP);
    command.env("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", provider);
    let output = command.output().unwrap();
    assert_eq!((code(&output), text(&output.stderr).as_str()), (0, ""));
    let reply = object(&output.stdout);
    let said = claims(reply["id_token"].as_str().unwrap());
    assert_eq!(said["aud"], json!([provider]));
    let expected = json!({
        "version": 1,
        "success": true,
        "token_type": "urn:ietf:params:oauth:token-type:jwt",
        "id_token": reply["id_token"],
        "expiration_time": said["exp"],
    });
    assert_eq!(reply, expected);

    let output = command.args(["--audience", "mine"]).output().unwrap();
    let said = claims(object(&output.stdout)["id_token"].as_str().unwrap());
    assert_eq!(said["aud"], json!(["mine"]), "what is written counts");

    let mut other = sandbox.command(&["fetch-jwt"]);
    other.env("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", provider);
    assert_eq!(
        code(&other.output().unwrap()),
        2,
        "no other output reads it"
    );
}

#[test]
fn googles_libraries_are_told_of_failures_where_they_read() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let fails = |arguments: &[&str], exit: i32, name: &str, message: &str| {
        let output = sandbox.run(&[&GCP, arguments].concat());
        assert_eq!((code(&output), text(&output.stderr).as_str()), (exit, ""));
        let reply = object(&output.stdout);
        assert_eq!(reply["version"], 1);
        assert_eq!(reply["success"], false);
        assert_eq!(reply["code"], name);
        assert!(
            reply["message"].as_str().unwrap().contains(message),
            "{reply}"
        );
    };
    fails(&[], 2, "USAGE", "GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE");
    let hint = ["--audience", "a", "--hint", "none"];
    fails(&hint, 3, "NO_IDENTITY", "hint \"none\"");
    assert!(agent.stop().success());
    fails(&["--audience", "a"], 4, "NO_AGENT", "no agent listens");
}

#[test]
fn googles_libraries_find_the_last_token_in_the_file_that_they_name() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let cache = sandbox.path("cache.json");
    let fetch = |arguments: &[&str]| {
        let mut command = sandbox.command(&[&GCP, arguments].concat());
        command.env("GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE", &cache);
        command.output().unwrap()
    };
    let output = fetch(&["--audience", "a"]);
    assert_eq!(code(&output), 0);
    assert_eq!(object(&fs::read(&cache).unwrap()), object(&output.stdout));
    assert_eq!(mode(&cache), 0o600);
    assert_eq!(code(&fetch(&["--audience", "a", "--hint", "none"])), 3);
    assert_eq!(object(&fs::read(&cache).unwrap()), object(&output.stdout));
}

#[test]
fn clients_of_kubernetes_get_the_version_that_they_speak() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let fetch = |info: Option<&str>| {
        let mut command = sandbox.command(&KUBERNETES);
        command.env_remove("KUBERNETES_EXEC_INFO");
        command.envs(info.map(|info| ("KUBERNETES_EXEC_INFO", info)));
        command.output().unwrap()
    };
    for (info, version) in [
        (None, "v1"),
        (Some(""), "v1"),
        (
            Some(r#"{"apiVersion":"client.authentication.k8s.io/v1"}"#),
            "v1",
        ),
        (
            Some(
                r#"{"apiVersion":"client.authentication.k8s.io/v1beta1","spec":{"interactive":true}}"#,
            ),
            "v1beta1",
        ),
    ] {
        let reply = object(&fetch(info).stdout);
        assert_eq!(reply["kind"], "ExecCredential");
        let version = format!("client.authentication.k8s.io/{version}");
        assert_eq!(reply["apiVersion"], version.as_str());
        let exp = claims(reply["status"]["token"].as_str().unwrap())["exp"].clone();
        let end = reply["status"]["expirationTimestamp"].as_str().unwrap();
        let end: jiff::Timestamp = end.parse().unwrap();
        assert_eq!(end.as_second(), exp.as_i64().unwrap());
    }
    for info in [
        r#"{"apiVersion":"client.authentication.k8s.io/v1alpha1"}"#,
        "{}",
        "x",
    ] {
        let output = fetch(Some(info));
        assert_eq!((code(&output), text(&output.stdout).as_str()), (1, ""));
        assert!(text(&output.stderr).contains("Kubernetes"), "{info}");
    }
}

#[test]
fn a_hint_chooses_among_several_identities() {
    let sandbox = Sandbox::new("");
    let entry = |name: &str| {
        let hinted = format!("\n  hint = \"{name}\"\n}}\n");
        common::entry(name, nix::unistd::geteuid().as_raw()).replace("\n}\n", &hinted)
    };
    let issuer = issuer("main", "https://localhost", "ES256");
    sandbox.configure(&(issuer + &entry("internal") + &entry("external")));
    let _agent = sandbox.start();
    for name in ["internal", "external"] {
        let output = sandbox.run(&[&TOKEN[..], &["--hint", name]].concat());
        let subject = &claims(text(&output.stdout).trim_end())["sub"];
        assert_eq!(*subject, format!("spiffe://example.org/{name}").as_str());
    }
}

#[test]
fn a_written_file_is_new_whole_and_closed_to_others() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let directory = sandbox.path("out");
    fs::create_dir(&directory).unwrap();
    let file = directory.join("token");
    let victim = sandbox.path("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, &file).unwrap();
    let write = |output: &str| {
        let path = file.to_str().unwrap();
        let arguments = [
            "fetch-jwt",
            "--audience",
            "a",
            "--output",
            output,
            "--write",
            path,
        ];
        let output = sandbox.run(&arguments);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        assert_eq!(mode(&file), 0o600);
        (
            fs::read_to_string(&file).unwrap(),
            fs::metadata(&file).unwrap().ino(),
        )
    };
    let (token, first) = write("token");
    assert_eq!(claims(&token)["aud"], json!(["a"]));
    assert_eq!(token.trim_end(), token, "programs send the newline too");
    assert!(fs::symlink_metadata(&file).unwrap().is_file());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    // An old file that is held open keeps its bytes, and its inode from being used again.
    let held = fs::File::open(&file).unwrap();
    let (document, second) = write("k8s-exec-credential");
    assert_ne!(first, second);
    assert!(document.ends_with("}\n"));
    assert_eq!(std::io::read_to_string(held).unwrap(), token);
    assert_eq!(
        fs::read_dir(&directory).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn a_file_is_written_through_no_link_and_into_no_missing_directory() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    fs::create_dir(sandbox.path("real")).unwrap();
    symlink(sandbox.path("real"), sandbox.path("link")).unwrap();
    for (path, message) in [
        (
            "link/token",
            "is a symbolic link: write the path that it leads to",
        ),
        ("missing/token", "make the directory first"),
        ("..", "no name of a file"),
    ] {
        let path = sandbox.path(path);
        let output = sandbox.run(&[&TOKEN[..], &["--write", path.to_str().unwrap()]].concat());
        assert_eq!((code(&output), text(&output.stdout).as_str()), (1, ""));
        let told = text(&output.stderr);
        assert!(
            told.contains("cannot write") && told.contains(message),
            "{told}"
        );
    }
    assert_eq!(fs::read_dir(sandbox.path("real")).unwrap().count(), 0);

    let mut relative = sandbox.command(&[&TOKEN[..], &["--write", "token"]].concat());
    let status = relative.current_dir(sandbox.path("real")).status().unwrap();
    assert!(status.success());
    assert!(sandbox.path("real/token").exists());
}

#[test]
fn a_watched_file_is_renewed_and_outlives_the_agent() {
    let sandbox = short_lived();
    let agent = sandbox.start();
    let file = sandbox.path("token");
    let path = file.to_str().unwrap();
    let mut watching = Watching::start(
        &mut sandbox.command(&[&TOKEN[..], &["--watch", "--write", path]].concat()),
    );
    let mut last = eventually("the file is there", || fs::read_to_string(&file).ok());
    let mut next = |what: &str| {
        let renewed = eventually(what, || {
            let token = fs::read_to_string(&file).expect("the file is always there");
            assert!(claims(&token)["exp"].is_u64(), "and always whole");
            (token != last).then_some(token)
        });
        assert_eq!(mode(&file), 0o600);
        last = renewed;
    };
    next("the second token");
    next("the third token");
    assert!(agent.stop().success());
    let mut told = watching
        .errors()
        .skip_while(|line| !line.contains("no agent listens"));
    assert!(told.next().unwrap().ends_with("; trying again"));
    assert!(file.exists());
    let _agent = sandbox.start();
    next("a token of the next agent");
    assert_eq!(watching.end_with(Signal::SIGTERM).code(), Some(0));
    assert_eq!(watching.lines().count(), 0);
    assert!(file.exists());
}

#[test]
fn what_is_watched_without_a_file_is_printed_line_by_line() {
    let sandbox = short_lived();
    let _agent = sandbox.start();
    for (output, read) in [
        ("token", (|line| json!(line)) as fn(&str) -> Value),
        ("json", |line| {
            object(line.as_bytes())["svids"][0]["token"].clone()
        }),
        ("gcp-executable", |line| {
            object(line.as_bytes())["id_token"].clone()
        }),
        ("k8s-exec-credential", |line| {
            object(line.as_bytes())["status"]["token"].clone()
        }),
    ] {
        let arguments = [
            "fetch-jwt",
            "--audience",
            "a",
            "--watch",
            "--output",
            output,
        ];
        let mut watching = Watching::start(&mut sandbox.command(&arguments));
        let two: Vec<String> = watching.lines().take(2).collect();
        let tokens: Vec<Value> = two.iter().map(|line| read(line)).collect();
        let exp = |token: &Value| claims(token.as_str().unwrap())["exp"].as_u64().unwrap();
        assert!(exp(&tokens[0]) < exp(&tokens[1]), "{two:?}");
        // Nobody reads any more: it ends by itself, and without a word.
        watching.wait();
        assert_eq!(watching.errors().next(), None);
    }
    let mut watching = Watching::start(&mut sandbox.command(&[&TOKEN[..], &["--watch"]].concat()));
    let mut all = watching.lines();
    assert!(all.next().is_some());
    assert_eq!(watching.end_with(Signal::SIGINT).code(), Some(0));
}

#[test]
fn watching_waits_for_an_agent_and_ends_with_a_refusal() {
    let sandbox = Sandbox::with_entry("ES256");
    let watch = [&TOKEN[..], &["--watch"]].concat();
    let mut waiting = Watching::start(&mut sandbox.command(&watch));
    let told = waiting.errors().next().unwrap();
    assert!(told.contains("trying again"), "{told}");
    let _agent = sandbox.start();
    assert!(waiting.lines().next().is_some());

    let mut refused = Watching::start(sandbox.command(&watch).args(["--hint", "none"]));
    assert_eq!(refused.wait().code(), Some(3));
    assert!(refused.errors().next().unwrap().contains("hint"));
}
