//! Foreign verifiers and the webroot: PyJWT finds the keys through discovery, as a real nginx serves
//! them over TLS, and what is published loads in other people's libraries and tells no secret.

mod common;
#[path = "common/web.rs"]
mod web;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use common::{
    Agent, Need, Sandbox, entry, eventually, feed, free_port, have, issuer, node_modules, python,
    text,
};
use serde_json::Value;
use web::{Nginx, tampered};

/// Verifies the token on standard input the way a relying party does.
const VERIFY: &str = r#"
import json, ssl, sys, urllib.request
import jwt

issuer, audience, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
with urllib.request.urlopen(issuer + "/.well-known/openid-configuration", context=context) as reply:
    assert reply.headers["Content-Type"] == "application/json", reply.headers["Content-Type"]
    discovery = json.load(reply)
assert discovery["issuer"] == issuer, discovery
algorithms = discovery["id_token_signing_alg_values_supported"]
keys = jwt.PyJWKClient(discovery["jwks_uri"], ssl_context=context)
token = sys.stdin.read()
try:
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=algorithms, audience=audience, issuer=issuer)
    print("valid", claims["sub"])
except jwt.PyJWTError as error:
    print("invalid", type(error).__name__)
"#;

/// What the relying party says.
fn verify(sandbox: &Sandbox, issuer: &str, audience: &str, token: &str) -> String {
    let mut command = Command::new(python().unwrap());
    command
        .args(["-c", VERIFY, issuer, audience])
        .arg(sandbox.path("ca.pem"));
    let output = feed(&mut command, token);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

#[test]
fn tokens_of_socket_and_file_verify_through_discovery_and_forged_ones_do_not() {
    if !have(&[Need::Root, Need::Python, Need::Nginx]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let (rsa, ec) = (free_port(), free_port());
    let url = |port: u16| format!("https://localhost:{port}");
    let file = |name: &str, entry: &str| {
        let path = sandbox.path(&format!("run/tokens/{name}/token"));
        format!(
            "token_file \"{}\" {{\n  entry = \"{entry}\"\n  audience = \"vault\"\n}}\n",
            path.display()
        )
    };
    let with_issuer = |name: &str, issuer: &str| {
        entry(name, 1001).replace(
            "  selectors",
            &format!("  issuer = \"{issuer}\"\n  selectors"),
        )
    };
    sandbox.configure(
        &[
            issuer("rsa", &url(rsa), "RS256"),
            issuer("ec", &url(ec), "ES256"),
            with_issuer("billing-rsa", "rsa"),
            with_issuer("billing-ec", "ec"),
            file("rsa", "billing-rsa"),
            file("ec", "billing-ec"),
        ]
        .concat(),
    );
    let _agent: Agent = sandbox.start();
    let _nginx = Nginx::serve(
        &sandbox,
        &[(rsa, "data/webroot/rsa"), (ec, "data/webroot/ec")],
    );

    for (name, issuer) in [("rsa", url(rsa)), ("ec", url(ec))] {
        let id = format!("spiffe://example.org/billing-{name}");
        let fetch = [
            "fetch-jwt",
            "--audience",
            "vault",
            "--output",
            "token",
            "--spiffe-id",
            &id,
        ];
        let fetched = sandbox.run_as(1001, &fetch);
        assert!(fetched.status.success(), "{}", text(&fetched.stderr));
        let fetched = text(&fetched.stdout).trim_end().to_owned();
        let path = sandbox.path(&format!("run/tokens/{name}/token"));
        let mirrored = eventually("the token file is there", || fs::read_to_string(&path).ok());

        for token in [&fetched, &mirrored] {
            let verdict = |audience: &str, token: &str| verify(&sandbox, &issuer, audience, token);
            assert_eq!(verdict("vault", token), format!("valid {id}"));
            assert_eq!(verdict("other", token), "invalid InvalidAudienceError");
            assert_eq!(
                verdict("vault", &tampered(token)),
                "invalid InvalidSignatureError"
            );
        }
    }
}

/// Loads the JWKS on standard input and shows each key as the library understood it.
const LOAD_WITH_PYJWT: &str = r#"
import json, sys
import jwt

for key in jwt.PyJWKSet.from_dict(json.load(sys.stdin)).keys:
    print(key.key_id, key.algorithm_name, key.public_key_use)
"#;

/// The same: each key alone, and as it is found in the set for the header of a token.
const LOAD_WITH_JOSE: &str = r#"
globalThis.crypto ??= require('node:crypto').webcrypto;
const jwks = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
(async () => {
  const jose = await import(require.resolve('jose'));
  const find = jose.createLocalJWKSet(jwks);
  for (const jwk of jwks.keys) {
    const { kid, alg, use } = jwk;
    for (const key of [await jose.importJWK(jwk), await find({ kid, alg })]) {
      if (key.type !== 'public') throw new Error(`${kid} is ${key.type}`);
    }
    console.log(kid, alg, use);
  }
})().catch((error) => { console.error(error); process.exit(1); });
"#;

/// The members of a JWK that nobody but its owner may see.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The names of all members, at any depth.
fn members(document: &Value) -> Vec<&str> {
    match document {
        Value::Object(object) => {
            let names = object.keys().map(String::as_str);
            names.chain(object.values().flat_map(members)).collect()
        }
        Value::Array(values) => values.iter().flat_map(members).collect(),
        _ => Vec::new(),
    }
}

/// What the keys of a JWKS say of themselves under this name, each once.
fn said<'a>(jwks: &'a Value, name: &str) -> BTreeSet<&'a str> {
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key[name].as_str().unwrap()).collect()
}

