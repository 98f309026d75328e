//! Why a process has the identities that it has: told to itself, and to operators of any.

#[path = "common/bus.rs"]
mod bus;
mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/podman.rs"]
mod podman;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;

use bus::{Bus, FRAGMENT, Manager, UNIT};
use common::{Agent, Cgroup, Need, Sandbox, as_user, eventually, have, issuer, text};
use serde_json::{Value, json};

const BILLING: u32 = 1001;
const OTHER: u32 = 1002;

/// A process that waits, until this is dropped.
struct Waiting(Child);

impl Waiting {
    /// Of a program that sleeps, started by a command that ends in becoming it.
    fn start(mut command: Command, program: &Path) -> Self {
        let child = command.arg(program).arg("600").spawn().unwrap();
        let waiting = Self(child);
        eventually("the program runs", || {
            let exe = fs::read_link(format!("/proc/{}/exe", waiting.0.id())).ok()?;
            (exe == program).then_some(())
        });
        waiting
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent whose entry `billing` is of a user and a program, and the program.
fn billing() -> (Sandbox, Agent, PathBuf) {
    let sandbox = Sandbox::new("");
    let program = sandbox.path("billing");
    fs::copy("/bin/sleep", &program).unwrap();
    let config = issuer("main", "https://localhost", "ES256")
        + &format!(
            r#"
attestor "unix" {{
  discover_workload_path = true
  timeout = "30s"
}}
entry "billing" {{
  spiffe_id = "spiffe://example.org/billing"
  selectors = ["unix:uid:{BILLING}", "unix:path:{}"]
  audiences = ["vault"]
  hint      = "internal"
}}
entry "far" {{
  spiffe_id = "spiffe://example.org/far"
  selectors = ["unix:uid:7", "unix:gid:7"]
}}
entry "named" {{
  spiffe_id = "spiffe://example.org/user/{{unix:user}}"
  selectors = ["unix:gid:4711"]
}}
"#,
            program.display()
        );
    sandbox.configure(&config);
    let agent = sandbox.start();
    (sandbox, agent, program)
}

fn explain(sandbox: &Sandbox, pid: &str, more: &[&str]) -> Output {
    sandbox.run(&[&["explain", "--pid", pid], more].concat())
}

/// The text of an explanation, which fits a terminal as far as its words do.
fn told(output: &Output) -> String {
    let told = text(&output.stdout);
    for line in told.lines().filter(|line| line.chars().count() > 80) {
        let longest = line.split_whitespace().map(str::len).max();
        assert!(longest > Some(60), "too long: {line}");
    }
    println!("{told}");
    told
}

#[track_caller]
fn says(told: &str, words: &[&str]) {
    // A line may end between two words.
    let flat = told.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        assert!(flat.contains(word), "{told}\nlacks: {word}");
    }
}

#[test]
fn a_process_that_matches_is_told_with_its_selectors_and_where_they_were_read() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, _agent, program) = billing();
    let process = Waiting::start(as_user(BILLING), &program);
    let pid = process.pid();
    let output = explain(&sandbox, &pid, &[]);
    let shown = told(&output);
    let path = format!(
        "unix:path:{} /proc/{pid}/exe, the file at that path",
        program.display()
    );
    says(
        &shown,
        &[
            &format!("process {pid} of uid 1001, runs {}", program.display()),
            "gets spiffe://example.org/billing",
            "spiffe://example.org/billing entry billing, for vault, hint \"internal\"",
            &format!("unix:uid:1001 /proc/{pid}/status"),
            &path,
            "unix:user: uid 1001 has no name",
        ],
    );
    assert!(!shown.contains("what is missing"), "{shown}");
    assert_eq!(output.status.code(), Some(0));
    // For another audience or identity it gets nothing, and is told why.
    let output = explain(&sandbox, &pid, &["--audience", "aws"]);
    says(
        &told(&output),
        &[
            "gets nothing: it has spiffe://example.org/billing, but its entry does not allow the audience \"aws\"",
        ],
    );
    assert_eq!(output.status.code(), Some(3));
    let output = explain(&sandbox, &pid, &["--spiffe-id", "spiffe://example.org/far"]);
    says(
        &told(&output),
        &[
            "the process has unix:gid:1001 and unix:uid:1001; entry far wants unix:gid:7 and unix:uid:7",
        ],
    );
}

