//! `agent exec`: what the program finds, how it is told, and what is left of it.

mod common;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use common::{Need, Sandbox, claims, eventually, have, issuer, lines, own_entry, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A command of the binary, which makes its directory in `tmp` of the sandbox.
fn exec(sandbox: &Sandbox, options: &[&str], program: &[&str]) -> Command {
    let arguments = [&["exec", "--audience", "a"], options, &["--"], program].concat();
    let agent = sandbox.command(&arguments);
    // Whatever whoever runs the tests has ignored, as nohup does, is not ignored here.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(agent.get_program());
    command.args(agent.get_args());
    for (name, value) in agent.get_envs() {
        command.env(name, value.unwrap());
    }
    let tmp = sandbox.path("tmp");
    fs::create_dir_all(&tmp).unwrap();
    command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", tmp);
    // Not among those whom a terminal tells of Ctrl-C.
    command.process_group(0);
    command
}

fn script(sandbox: &Sandbox, script: &str) -> Command {
    exec(sandbox, &[], &["sh", "-c", script])
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

/// A program that runs, killed if the test fails.
struct Running {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let lines = Box::new(lines(child.stdout.take().unwrap()));
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        eventually("the program ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The program ends with its input, where it reads any.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_finds_its_token_in_a_private_file_and_nowhere_else() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let look = r#"
        echo "$SVID_TOKEN_FILE"
        echo "$AWS_WEB_IDENTITY_TOKEN_FILE"
        echo "$AZURE_FEDERATED_TOKEN_FILE"
        stat -c %a "$SVID_TOKEN_FILE" "$(dirname "$SVID_TOKEN_FILE")"
        cat "$SVID_TOKEN_FILE"; echo "|end"
        tr '\0' '\n' </proc/self/environ
        tr '\0' '\n' </proc/$PPID/environ
        tr '\0' '\n' </proc/$PPID/cmdline
    "#;
    let output = script(&sandbox, look).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let lines: Vec<_> = said.lines().collect();
    let file = Path::new(lines[0]);
    assert!(file.starts_with(sandbox.path("tmp")), "{file:?}");
    assert_eq!(lines[1..5], [lines[0], lines[0], "600", "700"]);
    let token = lines[5].strip_suffix("|end").expect("there is no newline");
    assert_eq!(claims(token)["aud"], serde_json::json!(["a"]));
    assert_eq!(said.matches("eyJ").count(), token.matches("eyJ").count());
    assert!(is_empty(&sandbox.path("tmp")), "it is removed at the end");
}

#[test]
fn the_directory_lies_in_that_of_the_session_if_it_is_the_callers() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let session = sandbox.path("session");
    let place = || {
        let mut command = script(&sandbox, "echo $SVID_TOKEN_FILE");
        let output = command.env("XDG_RUNTIME_DIR", &session).output().unwrap();
        PathBuf::from(text(&output.stdout))
    };
    assert!(place().starts_with(sandbox.path("tmp")), "it is not there");
    fs::create_dir(&session).unwrap();
    assert!(place().starts_with(&session));
    assert!(is_empty(&session));
    if have(&[Need::Root]) {
        std::os::unix::fs::chown(&session, Some(1001), None).unwrap();
        assert!(place().starts_with(sandbox.path("tmp")), "somebody else's");
    }
}

#[test]
fn the_exit_code_is_that_of_the_program() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let plain = sandbox.path("plain");
    fs::write(&plain, "no program").unwrap();
    for (program, code, told) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 42"], 42, ""),
        (&["sh", "-c", "kill -KILL $$"], 137, ""),
        (&["no-such-program"], 127, "is it installed"),
        (&[plain.to_str().unwrap()], 126, "may you execute it"),
    ] {
        let output = exec(&sandbox, &[], program).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{program:?}");
        let errors = text(&output.stderr);
        assert!(
            errors.contains(told) && told.is_empty() == errors.is_empty(),
            "{errors}"
        );
        assert!(is_empty(&sandbox.path("tmp")), "{program:?}");
    }
    let mut nothing = sandbox.command(&["exec", "--audience", "a"]);
    assert_eq!(nothing.output().unwrap().status.code(), Some(2));
}

#[test]
fn without_a_token_the_program_is_not_started() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let fails = |options: &[&str], code: i32| {
        let output = exec(&sandbox, options, &["echo", "started"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).starts_with("agent: "));
        assert!(is_empty(&sandbox.path("tmp")));
    };
    fails(&["--hint", "none"], 3);
    fails(&["--spiffe-id", "spiffe://example.org/other"], 3);
    assert!(agent.stop().success());
    fails(&[], 4);
}

#[test]
fn signals_reach_the_program() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let told = "for s in TERM INT HUP QUIT USR1 USR2; do trap \"echo $s\" $s; done
        echo ready; until [ -e \"$0\" ] || ! [ -d /proc/$PPID ]; do sleep 0.02; done; exit 5";
    let done = sandbox.path("done");
    let program = ["sh", "-c", told, done.to_str().unwrap()];
    let mut running = Running::start(&mut exec(&sandbox, &[], &program));
    assert_eq!(running.line(), "ready");
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
    ] {
        running.signal(signal);
        assert_eq!(running.line(), name);
    }
    fs::write(done, "").unwrap();
    assert_eq!(running.wait().code(), Some(5));

    let mut killed = Running::start(&mut script(&sandbox, "echo ready; exec cat"));
    assert_eq!(killed.line(), "ready");
    killed.signal(Signal::SIGTERM);
    assert_eq!(killed.wait().code(), Some(143));
    assert!(is_empty(&sandbox.path("tmp")));
}

#[test]
fn signals_that_the_caller_ignores_stay_ignored() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let show = ["grep", "SigIgn", "/proc/self/status"];
    let agent = sandbox.command(&[&["exec", "--audience", "a", "--"][..], &show].concat());
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    shell.arg(agent.get_program()).args(agent.get_args());
    shell.env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket());
    let output = text(&shell.output().unwrap().stdout);
    let ignored = output.trim_end().rsplit('\t').next().unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 1, 1, "as nohup wants it");
}

#[test]
fn the_token_is_renewed_while_the_program_runs_and_kept_while_there_is_no_agent() {
    let sandbox = Sandbox::new("");
    let entry = own_entry().replace("\n}\n", "\n  jwt_svid_ttl = \"2s\"\n}\n");
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + &entry));
    let agent = sandbox.start();
    let mut command = script(&sandbox, "echo $SVID_TOKEN_FILE; exec cat");
    let mut running = Running::start(command.stderr(Stdio::piped()));
    let file = PathBuf::from(running.line());
    let read = || fs::read_to_string(&file).expect("the file is always there");
    let mut last = read();
    let mut next = |what: &str| {
        last = eventually(what, || {
            let token = read();
            assert!(claims(&token)["exp"].is_u64(), "and always whole");
            (token != last).then_some(token)
        });
    };
    next("the second token");
    next("the third token");
    assert!(agent.stop().success());
    let errors = running.child.stderr.take().unwrap();
    let told = lines(errors).next().unwrap();
    assert!(told.contains("trying again"), "{told}");
    assert!(file.exists());
    let _agent = sandbox.start();
    next("a token of the next agent");
    drop(running.child.stdin.take());
    assert_eq!(running.wait().code(), Some(0));
    assert!(!file.parent().unwrap().exists());
}
