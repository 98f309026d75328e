//! Keys turn over while foreign verifiers, which keep what they have read, check every token. With
//! keys no older than `publish_margin` they may never miss the one of a token; with keys that are
//! older by far they must, or the test would not notice.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/verifier.rs"]
mod verifier;
#[path = "common/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{Agent, DEADLINE, Need, Sandbox, eventually, free_port, have, long};
use load::pb::JwtsvidRequest;
use verifier::Verifier;
use web::{Nginx, tampered};

/// Seconds that a key signs.
const LIFESPAN: u32 = 4;
/// Seconds that it is published before it signs.
const MARGIN: u32 = 1;
/// Seconds that a token lives.
const TTL: u32 = 2;
/// How often all tokens are fetched: often enough to meet each key many times, and little load.
const PACE: Duration = Duration::from_millis(250);
/// Each of an issuer of its own. With several, as many keys turn over in less time.
const ALGORITHMS: [&str; 4] = ["RS256", "PS256", "ES256", "ES384"];
const AUDIENCE: &str = "vault";

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_that_read_the_keys_once_a_margin_know_the_key_of_every_token() {
    if !have(&[Need::Python, Need::Node, Need::Nginx]) {
        return;
    }
    let wanted: u32 = if long() { 200 } else { 20 };
    let least = Duration::from_secs(u64::from(LIFESPAN * wanted) / ALGORITHMS.len() as u64);
    let mut soak = Soak::start(MARGIN).await;
    soak.run(least * 2 + DEADLINE, |soak| {
        soak.rotations() >= wanted as usize
    })
    .await;
    println!("{}", soak.summary());
    assert!(soak.bad.is_empty(), "{:#?}", soak.bad);
    for chain in 0..soak.chains.len() {
        assert!(soak.kids_of(chain) > 1, "one chain stood still");
    }

    soak.check(0, &tampered(&soak.chains[0].mirrored()));
    assert_eq!(
        soak.bad.len(),
        soak.verifiers.len(),
        "a forged token is told from a good one: {:#?}",
        soak.bad
    );
    assert!(soak.bad.iter().all(|bad| bad.verdict == "bad signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_that_keep_keys_for_three_lifespans_miss_some() {
    if !have(&[Need::Python, Need::Node, Need::Nginx]) {
        return;
    }
    let mut soak = Soak::start(3 * LIFESPAN).await;
    soak.run(DEADLINE, |soak| {
        soak.verifiers.iter().all(|verifier| {
            let mut bad = soak.bad.iter().filter(|bad| bad.verifier == verifier.name);
            bad.any(|bad| bad.verdict == "bad unknown-kid")
        })
    })
    .await;
    println!("{}", soak.summary());
}

/// An issuer whose keys succeed each other, with an entry and a token file.
struct Chain {
    algorithm: &'static str,
    port: u16,
    url: String,
    webroot: String,
    file: PathBuf,
}

impl Chain {
    fn new(algorithm: &'static str, sandbox: &Sandbox) -> Self {
        let port = free_port();
        Self {
            algorithm,
            port,
            url: format!("https://localhost:{port}"),
            webroot: format!("data/webroot/{algorithm}"),
            file: sandbox.path(&format!("run/tokens/{algorithm}/token")),
        }
    }

    /// Its part of the configuration.
    fn blocks(&self) -> String {
        format!(
            r#"
issuer "{algorithm}" {{
  url = "{url}"
  key "main" {{
    algorithm = "{algorithm}"
    lifespan = "{LIFESPAN}s"
    publish_margin = "{MARGIN}s"
  }}
}}
entry "{algorithm}" {{
  spiffe_id = "{id}"
  selectors = ["unix:uid:{uid}"]
  issuer = "{algorithm}"
}}
token_file "{file}" {{
  entry = "{algorithm}"
  audience = "{AUDIENCE}"
  ttl = "{TTL}s"
}}
"#,
            algorithm = self.algorithm,
            url = self.url,
            id = self.id(),
            uid = nix::unistd::geteuid(),
            file = self.file.display(),
        )
    }

    fn id(&self) -> String {
        format!("spiffe://example.org/{}", self.algorithm)
    }

    /// The token that is in its file now.
    fn mirrored(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }
}

/// A token that was not taken.
#[derive(Debug)]
#[expect(
    dead_code,
    reason = "all of it is for whoever reads why the test failed"
)]
struct Bad {
    verifier: &'static str,
    verdict: String,
    algorithm: &'static str,
    kid: String,
    after: Duration,
}

