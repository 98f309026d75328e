use std::path::Path;

use crate::config::Config;

/// Two issuers, one of them with two keys, and an entry of the first.
fn complaints(block: &str) -> String {
    let issuer = |name: &str, keys: &[(&str, &str)]| {
        let key = |(name, algorithm): &(&str, &str)| {
            format!("  key \"{name}\" {{\n    algorithm = \"{algorithm}\"\n  }}\n")
        };
        let keys: String = keys.iter().map(key).collect();
        format!("issuer \"{name}\" {{\n  url = \"https://{name}.example.org\"\n{keys}}}\n")
    };
    let text = "agent {\n  trust_domain = \"example.org\"\n}\n".to_owned()
        + &issuer("one", &[("main", "ES256")])
        + &issuer("two", &[("main", "ES256"), ("ed", "EdDSA")])
        + "entry \"e\" {\n  spiffe_id = \"spiffe://example.org/e\"\n  selectors = [\"unix:uid:1\"]\n  issuer = \"one\"\n}\n"
        + &block.replace("FILE", "audience = \"a\"\n  ttl = \"2h\"\n");
    match Config::parse(Path::new("agent.conf"), &text) {
        Ok((_, warnings)) => warnings.to_string(),
        Err(report) => report.to_string(),
    }
}

fn file(options: &str) -> String {
    complaints(&format!(
        "token_file \"/run/t\" {{\n  FILE  {options}\n}}\n"
    ))
}

#[test]
fn a_block_says_in_one_way_whose_token_it_is() {
    for options in [
        "",
        "entry = \"e\"\n  sub = \"s\"",
        "sub = \"s\"\n  spiffe_id = \"spiffe://example.org/x\"",
    ] {
        let told = file(options);
        assert!(
            told.contains("needs one of entry, spiffe_id and sub"),
            "{told}"
        );
    }
    for (options, wanted) in [
        ("sub = \"\"", "it is empty"),
        ("sub = \"a\\nb\"", "control character"),
        (
            "spiffe_id = \"spiffe://other.org/x\"",
            "not of the trust domain",
        ),
        (
            "spiffe_id = \"spiffe://example.org/e\"",
            "identity of entry \"e\" too",
        ),
    ] {
        let told = file(&format!("issuer = \"one\"\n  {options}"));
        assert!(told.contains(wanted), "{told}");
    }
}

#[test]
fn what_signs_is_never_guessed() {
    for (options, wanted) in [
        ("sub = \"s\"", "several issuers, and the block chooses none"),
        (
            "sub = \"s\"\n  issuer = \"three\"",
            "there is no issuer \"three\"",
        ),
        (
            "sub = \"s\"\n  issuer = \"two\"",
            "several keys, and the block chooses none",
        ),
        (
            "sub = \"s\"\n  issuer = \"two\"\n  key = \"x\"",
            "has no key \"x\"",
        ),
        (
            "entry = \"e\"\n  issuer = \"two\"",
            "several keys, and the block chooses none",
        ),
        ("entry = \"e\"\n  key = \"ed\"", "has no key \"ed\""),
        (
            "entry = \"e\"\n  claims = { sub = \"x\" }",
            "the claim sub cannot be configured",
        ),
    ] {
        let told = file(options);
        assert!(told.contains(wanted), "{options}: {told}");
    }
    for options in [
        "entry = \"e\"",
        "sub = \"s\"\n  issuer = \"one\"",
        "entry = \"e\"\n  issuer = \"two\"\n  key = \"ed\"",
        "spiffe_id = \"spiffe://example.org/e\"\n  shared = true\n  issuer = \"one\"",
    ] {
        assert_eq!(file(options), "", "{options}");
    }
}

#[test]
fn two_files_have_one_identity_only_if_both_mean_it() {
    let both = |first: &str, second: &str| {
        let block = |path: &str, shared: &str| {
            format!(
                "token_file \"/run/{path}\" {{\n  FILE  issuer = \"one\"\n  spiffe_id = \"spiffe://example.org/x\"\n  {shared}\n}}\n"
            )
        };
        complaints(&(block("a", first) + &block("b", second)))
    };
    let told = both("", "shared = true");
    assert!(told.contains("identity of \"/run/a\" too"), "{told}");
    assert_eq!(both("shared = true", "shared = true"), "");
}

