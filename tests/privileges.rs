//! The rows of docs/running-without-root.md: what each missing capability loses, that the start tells
//! of it by name, and that nothing else breaks.

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use callers::{DISCOVER, entry, fetch, granted};
use common::{Agent, CAPABILITIES, Need, Sandbox, as_user, binary, capable_of, eventually, have};

const CALLER: u32 = 1007;
const READER: u32 = 1001;
const OTHER: u32 = 1002;

/// What asks for every privilege that there is, and beside it what asks for none.
struct Everything {
    sandbox: Sandbox,
    /// The process that is signalled after a write, and ends by that.
    reader: std::process::Child,
    program: PathBuf,
}

impl Everything {
    fn new() -> Self {
        let sandbox = Sandbox::new("");
        let foreign = sandbox.path("foreign");
        fs::create_dir(&foreign).unwrap();
        chown(&foreign, Some(OTHER), Some(OTHER)).unwrap();
        let roots = sandbox.path("roots");
        fs::create_dir(&roots).unwrap();
        // A program that only root may read and only the caller may run.
        let closed = sandbox.path("closed");
        fs::create_dir(&closed).unwrap();
        let program = closed.join("program");
        fs::copy(binary(), &program).unwrap();
        for path in [&closed, &program] {
            chown(path, Some(0), Some(CALLER)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o710)).unwrap();
        }

        let mut reader = as_user(READER);
        let reader = reader.args(["sleep", "600"]).spawn().unwrap();
        let pid_file = sandbox.path("reader.pid");
        fs::write(&pid_file, format!("{}\n", reader.id())).unwrap();
        eventually("the reader is its user", || {
            let status = fs::metadata(format!("/proc/{}", reader.id())).unwrap();
            (status.uid() == READER).then_some(())
        });

        let file = |path: &str, options: &str| {
            let path = sandbox.path(path).display().to_string();
            format!(
                "token_file \"{path}\" {{\n  entry = \"uid\"\n  audience = \"a\"\n{options}}}\n"
            )
        };
        let renewal = format!(
            "  owner = \"{READER}\"\n  renew_signal = \"SIGTERM\"\n  pid_file = \"{}\"\n",
            pid_file.display()
        );
        let uid = format!("unix:uid:{CALLER}");
        let path = format!("unix:path:{}", program.display());
        let hash = format!("unix:sha256:{}", digest(binary()));
        let issuer = common::issuer("main", "https://localhost", "ES256");
        let given = format!("{{\n  webroot_owner = \"{READER}\"\n");
        let blocks = [
            issuer.replacen("{\n", &given, 1),
            DISCOVER.to_owned(),
            entry("uid", &[&uid]),
            entry("path", &[&uid, &path]),
            entry("both", &[&uid, &path, &hash]),
            file("run/tokens/own", ""),
            file("run/tokens/given", &renewal),
            file("foreign/token", ""),
            file("roots/token", ""),
        ];
        sandbox.configure(&blocks.concat());
        Self {
            sandbox,
            reader,
            program,
        }
    }

    fn owner(&self, file: &str) -> Option<u32> {
        fs::metadata(self.sandbox.path(file))
            .ok()
            .map(|is| is.uid())
    }

    /// Waits until the log has a line with both, and gives the whole log.
    fn told(agent: &Agent, line: &Line) -> String {
        eventually(&format!("{line:?}"), || {
            let log = agent.log();
            let mut lines = log.lines();
            let has = |text: &str| line.iter().all(|part| text.contains(part));
            lines.any(has).then_some(log)
        })
    }

    /// Checks everything that takes no privilege.
    fn works(&self, agent: &Agent, user: u32) {
        let sandbox = &self.sandbox;
        let stranger = granted(fetch(as_user(OTHER), binary(), &sandbox.socket()));
        assert_eq!(stranger, [""; 0]);
        let caller = granted(fetch(as_user(CALLER), binary(), &sandbox.socket()));
        assert_eq!(caller, ["uid"], "{}", agent.log());
        eventually("its own token file", || self.owner("run/tokens/own"));
        assert_eq!(self.owner("run/tokens/own"), Some(user));
        let checked = sandbox.run(&["check-webroot", "--config", config(sandbox).as_str()]);
        assert!(
            checked.status.success(),
            "{}",
            common::text(&checked.stdout)
        );
    }

    /// Whether the closed program is told.
    fn sees_the_program(&self) -> bool {
        let caller = fetch(as_user(CALLER), &self.program, &self.sandbox.socket());
        match granted(caller).join(" ").as_str() {
            "uid path both" => true,
            "uid" => false,
            other => panic!("{other}"),
        }
    }
}

impl Drop for Everything {
    fn drop(&mut self) {
        let _ = self.reader.kill();
        let _ = self.reader.wait();
    }
}

