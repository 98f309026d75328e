use std::path::Path;

use super::options::{BlockSpec, Presence, ROOT};
use super::*;
use crate::attest::names::Account;
use crate::svid::AudienceClaim;

const GOOD: &str = r#"
agent {
  trust_domain = "example.org"
}
issuer "main" {
  url = "https://id.example.org"
  claims = { env = "prod", team = "none" }
  key "main" {
    algorithm = "RS256"
  }
}
entry "billing" {
  spiffe_id = "spiffe://example.org/billing"
  selectors = ["unix:uid:1001"]
  claims    = { team = "payments", level = 3, deep = { list = [1, -2.5, true, null] } }
}
token_file "/run/agent/tokens/billing/aws" {
  entry    = "billing"
  audience = "sts.amazonaws.com"
  owner    = "1001"
}
"#;

fn parse(text: &str) -> Result<(Config, Diagnostics), Diagnostics> {
    Config::parse(Path::new("agent.conf"), text)
}

fn good() -> Config {
    parse(GOOD).unwrap_or_else(|report| panic!("{report}")).0
}

/// The complaints about the good configuration with a piece replaced.
fn complaints(piece: &str, other: &str) -> String {
    assert!(GOOD.contains(piece), "{piece}");
    match parse(&GOOD.replacen(piece, other, 1)) {
        Ok((_, warnings)) => warnings.to_string(),
        Err(report) => report.to_string(),
    }
}

#[test]
fn what_is_written_and_what_is_not_both_mean_something() {
    let config = good();
    assert_eq!(config.socket_path, Path::new("/run/agent/api/api.sock"));
    assert_eq!(config.policy.leeway, Duration::from_secs(30));
    assert_eq!(config.socket_mode, 0o777);
    let issuer = &config.issuers[0].webroot;
    assert_eq!(issuer.directory, Path::new("/var/lib/agent/webroot/main"));
    assert_eq!(issuer.jwks_uri, "https://id.example.org/jwks.json");
    let entry = &config.entries[0];
    assert_eq!(entry.ttl, Duration::from_secs(300));
    assert_eq!(entry.key.to_string(), "main/main");
    let claims = serde_json::json!({
        "env": "prod", "team": "payments", "level": 3, "deep": {"list": [1, -2.5, true, null]},
    });
    assert_eq!(
        serde_json::Value::from(entry.grants.written_claims().as_map().clone()),
        claims
    );
    let file = &config.token_files[0];
    assert_eq!(file.owner, Some(Account::Id(1001)));
    assert_eq!((file.mode, file.create_directory), (0o400, true));
    assert!(matches!(file.audience, AudienceClaim::One(_)));
}

#[test]
fn a_list_of_one_audience_stays_a_list() {
    let text = GOOD.replace("audience = \"sts.amazonaws.com\"", "audience = [\"a\"]");
    let config = parse(&text).unwrap().0;
    assert!(matches!(
        config.token_files[0].audience,
        AudienceClaim::List(_)
    ));
}

