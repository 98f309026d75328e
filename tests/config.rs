//! Configurations: every mistake in one run, each with its place; shipped ones are good.

mod common;

use std::fs;
use std::process::Output;

use common::{Sandbox, text};

fn validate(sandbox: &Sandbox) -> Output {
    let config = sandbox.config();
    sandbox.run(&["validate", "--config", config.to_str().unwrap()])
}

/// The shipped example, where nobody else can change it, whoever owns the sources.
fn example(sandbox: &Sandbox) -> String {
    let text = include_str!("../agent.conf.example");
    let path = sandbox.path("example.conf");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
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
    let example = example(&sandbox);
    let output = sandbox.run(&["validate", "--config", &example]);
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
    let example = example(&sandbox);
    let print = |config: &str| {
        let output = sandbox.run(&["validate", "--print", "--config", config]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let once = print(&example);
    fs::write(sandbox.config(), &once).unwrap();
    assert_eq!(print(sandbox.config().to_str().unwrap()), once);
    assert!(once.contains("leeway = \"30s\""), "{once}");
}

#[test]
fn included_files_join_in_their_order_and_their_mistakes_name_them() {
    let sandbox = Sandbox::new("");
    let part = |name: &str, text: &str| fs::write(sandbox.path(name), text).unwrap();
    let entry = |name: &str| common::entry(name, 1001);
    let main = fs::read_to_string(sandbox.config()).unwrap();
    let include = format!("include = [\"{}/*.part\"]\n", sandbox.path("").display());
    let issuer = common::issuer("main", "https://id.example.org", "ES256");
    fs::write(
        sandbox.config(),
        include.replace("//", "/") + &main + &issuer + &entry("a"),
    )
    .unwrap();
    part("1.part", &entry("b"));
    part("2.part", &entry("c"));
    let good = validate(&sandbox);
    assert!(
        text(&good.stdout).contains("3 entries"),
        "{}",
        text(&good.stderr)
    );

    part(
        "2.part",
        &(entry("a") + "agent {\n  trust_domain = \"x\"\n}\n"),
    );
    part("3.part", "entry \"x\" {\n");
    let report = text(&validate(&sandbox).stderr);
    for wanted in [
        "2.part:1:7: error: entry \"a\" is there twice",
        "2.part:5:1: error: agent stands in an included file",
        "3.part:",
    ] {
        assert!(report.contains(wanted), "{report}\nlacks {wanted}");
    }
}

#[test]
fn a_file_that_others_can_change_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let sandbox = Sandbox::with_entry("ES256");
    assert!(validate(&sandbox).status.success());
    fs::set_permissions(sandbox.config(), fs::Permissions::from_mode(0o664)).unwrap();
    let output = validate(&sandbox);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("can be written by others (mode 0664)"));
}
