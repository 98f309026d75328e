//! What is printed, from a configuration to the text, without a process.

use std::path::Path;

use clap::Parser;
use hcl::Body;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};

const BILLING: &str = "spiffe://example.org/billing";
/// What a `sub` may hold that other languages read as their own.
const NASTY: &str = r#"a"b'c\d${e}%{f}*?&{g}@name@ $h`i`"#;

/// A configuration with this issuer, this entry, and these blocks.
fn config(url: &str, entry: &str, blocks: &str) -> Config {
    let text = format!(
        r#"agent {{
  trust_domain = "example.org"
  max_ttl      = "26h"
}}
issuer "main" {{
  url = "{url}"
  key "rsa" {{
    algorithm = "RS256"
  }}
  key "ec" {{
    algorithm = "ES384"
  }}
  key "ed" {{
    algorithm = "EdDSA"
  }}
}}
entry "billing" {{
  spiffe_id    = "{BILLING}"
  selectors    = ["unix:uid:1"]
  key          = "rsa"
  {entry}
}}
{blocks}"#
    );
    let parsed = Config::parse(Path::new("agent.conf"), &text);
    parsed.unwrap_or_else(|report| panic!("{report}")).0
}

fn file(options: &str) -> String {
    let own = "issuer = \"main\"\n  key = \"rsa\"";
    format!("token_file \"/run/x/token\" {{\n  {own}\n  {options}\n}}\n")
}

/// The command line of `agent integrate`.
fn with(arguments: &str) -> With {
    let words = arguments.split(' ');
    let cli = Cli::try_parse_from(["agent", "integrate"].into_iter().chain(words));
    match cli.unwrap_or_else(|error| panic!("{error}")).command {
        Command::Integrate(args) => args.with,
        _ => unreachable!(),
    }
}

/// What it prints and minds of this configuration, in parts.
fn printed(config: &Config, arguments: &str) -> (Vec<Part>, Vec<Concern>) {
    fn of(party: &impl RelyingParty, config: &Config) -> (Vec<Part>, Vec<Concern>) {
        let holder = party.holder();
        let facts = match (&holder.token_file, &holder.entry) {
            (Some(path), _) => Facts::of_file(config, path),
            (None, entry) => {
                let audience = holder.audience.clone();
                let audience = audience.unwrap_or_else(|| party.usual_audience());
                Facts::of_entry(config, entry.as_deref().unwrap_or_default(), &audience)
            }
        };
        let facts = facts.unwrap_or_else(|error| panic!("{error}"));
        let parts = party.parts(&facts, &mut Blanks::default());
        (parts, party.concerns(&facts))
    }
    match with(arguments) {
        With::Aws(args) => of(&args, config),
        With::Gcp(args) => of(&args, config),
        With::Azure(args) => of(&args, config),
        With::Vault(args) => of(&args, config),
        With::Kubernetes(args) => of(&args, config),
        With::Voidkey(args) => of(&args, config),
        With::Nginx(_) => unreachable!(),
    }
}

fn part(config: &Config, arguments: &str, name: &str) -> String {
    let (parts, _) = printed(config, arguments);
    let found = parts.into_iter().find(|part| part.name == name);
    found.unwrap().text
}

/// The limits that tokens are beyond, errors in capitals.
fn limits(config: &Config, arguments: &str) -> Vec<String> {
    let (_, concerns) = printed(config, arguments);
    let page = include_str!("../../../docs/integrations.md");
    for Concern { limit, .. } in &concerns {
        assert!(page.contains(&format!("\n| `{limit}` | ")), "{limit}");
    }
    let name = |concern: Concern| match concern.severity {
        Severity::Error => concern.limit.to_uppercase(),
        Severity::Warning => concern.limit.to_owned(),
    };
    concerns.into_iter().map(name).collect()
}

const ALL: [&str; 6] = ["aws", "gcp", "azure", "vault", "kubernetes", "voidkey"];
const USUAL: [&str; 6] = [
    "sts.amazonaws.com",
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
    "api://AzureADTokenExchange",
    "vault",
    "kubernetes",
    "voidkey",
];

