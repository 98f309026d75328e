//! What the tests of the real binary share: a directory, an agent in it, and callers of any uid.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take before it counts as not happening.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What a test needs beyond Rust and a C compiler.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// To run as root, for callers of other uids.
    Root,
    /// Python with spiffe and PyJWT.
    Python,
    /// That Python with the SDKs of AWS, Google Cloud, Azure and Kubernetes too.
    Sdks,
    /// An nginx to serve the webroot.
    Nginx,
    /// Node with @grpc/grpc-js and jose.
    Node,
    /// That Node with the broker of Voidkey too.
    Voidkey,
    /// strace, to make system calls fail or kill.
    Strace,
    /// groff, to read manual pages.
    Groff,
    /// libfaketime, to set the wall clock of single processes.
    Faketime,
    /// systemd-analyze, to judge a unit.
    Systemd,
    /// An Apache to serve the webroot.
    Apache,
    /// A hierarchy of cgroups (version 2) in which root can make some.
    Cgroups,
    /// Podman with runc, to run containers as root.
    Podman,
    /// What lets it run containers as a user too.
    Rootless,
    /// dbus-daemon, for a bus of one's own.
    Bus,
}

/// Whether all of it is there. If not, says so, or fails where the whole suite is demanded.
pub fn have(needs: &[Need]) -> bool {
    for need in needs {
        let missing = match need {
            Need::Root if !nix::unistd::geteuid().is_root() => "root",
            Need::Python if python().is_none() => "Python with the packages spiffe and PyJWT",
            Need::Sdks if !sdks() => {
                "Python with the packages boto3, google-auth, azure-identity and kubernetes"
            }
            Need::Node if !node_packages(&["@grpc/grpc-js", "jose"]) => {
                "Node with the packages @grpc/grpc-js and jose"
            }
            Need::Voidkey if !node_packages(&["@voidkey/broker-core"]) => {
                "Node with the package @voidkey/broker-core"
            }
            Need::Strace if !runs(Command::new("strace").arg("-V")) => "strace",
            Need::Groff if !runs(Command::new("groff").arg("--version")) => "groff",
            Need::Cgroups if cgroup_root().is_none() => "writable cgroups of version 2",
            Need::Bus if !runs(Command::new("dbus-daemon").arg("--version")) => "dbus-daemon",
            Need::Podman if !containers_run() => "podman and runc",
            Need::Rootless if !maps_users() => "newuidmap, /etc/subuid and /etc/subgid",
            Need::Faketime if faketime().is_none() => "faketime",
            Need::Nginx if !runs(Command::new("nginx").arg("-v")) => "nginx",
            Need::Systemd if !runs(Command::new("systemd-analyze").arg("--version")) => {
                "systemd-analyze"
            }
            Need::Apache if !runs(Command::new("apache2").arg("-v")) => "apache2",
            _ => continue,
        };
        assert!(
            std::env::var_os("SVID_AGENT_REQUIRE_ALL").is_none(),
            "SVID_AGENT_REQUIRE_ALL is set and this machine lacks {missing}"
        );
        // Written past the test runner, which hides what a passing test prints.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIP {name}: it needs {missing}");
        return false;
    }
    true
}

fn runs(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The Python of the environment that `.ci/run` makes, or the one that is named.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-venv/bin/python");
        let path = std::env::var_os("SVID_AGENT_PYTHON").map_or(own, PathBuf::from);
        let usable = runs(Command::new(&path).args(["-c", "import spiffe, jwt, cryptography"]));
        usable.then_some(path)
    };
    PYTHON.get_or_init(find).as_deref()
}

/// Whether it has the SDKs too. They are looked for and not imported, which would take seconds.
fn sdks() -> bool {
    let look = "from importlib.util import find_spec as f; \
                assert all(map(f, ['boto3', 'google.auth', 'requests', 'azure.identity', 'kubernetes']))";
    python().is_some_and(|python| runs(Command::new(python).args(["-c", look])))
}

/// What to preload into a process so that it sees another wall clock, if there is such a thing.
pub fn faketime() -> Option<String> {
    // It shares memory under a name made of its process id, which one that was killed may still hold.
    (0..5).find_map(|_| {
        let mut command = Command::new("faketime");
        let shown = command.args(["-f", "+0", "printenv", "LD_PRELOAD"]);
        let library = text(&shown.output().ok()?.stdout);
        Some(library.trim().to_owned()).filter(|library| !library.is_empty())
    })
}

fn containers_run() -> bool {
    runs(Command::new("podman").arg("--version")) && runs(Command::new("runc").arg("--version"))
}

/// Whether users can have further numbers.
fn maps_users() -> bool {
    let files = ["/usr/bin/newuidmap", "/etc/subuid", "/etc/subgid"];
    files.iter().all(|file| Path::new(file).exists())
}

