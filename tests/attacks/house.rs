//! Where each case takes place: an agent, the directory of an attacker in which it is to write, and
//! what nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::attacker::{Attacker, Role};
use crate::common::{
    Agent, Need, Sandbox, as_user, binary, capable, claims, entry, eventually, have, issuer, long,
};

/// The attacker.
pub const OTHER: u32 = 1003;
/// Somebody who has nothing to do with it.
pub const STRANGER: u32 = 1004;
/// Whom the agent runs as where it is not root.
const OWN: u32 = 1500;

/// Who the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runner {
    /// It runs as root.
    Root,
    /// It runs as a user of its own that has capabilities.
    Capable,
}

impl Runner {
    /// The number of its user.
    pub fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Capable => OWN,
        }
    }

    /// What starts it.
    pub fn command(self) -> Command {
        match self {
            Self::Root => Command::new(binary()),
            Self::Capable => capable(OWN),
        }
    }
}

/// Plays a case with an agent of either kind; one after the other where times are measured.
pub fn against_each_agent(needs: &[Need], case: impl Fn(House) + Sync) {
    if !have(&[&[Need::Root], needs].concat()) {
        return;
    }
    let alone = Mutex::new(());
    std::thread::scope(|scope| {
        for runner in [Runner::Root, Runner::Capable] {
            let test = std::thread::current();
            // Shown where the case fails.
            let name = format!("{}, the agent {runner:?}", test.name().unwrap_or_default());
            let (alone, case) = (&alone, &case);
            let play = move || {
                let _alone = long().then(|| alone.lock());
                case(House::new(runner));
            };
            let thread = std::thread::Builder::new().name(name);
            thread.spawn_scoped(scope, play).unwrap();
        }
    });
}

/// One agent, one attacker, and what is between them.
pub struct House {
    pub sandbox: Sandbox,
    pub runner: Runner,
    /// The directory of the attacker.
    pub home: PathBuf,
    /// A directory of root, with files of root: nothing in it may change.
    pub vault: PathBuf,
    intact: BTreeMap<PathBuf, Facts>,
}

/// All there is to know of a file or a directory, but for how many names it has.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    changed: (i64, i64),
    content: Vec<u8>,
}