#[test]
fn each_mistake_is_told_where_it_stands_and_how_to_mend_it() {
    let agent = "trust_domain = \"example.org\"\n";
    let with = |option: &str| format!("{agent}  {option}\n");
    let long = format!("socket_path = \"/{}\"", "x".repeat(107));
    for (piece, other, wanted) in [
        (agent, "\n", "trust_domain is missing"),
        (
            agent,
            "trust_domain = \"Example.org\"\n",
            ":3:18: error: trust_domain",
        ),
        (
            agent,
            &with("max_ttl = 300"),
            "a number where a duration belongs",
        ),
        (agent, &with("max_ttl = \"0s\""), "0s is not from 1s to"),
        (agent, &with("leeway = \"3m\""), "3m is not from 0s to 2m"),
        (
            agent,
            &with("log_level = \"warning\""),
            "did you mean warn?",
        ),
        (
            agent,
            &with("data_dir = \"var\""),
            "is not an absolute path",
        ),
        (
            agent,
            &with("data_dir = \"/var/${name}\""),
            "nothing is substituted here",
        ),
        (agent, &with("data_dir = name"), "put text in double quotes"),
        (
            agent,
            &with("socket_mode = 0777"),
            "a number where a file mode belongs",
        ),
        (
            agent,
            &with("data_dir = \"/run/agent/api/data\""),
            "lies in the directory of the workload socket",
        ),
        (
            agent,
            &with("socket_path = \"/var/lib/agent/private/x/a.sock\""),
            "nobody else could reach it",
        ),
        (agent, &with(&long), "the kernel takes 107 at most"),
        (
            agent,
            &with("server_address = \"127.0.0.1\""),
            "warning: server_address is not needed: there is no server",
        ),
        (
            agent,
            &with("default_jwt_svid_ttl = \"25h\""),
            "is above max_ttl 24h",
        ),
        ("agent {", "agent \"x\" {", "agent takes no label"),
        ("agent {", "agent = {", "write agent { ... } without ="),
        (
            agent,
            "trust_domain = \"example.org\",\n",
            "without a comma or semicolon",
        ),
        (
            agent,
            "trust_domain = 'example.org'\n",
            "straight double quotes",
        ),
        (
            agent,
            "trust_domain = \"example.org\n",
            "look for a missing } or",
        ),
        (
            agent,
            &with("trust_domain = \"b\""),
            "stands twice in one block",
        ),
        (
            "owner    = \"1001\"",
            "mode = \"0777\"",
            "lets others write the token",
        ),
        (
            "owner    = \"1001\"",
            "mode = \"0444\"",
            "warning: mode 0444 lets every user read",
        ),
        ("issuer \"main\" {", "issuer {", "issuer takes one label"),
        (
            "issuer \"main\" {",
            "issuer \"a/b\" {",
            "is no name for issuer",
        ),
        (
            "https://id.example.org",
            "http://id.example.org",
            "it must start with https://",
        ),
        (
            "https://id.example.org",
            "https://id.example.org/",
            "must not end with a slash",
        ),
        (
            "https://id.example.org",
            "https://id.example.org:8443",
            "warning: https://id.example.org:8443 has a port",
        ),
        (
            "algorithm = \"RS256\"",
            "algorithm = \"HS256\"",
            "\"HS256\" is none of RS256, RS384",
        ),
        (
            "algorithm = \"RS256\"",
            "algorithm = \"RS256\"\n size = 2047",
            "2047 is not from 2048",
        ),
        (
            "algorithm = \"RS256\"",
            "algorithm = \"RS256\"\n size = 2049",
            "there are 2048, 3072 and 4096",
        ),
        (
            "env = \"prod\"",
            "sub = \"x\"",
            "the claim sub cannot be configured",
        ),
        ("example.org/billing\"", "other.org/billing\"", "error"),
        (
            "/billing\"\n  sel",
            "\"\n  sel",
            "names the trust domain and no workload",
        ),
        ("[\"unix:uid:1001\"]", "[]", "selectors is empty"),
        (
            "[\"unix:uid:1001\"]",
            "[\"uid:1001\"]",
            "no attestor gives \"uid\" selectors",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"unix:uid:x\"]",
            "unix:uid takes a number",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"unix:path:/x\"]",
            "the selectors tell no user from another",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"unix:uid:1001\", \"unix:path:/x\"]",
            "warning: unix:path and unix:sha256 are not discovered",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"docker:label:team:web\"]",
            "warning: no container engine is asked",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"systemd:id:web.service\"]",
            "warning: units of systemd are not looked for",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"docker:label:team\"]",
            "it is written docker:label:KEY:VALUE",
        ),
        (
            "[\"unix:uid:1001\"]",
            "[\"ns:host\"]",
            "the selectors tell no user from another",
        ),
        (
            "entry \"billing\" {",
            "attestor \"dokcer\" {}\nentry \"billing\" {",
            "did you mean docker?",
        ),
        (
            "entry \"billing\" {",
            "attestor \"docker\" {\n  workload_size_limit = 1\n}\nentry \"billing\" {",
            "there is no workload_size_limit in attestor",
        ),
        (
            "entry    = \"billing\"",
            "entry = \"biling\"",
            "did you mean billing?",
        ),
        (
            "owner    = \"1001\"",
            "ttl = \"25h\"",
            "ttl 25h is above max_ttl 24h",
        ),
        (
            "owner    = \"1001\"",
            "ttl = \"10m\"",
            "warning: the token may have only",
        ),
        (
            "owner    = \"1001\"",
            "mode = \"0999\"",
            "is not a file mode",
        ),
        (
            "owner    = \"1001\"",
            "refresh_at = 0.9",
            "0.9 is not from 0.1 to 0.8",
        ),
        (
            "/run/agent/tokens/billing/aws",
            "tokens/aws",
            "is no path of a file",
        ),
        (
            "/run/agent/tokens/billing/aws",
            "/run/agent/api/aws",
            "lies in the directory of the workload socket",
        ),
        (
            "/run/agent/tokens/billing/aws",
            "/var/lib/agent/private/aws",
            "hold each other",
        ),
        (
            "/run/agent/tokens/billing/aws",
            "/var/lib/agent/webroot/main/aws",
            "would hand it to everybody",
        ),
        (
            "/run/agent/tokens/billing/aws",
            "/run/agent/tokens/billing/:aws",
            "ends with its path parameter",
        ),
        (
            "entry \"billing\" {",
            "entri \"billing\" {",
            "did you mean entry?",
        ),
        (
            "entry \"billing\" {",
            "plugins {",
            "there are no node attestors",
        ),
        ("entry \"billing\" {", "server {", "there is no server"),
    ] {
        let report = complaints(piece, other);
        assert!(
            report.contains(wanted),
            "{piece} -> {other}\nlacks {wanted}\n{report}"
        );
    }
}

