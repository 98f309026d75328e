//! Ten thousand directories: what they cost, beside a writer that does the least that can be done.
//! Figures come from the long suite alone.

#[path = "common/load.rs"]
mod load;

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Agent, Need, Sandbox, eventually, have, issuer, long};

/// A tmpfs with the directories in it.
struct Yard {
    sandbox: Sandbox,
    parent: PathBuf,
}

impl Yard {
    fn new(algorithm: &str, entries: &str) -> Self {
        let sandbox = Sandbox::new("");
        let parent = sandbox.path("containers");
        fs::create_dir(&parent).unwrap();
        let mounted = std::process::Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                "mode=0755,size=1g,nr_inodes=400k",
                "none",
            ])
            .arg(&parent)
            .status();
        assert!(mounted.unwrap().success());
        let block = format!(
            "token_file \"{}/:name/token\" {{\n  spiffe_id = \"spiffe://example.org/containers/:name\"\n  audience = \"a\"\n  ttl = \"2h\"\n  max_directories = 20000\n}}\n",
            parent.display()
        );
        let issuer = issuer("main", "https://id.example.org", algorithm);
        sandbox.configure(&(issuer + &block + entries));
        Self { sandbox, parent }
    }

    fn make(&self, range: std::ops::Range<usize>) {
        for number in range {
            fs::create_dir(self.parent.join(format!("c{number}"))).unwrap();
        }
    }

    fn token(&self, number: usize) -> PathBuf {
        self.parent.join(format!("c{number}/token"))
    }

    /// Waits until all of the first `count` directories have a token.
    fn complete(&self, count: usize) {
        let mut next = 0;
        eventually("every directory has a token", || {
            while next < count && self.token(next).exists() {
                next += 1;
            }
            (next == count).then_some(())
        });
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.parent)
            .status();
    }
}

