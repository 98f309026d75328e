//! `agent key`: what an operator sees of the keys and can do with them.

mod common;
#[path = "common/turnover.rs"]
mod turnover;

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use common::{Sandbox, eventually, own_entry, text};
use serde_json::Value;
use turnover::{in_state, issuer, keys, kids, published};

const URL: &str = "https://id.example.org";

/// With one issuer whose keys sign for so many seconds.
fn sandbox(lifespan: u32) -> Sandbox {
    let sandbox = Sandbox::new("");
    let blocks = issuer("main", URL, "ES256", lifespan) + &own_entry();
    turnover::configure(&sandbox, 60, &blocks);
    sandbox
}

/// What a command prints that must succeed.
fn must(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = sandbox.run(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What a command complains of that must fail.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    text(&output.stderr).trim().to_owned()
}

#[test]
fn the_list_tells_each_key_its_state_and_its_next_step() {
    let sandbox = sandbox(3600);
    let _agent = sandbox.start();
    let (active, successor) = chain(&sandbox);
    let shown = must(&sandbox, &["key", "list"]);
    let lines: Vec<_> = shown.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 5, "{shown}");
    assert_eq!(lines[0], format!("issuer main  {URL}"));
    let at = |kid: &str| {
        let found = lines.iter().position(|line| line.starts_with(kid));
        found.unwrap_or_else(|| panic!("{kid} in {shown}"))
    };
    for (kid, state, said) in [
        (&active, "active", ["signs since ", "replaced in "]),
        (&successor, "published", ["published since ", "signs in "]),
    ] {
        let line = at(kid);
        let words: Vec<_> = lines[line].split_whitespace().collect();
        assert_eq!(words, [kid.as_str(), "ES256", "main", state]);
        let said_all = said.iter().all(|words| lines[line + 1].contains(words));
        assert!(said_all, "{shown}");
    }

    let listed = must(&sandbox, &["key", "list", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert_eq!(
            (&key["issuer"], &key["name"]),
            (&"main".into(), &"main".into())
        );
        assert_eq!(key["algorithm"], "ES256");
        assert_eq!(key["lifespan_seconds"], 3600);
        let next = key["next_step_in_seconds"].as_u64().unwrap();
        assert!(
            next <= 3600 && key["age_seconds"].as_u64().unwrap() < 60,
            "{key}"
        );
    }
}

/// The key that signs and the one that will.
fn chain(sandbox: &Sandbox) -> (String, String) {
    eventually("a key signs and another will", || {
        let keys = keys(sandbox);
        let active = in_state(&keys, "active").pop()?;
        Some((active, in_state(&keys, "published").pop()?))
    })
}

#[test]
fn a_key_that_verifiers_have_takes_over_at_once() {
    let sandbox = sandbox(3600);
    let _agent = sandbox.start();
    let (active, successor) = chain(&sandbox);
    let seen = Instant::now();
    eventually("the margin is over", || {
        (seen.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let said = must(&sandbox, &["key", "rotate"]);
    assert_eq!(said, format!("{successor} signs for main/main now\n"));
    let now = keys(&sandbox);
    assert_eq!(in_state(&now, "active"), [successor]);
    assert_eq!(in_state(&now, "retired"), std::slice::from_ref(&active));
    let out = kids(&published(&sandbox, "main", "jwks.json"));
    assert!(out.contains(&active), "its tokens still hold");

    // Asked for again, the next one takes over by itself as soon as it may.
    let (_, next) = chain(&sandbox);
    must(&sandbox, &["key", "rotate"]);
    eventually("it takes over", || {
        (chain(&sandbox).0 == next).then_some(())
    });
}

#[test]
fn a_key_that_verifiers_cannot_have_yet_is_waited_for() {
    let sandbox = sandbox(3600);
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let slow = config.replace("publish_margin = \"1s\"", "publish_margin = \"30m\"");
    fs::write(sandbox.config(), slow).unwrap();
    let _agent = sandbox.start();
    let before = chain(&sandbox);
    let said = must(&sandbox, &["key", "rotate"]);
    let words = said.strip_prefix("the successor of main/main takes over in ");
    let words = words.and_then(|words| words.strip_suffix(", when verifiers have it\n"));
    assert!(
        words.is_some_and(|time| time.starts_with("29m") || time == "30m"),
        "{said}"
    );
    assert_eq!(chain(&sandbox), before);
    let listed = keys(&sandbox);
    let next = listed.iter().find(|key| key.kid == before.1).unwrap();
    let next = next.next_in.unwrap();
    assert!(
        (1500..=1800).contains(&next),
        "it is not due at the end of the lifespan: {next}"
    );
}

#[test]
fn a_command_that_names_no_key_says_what_to_name() {
    let sandbox = sandbox(3600);
    let agent = sandbox.start();
    let before = keys(&sandbox);
    // Ids begin with a hyphen as often as with any other of their characters.
    for kid in ["nonesuch", "-nonesuch", "-hnonesuch", "--nonesuch"] {
        let unknown = complaint(&sandbox.run(&["key", "taint", kid]));
        let wanted = format!("there is no key {kid}; agent key list");
        assert!(unknown.contains(&wanted), "{unknown}");
    }
    let rotate = |more: &[&str]| complaint(&sandbox.run(&[&["key", "rotate"], more].concat()));
    for more in [["--issuer", "other"], ["--key", "other"]] {
        let none = rotate(&more);
        assert!(none.contains("there is no such key block"), "{none}");
    }
    let kids =
        |keys: &[turnover::Key]| -> Vec<_> { keys.iter().map(|key| key.kid.clone()).collect() };
    assert_eq!(
        in_state(&keys(&sandbox), "active"),
        in_state(&before, "active")
    );
    assert!(kids(&keys(&sandbox)).starts_with(&kids(&before)[..1]));

    let second = issuer("second", "https://two.example.org", "ES256", 3600);
    let first = issuer("main", URL, "ES256", 3600);
    let chosen = own_entry().replace("  selectors", "  issuer = \"main\"\n  selectors");
    turnover::configure(&sandbox, 60, &(first + &second + &chosen));
    assert!(sandbox.run(&["reload"]).status.success());
    let several = rotate(&[]);
    for word in ["main/main", "second/main", "--issuer", "--key"] {
        assert!(several.contains(word), "{several}");
    }
    let done = must(&sandbox, &["key", "rotate", "--issuer", "second"]);
    assert!(done.contains("second/main"), "{done}");

    assert!(agent.stop().success());
    let down = sandbox.run(&["key", "list"]);
    assert_eq!(down.status.code(), Some(4), "{}", text(&down.stderr));
}

#[test]
fn a_key_block_that_is_gone_is_none_to_choose_from() {
    let sandbox = sandbox(3600);
    let _agent = sandbox.start();
    let renamed = issuer("main", URL, "ES256", 3600).replace("key \"main\"", "key \"next\"");
    turnover::configure(&sandbox, 60, &(renamed + &own_entry()));
    assert!(sandbox.run(&["reload"]).status.success());
    let retired = in_state(&keys(&sandbox), "retired");
    assert_eq!(retired.len(), 1, "it stays for its tokens");
    let said = must(&sandbox, &["key", "rotate"]);
    assert!(said.contains("main/next"), "{said}");
}