#[test]
fn habits_of_the_first_version_of_hcl_get_a_hint() {
    for (text, help) in [
        (
            "attestor \"unix\" { plugin_data {} }\n",
            "a block on one line",
        ),
        ("agent { a = 1, b = 2 }\n", "a block on one line"),
        (
            "agent {\n  \"data_dir\" = \"/x\"\n}\n",
            "names of options stand without quotes",
        ),
    ] {
        let report = parse(text).unwrap_err().to_string();
        assert!(
            report.contains("syntax") && report.contains(help),
            "{report}"
        );
    }
}

#[test]
fn one_mistake_is_told_once_and_not_again_for_all_that_leans_on_it() {
    for (piece, other) in [
        ("algorithm = \"RS256\"", "algorithm = \"none\""),
        ("https://id.example.org", "https://ID.example.org"),
        ("issuer \"main\" {", "issuer {"),
        ("key \"main\" {", "key {"),
        ("agent {", "agent = {"),
    ] {
        let report = complaints(piece, other);
        assert_eq!(
            report.matches(": error: ").count(),
            1,
            "{piece} -> {other}\n{report}"
        );
    }
}

#[test]
fn an_audience_that_the_entry_does_not_allow_is_refused() {
    let allowed = "selectors = [\"unix:uid:1001\"]\n  audiences = [\"vault\"]";
    let report = complaints("selectors = [\"unix:uid:1001\"]", allowed);
    assert!(
        report.contains("entry \"billing\" does not allow this audience"),
        "{report}"
    );
}

