//! Keys that turn over within seconds, and how they stand.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::common::{Sandbox, text};

/// Writes a configuration where tokens live for `ttl` seconds and nothing adds to that.
pub fn configure(sandbox: &Sandbox, ttl: u32, blocks: &str) {
    let short = format!(
        "agent {{\n  max_ttl = \"{ttl}s\"\n  default_jwt_svid_ttl = \"{ttl}s\"\n  leeway = \"0s\"\n  nbf_margin = \"0s\"\n  probe_interval = \"1s\"\n"
    );
    let config = sandbox.config_text(blocks);
    fs::write(sandbox.config(), config.replacen("agent {\n", &short, 1)).unwrap();
}

/// An `issuer` block with one key, which signs for `lifespan` seconds and is published for a second
/// before.
pub fn issuer(name: &str, url: &str, algorithm: &str, lifespan: u32) -> String {
    format!(
        r#"
issuer "{name}" {{
  url = "{url}"
  key "main" {{
    algorithm = "{algorithm}"
    lifespan = "{lifespan}s"
    publish_margin = "1s"
  }}
}}
"#
    )
}

/// A `token_file` block of the entry `me`.
pub fn token_file(path: &Path, ttl: u32) -> String {
    let path = path.display();
    format!(
        "token_file \"{path}\" {{\n  entry = \"me\"\n  audience = \"vault\"\n  ttl = \"{ttl}s\"\n}}\n"
    )
}

/// A key as `agent key list` tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub chain: String,
    pub kid: String,
    pub state: String,
    pub next_in: Option<u64>,
}

/// All keys.
pub fn keys(sandbox: &Sandbox) -> Vec<Key> {
    let output = sandbox.run(&["key", "list", "--output", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys = listed["keys"].as_array().unwrap().iter();
    keys.map(|key| {
        let word = |name: &str| key[name].as_str().unwrap().to_owned();
        Key {
            chain: format!("{}/{}", word("issuer"), word("name")),
            kid: word("kid"),
            state: word("state"),
            next_in: key["next_step_in_seconds"].as_u64(),
        }
    })
    .collect()
}

/// The kids of the keys in a state.
pub fn in_state(keys: &[Key], state: &str) -> Vec<String> {
    let keys = keys.iter().filter(|key| key.state == state);
    keys.map(|key| key.kid.clone()).collect()
}

/// The kids in a document with keys.
pub fn kids(document: &Value) -> BTreeSet<String> {
    let keys = document["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

/// A document of an issuer, as it is at this moment.
pub fn published(sandbox: &Sandbox, issuer: &str, name: &str) -> Value {
    let path = sandbox.path("data/webroot").join(issuer).join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A part of a token, unverified: 0 is the header, 1 the claims.
pub fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

/// The kid of a token.
pub fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}