#[test]
fn a_near_miss_and_a_wrong_user_are_told_what_to_change() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, _agent, program) = billing();
    let another = sandbox.path("another");
    fs::copy("/bin/sleep", &another).unwrap();
    let near = Waiting::start(as_user(BILLING), &another);
    let output = explain(&sandbox, &near.pid(), &[]);
    let wants = format!(
        "the process has unix:path:{}; entry billing wants unix:path:{}",
        another.display(),
        program.display()
    );
    says(
        &told(&output),
        &[
            "gets nothing: no entry matches it",
            &wants,
            "has unix:uid:1001",
        ],
    );
    assert_eq!(output.status.code(), Some(3));

    let wrong = Waiting::start(as_user(OTHER), &program);
    let output = explain(&sandbox, &wrong.pid(), &[]);
    says(
        &told(&output),
        &["the process has unix:uid:1002; entry billing wants unix:uid:1001"],
    );

    let mut nameless = Command::new("setpriv");
    nameless.args(["--reuid", "3999999999", "--regid", "4711", "--clear-groups"]);
    let nameless = Waiting::start(nameless, &program);
    let output = explain(
        &sandbox,
        &nameless.pid(),
        &["--spiffe-id", "spiffe://example.org/user/x"],
    );
    says(
        &told(&output),
        &["entry named matches, but it has no unix:user, which {unix:user} stands for"],
    );
}

#[test]
fn a_process_of_a_container_and_one_whose_file_was_replaced_are_told_why_they_have_no_path() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, _agent, program) = billing();
    let mut unshare = as_user(BILLING);
    unshare.args(["unshare", "--user", "--map-root-user", "--mount"]);
    let contained = Waiting::start(unshare, &program);
    let output = explain(&sandbox, &contained.pid(), &[]);
    says(
        &told(&output),
        &[
            "no unix:path (the process is in another user namespace",
            "entry billing wants unix:path:",
        ],
    );

    let replaced = Waiting::start(as_user(BILLING), &program);
    assert!(explain(&sandbox, &replaced.pid(), &[]).status.success());
    let new = sandbox.path("new");
    fs::copy("/bin/sleep", &new).unwrap();
    fs::rename(&new, &program).unwrap();
    let output = explain(&sandbox, &replaced.pid(), &[]);
    says(
        &told(&output),
        &["the file was replaced or deleted since the program started: restart it"],
    );
    assert_eq!(output.status.code(), Some(3));
}

/// An agent with an entry `payments` for containers with a label, which this engine knows.
fn payments(engine: &str, socket: &Path) -> (Sandbox, Agent) {
    let config = issuer("main", "https://localhost", "ES256")
        + &format!(
            r#"
attestor "{engine}" {{
  socket_path = "{}"
}}
entry "payments" {{
  spiffe_id = "spiffe://example.org/{{docker:label:team}}"
  selectors = ["docker:label:team:payments"]
}}
"#,
            socket.display()
        );
    let sandbox = Sandbox::new(&config);
    let agent = sandbox.start();
    (sandbox, agent)
}

