//! `agent key taint`, while everybody is at it: what a key was trusted with ends at once, and nobody
//! who asks for a token notices.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/turnover.rs"]
mod turnover;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{Agent, Sandbox, eventually, long, own_entry, text};
use load::pb::{JwtBundlesRequest, JwtBundlesResponse, ValidateJwtsvidRequest};
use tonic::Code;
use turnover::{in_state, keys, kid, kids, published};

/// What the documents and the files may take where time counts.
const SOON: Duration = Duration::from_secs(5);
const MARGIN: Duration = Duration::from_secs(1);
const CLIENTS: usize = 4;
const FILES: usize = 3;
const TTL: u32 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_tainted_key_leaves_documents_streams_files_and_callers_at_once() {
    let mut house = House::start("RS256", "1s").await;
    let callers = Callers::start(&house.sandbox).await;
    let mut stream = Stream::open(&house.sandbox).await;
    for _ in 0..if long() { 10 } else { 1 } {
        house.taint_once(&callers, &mut stream).await;
    }
    assert!(callers.failures().is_empty(), "{:?}", callers.failures());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_successor_tainted_too_a_third_key_signs_and_a_crash_brings_none_back() {
    let mut house = House::start("ES256", "30s").await;
    let callers = Callers::start(&house.sandbox).await;
    let (active, successor) = house.chain();
    house.taint(&successor);
    let (still, third) = house.chain();
    assert_eq!(still, active, "what signs goes on");
    assert_ne!(third, successor);
    house.taint(&active);
    let after = Instant::now();
    let (signs, fourth) = house.chain();
    assert_eq!(signs, third);
    let log = house.agent.as_ref().unwrap().log();
    assert!(log.contains("key signs before verifiers can know it"));
    eventually("callers get its tokens", || {
        callers.kids_since(after).contains(&third).then_some(())
    });
    let gone = [active, successor];
    let seen = callers.kids_since(after);
    assert!(gone.iter().all(|kid| !seen.contains(kid)), "{seen:?}");
    assert!(callers.failures().is_empty(), "{:?}", callers.failures());

    drop(callers);
    house.agent.take().unwrap().kill();
    house.agent = Some(house.sandbox.start());
    assert_eq!(house.chain(), (third, fourth));
    for kid in &gone {
        house.is_gone(kid);
    }
}

/// An agent with a key and three token files.
struct House {
    agent: Option<Agent>,
    sandbox: Sandbox,
    files: Vec<PathBuf>,
}

impl House {
    async fn start(algorithm: &str, margin: &str) -> Self {
        let sandbox = Sandbox::new("");
        let path = |number| sandbox.path(&format!("run/tokens/{number}/token"));
        let files: Vec<_> = (0..FILES).map(path).collect();
        let mut blocks = turnover::issuer("main", "https://id.example.org", algorithm, 60);
        blocks = blocks.replace(
            "publish_margin = \"1s\"",
            &format!("publish_margin = \"{margin}\""),
        );
        blocks += &own_entry();
        for file in &files {
            blocks += &turnover::token_file(file, TTL);
        }
        turnover::configure(&sandbox, TTL, &blocks);
        let agent = Some(sandbox.start());
        let house = Self {
            agent,
            sandbox,
            files,
        };
        eventually("the token files are there", || {
            let mut files = house.files.iter();
            files.all(|file| file.exists()).then_some(())
        });
        house
    }

    /// The key that signs and the one that will.
    fn chain(&self) -> (String, String) {
        eventually("a key signs and another will", || {
            let keys = keys(&self.sandbox);
            let active = in_state(&keys, "active").pop()?;
            Some((active, in_state(&keys, "published").pop()?))
        })
    }

    /// Runs the command; how long it took.
    fn taint(&self, kid: &str) -> Duration {
        let start = Instant::now();
        let output = self.sandbox.run(&["key", "taint", kid]);
        let took = start.elapsed();
        assert!(output.status.success(), "{}", text(&output.stderr));
        // That is what it has just said.
        self.is_gone(kid);
        took
    }

    /// No document holds the key, nor does the disk.
    fn is_gone(&self, kid: &str) {
        for name in ["jwks.json", "bundle.json"] {
            let out = kids(&published(&self.sandbox, "main", name));
            assert!(!out.contains(kid), "{name} holds {kid}");
        }
        let bundle = self.sandbox.run(&["fetch-bundle"]);
        assert!(bundle.status.success(), "{}", text(&bundle.stderr));
        assert!(!text(&bundle.stdout).contains(kid), "a new stream holds it");
        let private = self.sandbox.path("data/private");
        assert!(!private.join(format!("keys/{kid}.pem")).exists());
        assert!(!private.join("quarantine").exists());
    }

    async fn taint_once(&mut self, callers: &Callers, stream: &mut Stream) {
        let (active, successor) = self.chain();
        let seen = Instant::now();
        let known = kids(&published(&self.sandbox, "main", "jwks.json"));
        assert!(known.contains(&active) && known.contains(&successor));
        let stolen = eventually("all files have its tokens", || {
            let tokens = self.mirrored();
            let mut kids = tokens.iter().map(|token| kid(token));
            kids.all(|kid| kid == active).then(|| tokens[0].clone())
        });
        eventually("the margin is over", || {
            (seen.elapsed() > MARGIN).then_some(())
        });
        assert!(kids(&published(&self.sandbox, "main", "jwks.json")).contains(&successor));

        let start = Instant::now();
        let out_for = seen.elapsed();
        let command = self.taint(&active);
        let told = Instant::now();
        let stream_after = stream.without(&active, start).await;
        let mut refreshed = [None; FILES];
        eventually("the token files are of another key", || {
            for (token, at) in self.mirrored().iter().zip(&mut refreshed) {
                if at.is_none() && kid(token) != active {
                    assert_eq!(kid(token), successor);
                    *at = Some(start.elapsed());
                }
            }
            refreshed.iter().all(Option::is_some).then_some(())
        });
        let files_after = refreshed.into_iter().flatten().max().unwrap();
        let tokens = eventually("callers have gone on", || {
            let count = callers.count_since(told);
            (count > 20 * CLIENTS).then_some(count)
        });
        assert_eq!(callers.kids_since(told), [successor].into());
        self.refuses(&stolen).await;
        if long() {
            let slowest = command.max(stream_after).max(files_after);
            assert!(slowest < SOON, "{slowest:?}");
        }
        println!(
            "taint under load of {CLIENTS} clients: command and documents {command:.0?}, open stream {stream_after:.0?}, \
             {FILES} token files {files_after:.0?}; {tokens} tokens since, none of the key; \
             its successor had been out for {out_for:.1?}"
        );
    }

    fn mirrored(&self) -> Vec<String> {
        let files = self.files.iter();
        files
            .map(|file| fs::read_to_string(file).unwrap())
            .collect()
    }

    /// The agent itself believes a token no more.
    async fn refuses(&self, token: &str) {
        let mut client = load::connect(&self.sandbox.socket()).await.unwrap();
        let message = ValidateJwtsvidRequest {
            audience: "vault".to_owned(),
            svid: token.to_owned(),
        };
        let refused = client.validate_jwtsvid(load::request(message)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// A stream of bundles that is open all the time.
struct Stream(tonic::Streaming<JwtBundlesResponse>);

impl Stream {
    async fn open(sandbox: &Sandbox) -> Self {
        let mut client = load::connect(&sandbox.socket()).await.unwrap();
        let message = load::request(JwtBundlesRequest {});
        Self(
            client
                .fetch_jwt_bundles(message)
                .await
                .unwrap()
                .into_inner(),
        )
    }

    /// Reads until a message lacks the key; when that was.
    async fn without(&mut self, kid: &str, start: Instant) -> Duration {
        let read = async {
            loop {
                let message = self.0.message().await.unwrap().unwrap();
                let document = &message.bundles["spiffe://example.org"];
                let keys = kids(&serde_json::from_slice(document).unwrap());
                if !keys.contains(kid) {
                    return start.elapsed();
                }
            }
        };
        let read = tokio::time::timeout(common::DEADLINE, read).await;
        read.expect("a message without the key")
    }
}

/// Clients that fetch without a pause, each over its own connection.
struct Callers {
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    /// When each call began and the key of its token.
    tokens: Vec<(Instant, String)>,
    failures: Vec<String>,
}

impl Callers {
    async fn start(sandbox: &Sandbox) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut tasks = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = load::connect(&sandbox.socket()).await.unwrap();
            let seen = Arc::clone(&seen);
            tasks.push(tokio::spawn(async move {
                loop {
                    let start = Instant::now();
                    let reply = load::fetch(&mut client, "vault").await;
                    let mut seen = seen.lock().unwrap();
                    match reply {
                        Ok(token) => seen.tokens.push((start, kid(&token))),
                        Err(status) => seen.failures.push(status.to_string()),
                    }
                }
            }));
        }
        Self { seen, tasks }
    }

    fn kids_since(&self, moment: Instant) -> BTreeSet<String> {
        let seen = self.seen.lock().unwrap();
        let since = seen.tokens.iter().filter(|(start, _)| *start > moment);
        since.map(|(_, kid)| kid.clone()).collect()
    }

    fn count_since(&self, moment: Instant) -> usize {
        let seen = self.seen.lock().unwrap();
        let since = seen.tokens.iter().filter(|(start, _)| *start > moment);
        since.count()
    }

    fn failures(&self) -> Vec<String> {
        self.seen.lock().unwrap().failures.clone()
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