/// The time on a processor that the threads of a process have used, to the nanosecond.
fn cpu(agent: &Agent) -> Duration {
    let mut all = 0;
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap() {
        let path = task.unwrap().path().join("schedstat");
        // A thread may end while it is looked at.
        let text = fs::read_to_string(path).unwrap_or_default();
        all += text
            .split(' ')
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Duration::from_nanos(all)
}

/// The same from the counts of the process, which keep those of threads that have ended: in ticks.
fn ticks(agent: &Agent) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let fields: Vec<_> = after.split_whitespace().collect();
    let sum: u64 = [11, 12]
        .iter()
        .map(|at| fields[*at].parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(sum * 10)
}

fn resident(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until the agent does nothing for a while, and gives what it had used before.
fn quiet(agent: &Agent) -> Duration {
    let mut last = (Instant::now(), ticks(agent));
    eventually("the agent is quiet", || {
        let now = ticks(agent);
        if now != last.1 {
            last = (Instant::now(), now);
        }
        (last.0.elapsed() > Duration::from_millis(500)).then_some(last.1)
    })
}

/// A file as the least careful writer makes one: a temporary one, and a rename.
fn naive(directory: &Path, bytes: &[u8]) {
    let temporary = directory.join(".tmp");
    fs::File::create(&temporary)
        .unwrap()
        .write_all(bytes)
        .unwrap();
    fs::rename(&temporary, directory.join("naive")).unwrap();
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len() - 1;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let at = (last as f64 * share).round() as usize;
    sorted[at]
}

#[test]
fn ten_thousand_directories_cost_little_at_the_start_and_each_more_of_them_less() {
    if !have(&[Need::Root]) {
        return;
    }
    let count = if long() { 10_000 } else { 300 };
    let yard = Yard::new("ES256", "");
    yard.make(0..count);
    let agent = yard.sandbox.start();
    yard.complete(count);
    let cold = quiet(&agent);
    let bytes = fs::read(yard.token(0)).unwrap();
    let start = Instant::now();
    for number in 0..count {
        naive(yard.token(number).parent().unwrap(), &bytes);
    }
    let floor = start.elapsed();
    let rss = resident(&agent);
    println!(
        "{count} ES256 files from cold: {cold:?} of CPU beside {floor:?} of a naive writer; RSS {rss} kB"
    );

    // One directory at a time.
    let single = if long() { 1000 } else { 50 };
    let before = cpu(&agent);
    let mut took = Vec::new();
    for number in count..count + single {
        let file = yard.token(number);
        let start = Instant::now();
        yard.make(number..number + 1);
        while !file.exists() {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_micros(100));
        }
        took.push(start.elapsed());
        if long() {
            std::thread::sleep(Duration::from_millis(3));
        }
    }
    took.sort();
    let each = (cpu(&agent) - before) / u32::try_from(single).unwrap();
    let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
    println!("one more directory: token after {p50:?} (p50), {p99:?} (p99), {each:?} of CPU each");

    // A burst.
    let before = quiet(&agent);
    let first = count + single;
    let burst = if long() { 20_000 - first } else { 500 };
    yard.make(first..first + burst);
    yard.complete(first + burst);
    let spent = quiet(&agent) - before;
    let rss_after = resident(&agent);
    println!("a burst of {burst} directories: {spent:?} of CPU until quiet; RSS {rss_after} kB");
    let before = ticks(&agent);
    if long() {
        std::thread::sleep(Duration::from_secs(10));
        let idle = ticks(&agent) - before;
        println!("10 s of rest: {idle:?} of CPU");
        assert!(cold <= Duration::from_secs(1), "cold start");
        assert!(
            p50 <= Duration::from_millis(1) && p99 <= Duration::from_millis(5),
            "one more"
        );
        assert!(each < Duration::from_micros(200), "CPU of one more");
        assert!(spent <= Duration::from_secs(2), "burst");
        assert!(rss <= 15 << 10, "memory");
        assert!(idle.is_zero(), "rest");
    }
}

/// What a bare signature of RSA with 2048 bits takes.
fn signature() -> Duration {
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};

    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let (random, mut bytes) = (aws_lc_rs::rand::SystemRandom::new(), vec![0; 256]);
    let start = Instant::now();
    for _ in 0..500 {
        key.sign(&RSA_PKCS1_SHA256, &random, b"a token", &mut bytes)
            .unwrap();
    }
    start.elapsed() / 500
}

/// How long calls for a token take until `done`.
async fn calls(socket: &Path, mut done: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let mut client = load::connect(socket).await.unwrap();
    let mut took = Vec::new();
    while !done(took.len()) {
        let start = Instant::now();
        load::fetch(&mut client, "a").await.unwrap();
        took.push(start.elapsed());
    }
    took.sort();
    took
}

#[test]
fn a_crowd_of_slow_signatures_for_files_holds_up_no_caller() {
    if !have(&[Need::Root]) {
        return;
    }
    let count = if long() { 10_000 } else { 50 };
    let yard = Yard::new("RS256", &common::own_entry());
    let _agent = yard.sandbox.start();
    yard.sandbox.settle();
    let socket = yard.sandbox.socket();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let alone = runtime.block_on(calls(&socket, |made| made == 500));
    let start = Instant::now();
    yard.make(0..count);
    let mut next = 0;
    let beside = runtime.block_on(calls(&socket, |_| {
        while next < count && yard.token(next).exists() {
            next += 1;
        }
        next == count
    }));
    let took = start.elapsed();
    let permits = std::thread::available_parallelism().unwrap().get().max(2) - 1;
    let floor = signature() * u32::try_from(count).unwrap() / u32::try_from(permits).unwrap();
    let (p50, p99) = (percentile(&alone, 0.5), percentile(&beside, 0.99));
    println!(
        "{count} RS256 files in {took:?}, the signatures alone {floor:?}; a call alone {p50:?} (p50), beside them {p99:?} (p99 of {})",
        beside.len()
    );
    if long() {
        assert!(took <= floor.mul_f64(1.4), "the time of the signatures");
        assert!(p99 <= p50 * 8, "a caller beside them");
    }
}
