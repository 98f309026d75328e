use proptest::prelude::*;

use super::*;
use crate::pb::admin::{Issuer, Key, TokenFile};

const NOW: u64 = 1_800_000_000;
const LOOK: Look = Look {
    colours: false,
    unicode: true,
    live: false,
    erasable: false,
    columns: 80,
};

fn key(state: &str, age: u64, next_in: Option<u64>) -> Key {
    Key {
        name: "main".to_owned(),
        kid: format!("{state}-0123456789012345678901234567890123456789"),
        algorithm: "RS256".to_owned(),
        state: state.to_owned(),
        age,
        lifespan: 86_400,
        next_in,
    }
}

fn file(path: &str, issued_at: u64, expires_at: u64, error: &str) -> TokenFile {
    TokenFile {
        path: path.to_owned(),
        entry: "billing".to_owned(),
        expires_at,
        error: error.to_owned(),
        sub: "spiffe://example.org/billing".to_owned(),
        audience: vec!["vault".to_owned()],
        issued_at,
        next_refresh_in: 60,
    }
}

fn caller(at: u64, outcome: &str) -> Caller {
    Caller {
        at,
        pid: 4711,
        uid: 1001,
        outcome: outcome.to_owned(),
    }
}

fn status() -> GetStatusResponse {
    GetStatusResponse {
        version: "0.1.0 (0123456789ab)".to_owned(),
        trust_domain: "example.org".to_owned(),
        started_at: NOW - 7200,
        ready: true,
        issuers: vec![Issuer {
            name: "main".to_owned(),
            url: "https://id.example.org".to_owned(),
            webroot: "/var/lib/agent/webroot/main".to_owned(),
            keys: vec![
                key("active", 43_200, Some(43_200)),
                key("published", 43_200, Some(43_200)),
            ],
        }],
        entries_configured: 1,
        socket_path: "/run/agent/api/api.sock".to_owned(),
        ..GetStatusResponse::default()
    }
}

#[track_caller]
fn shown(status: &GetStatusResponse) -> String {
    let shown = to_text(status, NOW, LOOK);
    for line in shown.lines() {
        assert!(
            width(line) <= 80,
            "{} columns: {line}\n{shown}",
            width(line)
        );
    }
    shown
}

#[track_caller]
fn says(shown: &str, words: &[&str]) {
    // A line may end between two words.
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for word in words {
        let found = shown.contains(word) || flat.contains(word);
        assert!(found, "{shown}\nlacks: {word}");
    }
}

#[test]
fn a_healthy_agent_says_what_comes_next() {
    let mut status = status();
    status.token_files = vec![file("/run/t", NOW - 1200, NOW + 2400, "")];
    status.recent_callers = vec![caller(NOW - 5, "spiffe://example.org/billing")];
    let told = shown(&status);
    says(
        &told,
        &[
            "agent 0.1.0 (0123456789ab) for example.org: ✓ healthy, up 2 hours",
            "active-01234  ██████░░░░░░  signs since 12 hours",
            "published-01  ████████████  published, signs next",
            "next rotation in 12 hours: published-01 signs from 2027-01-15 20:00 UTC",
            "token files: 1 fresh",
            "/run/t  ████████░░░░  40 minutes left",
            "next: /run/t is written anew in 1 minute",
            "entries: 1 configured, 0 created",
            "5 seconds ago  uid 1001  pid 4711  spiffe://example.org/billing",
        ],
    );
    assert!(!told.contains("what is wrong") && !told.contains("what to do"));
}

#[test]
fn what_is_wrong_comes_first_and_with_what_to_do() {
    let mut status = status();
    status.problems = vec!["token file /run/a: no space is left".to_owned()];
    status.token_files = vec![
        file("/run/fresh", NOW - 1200, NOW + 2400, ""),
        file("/run/waits", 0, 0, ""),
        file("/run/stale", NOW - 2400, NOW + 1200, "no space is left"),
        file("/run/missing", 0, 0, "no space is left"),
        file("/run/expired", NOW - 4000, NOW - 400, "no space is left"),
    ];
    status.token_files[1].sub.clear();
    let told = shown(&status);
    says(
        &told,
        &[
            "degraded",
            "3 token files need a look",
            "tries them again in 1 minute",
            "journalctl -u svid-agent",
            "token files: 1 expired, 1 without a token, 1 not renewed, 1 waiting, 1 fresh",
            "░░░░░░░░░░░░  expired 6 minutes 40 seconds ago",
            "░░░░░░░░░░░░  no token",
            "████░░░░░░░░  20 minutes left, not renewed",
            "waits for entry billing",
        ],
    );
    let at = |word: &str| told.find(word).unwrap_or_else(|| panic!("{word}"));
    let order = [
        "what is wrong",
        "what to do",
        "issuer main",
        "/run/expired",
        "/run/missing",
        "/run/stale",
        "/run/waits",
        "/run/fresh",
    ];
    assert!(order.map(at).is_sorted(), "{told}");
}