/// Where the hierarchy of cgroups of version 2 is mounted, if root can make some in it.
pub fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let root = PathBuf::from(line.split(' ').nth(4)?);
    let probe = root.join(format!("svid-agent-test-{}", nanos()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(probe).ok()?;
    Some(root)
}

/// A cgroup of a test, gone with this.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes it, with what lies above it.
    pub fn new(path: &str) -> Self {
        let path = cgroup_root().unwrap().join(path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A shell that enters it and becomes the command given as its further arguments.
    pub fn shell(&self) -> Command {
        let mut command = Command::new("sh");
        let enter = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.0.display());
        command.args(["-c", &enter, "sh"]);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Others may use what lies above, which then stays.
        let root = cgroup_root();
        for directory in self.0.ancestors() {
            if Some(directory) == root.as_deref() || fs::remove_dir(directory).is_err() {
                return;
            }
        }
    }
}

/// Where `.ci/run` puts packages of Node.
pub fn node_modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-node/node_modules")
}

fn node_packages(names: &[&str]) -> bool {
    names.iter().all(|name| node_modules().join(name).exists())
}

/// The binary under test, where users other than root can execute it too: one copy for all tests,
/// since nothing is left to remove it when they end.
pub fn binary() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_agent"));
        let meta = fs::metadata(built).unwrap();
        let name = format!(
            "svid-agent-test-{}-{:x}-{:x}{:08x}",
            nix::unistd::geteuid(),
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        let place = std::env::temp_dir().join(name);
        if !place.join("agent").exists() {
            let dir = open_tempdir();
            fs::copy(built, dir.path().join("agent")).unwrap();
            // Another test may have been quicker.
            if fs::rename(dir.path(), &place).is_ok() {
                let _ = dir.keep();
            }
        }
        place.join("agent")
    })
}

/// A directory that other users can enter.
pub fn open_tempdir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Waits until `probe` gives something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A free TCP port on loopback.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A directory of its own with a configuration.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// With the usual `agent` block and `rest`.
    pub fn new(rest: &str) -> Self {
        let sandbox = Self {
            dir: open_tempdir(),
        };
        sandbox.configure(rest);
        sandbox
    }

    /// With one issuer of this algorithm and an entry `me` for this user.
    pub fn with_entry(algorithm: &str) -> Self {
        let sandbox = Self::new("");
        sandbox.configure(&(issuer("main", "https://localhost", algorithm) + &own_entry()));
        sandbox
    }

    /// Makes the directories that the agent writes to, for one that runs as this user.
    pub fn belongs_to(&self, uid: u32) {
        for name in ["data", "run"] {
            let path = self.path(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(uid), Some(uid)).unwrap();
        }
    }

    /// Writes another configuration.
    pub fn configure(&self, rest: &str) {
        let path = self.path("agent.conf.new");
        fs::write(&path, self.config_text(rest)).unwrap();
        fs::rename(path, self.config()).unwrap();
    }

    /// The usual `agent` block and `rest`.
    pub fn config_text(&self, rest: &str) -> String {
        let level = std::env::var("SVID_AGENT_TEST_LOG_LEVEL").unwrap_or("info".to_owned());
        format!(
            "agent {{\n  trust_domain = \"example.org\"\n  data_dir = \"{}\"\n  runtime_dir = \"{}\"\n  log_level = \"{level}\"\n}}\n{rest}",
            self.path("data").display(),
            self.path("run").display(),
        )
    }

    /// A path below it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("agent.conf")
    }

    /// The Workload API socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/api/api.sock")
    }

    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.path("run/private/admin.sock")
    }

    /// Starts the agent and waits until it says that it is ready.
    pub fn start(&self) -> Agent {
        self.start_with(&[])
    }

    /// As [`Sandbox::start`], with more in the environment.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Agent {
        self.start_by(Command::new(binary()), environment)
    }

    /// As [`Sandbox::start_with`], by a command that in the end becomes the agent.
    pub fn start_by(&self, command: Command, environment: &[(&str, &str)]) -> Agent {
        let mut agent = self.spawn_by(command, environment);
        agent.wait_for_state("READY=1");
        agent
    }

    /// Starts the agent and waits for nothing.
    pub fn spawn(&self) -> Agent {
        self.spawn_by(Command::new(binary()), &[])
    }

    fn spawn_by(&self, mut command: Command, environment: &[(&str, &str)]) -> Agent {
        let path = self.path(&format!("notify.{}", nanos()));
        let notify = UnixDatagram::bind(&path).unwrap();
        // Open to all, as that of a service manager.
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        notify.set_read_timeout(Some(DEADLINE)).unwrap();
        let address = notify.local_addr().unwrap();
        let log = self.path(&format!("log.{}", nanos()));
        let child = command
            .args(["run", "--config"])
            .arg(self.config())
            .envs(environment.iter().copied())
            .env("NOTIFY_SOCKET", address.as_pathname().unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Agent {
            child,
            log,
            notify,
            socket: self.socket(),
        }
    }

    /// A command of the binary, on this sandbox's socket.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", self.socket())
            .env("AGENT_ADMIN_SOCKET", self.admin_socket());
        command
    }

    /// Runs a command of the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Waits until each key that signs has a successor that is published, so that keys and bundles
    /// stay as they are for a while.
    pub fn settle(&self) {
        eventually("successors are published", || {
            let keys = text(&self.run(&["key", "list", "--output", "json"]).stdout);
            let count = |state| keys.matches(&format!("\"state\": \"{state}\"")).count();
            (count("active") > 0 && count("active") == count("published")).then_some(())
        });
    }

    /// Runs it as another user.
    pub fn run_as(&self, uid: u32, arguments: &[&str]) -> Output {
        as_user(uid)
            .arg(binary())
            .args(arguments)
            .env("SPIFFE_ENDPOINT_SOCKET", self.socket())
            .output()
            .unwrap()
    }

    /// Fetches the bare token of this process's default identity.
    pub fn token(&self, audience: &str) -> String {
        let output = self.run(&["fetch-jwt", "--audience", audience, "--output", "token"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim_end().to_owned()
    }
}

/// Runs a command to its end with this as its standard input.
pub fn feed(command: &mut Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn nanos() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()
}

/// `setpriv` as a user without any privilege or further group.
pub fn as_user(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    let id = uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    command
}

/// The binary as a user of its own that has all the capabilities that any of its work takes, and no
/// other privilege: as a service manager starts it.
pub fn capable(uid: u32) -> Command {
    capable_of(uid, &CAPABILITIES)
}

/// As [`capable`], with these capabilities alone.
pub fn capable_of(uid: u32, capabilities: &[&str]) -> Command {
    let all: Vec<_> = capabilities.iter().map(|name| format!("+{name}")).collect();
    let all = all.join(",");
    let mut command = as_user(uid);
    command.args(["--inh-caps", &all, "--ambient-caps", &all]);
    command.arg(binary());
    command
}

/// What any work of the agent may take.
pub const CAPABILITIES: [&str; 8] = [
    "chown",
    "fowner",
    "dac_override",
    "dac_read_search",
    "setuid",
    "setgid",
    "kill",
    "sys_ptrace",
];

/// An `issuer` block with one key.
pub fn issuer(name: &str, url: &str, algorithm: &str) -> String {
    format!(
        "issuer \"{name}\" {{\n  url = \"{url}\"\n  key \"main\" {{\n    algorithm = \"{algorithm}\"\n  }}\n}}\n"
    )
}

/// An `entry` block `me` for the user that runs the tests.
pub fn own_entry() -> String {
    entry("me", nix::unistd::geteuid().as_raw())
}

/// An `entry` block for a user.
pub fn entry(name: &str, uid: u32) -> String {
    format!(
        "entry \"{name}\" {{\n  spiffe_id = \"spiffe://example.org/{name}\"\n  selectors = [\"unix:uid:{uid}\"]\n}}\n"
    )
}

/// Bytes that should be text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The lines of a pipe as they come; fails where one is waited for that does not. The pipe is closed
/// when nobody waits for lines any more and another one has come.
pub fn lines(pipe: impl Read + Send + 'static) -> impl Iterator<Item = String> {
    use std::io::{BufRead, BufReader};
    use std::sync::mpsc::{RecvTimeoutError, channel};

    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.map(|line| sender.send(line)).all(|sent| sent.is_ok())
    });
    std::iter::from_fn(move || match receiver.recv_timeout(DEADLINE) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => panic!("not within {DEADLINE:?}: a line"),
    })
}