#[test]
fn a_process_in_a_container_is_told_what_its_cgroup_and_the_engine_say_of_it() {
    if !have(&[Need::Root, Need::Podman]) {
        return;
    }
    let podman = podman::Podman::new();
    let service = podman.serve();
    let (sandbox, _agent) = payments("podman", &service.socket);
    let id = podman.start(sandbox.socket().parent().unwrap(), &[]);
    let pid = podman.run(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let output = explain(&sandbox, &pid, &[]);
    says(
        &told(&output),
        &[
            "gets spiffe://example.org/payments",
            &format!("container:id:{id} /proc/{pid}/cgroup"),
            &format!("docker:label:team:payments /proc/{pid}/cgroup, the engine of the container"),
            &format!("docker:env:STAGE /proc/{pid}/cgroup"),
            "ns:host: its cgroup names a container",
        ],
    );
    // The same program beside it, in no container.
    let mut outside = Command::new("sleep").arg("600").spawn().unwrap();
    let output = explain(&sandbox, &outside.id().to_string(), &[]);
    outside.kill().unwrap();
    outside.wait().unwrap();
    says(
        &told(&output),
        &[
            "the process has no docker:label:team (its cgroup names no container); entry payments wants docker:label:team:payments",
            "container:id, docker: its cgroup names no container",
            "systemd:invocation_id: units of systemd are not looked for: write attestor \"systemd\" {}",
        ],
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_process_of_a_container_whose_engine_is_not_there_is_told_so() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let socket = Path::new("/run/no-engine.sock");
    let (sandbox, _agent) = payments("docker", socket);
    let id = "5c".repeat(32);
    let cgroup = Cgroup::new(&format!("svid-agent-test-explain.slice/docker-{id}.scope"));
    let sleep = Path::new("/bin/sleep").canonicalize().unwrap();
    let contained = Waiting::start(cgroup.shell(), &sleep);
    let output = explain(&sandbox, &contained.pid(), &[]);
    drop(contained);
    says(
        &told(&output),
        &[
            "the process has no docker:label:team (/run/no-engine.sock: No such file or directory",
            &format!("container:id:{id} /proc/"),
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_systemd_is_told_its_unit_and_another_process_which_one_it_lacks() {
    if !have(&[Need::Root, Need::Cgroups, Need::Bus]) {
        return;
    }
    let house = Sandbox::new("");
    let bus = Bus::new(&house);
    let manager = Manager {
        told: UNIT,
        asked: Arc::default(),
    };
    let served = bus.stand_in(manager).await;
    let sandbox = Sandbox::new(
        &(issuer("main", "https://localhost", "ES256")
            + &format!(
                r#"
attestor "systemd" {{}}
entry "billing" {{
  spiffe_id = "spiffe://example.org/{{systemd:id}}"
  selectors = ["systemd:id:{UNIT}", "systemd:fragment_path:{FRAGMENT}"]
}}
"#
            )),
    );
    let _agent = sandbox.start_with(&[("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)]);
    let sleep = Path::new("/bin/sleep").canonicalize().unwrap();
    let cgroup = Cgroup::new(&format!("svid-agent-test-g.slice/{UNIT}"));
    let service = Waiting::start(cgroup.shell(), &sleep);
    let pid = service.pid();
    let output = explain(&sandbox, &pid, &[]);
    let invocation = "1f".repeat(16);
    says(
        &told(&output),
        &[
            &format!("gets spiffe://example.org/{UNIT}"),
            &format!("systemd:id:{UNIT} /proc/{pid}/cgroup"),
            &format!("systemd:fragment_path:{FRAGMENT} systemd, on the system bus"),
            &format!("systemd:invocation_id:{invocation} systemd, on the system bus"),
        ],
    );
    assert_eq!(output.status.code(), Some(0));

    let outside = Waiting::start(Command::new("env"), &sleep);
    let output = explain(&sandbox, &outside.pid(), &[]);
    says(
        &told(&output),
        &[
            "no systemd:id (its cgroup names no unit of systemd); entry billing wants",
            &format!("lacks systemd:id:{UNIT}"),
        ],
    );
    assert_eq!(output.status.code(), Some(3));

    // Whom systemd tells nothing of keeps what its cgroup tells.
    served.close().await.unwrap();
    let output = explain(&sandbox, &pid, &[]);
    says(
        &told(&output),
        &[
            "no systemd:fragment_path (the system bus: ",
            &format!("has systemd:id:{UNIT}"),
        ],
    );
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_process_that_is_gone_or_none_that_could_ask_is_told_as_such() {
    let (sandbox, _agent, program) = billing();
    let gone = Waiting::start(Command::new("env"), &program).pid();
    let output = explain(&sandbox, &gone, &[]);
    says(
        &told(&output),
        &[&format!(
            "process {gone} gets nothing: there is no such process"
        )],
    );
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(explain(&sandbox, "0", &[]).status.code(), Some(2));
    if have(&[Need::Root]) {
        // Of two users at once, as a program that changes its user is for a while.
        let mut mixed = Command::new("setpriv");
        mixed.args(["--ruid", "1001"]);
        let mixed = Waiting::start(mixed, &program);
        let output = explain(&sandbox, &mixed.pid(), &[]);
        says(
            &told(&output),
            &["gets nothing: its user or group ids are not all the same"],
        );
        assert_eq!(output.status.code(), Some(3));
    }
}

#[test]
fn a_caller_is_told_of_itself_and_nothing_of_entries_that_are_not_its_own() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, _agent, program) = billing();
    let output = sandbox.run_as(BILLING, &["explain"]);
    let shown = told(&output);
    says(
        &shown,
        &[
            "gets nothing: no entry matches it",
            "unix:uid:1001 the connection (SO_PEERCRED)",
        ],
    );
    for other in [
        "example.org",
        "billing",
        "far",
        "named",
        &program.display().to_string(),
    ] {
        assert!(!shown.contains(other), "{shown}\nholds {other}");
    }
    let mine = common::entry("mine", BILLING);
    let config = fs::read_to_string(sandbox.config()).unwrap();
    fs::write(sandbox.config(), config + &mine).unwrap();
    assert!(sandbox.run(&["reload"]).status.success());
    let output = sandbox.run_as(BILLING, &["explain", "--output", "json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["gets"], json!(["spiffe://example.org/mine"]));
    assert_eq!(
        (&json["nearest"], &json["missing"]),
        (&json!([]), &Value::Null)
    );
    // Of others only operators may ask.
    let directory = sandbox.admin_socket();
    let directory = directory.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sandbox.admin_socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let admin = sandbox.admin_socket().display().to_string();
    let output = sandbox.run_as(
        BILLING,
        &["explain", "--pid", "1", "--admin-socket", &admin],
    );
    assert!(text(&output.stderr).contains("only root and the user of the agent"));
}

/// The last refusal in the log of an agent, after a call of this user with this program.
fn refusal(agent: &Agent, sandbox: &Sandbox, uid: u32, audience: &str) -> String {
    let before = agent.log().matches("caller refused").count();
    // The like is told once a second.
    eventually("a refusal is logged", || {
        let output = sandbox.run_as(uid, &["fetch-jwt", "--audience", audience]);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("no identity issued"));
        let log = agent.log();
        let refusals: Vec<_> = log
            .lines()
            .filter(|line| line.contains("caller refused"))
            .collect();
        (refusals.len() > before).then(|| refusals.last().unwrap().to_string())
    })
}

#[test]
fn the_log_of_a_refusal_names_the_nearest_entry_and_of_selectors_only_what_may_be_told() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, agent, _program) = billing();
    let line = refusal(&agent, &sandbox, OTHER, "vault");
    assert!(
        line.contains("nearest=\"billing\" lacks=[] hidden=1"),
        "{line}"
    );
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let shown = config.replacen(
        "agent {\n",
        "agent {\n  log_selectors = [\"unix:uid\"]\n",
        1,
    );
    fs::write(sandbox.config(), shown + &common::entry("open", 1)).unwrap();
    assert!(sandbox.run(&["reload"]).status.success());
    let line = refusal(&agent, &sandbox, OTHER, "vault");
    let wanted = "nearest=\"billing\" lacks=[\"unix:uid:1001\"] hidden=0";
    assert!(line.contains(wanted), "{line}");
    // The right user with another program: path is not among what may be told.
    let line = refusal(&agent, &sandbox, BILLING, "vault");
    assert!(
        line.contains("nearest=\"billing\" lacks=[] hidden=1"),
        "{line}"
    );
}

#[test]
fn the_log_of_a_refusal_says_what_else_stands_in_the_way() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, agent, _program) = billing();
    let client = sandbox.path("client");
    fs::copy(common::binary(), &client).unwrap();
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let path = sandbox.path("billing").display().to_string();
    let config = config.replace(&path, &client.display().to_string());
    fs::write(sandbox.config(), config).unwrap();
    assert!(sandbox.run(&["reload"]).status.success());
    let mut fetch = as_user(BILLING);
    fetch
        .arg(&client)
        .args(["fetch-jwt", "--audience", "aws"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket());
    assert_eq!(fetch.output().unwrap().status.code(), Some(3));
    let log = agent.log();
    assert!(
        log.contains("nearest=\"billing\" lacks=[] hidden=0 note=\"it does not allow"),
        "{log}"
    );

    // A program that goes on while its file is replaced.
    let out = sandbox.path("out");
    let mut watch = as_user(BILLING);
    watch
        .arg(&client)
        .args(["fetch-jwt", "--audience", "vault", "--watch"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.path("later.sock"))
        .stderr(fs::File::create(&out).unwrap());
    let watch = Waiting(watch.spawn().unwrap());
    eventually("the program waits for an agent", || {
        fs::read_to_string(&out)
            .unwrap()
            .contains("trying again")
            .then_some(())
    });
    let new = sandbox.path("new");
    fs::copy(&client, &new).unwrap();
    fs::rename(&new, &client).unwrap();
    std::os::unix::fs::symlink(sandbox.socket(), sandbox.path("later.sock")).unwrap();
    eventually("the refusal is logged", || {
        let note = "note=\"the program was replaced or deleted since it started";
        agent.log().contains(note).then_some(())
    });
    drop(watch);
}

/// The members of an object, and of all in it, without their values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter();
            members
                .map(|(name, value)| (name.clone(), shape(value)))
                .collect()
        }
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        _ => Value::Null,
    }
}

#[test]
fn the_form_for_programs_is_always_the_same() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, _agent, program) = billing();
    let json = |process: &Waiting, more: &[&str]| -> Value {
        let arguments = [more, &["--output", "json"]].concat();
        let output = explain(&sandbox, &process.pid(), &arguments);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let process = Waiting::start(as_user(BILLING), &program);
    let whole = json(&process, &["--audience", "aws"]);
    let expected = json!({
        "pid": null, "uid": null, "gid": null, "program": null, "unattested": null,
        "gets": [], "missing": null,
        "selectors": [{"selector": null, "source": null}],
        "unknown": [{"name": null, "reason": null}],
        "identities": [{
            "entry": null, "spiffe_id": null, "hint": null, "audiences": [null], "withheld": null
        }],
        "nearest": [{
            "entry": null, "spiffe_id": null, "has": [], "incomplete": null,
            "lacks": [{"selector": null, "instead": [null]}],
        }],
    });
    assert_eq!(shape(&whole), expected);
    let mut mixed = Command::new("setpriv");
    mixed.args(["--ruid", "1001"]);
    let least = json(&Waiting::start(mixed, &program), &[]);
    let names = |value: &Value| -> Vec<_> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(names(&least), names(&whole));
}

#[allow(clippy::all, missing_docs, reason = "generated code")]
mod pb {
    tonic::include_proto!("agent.explain.v1");
}

#[tokio::test]
async fn the_service_wants_the_header_and_counts_against_the_limits_of_calls() {
    use pb::explain_client::ExplainClient;

    let limits = "limits {\n  calls_per_second_per_uid = 1\n}\n";
    let sandbox =
        Sandbox::new(&(limits.to_owned() + &issuer("main", "https://localhost", "ES256")));
    let _agent = sandbox.start();
    let mut client = ExplainClient::new(load::channel(&sandbox.socket()).await.unwrap());
    let request = pb::ExplainCallerRequest::default();
    let refused = client.explain_caller(request.clone()).await.unwrap_err();
    assert_eq!(refused.message(), "security header missing from request");
    let wrong = pb::ExplainCallerRequest {
        spiffe_id: "x".to_owned(),
        ..request.clone()
    };
    let refused = client
        .explain_caller(load::request(wrong))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let told = client.explain_caller(load::request(request.clone())).await;
    assert!(told.unwrap().into_inner().nearest.is_empty());
    let mut refused = None;
    for _ in 0..1_000 {
        refused = client
            .explain_caller(load::request(request.clone()))
            .await
            .err();
        if refused.is_some() {
            break;
        }
    }
    assert_eq!(
        refused.unwrap().message(),
        "rate limit exceeded for ExplainCaller"
    );
}