#[test]
fn a_rotation_that_is_late_or_asked_for_is_told_as_it_is() {
    let mut status = status();
    status.issuers[0].keys = vec![key("active", 90_000, Some(0)), key("prepared", 5, None)];
    says(
        &shown(&status),
        &[
            "░░░░░░░░░░░░  signs since 1 day 1 hour",
            "made, not published yet",
            "rotation is late by 1 hour; next rotation now at the soonest: its key is",
        ],
    );
    // Two seconds are no delay.
    status.issuers[0].keys[0].age = 86_402;
    assert!(!shown(&status).contains("late"));
    status.issuers[0].keys = vec![
        key("tainted", 60, None),
        key("retired", 60, Some(3600)),
        key("retired", 60, Some(7200)),
    ];
    says(
        &shown(&status),
        &[
            "no key signs",
            "tainted since 1 minute",
            "2 retired keys stay published for old tokens, 2 hours more",
        ],
    );
    status.issuers[0].keys.clear();
    says(&shown(&status), &["no key yet"]);
}

#[test]
fn an_empty_agent_says_how_somebody_gets_a_token() {
    let mut status = status();
    status.issuers.clear();
    status.entries_configured = 0;
    says(
        &shown(&status),
        &["nobody gets a token yet", "agent entry create"],
    );
}

#[test]
fn a_refused_caller_is_told_how_to_learn_why() {
    let mut status = status();
    let reason = "refused: no matching entry has this identity and allows these audiences";
    status.recent_callers = vec![caller(NOW - 61, reason); 10];
    let told = shown(&status);
    says(&told, &["agent explain --pid 4711"]);
    assert_eq!(told.matches("uid 1001").count(), MAX_CALLERS);
}

#[test]
fn a_clock_that_was_set_back_gives_no_wrong_number() {
    let mut status = status();
    status.started_at = NOW + 500;
    status.token_files = vec![file("/run/t", NOW + 500, NOW + 4100, "")];
    status.recent_callers = vec![caller(NOW + 600, "spiffe://example.org/billing")];
    let told = shown(&status);
    says(
        &told,
        &["1 ahead of the clock", "made after now", "ahead of now"],
    );
    assert!(!told.contains(", up "), "{told}");
}

#[test]
fn however_much_there_is_the_screen_is_short_and_counts_it() {
    let mut status = status();
    status.issuers = vec![status.issuers[0].clone(); 50];
    status.issuers[49].keys.clear();
    status.issuers[49].name = "broken".to_owned();
    let file = |n: u64| match n {
        0..10 => file(&format!("/run/{n}"), 0, 0, "no"),
        _ => file(&format!("/run/{n}"), NOW - n, NOW + 20_000 - n, ""),
    };
    status.token_files = (0..10_000).map(file).collect();
    status.recent_callers = vec![caller(NOW, "spiffe://example.org/billing"); 10];
    let problem = format!("token file /run/{}/x: no", "x".repeat(200));
    status.problems = vec![problem; 11];
    let told = shown(&status);
    says(
        &told,
        &[
            "token files: 10 without a token, 9990 fresh",
            "9992 more files: agent files shows all",
            "45 more issuers, 45 of them well",
            "issuer broken",
            "6 more: agent health tells all",
        ],
    );
    assert!(told.lines().count() <= 80, "{told}");
}

#[test]
fn long_names_lose_their_middle_and_a_wider_terminal_shows_more() {
    let mut status = status();
    let path = format!("/run/agent/tokens/{}/aws", "x".repeat(100));
    status.token_files = vec![file(&path, NOW - 1200, NOW + 2400, "")];
    status.trust_domain = "d".repeat(255);
    status.issuers[0].name = "i".repeat(63);
    status.issuers[0].url = format!("https://{}", "u".repeat(200));
    status.issuers[0].keys[0].name = "k".repeat(63);
    status.issuers[0].keys[0].algorithm = "EdDSA".to_owned();
    status.recent_callers = vec![caller(NOW, &format!("spiffe://d/{}", "p".repeat(2000)))];
    let told = shown(&status);
    says(&told, &["…", "/aws  ████████░░░░"]);
    let wide = to_text(
        &status,
        NOW,
        Look {
            columns: 160,
            ..LOOK
        },
    );
    let longest = |text: &str| text.lines().map(width).max().unwrap();
    assert!((100..=160).contains(&longest(&wide)), "{wide}");
    let ascii = to_text(
        &status,
        NOW,
        Look {
            unicode: false,
            ..LOOK
        },
    );
    assert!(ascii.is_ascii(), "{ascii}");
}

proptest! {
    #[test]
    fn whatever_the_agent_says_it_fits(
        numbers in prop::array::uniform6(prop_oneof![0..200u64, any::<u64>()]),
        text in ".{0,200}",
        state in prop::sample::select(vec!["prepared", "published", "active", "retired", "tainted", "x"]),
        now in prop_oneof![0..200u64, Just(NOW), any::<u32>().prop_map(u64::from)],
    ) {
        let [a, b, c, d, e, f] = numbers;
        let mut status = status();
        status.problems = vec![text.clone()];
        status.started_at = a;
        let mut key = key(state, b, Some(c));
        (key.lifespan, key.name) = (d, text.clone());
        status.issuers[0].keys.push(key);
        status.token_files = vec![file(&text, e, f, &text)];
        status.recent_callers = vec![caller(a, "spiffe://example.org/billing")];
        let shown = to_text(&status, now, LOOK);
        let broken = shown.lines().filter(|line| width(line) > 80);
        prop_assert_eq!(broken.count(), 0, "{}", shown);
    }
}