#[test]
fn good_tokens_are_nobodys_concern() {
    let fetched = config("https://id.example.org", "jwt_svid_ttl = \"1h\"", "");
    for (target, audience) in ALL.iter().zip(USUAL) {
        let by_entry = format!("{target} --entry billing");
        assert_eq!(limits(&fetched, &by_entry), [""; 0], "{by_entry}");
        let file = file(&format!("sub = \"billing\"\n  audience = \"{audience}\""));
        let from_file = config("https://id.example.org", "", &file);
        let by_file = format!("{target} --token-file /run/x/token");
        assert_eq!(limits(&from_file, &by_file), [""; 0], "{by_file}");
    }
}

#[test]
fn every_limit_is_checked_and_named() {
    let long = |length| format!("sub = \"{}\"", "a".repeat(length));
    let sub = "sub = \"billing\"";
    for (target, url, options, expected) in [
        ("aws", "https://id.example.org:8443", sub, "PORT"),
        ("gcp", "https://id.example.org:8443", sub, ""),
        ("aws", "https://localhost", sub, "ISSUER"),
        ("vault", "https://localhost", sub, "issuer"),
        ("vault", "http://localhost:80", sub, "ISSUER"),
        (
            "aws",
            &format!("https://x/{}", "a".repeat(250)),
            sub,
            "ISSUER",
        ),
        (
            "azure",
            &format!("https://x/{}", "a".repeat(600)),
            sub,
            "ISSUER",
        ),
        ("aws", "https://x", &long(5), "SUB"),
        ("aws", "https://x", &long(256), "SUB"),
        ("aws", "https://x", &long(255), ""),
        ("gcp", "https://x", &long(128), "SUB"),
        ("azure", "https://x", &long(600), ""),
        ("gcp", "https://x", "sub = \"x\"\n  ttl = \"24h\"", ""),
        ("gcp", "https://x", "sub = \"x\"\n  ttl = \"25h\"", "TTL"),
        ("azure", "https://x", "sub = \"x\"\n  ttl = \"20m\"", "ttl"),
        ("azure", "https://x", "sub = \"x\"\n  ttl = \"23m\"", ""),
        (
            "aws",
            "https://x",
            "sub = \"billing\"\n  claims = { azp = \"x\" }",
            "AZP",
        ),
        (
            "azure",
            "https://x",
            "sub = \"x\"\n  claims = { azp = \"x\" }",
            "",
        ),
        (
            "aws",
            "https://x",
            "sub = \"billing\"\n  format = \"json\"",
            "FORMAT",
        ),
        ("gcp", "https://x", "sub = \"x\"\n  format = \"json\"", ""),
        (
            "gcp",
            "https://x",
            "sub = \"x\"\n  format = \"header\"",
            "FORMAT",
        ),
    ] {
        let at = ALL.iter().position(|known| *known == target).unwrap();
        let blocks = file(&format!("{options}\n  audience = \"{}\"", USUAL[at]));
        let found = limits(
            &config(url, "", &blocks),
            &format!("{target} --token-file /run/x/token"),
        );
        assert_eq!(found.join(" "), expected, "{target} {url} {options}");
    }
}

#[test]
fn keys_that_sign_before_verifiers_have_them_are_a_concern() {
    let hasty = "issuer \"hasty\" {\n  url = \"https://y\"\n  key \"k\" {\n    algorithm = \"RS256\"\n    publish_margin = \"14m\"\n  }\n}\n";
    let file = file("sub = \"billing\"\n  audience = \"sts.amazonaws.com\"");
    let file = file
        .replace("\"main\"", "\"hasty\"")
        .replace("\"rsa\"", "\"k\"");
    let hasty = config(
        "https://x",
        "issuer = \"main\"",
        &(hasty.to_owned() + &file),
    );
    assert_eq!(limits(&hasty, "aws --token-file /run/x/token"), ["cache"]);
}

