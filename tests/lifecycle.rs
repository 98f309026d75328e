//! Start, stop, crash and restart of the real agent.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use common::{Sandbox, binary, eventually, feed, issuer, own_entry, text};
use nix::sys::signal::Signal;
use spiffe::WorkloadApiClient;

/// The kids in the JWKS of an issuer.
fn kids(sandbox: &Sandbox, issuer: &str) -> Vec<String> {
    let jwks = fs::read(sandbox.path(&format!("data/webroot/{issuer}/jwks.json"))).unwrap();
    let jwks: serde_json::Value = serde_json::from_slice(&jwks).unwrap();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

fn is_valid(sandbox: &Sandbox, token: &str) -> bool {
    let mut command = sandbox.command(&["validate-jwt", "--audience", "a"]);
    feed(&mut command, token).status.success()
}

#[test]
fn after_a_crash_the_same_keys_sign_and_old_tokens_still_verify() {
    let sandbox = Sandbox::new("");
    let entry = own_entry().replace("  selectors", "  issuer = \"rsa\"\n  selectors");
    sandbox.configure(
        &(issuer("rsa", "https://rsa.example.org", "RS256")
            + &issuer("ec", "https://ec.example.org", "ES256")
            + &entry),
    );
    let agent = sandbox.start();
    sandbox.settle();
    let before = (kids(&sandbox, "rsa"), kids(&sandbox, "ec"));
    let old: Vec<_> = (0..5).map(|_| sandbox.token("a")).collect();
    agent.kill();
    assert!(
        sandbox.socket().exists(),
        "a killed agent leaves its socket behind"
    );

    let _agent = sandbox.start();
    assert_eq!((kids(&sandbox, "rsa"), kids(&sandbox, "ec")), before);
    for token in &old {
        assert!(is_valid(&sandbox, token));
    }
    assert!(is_valid(&sandbox, &sandbox.token("a")));
}

#[test]
fn a_second_agent_is_refused_and_the_first_is_undisturbed() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let run = ["run", "--config"];
    let second = Command::new(binary())
        .args(run)
        .arg(sandbox.config())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let message = text(&second.stderr);
    assert!(
        message.contains(&format!(
            "in use by another agent (process {})",
            agent.pid()
        )),
        "{message}"
    );
    assert!(is_valid(&sandbox, &sandbox.token("a")));
}

#[test]
fn a_socket_that_somebody_serves_and_a_file_in_its_place_are_left_alone() {
    let sandbox = Sandbox::with_entry("ES256");
    fs::create_dir_all(sandbox.path("run/api")).unwrap();
    let run = || {
        let mut command = Command::new(binary());
        let output = command
            .args(["run", "--config"])
            .arg(sandbox.config())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let other = UnixListener::bind(sandbox.socket()).unwrap();
    assert!(run().contains("is served by another process"));
    drop(other);
    fs::remove_file(sandbox.socket()).unwrap();
    fs::write(sandbox.socket(), "precious").unwrap();
    assert!(run().contains("is not a socket"));
    assert_eq!(fs::read_to_string(sandbox.socket()).unwrap(), "precious");
}

#[test]
fn both_signals_end_the_agent_cleanly_and_its_socket_goes() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sandbox = Sandbox::with_entry("ES256");
        let mut agent = sandbox.start();
        let mode = fs::metadata(sandbox.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o777);
        agent.signal(signal);
        agent.wait_for_state("STOPPING=1");
        assert_eq!(agent.wait().code(), Some(0));
        assert!(!sandbox.socket().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_end_with_unavailable_when_the_agent_stops() {
    use futures_util::StreamExt;

    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    sandbox.settle();
    let address = format!("unix://{}", sandbox.socket().display());
    let client = WorkloadApiClient::connect_to(&address).await.unwrap();
    let mut stream = client.stream_jwt_bundles().await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    agent.signal(Signal::SIGTERM);
    let end = stream.next().await.unwrap().unwrap_err();
    assert!(format!("{end:?}").contains("Unavailable"), "{end:?}");
    assert!(agent.stop().success());
}

#[test]
fn the_watchdog_of_the_service_manager_is_fed() {
    let sandbox = Sandbox::with_entry("ES256");
    let mut agent = sandbox.start_with(&[("WATCHDOG_USEC", "200000")]);
    agent.wait_for_state("WATCHDOG=1");
    agent.wait_for_state("WATCHDOG=1");
}

#[test]
fn threads_that_sign_for_long_give_way_to_those_that_serve() {
    let sandbox = Sandbox::with_entry("RS256");
    let agent = sandbox.start();
    let nice_of = |thread: &str| -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
        // A thread that served for a moment may have ended.
        let stats =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        let of_name = stats.filter_map(|stat| {
            let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
            let nice = fields.split_whitespace().nth(16)?.parse().ok()?;
            (name == thread).then_some(nice)
        });
        of_name.collect()
    };
    let own = nice_of("agent")[0];
    // Each says so itself, when it begins.
    eventually("signers give way", || {
        let signers = nice_of("signer");
        (!signers.is_empty() && signers.iter().all(|nice| *nice > own)).then_some(())
    });
    let serving = nice_of("tokio-rt-worker");
    assert!(serving.contains(&own), "{serving:?}");
}

#[test]
fn keys_and_state_are_closed_to_everybody_else() {
    let sandbox = Sandbox::with_entry("RS256");
    let _agent = sandbox.start();
    let private = sandbox.path("data/private");
    let mut pending = vec![private.clone()];
    let mut seen = 0;
    while let Some(path) = pending.pop() {
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.permissions().mode() & 0o077, 0, "{}", path.display());
        if meta.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}

#[test]
fn the_agent_can_leave_no_core_file_and_its_user_cannot_look_into_it() {
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let values: Vec<_> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
    // What cannot be dumped belongs to root in /proc, whoever runs it.
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        fs::metadata(format!("/proc/{}/environ", agent.pid()))
            .unwrap()
            .uid(),
        0
    );
}