#[test]
fn what_is_ambiguous_is_an_error_that_lists_the_choice() {
    let second = "issuer \"second\" {\n  url = \"https://two.example.org\"\n  key \"k\" {\n    algorithm = \"ES256\"\n  }\n}\n";
    let text = format!("{GOOD}{second}");
    let report = parse(&text).unwrap_err().to_string();
    assert!(
        report.contains("add issuer = one of main, second"),
        "{report}"
    );
    let chosen = text.replace("claims    = {", "issuer = \"second\"\n  claims    = {");
    let config = parse(&chosen).unwrap().0;
    assert_eq!(config.entries[0].key.to_string(), "second/k");
}

#[test]
fn two_issuers_cannot_share_documents_or_a_url() {
    let second = "issuer \"second\" {\n  url = \"https://id.example.org\"\n  webroot = \"/var/lib/agent/webroot/main/two\"\n  key \"k\" {\n    algorithm = \"ES256\"\n  }\n}\n";
    let report = parse(&format!("{GOOD}{second}")).unwrap_err().to_string();
    assert!(
        report.contains("hold each other") && report.contains("two issuers have the url"),
        "{report}"
    );
}

#[test]
fn no_text_makes_the_parser_panic() {
    use proptest::prelude::*;

    proptest!(|(cut in 0usize..GOOD.len(), junk in "\\PC{0,8}")| {
        let mut text = GOOD.to_owned();
        text.insert_str(cut, &junk);
        let _ = parse(&text);
        let _ = parse(&GOOD[..cut]);
    });
}

#[test]
fn the_example_shows_every_option_with_its_default() {
    let example = include_str!("../../agent.conf.example");
    fn check(spec: &BlockSpec, example: &str) {
        for option in spec.options {
            let shown = example.lines().any(|line| {
                let line = line.trim().trim_start_matches("# ");
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                let default = match option.presence {
                    Presence::Default(default) => value.trim() == default,
                    _ => true,
                };
                name.trim() == option.name && default
            });
            assert!(shown, "{} {}", spec.name, option.name);
        }
        for inner in spec.blocks {
            assert!(
                example.contains(&format!("{} ", inner.name)),
                "{}",
                inner.name
            );
            check(inner, example);
        }
    }
    check(&ROOT, example);
}

#[test]
fn a_template_that_can_come_to_the_identity_of_another_entry_is_warned_of() {
    let with = |id: &str| {
        let entry =
            format!("entry \"t\" {{\n  spiffe_id = \"{id}\"\n  selectors = [\"unix:gid:1\"]\n}}\n");
        complaints("entry \"billing\"", &(entry + "entry \"billing\""))
    };
    let told = with("spiffe://example.org/{unix:user}");
    assert!(
        told.contains("a caller can come to spiffe://example.org/billing"),
        "{told}"
    );
    assert_eq!(with("spiffe://example.org/user/{unix:user}"), "");
}

#[test]
fn hints_that_some_reply_could_not_keep_apart_are_warned_of_once() {
    let entry = |name: &str, selectors: &str, hint: &str| {
        format!(
            "entry \"{name}\" {{\n  spiffe_id = \"spiffe://example.org/{name}\"\n  selectors = [{selectors}]\n  hint = \"{hint}\"\n}}\n"
        )
    };
    let with = |entries: &[String]| {
        complaints(
            "entry \"billing\"",
            &(entries.concat() + "entry \"billing\""),
        )
    };
    let wide = entry("wide", "\"unix:uid:1\"", "x");
    let narrow = entry("narrow", "\"unix:uid:1\", \"unix:gid:1\"", "x");
    let told = with(&[wide.clone(), narrow.clone()]);
    assert!(
        told.contains("who matches this entry matches \"wide\" too"),
        "{told}"
    );
    assert_eq!(told.matches("both have this hint").count(), 1, "{told}");
    let same = entry("same", "\"unix:uid:1\"", "x");
    let told = with(&[wide.clone(), same]);
    assert_eq!(told.matches("both have this hint").count(), 1, "{told}");
    let apart = entry("apart", "\"unix:uid:2\"", "x");
    assert_eq!(with(&[wide, apart]), "");
}

