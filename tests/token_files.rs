//! Token files as their readers meet them.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use common::{Need, Sandbox, entry, eventually, have, issuer, text};

fn sandbox(path: &str, options: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new("");
    let file = sandbox.path(path);
    let block = format!(
        "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = \"vault\"\n  {options}\n}}\n",
        file.display()
    );
    let issuer = issuer("main", "https://id.example.org", "ES256");
    sandbox.configure(&(issuer + &entry("billing", 1001) + &block));
    (sandbox, file)
}

/// The file, once it is there.
fn wait_for(file: &Path) -> String {
    eventually("the token file is there", || fs::read_to_string(file).ok())
}

#[test]
fn the_file_belongs_to_its_reader_and_to_nobody_else() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, file) = sandbox(
        "run/tokens/billing/aws",
        "owner = \"1001\"\n  group = \"1002\"\n  mode = \"0440\"",
    );
    let _agent = sandbox.start();
    let token = wait_for(&file);
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(token.trim(), token, "no newline: SDKs would send it");
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (1001, 1002, 0o440)
    );
    let directory = fs::metadata(file.parent().unwrap()).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (0, 0o755));
    let read = |uid: u32| common::as_user(uid).arg("cat").arg(&file).output().unwrap();
    assert_eq!(text(&read(1001).stdout), token);
    assert!(!read(1003).status.success());
}

#[test]
fn the_token_is_replaced_in_time_and_no_read_finds_less_than_one() {
    let (sandbox, file) = sandbox("run/tokens/token", "ttl = \"2s\"");
    let _agent = sandbox.start();
    let mut seen = vec![wait_for(&file)];
    eventually("five tokens", || {
        let token = fs::read_to_string(&file).expect("the file is always there");
        assert_eq!(token.split('.').count(), 3, "a torn read");
        if *seen.last().unwrap() != token {
            seen.push(token);
        }
        (seen.len() == 5).then_some(())
    });
}

#[test]
fn a_directory_that_is_missing_is_waited_for() {
    if !have(&[Need::Root]) {
        return;
    }
    let (waiting, file) = sandbox("elsewhere/token", "ttl = \"2s\"");
    let _agent = waiting.start();
    eventually("the log tells", || {
        _agent
            .log()
            .contains("waits for its directory")
            .then_some(())
    });
    fs::create_dir(file.parent().unwrap()).unwrap();
    wait_for(&file);
}

#[test]
fn a_link_in_the_place_of_the_file_is_replaced_and_its_target_untouched() {
    let (sandbox, file) = sandbox("run/tokens/token", "");
    let victim = sandbox.path("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    symlink(&victim, &file).unwrap();
    let _agent = sandbox.start();
    eventually("the link is replaced", || {
        fs::symlink_metadata(&file).unwrap().is_file().then_some(())
    });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn the_group_is_the_configured_one_even_where_the_directory_hands_down_its_own() {
    use std::os::unix::fs::PermissionsExt;

    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, file) = sandbox("elsewhere/token", "group = \"0\"\n  mode = \"0440\"");
    let directory = file.parent().unwrap();
    fs::create_dir(directory).unwrap();
    std::os::unix::fs::chown(directory, Some(0), Some(1002)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o2755)).unwrap();
    let _agent = sandbox.start();
    wait_for(&file);
    assert_eq!(fs::metadata(&file).unwrap().gid(), 0);
}

/// The claims of a token that nobody checks here.
fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn a_block_may_name_its_own_holder_issuer_key_and_claims() {
    let sandbox = Sandbox::new("");
    let file = |name: &str| sandbox.path(&format!("run/tokens/{name}"));
    let block = |name: &str, options: &str| {
        format!(
            "token_file \"{}\" {{\n  audience = \"vault\"\n  {options}\n}}\n",
            file(name).display()
        )
    };
    let two = issuer("two", "https://two.example.org", "ES256").replace(
        "  key ",
        "  claims = { env = \"two\", who = \"issuer\" }\n  key \"ed\" {\n    algorithm = \"EdDSA\"\n  }\n  key ",
    );
    let entry = entry("billing", 1001).replace(
        "  selectors",
        "  issuer = \"one\"\n  claims = { who = \"entry\", team = \"a\" }\n  selectors",
    );
    sandbox.configure(
        &(issuer("one", "https://one.example.org", "ES256")
            + &two
            + &entry
            + &block("own", "spiffe_id = \"spiffe://example.org/own\"\n  issuer = \"one\"\n  jti = true")
            + &block("sub", "sub = \"robot@example.org\"\n  issuer = \"two\"\n  key = \"ed\"\n  claims = { who = \"block\" }")
            + &block("entry", "entry = \"billing\"\n  issuer = \"two\"\n  key = \"main\"\n  claims = { who = \"block\" }")),
    );
    let _agent = sandbox.start();
    let own = claims(&wait_for(&file("own")));
    assert_eq!(own["sub"], "spiffe://example.org/own");
    assert_eq!(own["iss"], "https://one.example.org");
    assert!(own["jti"].is_string());
    let token = wait_for(&file("sub"));
    let sub = claims(&token);
    assert_eq!(
        (&sub["sub"], &sub["who"]),
        (&"robot@example.org".into(), &"block".into())
    );
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap());
    assert!(text(&header.unwrap()).contains("EdDSA"));
    let entry = claims(&wait_for(&file("entry")));
    assert_eq!(entry["sub"], "spiffe://example.org/billing");
    assert_eq!(entry["iss"], "https://two.example.org");
    let merged = ["env", "team", "who"].map(|name| entry[name].clone());
    assert_eq!(merged, ["two", "a", "block"].map(serde_json::Value::from));
}