#[test]
fn a_signal_needs_a_process_and_a_process_a_signal() {
    let told = file("entry = \"e\"\n  pid_file = \"/run/x.pid\"");
    assert!(told.contains("of no use without renew_signal"), "{told}");
    let told = file("entry = \"e\"\n  renew_signal = \"SIGHUP\"");
    assert!(told.contains("of no use without pid_file"), "{told}");
    let told = file("entry = \"e\"\n  pid_file = \"/run/x.pid\"\n  renew_signal = \"SIGKILL\"");
    assert!(told.contains("SIGKILL"), "{told}");
}

fn with_parameter(path: &str, options: &str) -> String {
    complaints(&format!(
        "token_file \"{path}\" {{\n  FILE  issuer = \"one\"\n  {options}\n}}\n"
    ))
}

#[test]
fn a_path_parameter_is_one_whole_component_that_is_neither_first_nor_last() {
    let named = "spiffe_id = \"spiffe://example.org/c/:name\"";
    assert_eq!(with_parameter("/run/c/:name/token", named), "");
    for (path, wanted) in [
        ("/run/c/:name", "ends with its path parameter"),
        ("/run/:a/:name/t", "more than one path parameter"),
        ("/:name/token", "path parameter at the root"),
        ("/run/c/:na-me/t", "no name of a path parameter"),
        ("/run/c/:/t", "no name of a path parameter"),
        ("/run/c/:exp/t", "a directory cannot choose the claim exp"),
    ] {
        let told = with_parameter(path, named);
        assert!(told.contains(wanted), "{path}: {told}");
    }
    for option in [
        "pattern = \"x\"",
        "directory_owner = \"0\"",
        "max_directories = 5",
    ] {
        let told = file(&format!("entry = \"e\"\n  {option}"));
        assert!(told.contains("without a path parameter"), "{told}");
    }
}

#[test]
fn whose_token_each_directory_gets_is_said_by_its_name() {
    let at = |options: &str| with_parameter("/run/c/:sub/token", options);
    assert_eq!(at(""), "");
    assert_eq!(at("entry = \"e\""), "");
    assert_eq!(at("sub = \"x\"\n  shared = true"), "");
    for (options, wanted) in [
        ("sub = \"x\"", "every directory gets the same sub"),
        (
            "spiffe_id = \"spiffe://example.org/:subs\"",
            "every directory gets the same spiffe_id",
        ),
        (
            "spiffe_id = \"spiffe://other.org/:sub\"",
            "not of the trust domain",
        ),
        (
            "spiffe_id = \"spiffe://example.org/:sub\"",
            "is the identity of entry \"e\" too",
        ),
        ("pattern = \"[\"", "pattern: "),
        ("pattern = \"a)(b\"", "pattern: "),
        (
            "directory_owner = \"any\"",
            "whoever can make a directory in /run/c chooses",
        ),
    ] {
        let told = at(options);
        assert!(told.contains(wanted), "{options}: {told}");
    }
    let told = with_parameter("/run/c/:name/token", "");
    assert!(told.contains("needs one of entry"), "{told}");
}

#[test]
fn two_blocks_never_write_the_same_file_nor_where_the_agent_keeps_its_own() {
    let block = |path: &str, id: &str| {
        format!(
            "token_file \"{path}\" {{\n  FILE  issuer = \"one\"\n  spiffe_id = \"spiffe://example.org/{id}\"\n}}\n"
        )
    };
    let both = |(one, of_one): (&str, &str), (two, of_two): (&str, &str)| {
        complaints(&(block(one, of_one) + &block(two, of_two)))
    };
    let container = ("/run/c/:a/t", "c/:a");
    assert_eq!(both(container, ("/run/d/:a/t", "d/:a")), "");
    for other in [("/run/c/:b/t", "x/:b"), ("/run/c/one/t", "x")] {
        let told = both(container, other);
        assert!(told.contains("writes files of"), "{other:?}: {told}");
    }
    for other in [
        ("/run/d/:b/t", "c/:b"),
        ("/run/d/t", "c/one"),
        ("/run/d/:b/t", "c/:b-x"),
    ] {
        let told = both(container, other);
        assert!(told.contains("is the identity of"), "{other:?}: {told}");
    }
    for (parent, wanted) in [
        (
            "/run/agent",
            "would get a token, and /run/agent/api lies there",
        ),
        ("/var/lib/agent", "hold each other"),
        ("/var/lib/agent/webroot", "would get a token"),
    ] {
        let told = with_parameter(
            &format!("{parent}/:name/t"),
            "spiffe_id = \"spiffe://example.org/c/:name\"",
        );
        assert!(told.contains(wanted), "{parent}: {told}");
    }
}
