//! A new configuration while the agent runs.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Sandbox, eventually, feed, issuer, long, own_entry, text};
use nix::sys::signal::Signal;
use spiffe::WorkloadApiClient;

fn named(name: &str) -> String {
    own_entry()
        .replace("/me\"", &format!("/{name}\""))
        .replace("\"me\"", &format!("\"{name}\""))
}

fn main_issuer() -> String {
    issuer("main", "https://id.example.org", "ES256")
}

/// The identities that this process gets now.
fn identities(sandbox: &Sandbox) -> BTreeSet<String> {
    let output = sandbox.run(&["fetch-jwt", "--audience", "a", "--output", "json"]);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let svids = reply["svids"].as_array().unwrap().iter();
    svids
        .map(|svid| {
            svid["spiffe_id"]
                .as_str()
                .unwrap()
                .rsplit('/')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[test]
fn fifty_broken_configurations_are_each_refused_with_their_line_and_the_old_one_serves() {
    let sandbox = Sandbox::new("");
    let file = format!(
        "token_file \"{}\" {{\n  entry = \"me\"\n  audience = \"a\"\n}}\n",
        sandbox.path("run/tokens/t").display()
    );
    let good = sandbox.config_text(&(main_issuer() + &own_entry() + &file));
    fs::write(sandbox.config(), &good).unwrap();
    let _agent = sandbox.start();
    let uid = format!("\"unix:uid:{}\"", nix::unistd::geteuid().as_raw());
    let replaced = |piece: &str, other: &str| {
        assert!(good.contains(piece), "{piece}");
        let line = good[..good.find(piece).unwrap()].matches('\n').count() + 1;
        (good.replacen(piece, other, 1), line)
    };
    let option = |line: &str| replaced("  log_level", &format!("  {line}\n  log_level"));
    let mut broken = vec![
        replaced(
            "trust_domain = \"example.org\"",
            "trust_domain = \"Example.org\"",
        ),
        replaced(
            "trust_domain = \"example.org\"",
            "trust_domain = \"example.org/x\"",
        ),
        replaced("trust_domain = \"example.org\"", "trust_domain = 1"),
        replaced("trust_domain = \"example.org\"", "trust_domain = \"a b\""),
        replaced("agent {", "agents {"),
        replaced("agent {", "agent \"x\" {"),
        replaced("agent {", "agent = {"),
        replaced("issuer \"main\" {", "issuer {"),
        replaced("issuer \"main\" {", "issuer \"a/b\" {"),
        replaced("https://id.example.org", "http://id.example.org"),
        replaced("https://id.example.org", "https://id.example.org/"),
        replaced("https://id.example.org", "https://ID.example.org"),
        replaced("https://id.example.org", "https://id.example.org?x"),
        replaced("https://id.example.org", "id.example.org"),
        replaced("algorithm = \"ES256\"", "algorithm = \"none\""),
        replaced("algorithm = \"ES256\"", "algorithm = \"HS256\""),
        replaced("algorithm = \"ES256\"", "algorithm = 256"),
        replaced("key \"main\" {", "key {"),
        replaced("key \"main\" {", "kei \"main\" {"),
        replaced("entry \"me\" {", "entry {"),
        replaced("entry \"me\" {", "entry \"me\" \"x\" {"),
        replaced("entry \"me\" {", "entri \"me\" {"),
        replaced("spiffe://example.org/me", "spiffe://other.org/me"),
        replaced("spiffe://example.org/me", "spiffe://example.org"),
        replaced("spiffe://example.org/me", "spiffe://example.org//me"),
        replaced("spiffe://example.org/me", "me"),
        replaced(&uid, ""),
        replaced(&uid, "\"unix:uid:x\""),
        replaced(&uid, "\"uid:1\""),
        replaced(&uid, "\"docker:label:x\""),
        replaced(&uid, "\"unix:path:/bin/x\""),
        replaced(&uid, "1"),
        replaced("entry = \"me\"", "entry = 1"),
        replaced("audience = \"a\"", "audience = []"),
        replaced("audience = \"a\"", "audience = \"\""),
        replaced("audience = \"a\"", "audience = \"a\"\n  mode = \"0777\"").clone(),
    ];
    for line in [
        "max_ttl = \"1 day\"",
        "max_ttl = \"0s\"",
        "max_ttl = 5",
        "leeway = \"1h\"",
        "nbf_margin = \"-1s\"",
        "socket_mode = \"999\"",
        "log_format = \"xml\"",
        "unknown = 1",
        "data_dirr = \"/x\"",
        "shutdown_grace = true",
        "default_jwt_svid_ttl = \"25h\"",
        "require_peerpidfd = \"yes\"",
        "socket_path = \"x.sock\"",
        "default_jwt_svid_ttl = foo()",
        "leeway = \"${x}\"",
    ] {
        broken.push(option(line));
    }
    broken[35].1 += 1;
    assert!(broken.len() >= 50, "{}", broken.len());
    for (config, line) in broken {
        fs::write(sandbox.config(), &config).unwrap();
        let output = sandbox.run(&["reload"]);
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{config}\n{report}");
        assert!(
            report.contains(&format!("agent.conf:{line}:")),
            "line {line}\n{config}\n{report}"
        );
        assert_eq!(identities(&sandbox), ["me".to_owned()].into());
    }
    fs::write(sandbox.config(), &good).unwrap();
    let output = sandbox.run(&["reload"]);
    assert_eq!(text(&output.stdout).trim(), "reloaded: nothing has changed");
}

#[test]
fn what_cannot_change_at_run_time_is_refused_by_name() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let good = fs::read_to_string(sandbox.config()).unwrap();
    for (option, line) in [
        ("data_dir", "  data_dir = \"/tmp/elsewhere\"\n"),
        ("socket_path", "  socket_path = \"/tmp/x/a.sock\"\n"),
        (
            "admin_socket_path",
            "  admin_socket_path = \"/tmp/y/a.sock\"\n",
        ),
        ("socket_mode", "  socket_mode = \"0770\"\n"),
        ("log_format", "  log_format = \"json\"\n"),
        ("require_peerpidfd", "  require_peerpidfd = true\n"),
        ("shutdown_grace", "  shutdown_grace = \"1s\"\n"),
    ] {
        let kept: String = good
            .lines()
            .filter(|l| !l.trim().starts_with(&format!("{option} ")))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(
            sandbox.config(),
            kept.replacen("agent {\n", &format!("agent {{\n{line}"), 1),
        )
        .unwrap();
        let output = sandbox.run(&["reload"]);
        let report = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{report}");
        assert!(
            report.contains(&format!("{option} cannot change while the agent runs")),
            "{report}"
        );
    }
    fs::write(sandbox.config(), good.replace("example.org", "example.com")).unwrap();
    assert!(text(&sandbox.run(&["reload"]).stderr).contains("trust_domain cannot change"));
    assert_eq!(identities(&sandbox), ["me".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_token_files_and_issuers_follow_a_reload() {
    use futures_util::StreamExt;

    let sandbox = Sandbox::new("");
    let path = sandbox.path("run/tokens/t");
    let file = format!(
        "token_file \"{}\" {{\n  entry = \"me\"\n  audience = \"a\"\n}}\n",
        path.display()
    );
    sandbox.configure(&(main_issuer() + &own_entry() + &file));
    let mut agent = sandbox.start();
    eventually("the token file is there", || path.exists().then_some(()));
    let address = format!("unix://{}", sandbox.socket().display());
    let client = WorkloadApiClient::connect_to(&address).await.unwrap();
    let mut stream = client.stream_jwt_bundles().await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());

    let second = issuer("second", "https://two.example.org", "ES256");
    let chosen = own_entry().replace("  selectors", "  issuer = \"second\"\n  selectors");
    sandbox.configure(&(main_issuer() + &second + &chosen));
    agent.signal(Signal::SIGHUP);
    agent.wait_for_state("RELOADING=1");
    agent.wait_for_state("READY=1");
    assert!(
        stream.next().await.unwrap().is_ok(),
        "the bundle has the key of the new issuer"
    );
    eventually("the token file is gone", || (!path.exists()).then_some(()));
    let token = client.fetch_jwt_svid(["a"], None).await.unwrap();
    let jwks = fs::read_to_string(sandbox.path("data/webroot/second/jwks.json")).unwrap();
    assert!(jwks.contains(token.key_id()), "{jwks}");

    sandbox.configure(&(main_issuer() + &second));
    let output = sandbox.run(&["reload"]);
    assert_eq!(text(&output.stdout).trim(), "entry me removed");
    let end = loop {
        // Successors come and go meanwhile.
        if let Err(end) = stream.next().await.unwrap() {
            break end;
        }
    };
    assert!(
        format!("{end}{end:?}").contains("no identity issued"),
        "{end:?}"
    );
}

/// Seconds of CPU that a process has used.
fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

#[test]
fn in_a_storm_of_hangups_every_call_sees_the_old_set_or_the_new_one() {
    let length = Duration::from_secs(if long() { 10 } else { 2 });
    let sandbox = Arc::new(Sandbox::new(""));
    let old = main_issuer() + &named("a") + &named("b");
    let new = main_issuer() + &named("b") + &named("c");
    let sets: [BTreeSet<String>; 2] =
        [["a", "b"], ["b", "c"]].map(|set| set.map(str::to_owned).into());
    sandbox.configure(&old);
    let agent = sandbox.start();
    let over = Arc::new(AtomicBool::new(false));
    let caller = std::thread::spawn({
        let (sandbox, over) = (Arc::clone(&sandbox), Arc::clone(&over));
        move || {
            let mut calls = 0;
            while !over.load(Ordering::Relaxed) {
                let seen = identities(&sandbox);
                assert!(sets.contains(&seen), "{seen:?}");
                calls += 1;
            }
            calls
        }
    });
    let (start, used) = (Instant::now(), cpu(agent.pid()));
    let mut signals = 0;
    while start.elapsed() < length {
        sandbox.configure(if signals % 200 < 100 { &new } else { &old });
        for _ in 0..10 {
            agent.signal(Signal::SIGHUP);
            signals += 1;
        }
    }
    let share = (cpu(agent.pid()) - used) / start.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    let calls = caller.join().unwrap();
    sandbox.configure(&(main_issuer() + &named("last")));
    agent.signal(Signal::SIGHUP);
    let last = Instant::now();
    eventually("the newest file is in force", || {
        (identities(&sandbox) == ["last".to_owned()].into()).then_some(())
    });
    let delay = last.elapsed();
    println!(
        "{signals} signals, {calls} calls, {:.0} % of a core, in force after {delay:?}",
        share * 100.0
    );
    if long() {
        assert!(share < 0.5, "{share}");
        assert!(delay < Duration::from_secs(1), "{delay:?}");
    }
}

/// An issuer with two key chains.
fn two_keys(first: &str, second: &str) -> String {
    let key = |name: &str| format!("  key \"{name}\" {{\n    algorithm = \"ES256\"\n  }}\n");
    format!(
        "issuer \"main\" {{\n  url = \"https://id.example.org\"\n{}{}}}\n",
        key(first),
        key(second)
    )
}

fn signed_by(key: &str) -> String {
    own_entry().replace(
        "  selectors",
        &format!("  key = \"{key}\"\n  issuer = \"main\"\n  selectors"),
    )
}

#[test]
fn a_reload_whose_last_issuer_fails_leaves_the_keys_of_the_first_ones_signing() {
    let sandbox = Sandbox::new(&(two_keys("k1", "k2") + &signed_by("k2")));
    let _agent = sandbox.start();
    sandbox.settle();
    let bundle = || text(&sandbox.run(&["fetch-bundle"]).stdout);
    let before = bundle();
    let unpublishable = issuer("z", "https://z.example.org", "ES256")
        .replace("  key", "  webroot = \"/nonexistent/z\"\n  key");
    sandbox.configure(&(two_keys("k1", "k3") + &unpublishable + &signed_by("k1")));
    let output = sandbox.run(&["reload"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    assert_eq!(identities(&sandbox), ["me".to_owned()].into());
    assert_eq!(bundle(), before);
    assert!(!text(&sandbox.run(&["status"]).stdout).contains("retired"));
}

#[test]
fn an_issuer_that_is_removed_signs_no_more_and_is_believed_until_its_tokens_have_ended() {
    let sandbox = Sandbox::new("");
    let second = issuer("second", "https://two.example.org", "ES256");
    let with_second = two_keys("k1", "k2") + &second;
    let chosen = own_entry().replace("  selectors", "  issuer = \"second\"\n  selectors");
    sandbox.configure(&(with_second + &chosen));
    let _agent = sandbox.start();
    sandbox.settle();
    let token = sandbox.token("a");
    let keys = || {
        let bundle = sandbox.run(&["fetch-bundle"]);
        let bundle: serde_json::Value = serde_json::from_slice(&bundle.stdout).unwrap();
        bundle["keys"].as_array().unwrap().len()
    };
    assert_eq!(keys(), 6);
    sandbox.configure(&(two_keys("k1", "k2") + &signed_by("k1")));
    let shown = text(&sandbox.run(&["reload"]).stdout);
    assert!(shown.contains("issuer second removed"), "{shown}");
    eventually("what has never signed is gone", || {
        (keys() == 5).then_some(())
    });
    let validated = feed(
        &mut sandbox.command(&["validate-jwt", "--audience", "a"]),
        &token,
    );
    assert!(validated.status.success(), "{}", text(&validated.stderr));
    let shown = text(&sandbox.run(&["key", "list"]).stdout);
    assert!(!shown.contains("second"), "{shown}");
}

#[test]
fn while_keys_are_made_for_a_new_configuration_the_old_one_signs() {
    let sandbox = Arc::new(Sandbox::new(&(two_keys("k1", "k2") + &signed_by("k1"))));
    let _agent = sandbox.start();
    let over = Arc::new(AtomicBool::new(false));
    let caller = std::thread::spawn({
        let (sandbox, over) = (Arc::clone(&sandbox), Arc::clone(&over));
        move || {
            while !over.load(Ordering::Relaxed) {
                let output = sandbox.run(&["fetch-jwt", "--audience", "a", "--timeout", "1s"]);
                assert!(output.status.success(), "{}", text(&output.stderr));
            }
        }
    });
    let slow = issuer(
        "slow",
        "https://slow.example.org",
        "RS256\"\n    size = 4096 # \"",
    );
    sandbox.configure(&(slow + &two_keys("k8", "k9") + &signed_by("k9")));
    let output = sandbox.run(&["reload", "--timeout", "1m"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    over.store(true, Ordering::Relaxed);
    caller.join().unwrap();
}

#[test]
fn a_report_of_any_length_reaches_whoever_asked_and_a_new_order_is_a_change() {
    let sandbox = Sandbox::new(&(main_issuer() + &named("a") + &named("b")));
    let _agent = sandbox.start();
    let wrong: String = (0..300)
        .map(|n| format!("token_file \"x{n}\" {{\n  entry = \"a\"\n  audience = \"v\"\n}}\n"))
        .collect();
    sandbox.configure(&(main_issuer() + &named("a") + &named("b") + &wrong));
    let output = sandbox.run(&["reload"]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stderr).matches(": error: \"x").count(), 300);
    sandbox.configure(&(main_issuer() + &named("b") + &named("a")));
    let output = sandbox.run(&["reload"]);
    assert_eq!(text(&output.stdout).trim(), "the order of entries changed");
}