/// What a token says, whoever signed it.
pub fn claims(token: &str) -> serde_json::Value {
    use base64::Engine;

    let parts: Vec<_> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "no token: {token:?}");
    let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(parts[1]);
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

/// A running agent; killed when dropped, and its log shown if the test fails.
pub struct Agent {
    child: Child,
    log: PathBuf,
    notify: UnixDatagram,
    pub socket: PathBuf,
}

impl Agent {
    /// Waits for a message to the service manager.
    pub fn wait_for_state(&mut self, state: &str) {
        let mut buffer = [0; 4096];
        self.notify
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        eventually(state, || {
            if let Ok(length) = self.notify.recv(&mut buffer) {
                let message = text(&buffer[..length]);
                return message.lines().any(|line| line == state).then_some(());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the agent ended with {status} before {state}");
            }
            None
        });
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Whether it has ended.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the agent ends", || self.child.try_wait().unwrap())
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Whether the full counts and the figures of time are asked for.
pub fn long() -> bool {
    std::env::var_os("SVID_AGENT_LONG").is_some()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(directory) = std::env::var_os("SVID_AGENT_TEST_KEEP_LOGS") {
            let name = format!("{}.{}", self.pid(), nanos());
            let _ = fs::copy(&self.log, Path::new(&directory).join(name));
        }
        if std::thread::panicking() {
            let mut log = String::new();
            if let Ok(mut file) = fs::File::open(&self.log) {
                let _ = file.read_to_string(&mut log);
            }
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(30)..].join("\n");
            eprintln!("--- end of the log of the agent ---\n{last}\n---");
        }
    }
}

/// The first cells of the rows of the table below a heading, without their quotes.
pub fn documented(page: &str, heading: &str) -> std::collections::BTreeSet<String> {
    let section = page
        .split(&format!("\n## {heading}\n"))
        .nth(1)
        .expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    cells.map(str::to_owned).collect()
}