#[test]
fn a_path_that_is_reached_over_a_link_is_warned_of_with_the_path_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().canonicalize().unwrap().join("real");
    std::fs::write(&real, "").unwrap();
    let link = directory.path().canonicalize().unwrap().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let with = |path: &Path| {
        let on = "attestor \"unix\" {\n  discover_workload_path = true\n}\nissuer \"main\"";
        let text = GOOD.replacen("issuer \"main\"", on, 1);
        let selectors = format!("\"unix:uid:1001\", \"unix:path:{}\"", path.display());
        let (_, report) = parse(&text.replacen("\"unix:uid:1001\"", &selectors, 1)).unwrap();
        report.to_string()
    };
    assert!(with(&link).contains(&format!("write unix:path:{}", real.display())));
    assert_eq!(with(&real), "");
    assert_eq!(with(&real.with_file_name("to-be-installed")), "");
}

#[test]
fn a_claim_that_aws_takes_for_the_audience_is_warned_of_by_the_block_that_has_it() {
    let azp = |block: &str| format!("{block} has the claim azp, which AWS takes");
    let file = azp("token_file \"/run/agent/tokens/billing/aws\"");
    let entry = azp("entry \"billing\"");
    // Wherever the claim comes from.
    let of_issuer = complaints("env = \"prod\"", "azp = \"prod\"");
    assert!(of_issuer.contains(&file), "{of_issuer}");
    assert!(!of_issuer.contains(&entry), "{of_issuer}");
    let of_entry = complaints("level = 3", "azp = 3");
    assert!(of_entry.contains(&file), "{of_entry}");
    let of_file = complaints("owner    =", "claims = { azp = \"x\" }\n  owner    =");
    assert!(of_file.starts_with("agent.conf:20:"), "{of_file}");
    assert!(of_file.contains(&file), "{of_file}");
    // Of an entry, when it says that its tokens are for AWS.
    let allowed = "  audiences = [\"sts.amazonaws.com\"]\n  claims    =";
    let with_azp = GOOD.replacen("level", "azp", 1);
    let of_entry = parse(&with_azp.replacen("  claims    =", allowed, 1));
    let of_entry = of_entry.unwrap().1.to_string();
    assert!(of_entry.contains(&entry), "{of_entry}");
    let for_others = with_azp.replace("sts.amazonaws.com", "vault");
    assert_eq!(parse(&for_others).unwrap().1.to_string(), "");
}

#[test]
fn blocks_are_named_once_each_to_whoever_writes_one_that_is_not() {
    let report = complaints("issuer \"main\"", "telemetry {\n}\nissuer \"main\"");
    assert!(
        report.contains("issuer, attestor, entry, token_file"),
        "{report}"
    );
}

#[test]
fn documentation_of_reload_names_what_cannot_change() {
    let agent = "agent {\n  data_dir = \"/d\"\n  runtime_dir = \"/r\"\n  socket_mode = \"0770\"\n  \
        log_format = \"json\"\n  peer_check = \"connection\"\n  require_peerpidfd = true\n  \
        probe_interval = \"9s\"\n  shutdown_grace = \"9s\"\n";
    let limits = "limits {\n  streams_per_connection = 9\n  request_bytes = 9000\n  header_list_bytes = 9000\n}\n\
        metrics {\n  socket_path = \"/r/m/m.sock\"\n}\n";
    let other = GOOD.replacen("agent {\n", agent, 1) + limits;
    let (other, _) = parse(&other.replace("example.org", "other.org")).unwrap();
    let page = include_str!("../../docs/administration.md");
    let told = page.split("is refused by name: ").nth(1).unwrap();
    let told = told.split("\n\n").next().unwrap();
    let mut told: Vec<_> = told.split('`').skip(1).step_by(2).collect();
    let mut there = good().fixed_differences(&other);
    told.sort_unstable();
    there.sort_unstable();
    assert_eq!(told, there);
}