#[test]
fn libraries_load_every_published_key_and_the_documents_tell_no_secret() {
    if !have(&[Need::Python, Need::Node]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let key = |name: &str, algorithm: &str| {
        format!("  key \"{name}\" {{\n    algorithm = \"{algorithm}\"\n  }}\n")
    };
    let with_key = |name: &str, key: &str| {
        let entry = entry(name, nix::unistd::geteuid().as_raw());
        entry.replace("  selectors", &format!("  key = \"{key}\"\n  selectors"))
    };
    let file = format!(
        "token_file \"{}\" {{\n  entry = \"rsa\"\n  audience = \"vault\"\n  key = \"ed\"\n}}\n",
        sandbox.path("run/tokens/ed").display()
    );
    // RS256 stands last here, and has to come first in the discovery document.
    sandbox.configure(
        &[
            "issuer \"main\" {\n  url = \"https://id.example.org\"\n".to_owned(),
            key("ed", "EdDSA"),
            key("ec", "ES256"),
            key("rsa", "RS256"),
            "}\n".to_owned(),
            with_key("rsa", "rsa"),
            with_key("ec", "ec"),
            file,
        ]
        .concat(),
    );
    let _agent = sandbox.start();
    let document = |name: &str| -> Value {
        let path = sandbox.path("data/webroot/main").join(name);
        let bytes = eventually(name, || fs::read(&path).ok());
        serde_json::from_slice(&bytes).unwrap()
    };
    let discovery = document(".well-known/openid-configuration");
    let jwks = document("jwks.json");
    let bundle = document("bundle.json");

    for document in [&discovery, &jwks, &bundle] {
        let told = members(document);
        let secret = told.iter().find(|name| PRIVATE.contains(name));
        assert_eq!(secret, None, "{document:#}");
    }
    assert_eq!(said(&jwks, "use"), BTreeSet::from(["sig"]));
    assert_eq!(said(&bundle, "use"), BTreeSet::from(["jwt-svid"]));

    let listed = discovery["id_token_signing_alg_values_supported"].as_array();
    let listed: Vec<_> = listed
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(listed[0], "RS256");
    assert_eq!(listed.len(), 3, "{listed:?}");
    let in_use = BTreeSet::from(["RS256", "ES256", "EdDSA"]);
    assert_eq!(BTreeSet::from_iter(listed), in_use);
    assert_eq!(said(&jwks, "alg"), in_use);

    let keys = jwks["keys"].as_array().unwrap().iter();
    let published: String = keys
        .map(|key| {
            let word = |name: &str| key[name].as_str().unwrap();
            format!("{} {} {}\n", word("kid"), word("alg"), word("use"))
        })
        .collect();
    let mut of_python = Command::new(python().unwrap());
    let mut of_node = Command::new("node");
    for command in [
        of_python.args(["-c", LOAD_WITH_PYJWT]),
        of_node
            .args(["-e", LOAD_WITH_JOSE])
            .env("NODE_PATH", node_modules()),
    ] {
        let output = feed(command, &jwks.to_string());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), published);
    }
}
