//! The cost of the shipped binary beside the least that gRPC costs, as a table of ratios.
//!
//! `cargo bench` runs all of it; it takes about two minutes and wants root, since the caller is
//! another user. The floor is measured in the same run: an echo of a token by a plain tonic server
//! with default settings (E), a bare RSA signature (S), and that echo with 64 calls in flight (T).
//! Sequential figures have both ends on core 0: elsewhere they mostly tell where the scheduler put
//! them. Each figure is the median of several rounds, floor and agent in turn.

#[path = "../../tests/common/mod.rs"]
mod common;
mod echo;
#[path = "../../tests/common/load.rs"]
mod load;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use common::{Agent, Sandbox, binary};
use load::Figures;

const ROUNDS: usize = 7;
const CALLS: &str = "2000";
const IDLE: u32 = 500;
/// The caller of the example's entry, and another one.
const BILLING: u32 = 1001;
const OTHER: u32 = 1002;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["echo", socket, threads] => echo::serve(Path::new(socket), threads),
        ["call", rest @ ..] => load::call(rest),
        _ => {
            let missed = table();
            if missed > 0 {
                println!("{missed} missed");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// Measures and prints everything; tells how many targets were missed.
fn table() -> usize {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the caller is another user, so this needs root"
    );
    let mut table = Table { missed: 0 };
    let place = Place::new();

    let floor = place.echo("1", Some(0));
    let es256 = place.agent("ES256", Some(0), &[]);
    let at_ready = resident(&es256.agent);
    let unique = place.agent("ES256", Some(0), &["jti = true"]);
    let rs256 = place.agent("RS256", Some(0), &["jti = true"]);
    let mut rounds: [Vec<Figures>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let calls = [
            (&floor.socket, "sequential"),
            (&floor.socket, "connecting"),
            (&es256.agent.socket, "sequential"),
            (&es256.agent.socket, "connecting"),
            (&unique.agent.socket, "sequential"),
            (&rs256.agent.socket, "sequential"),
        ];
        for (figures, (socket, kind)) in rounds.iter_mut().zip(calls) {
            figures.push(place.measure(socket, Some(0), kind, CALLS));
        }
    }
    let [e, e_new, cached, connected, fresh, slow] = rounds.map(|figures| middle(&figures));
    let s = signature();
    println!("E   echo, one after the other         {:>7.1} us", e.p50);
    println!(
        "E'  echo, a new connection each       {:>7.1} us",
        e_new.p50
    );
    println!("S   RS256 signature with 2048 bits    {s:>7.1} us");
    println!(
        "\n{:<46}{:>12}{:>12}{:>10}",
        "", "measured", "ratio", "target"
    );
    table.at_most("cached token", cached.p50, e.p50, "E", 2.0);
    table.at_most(
        "cached token, new connection",
        connected.p50,
        e_new.p50,
        "E'",
        1.7,
    );
    table.at_most("cached token, p99", cached.p99, cached.p50, "p50", 3.0);
    table.at_most("fresh ES256", fresh.p50, e.p50, "E", 2.8);
    table.at_most("fresh RS256", slow.p50, s, "S", 1.35);
    drop((floor, es256, unique, rs256));

    let floor = place.echo("2", None);
    let es256 = place.agent("ES256", None, &[]);
    let rs256 = place.agent("RS256", None, &["jti = true"]);
    let mut rounds: [Vec<Figures>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let sockets = [&floor.socket, &es256.agent.socket, &rs256.agent.socket];
        for (figures, socket) in rounds.iter_mut().zip(sockets) {
            figures.push(place.measure(socket, None, "in-flight", "64"));
        }
    }
    let [t, cached, slow] = rounds.map(|figures| middle(&figures).rate);
    table.at_least("cached, 64 in flight", cached, t, "T", 0.5);
    table.at_least("fresh RS256, 64 in flight", slow, 1e6 / s, "1/S", 0.65);
    drop((floor, es256, rs256));

    for (name, limit) in [("no limit", "0"), ("the default limit", "500")] {
        let flooded = format!("signatures_per_second_per_uid = {limit}");
        let agent = place.agent("RS256", None, &["other", &flooded]);
        let socket = &agent.agent.socket;
        let alone = place.measure(socket, Some(0), "sequential", CALLS);
        let flood = place.start(OTHER, socket, Some(1), "flood", "64");
        let victim: Vec<_> = (0..3)
            .map(|_| place.measure(socket, Some(0), "sequential", CALLS))
            .collect();
        drop(flood);
        let name = format!("beside an RS256 flood with {name}, p99");
        table.at_most(&name, middle(&victim).p99, alone.p50, "p50", 8.0);
    }

    let agent = place.agent("ES256", None, &[]);
    let before = resident(&agent.agent);
    let mut idle = place.start(
        BILLING,
        &agent.agent.socket,
        None,
        "idle",
        &IDLE.to_string(),
    );
    idle.line();
    let each = (resident(&agent.agent) - before) / f64::from(IDLE);
    table.size("RSS at ready", at_ready / 1e6, "MB", 12.0);
    table.size(
        "RSS of an idle connection with a stream",
        each / 1e3,
        "kB",
        40.0,
    );
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let bytes = fs::metadata(binary()).expect("a binary").len() as f64;
    table.size("stripped binary", bytes / 1e6, "MB", 12.0);
    table.missed
}

/// Prints rows and counts those that miss their target.
struct Table {
    missed: usize,
}

impl Table {
    fn at_most(&mut self, name: &str, measured: f64, floor: f64, unit: &str, target: f64) {
        let ratio = measured / floor;
        let target = (ratio <= target, format!("<= {target}"));
        self.row(
            name,
            format!("{measured:.1} us"),
            format!("{ratio:.2} {unit}"),
            target,
        );
    }

    fn at_least(&mut self, name: &str, measured: f64, floor: f64, unit: &str, target: f64) {
        let ratio = measured / floor;
        let target = (ratio >= target, format!(">= {target}"));
        self.row(
            name,
            format!("{measured:.0}/s"),
            format!("{ratio:.2} {unit}"),
            target,
        );
    }

    fn size(&mut self, name: &str, measured: f64, unit: &str, most: f64) {
        let target = (measured <= most, format!("<= {most}"));
        self.row(name, format!("{measured:.1} {unit}"), String::new(), target);
    }

    fn row(&mut self, name: &str, measured: String, ratio: String, target: (bool, String)) {
        let (held, target) = target;
        let verdict = if held { "" } else { "  MISSED" };
        println!("{name:<46}{measured:>12}{ratio:>12}{target:>10}{verdict}");
        self.missed += usize::from(!held);
    }
}

/// Where the bench runs.
struct Place {
    /// This program under the name of the example's caller.
    billing: PathBuf,
    home: Sandbox,
}

struct Running {
    agent: Agent,
    _home: Sandbox,
}

impl Place {
    fn new() -> Self {
        let home = Sandbox::new("");
        let billing = home.path("billing");
        fs::copy(std::env::current_exe().expect("a path"), &billing).expect("a copy");
        Self { billing, home }
    }

    /// The agent with the example's configuration, in a directory of its own. `changes` are
    /// options of the entry, of the limits, or an entry for another user without a cache.
    fn agent(&self, algorithm: &str, core: Option<usize>, changes: &[&str]) -> Running {
        let home = Sandbox::new("");
        let at = |name: &str| home.path(name).display().to_string();
        let mut config = include_str!("../../agent.conf.example").to_owned();
        let mut put = |old: &str, new: &str| {
            assert!(config.contains(old), "the example has no {old}");
            config = config.replacen(old, new, 1);
        };
        put("include = [\"", "# include = [\"");
        put(
            "# data_dir = \"/var/lib/agent\"",
            &format!("data_dir = \"{}\"", at("data")),
        );
        put(
            "# runtime_dir = \"/run/agent\"",
            &format!("runtime_dir = \"{}\"", at("run")),
        );
        put(
            "/run/agent/metrics/metrics.sock",
            &at("metrics/metrics.sock"),
        );
        put("/usr/bin/billing", &self.billing.display().to_string());
        put(
            "/run/agent/tokens/billing/aws",
            &at("run/tokens/billing/aws"),
        );
        put(
            "algorithm = \"RS256\"",
            &format!("algorithm = \"{algorithm}\""),
        );
        put("# connections_per_uid = 1024", "connections_per_uid = 0");
        put(
            "# bundle_streams_per_pid = 64",
            "bundle_streams_per_pid = 0",
        );
        let mut limit = "signatures_per_second_per_uid = 0";
        for change in changes {
            match *change {
                "jti = true" => put("# jti = false", "jti = true"),
                "other" => put(
                    "entry \"billing\"",
                    &format!(
                        "entry \"other\" {{\n  spiffe_id = \"spiffe://example.org/other\"\n  selectors = [\"unix:uid:{OTHER}\"]\n  jti = true\n}}\nentry \"billing\""
                    ),
                ),
                other => limit = other,
            }
        }
        put("# signatures_per_second_per_uid = 500", limit);
        fs::write(home.config(), config).expect("a configuration");
        let agent = match core {
            Some(core) => on_core(core, || home.start()),
            None => home.start(),
        };
        Running { agent, _home: home }
    }

    /// A plain echo server.
    fn echo(&self, threads: &str, core: Option<usize>) -> Echo {
        let socket = self.home.path("echo.sock");
        let _ = fs::remove_file(&socket);
        let mut command = pinned(core);
        command
            .arg(&self.billing)
            .arg("echo")
            .arg(&socket)
            .arg(threads);
        let child = Started::new(command);
        common::eventually("an echo server", || socket.exists().then_some(()));
        Echo {
            socket,
            _child: child,
        }
    }

    /// A caller of this user.
    fn start(
        &self,
        uid: u32,
        socket: &Path,
        core: Option<usize>,
        kind: &str,
        count: &str,
    ) -> Started {
        let mut command = pinned(core);
        let id = uid.to_string();
        command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        command
            .arg(&self.billing)
            .arg("call")
            .arg(socket)
            .args([kind, count]);
        Started::new(command)
    }

    /// The figures of a caller of the example's user.
    fn measure(&self, socket: &Path, core: Option<usize>, kind: &str, count: &str) -> Figures {
        let line = self.start(BILLING, socket, core, kind, count).line();
        Figures::parse(&line).unwrap_or_else(|| panic!("no figures: {line:?}"))
    }
}

struct Echo {
    socket: PathBuf,
    _child: Started,
}

/// A process that is killed in the end.
struct Started(Child);

impl Started {
    fn new(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).spawn().expect("a process"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let out = self.0.stdout.as_mut().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        line
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs on one core, or on any.
fn pinned(core: Option<usize>) -> Command {
    let mut command = Command::new("taskset");
    let cores = core.map_or("0-1023".to_owned(), |core| core.to_string());
    command.args(["-c", &cores]);
    command
}

/// Puts all threads of a process on these cores.
fn pin(pid: u32, cores: &str) {
    let done = Command::new("taskset")
        .args(["-a", "-c", "-p", cores, &pid.to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(done.is_ok_and(|status| status.success()), "taskset failed");
}

fn resident(agent: &Agent) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let pages = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    pages.expect("kilobytes") * 1024.0
}

/// The median of each figure.
fn middle(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
    Figures {
        p50: of(|f| f.p50),
        p99: of(|f| f.p99),
        rate: of(|f| f.rate),
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().expect("a figure")
}

/// What a bare signature over a token takes, in microseconds; on one core, as the figures that it
/// is compared with.
fn signature() -> f64 {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let (random, mut signature) = (SystemRandom::new(), vec![0; 256]);
    let mut sign = |_| {
        let start = Instant::now();
        key.sign(&RSA_PKCS1_SHA256, &random, &[b'x'; 329], &mut signature)
            .expect("a signature");
        start.elapsed().as_secs_f64() * 1e6
    };
    on_core(0, || median((0..3000).map(&mut sign).collect()))
}

/// Does something on one core; a process that it starts stays there.
fn on_core<T>(core: usize, work: impl FnOnce() -> T) -> T {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    pin(std::process::id(), &core.to_string());
    let done = work();
    pin(std::process::id(), &format!("0-{}", cores - 1));
    done
}
