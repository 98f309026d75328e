//! Entries whose identity each caller's own selectors complete.

mod common;

use std::fs;

use common::{Need, Sandbox, claims, have, issuer, text};
use nix::unistd::{Uid, User};

const TEMPLATE: &str = r#"
entry "user" {
  spiffe_id = "spiffe://example.org/user/{unix:user}"
  selectors = ["unix:supplementary_gid:4711"]
  claims    = { uid = "{unix:uid}", of = ["{unix:user}@{unix:gid}", "{{}}"], n = 1 }
}
"#;

fn main_issuer() -> String {
    issuer("main", "https://localhost", "ES256")
}

/// The token of a user in the group that the entry asks for.
fn token_of(sandbox: &Sandbox, uid: u32) -> Result<serde_json::Value, String> {
    let id = uid.to_string();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--groups", "4711"])
        .arg(common::binary())
        .args(["fetch-jwt", "--audience", "a", "--output", "token"])
        .env("SPIFFE_ENDPOINT_SOCKET", sandbox.socket())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(claims(text(&output.stdout).trim()))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn each_caller_has_the_identity_of_its_own_name_and_who_has_no_name_has_none() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new(&(main_issuer() + TEMPLATE));
    let _agent = sandbox.start();
    for uid in [1, 2, 1, 2] {
        let name = User::from_uid(Uid::from_raw(uid)).unwrap().unwrap().name;
        let token = token_of(&sandbox, uid).unwrap();
        assert_eq!(token["sub"], format!("spiffe://example.org/user/{name}"));
        assert_eq!(
            (&token["uid"], &token["n"]),
            (&uid.to_string().into(), &1.into())
        );
        let of = serde_json::json!([format!("{name}@{uid}"), "{}"]);
        assert_eq!(token["of"], of);
    }
    let nameless = 3_999_999_999;
    assert!(
        token_of(&sandbox, nameless)
            .unwrap_err()
            .contains("no identity issued")
    );
    // Without the selectors of the entry, a name is nothing.
    let outsider = sandbox.run_as(1, &["fetch-jwt", "--audience", "a"]);
    assert_eq!(outsider.status.code(), Some(3));
}

#[test]
fn a_template_is_made_shown_and_removed_as_any_entry() {
    let sandbox = Sandbox::new(&main_issuer());
    let _agent = sandbox.start();
    let uid = nix::unistd::geteuid().as_raw();
    let create = |id: &str, more: &[&str]| {
        let selector = format!("unix:uid:{uid}");
        let create = [
            "entry",
            "create",
            "--spiffe-id",
            id,
            "--selector",
            &selector,
        ];
        sandbox.run(&[&create[..], more].concat())
    };
    let template = "spiffe://example.org/uid/{unix:uid}";
    let made = create(template, &["--entry-id", "t", "--claim", "who={unix:uid}"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let token = claims(&sandbox.token("a"));
    assert_eq!(token["sub"], format!("spiffe://example.org/uid/{uid}"));
    assert_eq!(token["who"], uid.to_string());
    let shown = sandbox.run(&["entry", "show", "t", "--output", "json"]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(
        (&shown["spiffe_id"], &shown["claims"]["who"]),
        (&template.into(), &"{unix:uid}".into())
    );
    let similar = create(template, &[]);
    assert!(text(&similar.stderr).contains("similar entry already exists"));
    for (id, word) in [
        ("spiffe://{unix:uid}/a", "only in the path"),
        ("spiffe://example.org/{unix:user}{unix:uid}", "one field"),
        (
            "spiffe://example.org/{unix:usr}",
            "nothing can stand for {unix:usr}",
        ),
        (
            "spiffe://example.org/{k8s:ns}",
            "nothing can stand for {k8s:ns}: there are unix, systemd",
        ),
        (
            "spiffe://example.org/{unix:supplementary_gid}",
            "any number",
        ),
        ("spiffe://example.org/{unix:path}", "begins with a slash"),
        ("spiffe://example.org/a b/{unix:uid}", "letters, digits"),
        ("spiffe://other.org/{unix:uid}", "not of the trust domain"),
        ("spiffe://example.org/{unix:uid", "brace"),
    ] {
        let refused = create(id, &[]);
        let message = text(&refused.stderr);
        assert!(
            !refused.status.success() && message.contains(word),
            "{id}: {message}"
        );
    }
    let refused = create("spiffe://example.org/x", &["--claim", "a=b{c"]);
    assert!(text(&refused.stderr).contains("claim \"a\": a brace stands alone"));
    assert!(sandbox.run(&["entry", "delete", "t"]).status.success());
    assert_eq!(
        sandbox.run(&["fetch-jwt", "--audience", "a"]).status.code(),
        Some(3)
    );

    let import = sandbox.path("import.json");
    let entry = format!(r#"{{"spiffe_id": "{template}", "selectors": ["unix:uid:{uid}"]}}"#);
    fs::write(&import, format!("{{\"entries\": [{entry}]}}")).unwrap();
    assert!(
        sandbox
            .run(&["entry", "import", import.to_str().unwrap()])
            .status
            .success()
    );
    assert_eq!(claims(&sandbox.token("a"))["sub"], token["sub"]);
}

#[test]
fn a_file_has_no_caller_who_could_complete_an_identity() {
    let file = "token_file \"/run/x/t\" {\n  entry = \"user\"\n  audience = \"a\"\n}\n";
    let own = "token_file \"/run/x/u\" {\n  spiffe_id = \"spiffe://example.org/user/x\"\n  audience = \"a\"\n}\n";
    let sandbox = Sandbox::new(&(main_issuer() + TEMPLATE + file + own));
    let config = sandbox.config();
    let output = sandbox.run(&["validate", "--config", config.to_str().unwrap()]);
    let report = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{report}");
    for word in [
        "the identity of entry \"user\" depends on who calls, and nobody does",
        "spiffe://example.org/user/x is the identity of entry \"user\" too",
    ] {
        assert!(report.contains(word), "{report}");
    }
}
