//! An agent whose keys turn over every two seconds, what it may never break, and its client.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::common::{Agent, Sandbox, eventually, issuer, long, own_entry, text};
use crate::disk::Mounted;
use crate::load;
use crate::watcher::{Token, Watcher, kids};

/// Any start after a crash must serve within this time, where times are measured.
const START: Duration = Duration::from_secs(1);
/// Held while a start is measured.
static STARTING: Mutex<()> = Mutex::new(());
/// How often a client fetches while it waits for keys to take turns, with others beside it.
const PACE: Duration = Duration::from_millis(20);

/// The sandbox with a watcher on its documents. What must hold at every moment, the dead ones among
/// them: a document is whole JSON, one that was out stays out, and the JWKS has the key of every
/// token that has not expired. And after each start: see [`Plant::check_start`].
pub struct Plant {
    // Ends before what it watches goes.
    pub watcher: Watcher,
    pub client: Client,
    /// What is mounted in the sandbox.
    pub disk: Option<Mounted>,
    pub sandbox: Sandbox,
    /// Half-written files that a dead agent has left.
    left: Vec<PathBuf>,
    /// The longest time from start to a token.
    pub slowest: Duration,
}

impl Plant {
    pub fn new() -> Self {
        let sandbox = Sandbox::new("");
        let policy =
            "    algorithm = \"ES256\"\n    lifespan = \"2s\"\n    publish_margin = \"1s\"\n";
        let main = issuer("main", "https://id.example.org", "ES256");
        let main = main.replace("    algorithm = \"ES256\"\n", policy);
        let agent = "agent {\n  max_ttl = \"1s\"\n  default_jwt_svid_ttl = \"1s\"\n  leeway = \"0s\"\n  nbf_margin = \"0s\"\n  probe_interval = \"1s\"\n";
        let config = sandbox.config_text(&(main + &own_entry()));
        fs::write(sandbox.config(), config.replacen("agent {\n", agent, 1)).unwrap();
        let root = sandbox.path("data/webroot/main");
        let names = [
            "jwks.json",
            ".well-known/openid-configuration",
            "bundle.json",
        ];
        Self {
            client: Client::new(sandbox.socket()),
            watcher: Watcher::start(names.map(|name| root.join(name)).into()),
            disk: None,
            left: Vec::new(),
            slowest: Duration::ZERO,
            sandbox,
        }
    }

    fn jwks(&self) -> PathBuf {
        self.sandbox.path("data/webroot/main/jwks.json")
    }

    /// The directories that are written to, as the kernel names them.
    pub fn directories(&self) -> [PathBuf; 6] {
        [
            "data",
            "data/private",
            "data/private/keys",
            "data/webroot",
            "data/webroot/main",
            "data/webroot/main/.well-known",
        ]
        .map(|name| self.sandbox.path(name))
    }

    /// A token, if somebody gives one.
    pub fn fetch(&mut self) -> Option<Token> {
        let token = Token::parse(&self.client.fetch()?);
        self.watcher.expect(token.clone());
        self.watcher.check();
        Some(token)
    }

    /// A token, which must come; the JWKS must have its key at once.
    pub fn fetch_now(&mut self) -> Token {
        let token = self.fetch().expect("a token");
        let kids = kids(&self.jwks());
        assert!(kids.contains(&token.kid), "{token:?} is not in {kids:?}");
        token
    }

    /// Fetches until so many keys have signed, or until nothing comes any more.
    pub fn fetch_keys(&mut self, number: usize) -> BTreeSet<String> {
        let mut signed = BTreeSet::new();
        eventually("keys take turns", || {
            let token = self.fetch();
            let gone = token.is_none();
            signed.extend(token.map(|token| token.kid));
            std::thread::sleep(PACE);
            (gone || signed.len() >= number).then_some(())
        });
        signed
    }

    /// Notes what a crash has left.
    pub fn note_crash(&mut self) {
        self.watcher.check();
        self.left = temporaries(&self.sandbox.path("data"));
    }

    /// Starts the agent, and checks what must hold after every start: it serves, in time where that is
    /// measured; the key of its first token is out; what the crash left half-written is gone; nothing
    /// but keys that no record names was set aside; nothing is lost and nothing is damaged.
    pub fn start(&mut self) -> Agent {
        let (agent, took) = {
            let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            let agent = self.sandbox.start();
            self.fetch_now();
            (agent, began.elapsed())
        };
        self.slowest = self.slowest.max(took);
        assert!(!long() || took < START, "a start took {took:?}");
        for path in std::mem::take(&mut self.left) {
            assert!(!path.exists(), "{} is left", path.display());
        }
        self.check_quarantine();
        let log = agent.log();
        for word in ["ERROR", "before verifiers can know it"] {
            assert!(!log.contains(word), "{log}");
        }
        agent
    }

    fn check_quarantine(&self) {
        let private = self.sandbox.path("data/private");
        let state = fs::read_to_string(private.join("state.json")).unwrap();
        for name in names(&private.join("quarantine")) {
            let kid = name.split(".pem").next().unwrap();
            assert!(name.contains(".pem"), "{name} was set aside");
            assert!(!state.contains(kid), "{name} was set aside and is named");
            assert!(!kids(&self.jwks()).iter().any(|out| out == kid), "{name}");
        }
    }

    /// What `agent health` says.
    pub fn health(&self) -> String {
        text(&self.sandbox.run(&["health"]).stdout)
    }
}

/// The names in a directory; none where there is none.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
    entries.filter_map(name).collect()
}

/// What has the form of a half-written file, in a directory and below.
fn temporaries(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = directory.join(&name);
        if name.starts_with(".agent-") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(temporaries(&path));
        }
    }
    found
}

/// A client that stays connected while it can.
pub struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    connected: Option<load::Client>,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self {
            socket,
            runtime: builder.enable_all().build().unwrap(),
            connected: None,
        }
    }

    /// A token, if there is an agent that gives one.
    pub fn fetch(&mut self) -> Option<String> {
        // The connection may be to an agent that is dead.
        let former = self.connected.take();
        let token = former.and_then(|client| self.ask(client));
        token.or_else(|| {
            let client = self.runtime.block_on(load::connect(&self.socket)).ok()?;
            self.ask(client)
        })
    }

    fn ask(&mut self, mut client: load::Client) -> Option<String> {
        let token = self.runtime.block_on(load::fetch(&mut client, "a")).ok()?;
        self.connected = Some(client);
        Some(token)
    }
}
