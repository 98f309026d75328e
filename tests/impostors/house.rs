//! Where each case takes place: an agent with entries for a trusted program and for other users, the
//! program that plays the attackers, and what the agent counted meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::common::{Agent, Sandbox, as_user, eventually, issuer, long, text};
use crate::wire;

/// The user of the trusted program, and of whoever would be taken for it.
pub const ATTACKER: u32 = 1003;
/// A user who has no entry.
pub const STRANGER: u32 = 1005;
/// A user who has an entry whatever he runs.
pub const ANYHOW: u32 = 1006;

const FETCH: &str = "/SpiffeWorkloadAPI/FetchJWTSVID";

/// How often a race is run.
pub fn tries() -> u64 {
    if long() { 100_000 } else { 300 }
}

/// How often each identity came back, by the name of its entry.
pub type Won = BTreeMap<String, u64>;

/// So many of one.
pub fn only(name: &str, count: u64) -> Won {
    Won::from([(name.to_owned(), count)])
}

/// What came of a role.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub tries: u64,
    pub won: Won,
    /// Everything that it printed.
    pub said: String,
}

impl Told {
    pub fn of(output: &Output) -> Self {
        let said = text(&output.stdout);
        let line = said.lines().find_map(|line| line.strip_prefix("RESULT "));
        let line = line.unwrap_or_else(|| panic!("{said}{}", text(&output.stderr)));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let mut won: Won = line
            .split(' ')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, count)| (name.to_owned(), count.parse().unwrap()))
            .collect();
        Self {
            tries: won.remove("tries").unwrap(),
            won,
            said,
        }
    }
}

/// An agent, and programs to call it.
pub struct House {
    pub sandbox: Sandbox,
    pub agent: Agent,
    /// Plays the attackers.
    pub impostor: PathBuf,
    /// A copy of it that the entry `trusted` names.
    pub trusted: PathBuf,
    /// A copy of it that runs as root, whoever starts it.
    pub setuid: PathBuf,
    descriptors: usize,
}

impl House {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With entries for the attacker under these names as well, each with these paths.
    pub fn with(more: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new("");
        let impostor = install(&sandbox, "impostor");
        let trusted = install(&sandbox, "trusted");
        let setuid = install(&sandbox, "setuid");
        fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
        let path = |program: &Path| format!("unix:path:{}", program.display());
        let attacker = format!("unix:uid:{ATTACKER}");
        let mut blocks = vec![
            format!(
                "metrics {{\n  socket_path = \"{}\"\n}}\n",
                sandbox.path("run/metrics/m.sock").display()
            ),
            "attestor \"unix\" {\n  discover_workload_path = true\n}\n".to_owned(),
            "limits {\n  signatures_per_second_per_uid = 100000\n}\n".to_owned(),
            issuer("main", "https://localhost", "ES256"),
            entry("trusted", &[&attacker, &path(&trusted)]),
            entry("setuid", &[&attacker, &path(&setuid)]),
            entry("victim", &["unix:uid:1004", &path(&trusted)]),
            entry("root", &["unix:uid:0"]),
            entry("anyhow", &[&format!("unix:uid:{ANYHOW}")]),
            entry("group", &["unix:uid:0", "unix:supplementary_gid:5555"]),
        ];
        for (name, place) in more {
            let place = sandbox.path(place);
            blocks.push(entry(name, &[&attacker, &path(&place)]));
        }
        sandbox.configure(&blocks.concat());
        let agent = sandbox.start();
        let descriptors = descriptors(&agent);
        Self {
            sandbox,
            agent,
            impostor,
            trusted,
            setuid,
            descriptors,
        }
    }

    /// What every role finds in its environment.
    pub fn equip(&self, command: &mut Command) {
        command
            .env("SOCKET", self.sandbox.socket())
            .env("CALL", wire::hex(FETCH))
            .env("TRUSTED", &self.trusted);
    }

    /// Plays a role as a user.
    pub fn play(&self, uid: u32, program: &Path, role: &[&str]) -> Told {
        self.play_by(as_user(uid), program, role)
    }