#[test]
fn an_issuer_with_keys_serves_while_another_makes_its_own() {
    let sandbox = Sandbox::new("");
    let entry = own_entry().replace("  selectors", "  issuer = \"old\"\n  selectors");
    let old = issuer("old", "https://old.example.org", "ES256");
    sandbox.configure(&(old.clone() + &entry));
    assert!(sandbox.start().stop().success());

    let slow = issuer(
        "new",
        "https://new.example.org",
        "RS256\"\n    size = 4096 # \"",
    );
    sandbox.configure(&(old + &slow + &entry));
    let mut child = Command::new(binary())
        .args(["run", "--config"])
        .arg(sandbox.config())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let jwks = sandbox.path("data/webroot/new/jwks.json");
    let fetch = ["fetch-jwt", "--audience", "a", "--output", "token"];
    let early = eventually("a token", || {
        let output = sandbox.run(&fetch);
        output.status.success().then(|| !jwks.exists())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        early,
        "the token came before the keys of the other issuer were made"
    );
}

#[test]
fn dev_serves_without_configuration_prints_a_working_token_and_cleans_up() {
    use std::io::BufRead;

    let temporary = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary())
        .arg("dev")
        .env_remove("XDG_RUNTIME_DIR")
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let shown: Vec<String> = lines
        .map(Result::unwrap)
        .take_while(|line| !line.contains("tokens/me"))
        .collect();
    let token = shown
        .iter()
        .find(|line| line.starts_with("eyJ"))
        .expect("a token");
    let sourced = shown.iter().find_map(|line| line.strip_prefix("  . "));
    let sourced = fs::read_to_string(sourced.unwrap()).unwrap();
    let exported = |name: &str| {
        let line = sourced.lines().find(|line| line.contains(name)).unwrap();
        line.split_once('=').unwrap().1
    };
    let socket = exported("SPIFFE_ENDPOINT_SOCKET=");
    let admin = exported("AGENT_ADMIN_SOCKET=");

    let agent = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", socket)
            .env("AGENT_ADMIN_SOCKET", admin);
        command
    };
    let status = agent(&["status"]).output().unwrap();
    assert!(status.status.success(), "{}", text(&status.stderr));
    let file = temporary.path().join("token");
    fs::write(&file, token).unwrap();
    let check = agent(&["validate-jwt", "--audience", "test", "--file"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", text(&check.stderr));
    let refused = agent(&[
        "fetch-jwt",
        "--audience",
        "test",
        "--spiffe-id",
        "spiffe://dev.test/other",
    ]);
    let mut refused = refused;
    assert_eq!(refused.output().unwrap().status.code(), Some(3));
    let mirrored = exported("SVID_TOKEN_FILE=");
    eventually("the token file is there", || fs::read(mirrored).ok());

    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    fs::remove_file(&file).unwrap();
    assert_eq!(
        fs::read_dir(temporary.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}

#[test]
fn dev_refuses_a_directory_that_any_of_its_sockets_is_too_long_for() {
    // 107 bytes hold the path of the Workload API socket here, and not that of the admin socket.
    let directory = format!("/tmp/{}", "d".repeat(87));
    let refused = Command::new(binary())
        .args(["dev", "--dir", &directory])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("too long for the path of a socket"));
    assert!(!std::path::Path::new(&directory).exists());
}

#[test]
fn dev_changes_nothing_that_somebody_else_wrote() {
    let temporary = tempfile::tempdir().unwrap();
    let own = temporary.path().join("agent.conf");
    fs::write(&own, "mine").unwrap();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let dev = || {
        let mut command = Command::new(binary());
        command.args(["dev", "--dir"]).arg(temporary.path());
        command
    };
    let refused = dev().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("choose another directory with --dir"));
    assert_eq!(
        fs::read_dir(temporary.path()).unwrap().count(),
        1,
        "nothing was written"
    );

    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut child = dev().stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(own).unwrap(), "mine");
}

#[test]
fn dev_takes_no_file_of_somebody_else_for_its_own() {
    let temporary = tempfile::tempdir().unwrap();
    let own = temporary.path().join("env");
    fs::write(&own, "mine").unwrap();
    let mut dev = Command::new(binary());
    let refused = dev.args(["dev", "--dir"]).arg(temporary.path()).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("choose another directory with --dir"));
    assert_eq!(fs::read_to_string(own).unwrap(), "mine");
}
