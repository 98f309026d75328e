//! The wall clock is set while the agent runs, or is wrong when it starts, and verifiers live by the
//! same clock: keys go on turning over, and each token holds by the clock of its moment.

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/turnover.rs"]
mod turnover;
#[path = "common/verifier.rs"]
mod verifier;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{
    Agent, DEADLINE, Need, Sandbox, binary, eventually, faketime, have, long, own_entry, python,
    text,
};
use load::pb::ValidateJwtsvidRequest;
use turnover::{Key, in_state, keys, kid, kids, published};
use verifier::{Verifier, folder};

const LIFESPAN: u32 = 4;
const TTL: u32 = 2;
const PACE: Duration = Duration::from_millis(250);
const DAYS: i64 = 5 * 24 * 3600;
const NOW: i64 = 0;
/// What `agent health` says of a clock that must be wrong, or must have been.
const SUSPECT: &str = "the wall clock lies before a time that is known to have been";
/// A chain keeps no more retired keys than this for the sake of a clock that was set back.
const MOST_KEYS: usize = 12 + 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_five_days_forward_costs_no_key_and_no_token() {
    let Some(mut machine) = Machine::new(LIFESPAN, TTL) else {
        return;
    };
    machine.start().await;
    machine.follow("before", 2).await;
    machine.step(DAYS).await;
    machine.is_healthy();
    machine.follow("five days on", 3).await;
    machine.is_healthy();
    machine.step(NOW).await;
    machine.suspects_the_clock();
    machine.follow("back again", 3).await;
    machine.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_five_days_back_costs_no_key_and_no_token() {
    let Some(mut machine) = Machine::new(LIFESPAN, TTL) else {
        return;
    };
    machine.start().await;
    machine.follow("before", 2).await;
    machine.step(-DAYS).await;
    machine.suspects_the_clock();
    machine.follow("five days back", 3).await;
    machine.suspects_the_clock();
    machine.step(NOW).await;
    machine.is_healthy();
    machine.follow("right again", 2).await;
    machine.lets_go_of_retired_keys();
    machine.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_in_1970_makes_keys_that_outlive_the_jump_to_today() {
    let Some(mut machine) = Machine::new(LIFESPAN, TTL) else {
        return;
    };
    machine.clock.set(WallClock::in_1970());
    machine.start().await;
    machine.is_healthy();
    machine.follow("1970", 2).await;
    machine.step(NOW).await;
    machine.is_healthy();
    machine.follow("today", 3).await;
    machine.is_healthy();
    machine.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_1970_keeps_the_keys_of_today_and_says_that_the_clock_is_wrong() {
    let Some(mut machine) = Machine::new(LIFESPAN, TTL) else {
        return;
    };
    machine.start().await;
    machine.follow("today", 2).await;
    machine.stop();
    machine.clock.set(WallClock::in_1970());
    machine.start().await;
    machine.suspects_the_clock();
    machine.follow("1970", 2).await;
    // The keys and their records are as old by now as the clock says, but the trouble is the same.
    machine.stop();
    machine.start().await;
    machine.suspects_the_clock();
    machine.step(NOW).await;
    machine.is_healthy();
    machine.follow("today again", 2).await;
    machine.lets_go_of_retired_keys();
    machine.end();
}

/// As above, but the boot is another one too, as on a board whose clock has no battery: the records
/// can be told from now by neither clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_into_1970_keeps_the_keys_and_lets_them_turn_over() {
    let Some(mut machine) = Machine::new(LIFESPAN, TTL) else {
        return;
    };
    if !have(&[Need::Root]) {
        return;
    }
    machine.start().await;
    machine.follow("today", 2).await;
    machine.stop();
    machine.boots += 1;
    machine.clock.set(WallClock::in_1970());
    machine.start().await;
    machine.suspects_the_clock();
    machine.follow("1970", 3).await;
    machine.step(NOW).await;
    machine.is_healthy();
    machine.follow("today again", 2).await;
    machine.lets_go_of_retired_keys();
    machine.end();
}

/// Nothing is due for minutes here, so that only a look at the clock can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_would_last_is_written_anew_once_the_clock_is_set() {
    let Some(mut machine) = Machine::new(3600, 600) else {
        return;
    };
    machine.start().await;
    let offsets: &[i64] = if long() { &[DAYS, NOW] } else { &[DAYS] };
    for &offset in offsets {
        let start = Instant::now();
        machine.step(offset).await;
        let token = machine.mirrored().unwrap();
        machine.holds("the file", &token);
        let took = format!("{offset:+} s: written after {:.0?}", start.elapsed());
        machine.told.push(took);
    }
    machine.end();
}

/// A wall clock that can be set, of the processes that are started with its environment. Their
/// other clocks are those of the machine.
struct WallClock {
    file: PathBuf,
    library: String,
    /// Seconds ahead of the clock of the machine.
    offset: i64,
}

impl WallClock {
    fn new(sandbox: &Sandbox) -> Self {
        let mut clock = Self {
            file: sandbox.path("clock"),
            library: faketime().unwrap(),
            offset: NOW,
        };
        clock.set(NOW);
        clock
    }

    fn set(&mut self, offset: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
        self.offset = offset;
    }

    /// Where the first second of 1970 lies.
    fn in_1970() -> i64 {
        -i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap()
    }

    fn environment(&self) -> [(&str, &str); 5] {
        [
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
    }

    fn unix_seconds(&self) -> i64 {
        self.offset - Self::in_1970()
    }
}

/// An agent and a verifier under one clock.
struct Machine {
    sandbox: Sandbox,
    clock: WallClock,
    verifier: Verifier,
    agent: Option<(Agent, load::Client)>,
    boots: usize,
    ttl: u32,
    token_file: PathBuf,
    /// The keys as they were when something was last done to the clock or the agent.
    before: Vec<Key>,
    tokens: usize,
    signers: BTreeSet<String>,
    told: Vec<String>,
}

impl Machine {
    fn new(lifespan: u32, ttl: u32) -> Option<Self> {
        if !have(&[Need::Python, Need::Faketime]) {
            return None;
        }
        let sandbox = Sandbox::new("");
        let token_file = sandbox.path("run/tokens/token");
        let issuer = turnover::issuer("main", "https://id.example.org", "ES256", lifespan);
        let file = turnover::token_file(&token_file, ttl);
        turnover::configure(&sandbox, ttl, &(issuer + &own_entry() + &file));
        let clock = WallClock::new(&sandbox);
        let mut command = Command::new(python().unwrap());
        command
            .arg(folder("clocks").join("verify.py"))
            .arg("vault")
            .envs(clock.environment());
        Some(Self {
            verifier: Verifier::start("PyJWT", command),
            clock,
            agent: None,
            boots: 0,
            ttl,
            token_file,
            before: Vec::new(),
            tokens: 0,
            signers: BTreeSet::new(),
            told: Vec::new(),
            sandbox,
        })
    }

    async fn start(&mut self) {
        let mut command = Command::new(binary());
        if self.boots > 0 {
            let id = self.sandbox.path("boot_id");
            fs::write(&id, format!("00000000-0000-4000-8000-{:012}\n", self.boots)).unwrap();
            command = Command::new("unshare");
            let bind = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
            command.args(["--mount", "sh", "-c", bind]);
            command.arg(id).arg(binary());
        }
        let agent = self.sandbox.start_by(command, &self.clock.environment());
        let mut client = load::connect(&self.sandbox.socket()).await.unwrap();
        // A verifier that has just been started may take longer than a token lives.
        let token = load::fetch(&mut client, "vault").await.unwrap();
        self.verifier.ask(self.webroot().to_str().unwrap(), &token);
        self.verifier.verdict();
        self.agent = Some((agent, client));
        self.settle();
    }

    fn stop(&mut self) {
        self.before = keys(&self.sandbox);
        let (agent, _) = self.agent.take().unwrap();
        let log = agent.log();
        assert!(agent.stop().success());
        assert!(!log.contains("panicked"), "{log}");
    }

    /// Sets the clock.
    async fn step(&mut self, offset: i64) {
        self.before = keys(&self.sandbox);
        self.clock.set(offset);
        // A caller need not wait for anything.
        self.fetch().await;
        self.settle();
    }

    /// Waits until the token file is of this time, and looks at what became of the keys.
    fn settle(&mut self) {
        let start = Instant::now();
        while !self.mirrored().is_some_and(|token| self.is_of_now(&token)) {
            // What lasts is looked at every half minute alone.
            let late = start.elapsed() > DEADLINE * 2;
            assert!(!late, "the token file is not written by the clock");
            std::thread::sleep(PACE);
        }
        let known = |state: &str| in_state(&self.before, state);
        let able = [known("active"), known("published")].concat();
        let now = keys(&self.sandbox);
        let active = in_state(&now, "active");
        assert_eq!(active.len(), 1, "{now:?}");
        assert!(
            able.is_empty() || able.contains(&active[0]),
            "the keys were lost: {:?} and then {now:?}",
            self.before
        );
        assert!(!self.sandbox.path("data/private/quarantine").exists());
        self.signers.clear();
    }

    fn webroot(&self) -> PathBuf {
        self.sandbox.path("data/webroot/main")
    }

    fn mirrored(&self) -> Option<String> {
        fs::read_to_string(&self.token_file).ok()
    }

    /// Whether a token was made by the clock as it is.
    fn is_of_now(&self, token: &str) -> bool {
        let issued = turnover::part(token, 1)["iat"].as_i64().unwrap();
        let age = self.clock.unix_seconds() - issued;
        age.abs() <= i64::from(self.ttl + 4)
    }

    /// Uses the agent until so many keys have signed, and more in the long run; each token must hold.
    async fn follow(&mut self, phase: &str, signers: usize) {
        let signers = if long() { 2 * signers } else { signers };
        let (start, before) = (Instant::now(), self.tokens);
        let mut pace = tokio::time::interval(PACE);
        while self.signers.len() < signers {
            let late = start.elapsed() > DEADLINE * 2;
            assert!(!late, "{phase}: {} keys have signed", self.signers.len());
            pace.tick().await;
            self.fetch().await;
            let mirrored = self.mirrored().unwrap();
            self.holds("the file", &mirrored);
            let now = keys(&self.sandbox);
            let out = kids(&published(&self.sandbox, "main", "jwks.json"));
            let active = in_state(&now, "active");
            assert!(active.iter().all(|kid| out.contains(kid)), "{now:?}");
            assert!(!active.is_empty() && out.len() <= MOST_KEYS, "{now:?}");
        }
        let told = format!("{phase}: {signers} keys, {} tokens", self.tokens - before);
        self.told.push(told);
    }

    async fn fetch(&mut self) {
        let (_, client) = self.agent.as_mut().unwrap();
        let token = load::fetch(client, "vault").await.unwrap();
        let message = ValidateJwtsvidRequest {
            audience: "vault".to_owned(),
            svid: token.clone(),
        };
        let taken = client.validate_jwtsvid(load::request(message)).await;
        taken.expect("the agent takes its own token");
        self.holds("the socket", &token);
    }

    fn holds(&mut self, source: &str, token: &str) {
        self.verifier.ask(self.webroot().to_str().unwrap(), token);
        let (verdict, signer) = self.verifier.verdict();
        let claims = turnover::part(token, 1);
        let now = self.clock.unix_seconds();
        assert_eq!(verdict, "ok", "{source} at {now}: {claims}");
        assert_eq!(signer, kid(token));
        self.signers.insert(signer);
        self.tokens += 1;
    }

    fn health(&self) -> (Option<i32>, String) {
        let output = self.sandbox.run(&["health"]);
        (output.status.code(), text(&output.stdout))
    }

    fn is_healthy(&self) {
        eventually("health", || {
            (self.health() == (Some(0), "healthy\n".to_owned())).then_some(())
        });
    }

    fn suspects_the_clock(&self) {
        let shown = eventually("the clock is suspected", || {
            let (code, shown) = self.health();
            (code == Some(1) && shown.contains(SUSPECT)).then_some(shown)
        });
        assert_eq!(shown.lines().count(), 2, "nothing else is wrong: {shown}");
    }

    /// Those that were kept for a clock that was set back.
    fn lets_go_of_retired_keys(&self) {
        eventually("the former keys leave", || {
            let retired = in_state(&keys(&self.sandbox), "retired").len();
            (retired <= 1).then_some(())
        });
    }

    fn end(mut self) {
        self.stop();
        println!("{}", self.told.join("; "));
    }
}