#[test]
fn each_format_holds_the_same_token_in_its_own_clothes() {
    let sandbox = Sandbox::new("");
    let file = |name: &str| sandbox.path(&format!("run/tokens/{name}"));
    let block = |format: &str| {
        format!(
            "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = [\"vault\", \"b\"]\n  format = \"{format}\"\n}}\n",
            file(format).display()
        )
    };
    let issuer = issuer("main", "https://id.example.org", "ES256");
    let blocks = block("jwt") + &block("header") + &block("json");
    sandbox.configure(&(issuer + &entry("billing", 1001) + &blocks));
    let _agent = sandbox.start();
    let jwt = wait_for(&file("jwt"));
    assert_eq!(jwt.trim(), jwt);
    let header = wait_for(&file("header"));
    let bare = header.strip_prefix("Authorization: Bearer ").unwrap();
    assert!(
        bare.ends_with('\n') && bare.split('.').count() == 3,
        "{header}"
    );
    let json: serde_json::Value = serde_json::from_str(&wait_for(&file("json"))).unwrap();
    assert_eq!(json["sub"], "spiffe://example.org/billing");
    assert_eq!(json["audience"], serde_json::json!(["vault", "b"]));
    let inner = claims(json["token"].as_str().unwrap());
    assert_eq!(inner["exp"], json["expires_at"]);
    assert_eq!(inner["iat"], json["issued_at"]);
}

#[test]
fn the_files_are_shown_with_holder_audience_and_what_is_wrong() {
    let (sandbox, file) = sandbox("run/tokens/billing/aws", "");
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let absent = "token_file \"/nonexistent/dir/t\" {\n  sub = \"robot\"\n  audience = \"b\"\n}\n";
    fs::write(sandbox.config(), config + absent).unwrap();
    let _agent = sandbox.start();
    wait_for(&file);
    eventually("both are shown", || {
        let shown = text(&sandbox.run(&["files"]).stdout);
        let there = shown.contains("spiffe://example.org/billing for vault")
            && shown.contains("robot for b")
            && shown.contains("/nonexistent");
        there.then_some(())
    });
    let json = sandbox.run(&["files", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    // In the order of their paths.
    let files = json["token_files"].as_array().unwrap();
    let paths: Vec<_> = files
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert!(paths.is_sorted() && paths.len() == 2, "{paths:?}");
    let of = |wanted: &str| files.iter().find(|shown| shown["path"] == wanted).unwrap();
    let ours = of(file.to_str().unwrap());
    assert_eq!(ours["sub"], "spiffe://example.org/billing");
    assert!(ours["next_refresh_in_seconds"].as_u64().unwrap() < 3600);
    let error = of("/nonexistent/dir/t")["error"].as_str().unwrap();
    assert!(error.contains("/nonexistent"), "{error}");
}

#[test]
fn a_file_that_waits_for_an_entry_says_for_which_and_why_another_would_not_do() {
    let sandbox = Sandbox::new("");
    let file = sandbox.path("run/tokens/token");
    let block = format!(
        "token_file \"{}\" {{\n  entry = \"late\"\n  audience = \"vault\"\n}}\n",
        file.display()
    );
    sandbox.configure(&(issuer("main", "https://id.example.org", "ES256") + &block));
    let agent = sandbox.start();
    let entry = |work: &[&str]| {
        let done = sandbox.run(&[&["entry"], work].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    let create = |spiffe_id: &str, more: &[&str]| {
        let create = ["create", "--entry-id", "late", "--spiffe-id", spiffe_id];
        entry(&[&create[..], &["--selector", "unix:uid:1001"], more].concat());
    };
    let says = |words: &str| {
        eventually(words, || agent.log().contains(words).then_some(()));
        let files = sandbox.run(&["files"]);
        assert!(
            text(&files.stdout).contains(words),
            "{}",
            text(&files.stdout)
        );
        assert!(!file.exists());
    };
    says("it waits for the entry \"late\"");
    create("spiffe://example.org/user/{unix:uid}", &[]);
    says("which each caller completes");
    entry(&["delete", "late"]);
    create("spiffe://example.org/late", &["--audience", "aws"]);
    says("does not allow its audience");
    entry(&["delete", "late"]);
    create("spiffe://example.org/late", &[]);
    wait_for(&file);
}
