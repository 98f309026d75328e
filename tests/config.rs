//! Configurations: every mistake in one run, each with its place; shipped ones are good.

mod common;

use std::fs;
use std::process::Output;

use common::{Sandbox, text};

fn validate(sandbox: &Sandbox) -> Output {
    let config = sandbox.config();
    sandbox.run(&["validate", "--config", config.to_str().unwrap()])
}

#[test]
fn five_mistakes_of_meaning_give_five_messages_each_with_its_line() {
    let sandbox = Sandbox::new("");
    let config = r#"agent {
  trust_domain = "example.org"
  data_dirr    = "/var/lib/agent"
  max_ttl      = "one day"
}
issuer "main" {
  url = "https://id.example.org"
  key "main" {
    algorithm = "RS256"
  }
}
entry "a" {
  spiffe_id = "spiffe://example.org//a"
  selectors = ["unix:uid:1"]
}
entry "b" {
  spiffe_id = "spiffe://example.org/b"
  selectors = "unix:uid:1"
}
entry "b" {
  spiffe_id = "spiffe://example.org/c"
  selectors = ["unix:uid:2"]
}
"#;
    fs::write(sandbox.config(), config).unwrap();
    let output = validate(&sandbox);
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stderr);
    let errors: Vec<_> = report
        .lines()
        .filter(|line| line.contains(": error: "))
        .collect();
    let expected = [
        (":3:3:", "there is no data_dirr in agent"),
        (":4:18:", "\"one day\" is not a duration"),
        (":13:15:", "the path has an empty segment"),
        (":18:15:", "a string where a list of strings belongs"),
        (":20:7:", "entry \"b\" is there twice"),
    ];
    assert_eq!(errors.len(), expected.len(), "{report}");
    for (line, (place, message)) in errors.iter().zip(expected) {
        assert!(
            line.contains(place) && line.contains(message),
            "{line}\nlacks {place} {message}"
        );
    }
    assert!(report.contains("did you mean data_dir?"), "{report}");
    assert!(
        report.contains("write it as 90s, 5m, 1h30m or 24h"),
        "{report}"
    );

    let run = sandbox.run(&["run", "--config", sandbox.config().to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(78));
    assert_eq!(text(&run.stderr), report);
}

#[test]
fn a_syntax_error_is_reported_alone() {
    let sandbox = Sandbox::new("");
    let config = "agent {\n  trust_domain = \n  unknown = 1\n}\nentry {\n}\n";
    fs::write(sandbox.config(), config).unwrap();
    let output = validate(&sandbox);
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stderr);
    assert_eq!(report.matches(": error: ").count(), 1, "{report}");
    assert!(
        report.contains("agent.conf:2:") && report.contains("syntax"),
        "{report}"
    );
}

#[test]
fn a_missing_file_is_named_with_a_way_out() {
    let sandbox = Sandbox::new("");
    fs::remove_file(sandbox.config()).unwrap();
    let output = validate(&sandbox);
    assert_eq!(output.status.code(), Some(78));
    let report = text(&output.stderr);
    assert!(
        report.contains("agent.conf") && report.contains("agent dev"),
        "{report}"
    );
}

#[test]
fn the_shipped_example_is_valid_without_a_warning_about_its_content() {
    let sandbox = Sandbox::new("");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/agent.conf.example");
    let output = sandbox.run(&["validate", "--config", example]);
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}");
    // That this machine has no user of that name is no fault of the example.
    let warnings = report.lines().filter(|line| line.contains(": warning: "));
    let unexpected: Vec<_> = warnings
        .filter(|line| !line.contains("on this machine"))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[test]
fn the_printed_configuration_is_one_that_means_the_same() {
    let sandbox = Sandbox::new("");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/agent.conf.example");
    let print = |config: &str| {
        let output = sandbox.run(&["validate", "--print", "--config", config]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let once = print(example);
    fs::write(sandbox.config(), &once).unwrap();
    assert_eq!(print(sandbox.config().to_str().unwrap()), once);
    assert!(once.contains("leeway = \"30s\""), "{once}");
}