/// Parts of a line.
type Line<'a> = [&'a str; 2];

fn digest(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    common::text(&output.stdout)[..64].to_owned()
}

fn config(sandbox: &Sandbox) -> String {
    sandbox.config().display().to_string()
}

/// Root without these.
fn root_without(lacking: &[&str]) -> Command {
    let minus: Vec<_> = lacking.iter().map(|name| format!("-{name}")).collect();
    let minus = minus.join(",");
    let mut command = Command::new("setpriv");
    if !lacking.is_empty() {
        command.arg(format!("--bounding-set={minus}"));
        command.arg(format!("--inh-caps={minus}"));
    }
    command.arg(binary());
    command
}

const GIVEN: Line = [
    "no token file is written whose owner or group",
    "run/tokens/given",
];
const WEBROOT: Line = ["webroot_owner and webroot_group need", "issuer=main"];
const FOREIGN: Line = [
    "no token file is written in a directory of another",
    "foreign/token",
];
const CLOSED: Line = [
    "in a directory that is closed to the agent's user",
    "roots/token",
];
const SIGNAL: Line = ["renew_signal reaches no process", "run/tokens/given"];
const PROGRAMS: Line = ["sees no program of another user", "entry path"];
const UNREAD: Line = ["programs that are closed to the agent's user", "entry path"];
const LINES: [Line; 7] = [GIVEN, WEBROOT, FOREIGN, CLOSED, SIGNAL, PROGRAMS, UNREAD];

/// What an agent of root loses without a capability.
fn lost_to_root(capability: &str) -> Vec<Line<'static>> {
    match capability {
        "sys_ptrace" => vec![PROGRAMS],
        "chown" | "fowner" => vec![GIVEN, WEBROOT],
        "setuid" | "setgid" => vec![FOREIGN],
        "kill" => vec![SIGNAL],
        _ => Vec::new(),
    }
}

/// Checks that these losses are told, once each, and no others, and that what they name is lost and
/// the rest is there.
fn check(all: &Everything, agent: &Agent, user: u32, lost: &[Line], why: &str) {
    all.works(agent, user);
    let there = |line: &Line| !lost.contains(line);
    for line in lost {
        Everything::told(agent, line);
    }
    for (line, file, owner) in [
        (GIVEN, "run/tokens/given", READER),
        (FOREIGN, "foreign/token", OTHER),
    ] {
        if there(&line) {
            eventually(file, || all.owner(file));
        }
        let is = all.owner(file);
        assert_eq!(is, there(&line).then_some(owner), "{why}: {file}");
    }
    if there(&CLOSED) && user == 0 {
        eventually("the token in a directory of root", || {
            all.owner("roots/token")
        });
    }
    let documents = all.owner("data/webroot/main/jwks.json");
    let of_reader = if there(&WEBROOT) { READER } else { user };
    assert_eq!(documents, Some(of_reader), "{why}");
    let sees = there(&PROGRAMS) && there(&UNREAD);
    assert_eq!(all.sees_the_program(), sees, "{why}");
    let log = agent.log();
    for line in LINES {
        let has = |text: &&str| line.iter().all(|part| text.contains(part));
        let count = log.lines().filter(has).count();
        assert_eq!(count, usize::from(!there(&line)), "{why}: {line:?}\n{log}");
    }
    // A lacking capability is told of in these lines and nowhere else.
    let told = log.lines().filter(|text| text.contains("the agent lacks"));
    let of_lines = lost.iter().filter(|line| **line != WEBROOT);
    assert_eq!(told.count(), of_lines.count(), "{why}\n{log}");
}

#[test]
fn root_without_a_capability_loses_what_the_start_names_and_nothing_else() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut lacking: Vec<Vec<&str>> = CAPABILITIES.iter().map(|name| vec![*name]).collect();
    lacking.push(Vec::new());
    for lacking in lacking {
        let mut all = Everything::new();
        let agent = all.sandbox.start_by(root_without(&lacking), &[]);
        let lost: Vec<_> = lacking.iter().flat_map(|name| lost_to_root(name)).collect();
        check(&all, &agent, 0, &lost, &format!("{lacking:?}"));
        let signalled = || all.reader.try_wait().unwrap().map(drop);
        if !lost.contains(&SIGNAL) && !lost.contains(&GIVEN) {
            eventually("the reader is signalled", signalled);
        }
    }
}