    /// As [`House::play`], by a command that in the end becomes the program.
    pub fn play_by(&self, mut command: Command, program: &Path, role: &[&str]) -> Told {
        self.equip(&mut command);
        Told::of(&command.arg(program).args(role).output().unwrap())
    }

    /// One call of a program as a user.
    pub fn call(&self, uid: u32, program: &Path) -> Won {
        self.play(uid, program, &["call", "1"]).won
    }

    /// The trusted program is served when it calls by itself: what is denied otherwise is denied for
    /// the sake of the attack.
    pub fn serves_the_trusted(&self) {
        assert_eq!(self.call(ATTACKER, &self.trusted), only("trusted", 1));
        assert_eq!(self.call(ATTACKER, &self.impostor), Won::new());
    }

    /// Runs `attack` and gives what the agent issued and signed meanwhile.
    pub fn counted<T>(&self, attack: impl FnOnce() -> T) -> (T, Counted) {
        let before = self.counts();
        let result = attack();
        (result, self.counts().since(&before))
    }

    /// Runs `attack`, which must win nothing: no caller gets a token, nothing is given out, and nothing
    /// is signed.
    pub fn denies(&self, name: &str, attack: impl FnOnce() -> Told) -> Told {
        let (told, counted) = self.counted(attack);
        let Told { tries, won, .. } = &told;
        println!(
            "{name}: {tries} tries, {} won, {counted:?}",
            won.values().sum::<u64>()
        );
        assert_eq!(*won, Won::new(), "{name}");
        assert_eq!(counted, Counted::default(), "{name}");
        told
    }

    /// Each connection is closed and all that was opened for it.
    pub fn is_left_as_it_was(&self) {
        eventually("no descriptor is left", || {
            (descriptors(&self.agent) <= self.descriptors).then_some(())
        });
    }

    fn counts(&self) -> Counted {
        let socket = self.sandbox.path("run/metrics/m.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let mut counts = Counted::default();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("svid_agent_jwt_svid_issued_total{entry=\"") {
                let name = rest.split('"').next().unwrap().to_owned();
                counts.issued.insert(name, number(line));
            }
            if line.starts_with("svid_agent_sign_jwt_svid_seconds_count") {
                counts.signed += number(line);
            }
        }
        counts
    }
}

/// What the agent counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Tokens that it gave to callers, by entry.
    pub issued: Won,
    /// Signatures that it made.
    pub signed: u64,
}

impl Counted {
    fn since(mut self, before: &Self) -> Self {
        for (name, count) in &before.issued {
            *self.issued.entry(name.clone()).or_default() -= count;
        }
        self.issued.retain(|_, count| *count > 0);
        self.signed -= before.signed;
        self
    }
}

/// An entry `name` for callers with these selectors, each of whose tokens is signed anew.
pub fn entry(name: &str, selectors: &[&str]) -> String {
    format!(
        "entry \"{name}\" {{\n  spiffe_id = \"spiffe://example.org/{name}\"\n  jti = true\n  selectors = {selectors:?}\n}}\n"
    )
}

fn descriptors(agent: &Agent) -> usize {
    let path = format!("/proc/{}/fd", agent.pid());
    fs::read_dir(path).unwrap().count()
}

/// Puts a copy of the program that plays the attackers into the sandbox.
pub fn install(sandbox: &Sandbox, name: &str) -> PathBuf {
    let place = sandbox.path(name);
    copy(&program(), &place);
    place
}

/// By a process of its own: what we have open for writing, a child of another thread might keep
/// open, and then it could not be run.
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// That program, built once. It needs no library, so that it runs wherever it is put.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<tempfile::TempDir> = OnceLock::new();
    let built = PROGRAM.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let directory = tempfile::tempdir_in(place).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/impostors/impostor.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-pthread", "-O1", "-o"]);
        compiler.arg(directory.path().join("impostor")).arg(source);
        assert!(compiler.status().unwrap().success());
        directory
    });
    built.path().join("impostor")
}