/// All that runs, and what came of it.
struct Soak {
    verifiers: Vec<Verifier>,
    client: load::Client,
    pace: tokio::time::Interval,
    chains: Vec<Chain>,
    start: Instant,
    tokens: usize,
    /// Each with the chain that it is of.
    kids: BTreeSet<(usize, String)>,
    bad: Vec<Bad>,
    _nginx: Nginx,
    _agent: Agent,
    _sandbox: Sandbox,
}

impl Soak {
    async fn start(patience: u32) -> Self {
        let sandbox = Sandbox::new("");
        let chains: Vec<_> = ALGORITHMS
            .map(|algorithm| Chain::new(algorithm, &sandbox))
            .into();
        let short = format!(
            "agent {{\n  max_ttl = \"{TTL}s\"\n  default_jwt_svid_ttl = \"{TTL}s\"\n  leeway = \"0s\"\n  nbf_margin = \"0s\"\n  probe_interval = \"1s\"\n"
        );
        let blocks: String = chains.iter().map(Chain::blocks).collect();
        let config = sandbox
            .config_text(&blocks)
            .replacen("agent {\n", &short, 1);
        fs::write(sandbox.config(), config).unwrap();

        let agent = sandbox.start();
        let roots: Vec<_> = chains
            .iter()
            .map(|chain| (chain.port, chain.webroot.as_str()))
            .collect();
        let nginx = Nginx::serve(&sandbox, &roots);
        for chain in &chains {
            eventually("the token file is there", || {
                chain.file.exists().then_some(())
            });
        }
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            verifiers: Verifier::all(&sandbox, AUDIENCE, patience),
            client: load::connect(&sandbox.socket()).await.unwrap(),
            pace,
            chains,
            start: Instant::now(),
            tokens: 0,
            kids: BTreeSet::new(),
            bad: Vec::new(),
            _nginx: nginx,
            _agent: agent,
            _sandbox: sandbox,
        }
    }

    /// Fetches and checks until it is `done`, which it has so much time for.
    async fn run(&mut self, time: Duration, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert!(
                self.start.elapsed() < time,
                "not in time: {}",
                self.summary()
            );
            self.pace.tick().await;
            self.round().await;
        }
    }

    /// Fetches one token of each chain by the socket and one from its file, and has them checked.
    async fn round(&mut self) {
        let message = JwtsvidRequest {
            audience: vec![AUDIENCE.to_owned()],
            spiffe_id: String::new(),
        };
        let reply = self.client.fetch_jwtsvid(load::request(message)).await;
        let svids = reply.unwrap().into_inner().svids;
        assert_eq!(svids.len(), self.chains.len());
        for svid in svids {
            let mut chains = self.chains.iter();
            let chain = chains.position(|chain| chain.id() == svid.spiffe_id);
            self.check(chain.unwrap(), &svid.svid);
        }
        for chain in 0..self.chains.len() {
            let token = self.chains[chain].mirrored();
            self.check(chain, &token);
        }
    }

    /// Asks all verifiers at once, and waits until each has spoken.
    fn check(&mut self, chain: usize, token: &str) {
        let Chain { url, algorithm, .. } = &self.chains[chain];
        for verifier in &mut self.verifiers {
            verifier.ask(url, token);
        }
        for verifier in &self.verifiers {
            let (verdict, kid) = verifier.verdict();
            self.kids.insert((chain, kid.clone()));
            if verdict != "ok" {
                self.bad.push(Bad {
                    verifier: verifier.name,
                    verdict,
                    algorithm,
                    kid,
                    after: self.start.elapsed(),
                });
            }
        }
        self.tokens += 1;
    }

    fn kids_of(&self, chain: usize) -> usize {
        self.kids.iter().filter(|(of, _)| *of == chain).count()
    }

    /// How many keys have taken over from another.
    fn rotations(&self) -> usize {
        self.kids.len().saturating_sub(self.chains.len())
    }

    fn summary(&self) -> String {
        let refused = |verifier: &Verifier| {
            let bad = self.bad.iter().filter(|bad| bad.verifier == verifier.name);
            format!("{} by {}", bad.count(), verifier.name)
        };
        let refused: Vec<_> = self.verifiers.iter().map(refused).collect();
        format!(
            "{} rotations of {} chains in {:.0?}: {} tokens, of which refused {}",
            self.rotations(),
            self.chains.len(),
            self.start.elapsed(),
            self.tokens,
            refused.join(", "),
        )
    }
}