#[test]
fn algorithms_and_audiences_are_those_that_each_takes() {
    let keyed = |key: &str| {
        let block = file("sub = \"billing\"\n  audience = \"x\"");
        config(
            "https://x",
            "",
            &block.replace("\"rsa\"", &format!("\"{key}\"")),
        )
    };
    let refused = |config: &Config| {
        let refuses = |target: &&str| {
            let found = limits(config, &format!("{target} --token-file /run/x/token"));
            found.contains(&"ALGORITHM".to_owned())
        };
        ALL.into_iter().filter(refuses).collect::<Vec<_>>()
    };
    assert_eq!(refused(&keyed("rsa")), [""; 0]);
    assert_eq!(refused(&keyed("ec")), ["gcp", "azure"]);
    assert_eq!(refused(&keyed("ed")), ["aws", "gcp", "azure", "kubernetes"]);

    let two = config(
        "https://x",
        "",
        &file("sub = \"billing\"\n  audience = [\"x\", \"y\"]"),
    );
    let audience = |target: &str| limits(&two, &format!("{target} --token-file /run/x/token"));
    assert_eq!(audience("aws"), ["AUDIENCE"]);
    assert_eq!(
        audience("azure"),
        ["AUDIENCE", "audience"],
        "and not the usual one"
    );
    assert_eq!(audience("vault"), ["audience"]);
    let long = format!("sub = \"billing\"\n  audience = \"{}\"", "a".repeat(256));
    let long = config("https://x", "", &file(&long));
    assert_eq!(limits(&long, "aws --token-file /run/x/token"), ["AUDIENCE"]);
    let foreign = file("sub = \"billing\"\n  audience = \"sts.amazonaws.com\"");
    let foreign = config("https://x", "", &foreign);
    assert_eq!(
        limits(&foreign, "vault --token-file /run/x/token"),
        ["audience"]
    );
}

#[test]
fn an_entry_must_allow_the_audience_and_be_for_the_program_that_fetches() {
    let only = config(
        "https://x",
        "jwt_svid_ttl = \"1h\"\n  audiences = [\"vault\"]",
        "",
    );
    assert_eq!(limits(&only, "aws --entry billing"), ["AUDIENCE"]);
    assert_eq!(limits(&only, "vault --entry billing"), [""; 0]);
    assert_eq!(
        limits(&only, "kubernetes --entry billing --audience vault"),
        [""; 0]
    );

    let tied = "entry \"tied\" {\n  spiffe_id = \"spiffe://example.org/t\"\n  selectors = [\"unix:uid:1\", \"unix:path:/usr/bin/billing\"]\n  key = \"rsa\"\n  jwt_svid_ttl = \"1h\"\n}\nattestor \"unix\" {\n  discover_workload_path = true\n}\n";
    assert_eq!(
        limits(&config("https://x", "", tied), "aws --entry tied"),
        ["caller"]
    );
    let short = config("https://x", "", "");
    assert_eq!(limits(&short, "kubernetes --entry billing"), ["ttl"]);
    assert_eq!(limits(&short, "azure --entry billing"), ["ttl"]);
}

#[test]
fn what_is_not_in_the_configuration_is_told_with_what_is() {
    let waits = "token_file \"/run/x/token\" {\n  entry = \"later\"\n  audience = \"x\"\n}\n";
    let config = config("https://x", "", waits);
    let entry = Facts::of_entry(&config, "other", "x")
        .unwrap_err()
        .to_string();
    assert!(
        entry.contains("no entry \"other\": it has billing"),
        "{entry}"
    );
    let file = Facts::of_file(&config, Path::new("/run/y"))
        .unwrap_err()
        .to_string();
    assert!(
        file.contains("no token file /run/y: it has /run/x/token"),
        "{file}"
    );
    let waiting = Facts::of_file(&config, Path::new("/run/x/token"))
        .unwrap_err()
        .to_string();
    assert!(
        waiting.contains("waits for the entry \"later\""),
        "{waiting}"
    );
}

/// A block with a parameter that a name is put into.
fn containers() -> Config {
    let block = "token_file \"/run/c/:name/token\" {\n  spiffe_id = \"spiffe://example.org/c/:name\"\n  audience = \"sts.amazonaws.com\"\n  issuer = \"main\"\n  key = \"rsa\"\n}\n";
    config("https://id.example.org/t", "", block)
}