impl House {
    /// A new one.
    pub fn new(runner: Runner) -> Self {
        let sandbox = Sandbox::new("");
        sandbox.belongs_to(runner.uid());
        let home = sandbox.path("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(OTHER), Some(OTHER)).unwrap();
        let vault = sandbox.path("vault");
        // Where a walk ends up that was led astray there is a file of the name that it wants.
        for directory in [&vault, &vault.join("inner")] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("token"), "precious").unwrap();
            let closed = fs::Permissions::from_mode(0o600);
            fs::set_permissions(directory.join("token"), closed).unwrap();
        }
        let intact = facts(&vault);
        Self {
            sandbox,
            runner,
            home,
            vault,
            intact,
        }
    }

    /// The file of root that most attacks are after.
    pub fn victim(&self) -> PathBuf {
        self.vault.join("token")
    }

    /// A file for somebody else, in a directory of the agent.
    pub fn honest(&self) -> PathBuf {
        self.sandbox.path("run/tokens/honest")
    }

    /// Token files at these places, with these options, and the honest one.
    pub fn configure(&self, files: &[(PathBuf, &str)]) {
        let honest = (self.honest(), "ttl = \"2s\"\n  refresh_at = 0.2");
        self.configure_alone(&[files, &[honest]].concat());
    }

    /// Token files at these places, with these options.
    pub fn configure_alone(&self, files: &[(PathBuf, &str)]) {
        let metrics = format!(
            "metrics {{\n  socket_path = \"{}\"\n}}\n",
            self.sandbox.path("run/metrics/m.sock").display()
        );
        let issuer = issuer("main", "https://id.example.org", "ES256");
        let mut config = metrics + &issuer + &entry("billing", 1001);
        for (path, options) in files {
            config += &format!(
                "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = \"a\"\n  {options}\n}}\n",
                path.display()
            );
        }
        self.sandbox.configure(&config);
    }

    /// Starts the agent.
    pub fn start(&self) -> Agent {
        self.sandbox.start_by(self.runner.command(), &[])
    }

    /// As [`House::start`], with every call of this kind held up for a moment.
    pub fn start_slow(&self, call: &str) -> Agent {
        self.start_injected(&format!("{call}:delay_enter=500"))
    }

    /// Starts the agent with something injected into its system calls, as strace writes it.
    pub fn start_injected(&self, injection: &str) -> Agent {
        let inner = self.runner.command();
        let mut strace = Command::new("strace");
        // strace steps aside, so that the child is the agent itself.
        strace.args(["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject={injection}"));
        strace.arg(inner.get_program()).args(inner.get_args());
        self.sandbox.start_by(strace, &[])
    }

    /// Runs a command as the attacker.
    pub fn prepare(&self, command: &[&str]) {
        let done = as_user(OTHER)
            .args(command)
            .current_dir(&self.home)
            .status();
        assert!(done.unwrap().success(), "{command:?}");
    }

    /// Has the attacker do something until he is ended.
    pub fn attack(&self, role: Role) -> Attacker {
        Attacker::start(&self.sandbox, OTHER, role, &self.home)
    }

    /// How many tokens were signed: how often a file was attempted.
    pub fn attempts(&self) -> u64 {
        let mut stream = UnixStream::connect(self.sandbox.path("run/metrics/m.sock")).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let counts = reply.lines().filter_map(|line| {
            let count = line.strip_prefix("svid_agent_sign_jwt_svid_seconds_count{")?;
            count.split(' ').nth(1)?.parse::<u64>().ok()
        });
        counts.sum()
    }

    /// The files for others are written as if nothing were the matter; in the long run never found
    /// with a token that has expired.
    pub fn others_are_served(&self) {
        let path = self.honest();
        for _ in 0..2 {
            renewed(&path);
        }
        let start = Instant::now();
        while long() && start.elapsed() < Duration::from_secs(3) {
            let token = fs::read_to_string(&path).unwrap();
            let left = claims(&token)["exp"].as_f64().unwrap() - now();
            assert!(left > 0.0, "the token of others has expired by {left} s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until `agent files` tells that something is wrong with a file.
    pub fn tells(&self, path: &Path, words: &str) {
        let what = format!("{words:?} is told of {}", path.display());
        eventually(&what, || {
            let shown = self.sandbox.run(&["files", "--output", "json"]);
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
            let files = shown["token_files"].as_array().unwrap();
            let file = files
                .iter()
                .find(|file| file["path"] == path.to_str().unwrap());
            file?["error"].as_str()?.contains(words).then_some(())
        });
    }

    /// Nothing was touched that nobody may touch.
    pub fn is_unharmed(&self) {
        assert_eq!(facts(&self.vault), self.intact);
    }
}

fn facts(directory: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut all = BTreeMap::new();
    let mut found = vec![directory.to_owned()];
    while let Some(path) = found.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let facts = Facts {
            inode: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            changed: (meta.mtime(), meta.mtime_nsec()),
            content: fs::read(&path).unwrap_or_default(),
        };
        all.insert(path, facts);
    }
    all
}

/// The wall clock, in seconds since 1970.
pub fn now() -> f64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// Whether this is a whole token.
pub fn is_token(text: &str) -> bool {
    let whole = |part: &str| part.len() > 20 && !part.contains(char::is_whitespace);
    text.split('.').count() == 3 && text.split('.').all(whole)
}

/// Waits until a file is a token that belongs to this user.
pub fn token_of(uid: u32, path: &Path) -> String {
    let what = format!("{} is a token of {uid}", path.display());
    eventually(&what, || {
        let meta = fs::symlink_metadata(path).ok()?;
        (meta.is_file() && meta.uid() == uid).then_some(())?;
        fs::read_to_string(path)
            .ok()
            .filter(|token| is_token(token))
    })
}

/// Waits until a file is written anew.
pub fn renewed(path: &Path) {
    let inode = || fs::symlink_metadata(path).map(|meta| meta.ino()).ok();
    let first = eventually("the file is there", inode);
    let what = format!("{} is written anew", path.display());
    eventually(&what, || inode().filter(|now| *now != first));
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().filter_map(name).collect();
    names.sort();
    names
}

/// Waits until the agent has logged something.
pub fn logged(agent: &Agent, words: &str) {
    let what = format!("the log tells {words:?}");
    eventually(&what, || agent.log().contains(words).then_some(()));
}