#[test]
fn root_without_any_capability_serves_and_names_all_that_is_lost() {
    if !have(&[Need::Root]) {
        return;
    }
    let mut all = Everything::new();
    let agent = all.sandbox.start_by(root_without(&["all"]), &[]);
    let lost = [GIVEN, WEBROOT, FOREIGN, SIGNAL, PROGRAMS];
    check(&all, &agent, 0, &lost, "all");
    assert!(all.reader.try_wait().unwrap().is_none());
    // What is as it should be is left alone by the next start.
    all.sandbox.settle();
    drop(agent);
    let jwks = all.sandbox.path("data/webroot/main/jwks.json");
    let before = fs::metadata(&jwks).unwrap().ino();
    let agent = all.sandbox.start_by(root_without(&["all"]), &[]);
    Everything::told(&agent, &WEBROOT);
    assert_eq!(fs::metadata(&jwks).unwrap().ino(), before);
    // With everything, the documents are given away.
    drop(agent);
    let _agent = all.sandbox.start();
    assert_eq!(all.owner("data/webroot/main/jwks.json"), Some(READER));
}

#[test]
fn a_user_with_capabilities_loses_what_the_start_names_and_nothing_else() {
    const AGENT: u32 = 1009;

    if !have(&[Need::Root]) {
        return;
    }
    for (lacking, lost) in [
        (&[][..], &[][..]),
        (&["dac_read_search"], &[]),
        (&["dac_override"], &[CLOSED]),
        (&["dac_override", "dac_read_search"], &[CLOSED, UNREAD]),
        (&["sys_ptrace"], &[PROGRAMS]),
        (&["chown", "fowner"], &[GIVEN, WEBROOT]),
        (&["setuid", "setgid"], &[FOREIGN]),
        (&["kill"], &[SIGNAL]),
    ] {
        let all = Everything::new();
        all.sandbox.belongs_to(AGENT);
        let has: Vec<_> = CAPABILITIES
            .into_iter()
            .filter(|name| !lacking.contains(name))
            .collect();
        let agent = all.sandbox.start_by(capable_of(AGENT, &has), &[]);
        // The directory of root takes this too.
        let mut lost = lost.to_vec();
        if lacking.contains(&"chown") {
            lost.retain(|line| *line != CLOSED);
        }
        check(&all, &agent, AGENT, &lost, &format!("{lacking:?}"));
    }
}

#[test]
fn a_plain_user_serves_the_processes_of_this_user_below_the_runtime_directory() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    // As logind makes it.
    let runtime = sandbox.path("user");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let home = sandbox.path("home");
    fs::create_dir(&home).unwrap();
    for directory in [&runtime, &home] {
        chown(directory, Some(CALLER), Some(CALLER)).unwrap();
    }
    let uid = format!("unix:uid:{CALLER}");
    let blocks = [
        format!(
            "agent {{\n  trust_domain = \"example.org\"\n  data_dir = \"{}/agent\"\n  runtime_dir = \"{}/agent\"\n}}\n",
            home.display(),
            runtime.display()
        ),
        common::issuer("main", "https://localhost", "ES256"),
        DISCOVER.to_owned(),
        entry(
            "path",
            &[&uid, &format!("unix:path:{}", binary().display())],
        ),
        entry(
            "hash",
            &[&uid, &format!("unix:sha256:{}", digest(binary()))],
        ),
        entry("host", &[&uid, "ns:host"]),
        entry("root", &["unix:uid:0"]),
        format!(
            "token_file \"{}/agent/tokens/own\" {{\n  entry = \"host\"\n  audience = \"a\"\n}}\n",
            runtime.display()
        ),
    ];
    fs::write(sandbox.config(), blocks.concat()).unwrap();
    let mut plain = as_user(CALLER);
    plain
        .arg(binary())
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("HOME", &home);
    let agent = sandbox.start_by(plain, &[]);
    let socket = runtime.join("agent/api/api.sock");
    assert_eq!(
        granted(fetch(as_user(CALLER), binary(), &socket)),
        ["path", "hash", "host"],
        "{}",
        agent.log()
    );
    let file = runtime.join("agent/tokens/own");
    eventually("the token file", || fs::metadata(&file).ok());
    // Others do not reach it, but for root, who is known by his user alone.
    let outcome = |mut command: Command| command.stderr(Stdio::null()).output().unwrap().status;
    assert!(!outcome(fetch(as_user(OTHER), binary(), &socket)).success());
    assert_eq!(
        granted(fetch(Command::new("env"), binary(), &socket)),
        ["root"]
    );
    let log = agent.log();
    assert!(
        !log.contains("lacks") && !log.contains("need root"),
        "{log}"
    );
    let health = Command::new("setpriv")
        .args([
            "--reuid",
            &CALLER.to_string(),
            "--regid",
            &CALLER.to_string(),
            "--clear-groups",
        ])
        .arg(binary())
        .arg("health")
        .env(
            "AGENT_ADMIN_SOCKET",
            runtime.join("agent/private/admin.sock"),
        )
        .output()
        .unwrap();
    assert!(health.status.success(), "{}", common::text(&health.stdout));
}