#[test]
fn a_path_with_a_parameter_is_a_pattern_for_whoever_knows_patterns() {
    let config = containers();
    let all = |target: &str| format!("{target} --token-file /run/c/:name/token");
    let text = |target: &str, name: &str| part(&config, &all(target), name);
    let policy: Value = serde_json::from_str(&text("aws", "policy")).unwrap();
    let condition = &policy["Statement"][0]["Condition"];
    assert_eq!(
        condition["StringEquals"]["id.example.org/t:aud"],
        "sts.amazonaws.com"
    );
    assert_eq!(
        condition["StringLike"]["id.example.org/t:sub"],
        "spiffe://example.org/c/*"
    );
    let google = text("gcp", "terraform");
    let starts = "assertion.sub.startsWith('spiffe://example.org/c/')";
    assert!(
        google.contains(starts) && google.contains("principalSet://"),
        "{google}"
    );
    let azure = text("azure", "terraform");
    let subject = "subject        = \"spiffe://example.org/c/${each.key}\"";
    assert!(
        azure.contains(subject) && azure.contains("for_each = var.c_names"),
        "{azure}"
    );
    let vault = text("vault", "commands");
    assert!(
        vault.contains(r#""sub": "spiffe://example.org/c/*""#),
        "{vault}"
    );
    let kubernetes = text("kubernetes", "server");
    assert!(
        kubernetes.contains("groups:\n      expression:"),
        "{kubernetes}"
    );
    assert_eq!(limits(&config, &all("aws")), ["pattern"]);
    assert!(limits(&config, &all("voidkey")).contains(&"PATTERN".to_owned()));

    let one = "aws --token-file /run/c/web/token";
    let policy: Value = serde_json::from_str(&part(&config, one, "policy")).unwrap();
    let equals = &policy["Statement"][0]["Condition"]["StringEquals"];
    assert_eq!(equals["id.example.org/t:sub"], "spiffe://example.org/c/web");
    assert_eq!(limits(&config, one), [""; 0]);
    assert!(part(&config, one, "env").contains("=/run/c/web/token\n"));
    assert!(Facts::of_file(&config, Path::new("/run/c/.x/token")).is_err());
    assert!(Facts::of_file(&config, Path::new("/run/c/web/other")).is_err());
}

#[test]
fn the_longest_name_that_a_pattern_takes_counts_for_the_length_of_the_subject() {
    let block = |pattern: &str| {
        format!(
            "token_file \"/run/c/:name/token\" {{\n  sub = \"{}:name\"\n  audience = \"sts.amazonaws.com\"\n  issuer = \"main\"\n  key = \"rsa\"\n  {pattern}\n}}\n",
            "x".repeat(200)
        )
    };
    let all = "aws --token-file /run/c/:name/token";
    let default = config("https://x", "", &block(""));
    assert_eq!(limits(&default, all), ["sub", "pattern"], "63 more");
    let digits = config("https://x", "", &block("pattern = \"[0-9]{1,55}\""));
    assert_eq!(limits(&digits, all), ["pattern"]);
}

#[test]
fn terraform_and_vault_read_what_is_printed_whatever_the_subject_holds() {
    let nasty = file(&format!(
        "sub = {}\n  audience = \"a'\\\"b\"",
        crate::cli::quote::hcl(NASTY)
    ));
    let nasty = config("https://x", "", &nasty);
    let plain = config("https://x", "", "");
    let containers = containers();
    for (config, holder) in [
        (&plain, "--entry billing"),
        (&nasty, "--token-file /run/x/token --name n-1"),
        (&containers, "--token-file /run/c/:name/token"),
    ] {
        for target in ["aws", "gcp", "gcp --service-account a@b", "azure"] {
            let (parts, concerns) = printed(config, &format!("{target} {holder}"));
            let text = together(&parts, &concerns);
            let body = hcl::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert!(body.blocks().count() >= 3, "{text}");
        }
        let (parts, _) = printed(config, &format!("vault {holder}"));
        let role = role_of(&parts[0].text);
        assert_eq!(role["user_claim"], "sub");
        if let Some(agent) = parts.iter().find(|part| part.name == "agent") {
            assert!(agent.text.parse::<Body>().is_ok(), "{}", agent.text);
        }
    }
    assert_eq!(
        role_of(&part(&nasty, "vault --token-file /run/x/token", "commands"))["bound_subject"],
        NASTY
    );
    let azure = part(
        &nasty,
        "azure --token-file /run/x/token --name n",
        "terraform",
    );
    let body: Value = hcl::from_str(&azure).unwrap();
    let credential = &body["resource"]["azuread_application_federated_identity_credential"]["a-b-c-d-e-f-g-name-h-i"];
    assert!(credential.is_null(), "labels have no hyphens");
    let label = "a_b_c_d_e_f_g_name_h_i";
    let credential = &body["resource"]["azuread_application_federated_identity_credential"][label];
    assert_eq!(credential["subject"], NASTY);
}

/// The role between the lines that the shell hands to vault.
fn role_of(commands: &str) -> Value {
    let (_, rest) = commands.split_once("<<'ROLE'\n").unwrap();
    let (role, _) = rest.split_once("\nROLE\n").unwrap();
    serde_json::from_str(role).unwrap()
}

#[test]
fn policies_of_aws_see_no_variable_in_a_subject() {
    let nasty = file(&format!(
        "sub = {}\n  audience = \"x\"",
        crate::cli::quote::hcl(NASTY)
    ));
    let nasty = config("https://x", "", &nasty);
    let policy = part(&nasty, "aws --token-file /run/x/token", "policy");
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let sub = &policy["Statement"][0]["Condition"]["StringEquals"]["x:sub"];
    assert_eq!(*sub, NASTY.replace('$', "${$}"));
}

#[test]
fn a_long_identity_is_mapped_to_what_follows_the_trust_domain() {
    let path = "p".repeat(120);
    let block = file(&format!(
        "spiffe_id = \"spiffe://example.org/{path}\"\n  audience = \"{}\"",
        USUAL[1]
    ));
    let config = config("https://x", "", &block);
    let arguments = "gcp --token-file /run/x/token";
    let text = part(&config, arguments, "terraform");
    let mapping = "assertion.sub.extract('spiffe://example.org/{path}')";
    assert!(
        text.contains(mapping) && text.contains(&format!("/subject/{path}\"")),
        "{text}"
    );
    assert_eq!(limits(&config, arguments), [""; 0]);
}

#[test]
fn the_audience_of_a_file_says_which_provider_of_google_it_is_for() {
    let block = file(&format!("sub = \"x\"\n  audience = \"https:{}\"", USUAL[1]));
    let config = config("https://x", "", &block);
    let arguments = "gcp --token-file /run/x/token";
    let credentials: Value =
        serde_json::from_str(&part(&config, arguments, "credentials")).unwrap();
    assert_eq!(credentials["audience"], USUAL[1]);
    let text = part(&config, arguments, "terraform");
    assert!(
        text.contains("provider_id = \"q\"") && !text.contains("allowed_audiences"),
        "{text}"
    );
    let other = part(
        &config,
        &format!("{arguments} --project-number 2"),
        "terraform",
    );
    assert!(other.contains("allowed_audiences"), "{other}");
}

#[test]
fn names_are_such_that_every_tool_takes_them() {
    for (text, name) in [
        ("billing", "billing"),
        ("Billing_EU.1", "billing-eu-1"),
        ("1st", "agent-1st"),
        ("/", "agent"),
        ("ä", "agent"),
        (&"a-".repeat(40), &"a-".repeat(16)[..31]),
    ] {
        assert_eq!(plain_name(text), name);
    }
    assert!(parse_name("billing-1").is_ok() && parse_name("Billing").is_err());
}

#[test]
fn words_to_be_replaced_are_noted_where_they_occur() {
    let mut blanks = Blanks::default();
    blanks.take(None, "--one", "ONE");
    blanks.take(None, "--two", "TWO");
    assert_eq!(blanks.take(Some(&"x".to_owned()), "--three", "THREE"), "x");
    assert_eq!(blanks.notes("a TWO b"), ["replace TWO, or give --two"]);
}
