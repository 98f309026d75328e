//! 7.10: the bundle file and the documents of the OpenID Connect issuer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use spiffe::{JwtBundle, TrustDomain};

use crate::common::{Need, Sandbox, eventually, free_port, have, own_entry, text};
use crate::house::{House, URL};
use crate::rotation::{house, rotate};
use crate::turnover::{self, kids, published};
use crate::verifier::Verifier;
use crate::web::{Nginx, tampered};

/// With keys of every kind in two issuers; "main" has the bundle.
async fn mixed() -> House {
    let sandbox = Sandbox::new("");
    let key = |name: &str| {
        format!(
            "  key \"{name}\" {{\n    algorithm = \"{name}\"\n    lifespan = \"1h\"\n    publish_margin = \"1s\"\n  }}\n"
        )
    };
    let all: String = ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"]
        .map(key)
        .concat();
    let main = format!("issuer \"main\" {{\n  url = \"{URL}\"\n{all}}}\n");
    let other = turnover::issuer("other", "https://two.example.org", "ES256", 3600);
    let own = own_entry().replace(
        "  selectors",
        "  issuer = \"main\"\n  key = \"ES256\"\n  selectors",
    );
    turnover::configure(&sandbox, 60, &(main + &other + &own));
    let config = fs::read_to_string(sandbox.config()).unwrap();
    let named = config.replacen("agent {", "agent {\n  bundle_issuer = \"main\"", 1);
    fs::write(sandbox.config(), named).unwrap();
    House::of(sandbox).await
}

fn bundle(house: &House) -> Value {
    published(&house.sandbox, "main", "bundle.json")
}

fn sequence(bundle: &Value) -> u64 {
    bundle["spiffe_sequence"].as_u64().unwrap()
}

fn keys(document: &Value) -> &[Value] {
    document["keys"].as_array().unwrap()
}

fn names(value: &Value) -> BTreeSet<&str> {
    let members = value.as_object().unwrap().keys();
    members.map(String::as_str).collect()
}

/// C107: the bundle file holds the keys, a sequence number and a refresh hint, each key with `use`
/// `jwt-svid`, `kid`, `kty` and the public members of its type, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn c107_the_bundle_file_follows_the_rules_in_every_member() {
    let bundle = bundle(&mixed().await);
    let top = BTreeSet::from(["keys", "spiffe_refresh_hint", "spiffe_sequence"]);
    assert_eq!(names(&bundle), top);
    assert!(sequence(&bundle) > 0);
    let hint = bundle["spiffe_refresh_hint"].as_u64().unwrap();
    assert_eq!(hint, 1, "as often as a margin of a second wants");
    for key in keys(&bundle) {
        assert_eq!(key["use"], "jwt-svid");
        assert!(!key["kid"].as_str().unwrap().is_empty());
        let members = match key["kty"].as_str().unwrap() {
            "RSA" => BTreeSet::from(["e", "kid", "kty", "n", "use"]),
            "EC" => BTreeSet::from(["crv", "kid", "kty", "use", "x", "y"]),
            other => panic!("{other}"),
        };
        assert_eq!(names(key), members);
    }
}

/// C108: the sequence number grows with each change of the keys, is the same as long as they are, and
/// never falls, whether the agent is stopped or killed or loses its records.
#[tokio::test(flavor = "multi_thread")]
async fn c108_the_sequence_grows_with_each_change_and_never_falls() {
    let mut house = house(3600).await;
    let start = bundle(&house);
    assert!(house.agent.stop().success());
    house.agent = house.sandbox.start();
    assert_eq!(bundle(&house), start, "the keys are the same");

    let mut last = start;
    let mut changes = 0;
    let mut look = |house: &House| {
        let next = bundle(house);
        if next["keys"] == last["keys"] {
            assert_eq!(sequence(&next), sequence(&last));
        } else {
            assert!(sequence(&next) > sequence(&last));
            changes += 1;
        }
        last = next;
        changes
    };
    let (former, _) = rotate(&house);
    eventually("one key comes and one goes", || {
        let left = !kids(&bundle(&house)).contains(&former);
        (look(&house) > 0 && left).then_some(())
    });
    house.agent.kill();
    let private = house.sandbox.path("data/private");
    for name in ["state.json", "state.prev.json"] {
        fs::write(private.join(name), "{").unwrap();
    }
    house.agent = house.sandbox.start();
    let before = look(&house);
    assert!(before > 1, "new keys were made");
    eventually("a successor is published", || {
        (look(&house) > before || kids(&bundle(&house)).len() > 3).then_some(())
    });
}

/// C109: no key has a `use` or type that a reader of SPIFFE bundles does not know, and the library of
/// Rust takes the file as it is.
#[tokio::test(flavor = "multi_thread")]
async fn c109_readers_of_spiffe_bundles_take_the_file() {
    let house = mixed().await;
    let bundle = bundle(&house);
    let kinds: BTreeSet<_> = keys(&bundle)
        .iter()
        .map(|key| {
            let word = |name: &str| key[name].as_str().unwrap_or_default();
            (word("use"), word("kty"), word("crv"))
        })
        .collect();
    let known = ["P-256", "P-384", "P-521"].map(|curve| ("jwt-svid", "EC", curve));
    let mut known = BTreeSet::from(known);
    known.insert(("jwt-svid", "RSA", ""));
    assert_eq!(kinds, known, "and no EdDSA");
    let own = TrustDomain::new("example.org").unwrap();
    let parsed = JwtBundle::from_jwt_authorities(own, bundle.to_string().as_bytes()).unwrap();
    let loaded: BTreeSet<_> = parsed
        .jwt_authorities()
        .map(|key| key.key_id().to_owned())
        .collect();
    assert_eq!(loaded, kids(&bundle));
}

/// C110: no two keys share a `kid`, in one document or across them.
#[tokio::test(flavor = "multi_thread")]
async fn c110_a_kid_names_one_key() {
    let house = mixed().await;
    let documents = [
        bundle(&house),
        published(&house.sandbox, "main", "jwks.json"),
        published(&house.sandbox, "other", "jwks.json"),
        house.keys().await,
    ];
    let mut named: BTreeMap<String, [Value; 3]> = BTreeMap::new();
    for document in &documents {
        assert_eq!(kids(document).len(), keys(document).len(), "{document:#}");
        for key in keys(document) {
            let public = ["kty", "n", "x"].map(|name| key[name].clone());
            let kid = key["kid"].as_str().unwrap().to_owned();
            let first = named.entry(kid).or_insert_with(|| public.clone());
            assert_eq!(*first, public);
        }
    }
    assert!(named.len() >= 7, "{}", named.len());
}

/// C111: the JWKS of the issuer holds keys for JWTs alone, each with `kid`, `alg` and `use` `sig`,
/// and no member of SPIFFE bundles; PyJWKClient and jose find the key of a token in it.
#[tokio::test(flavor = "multi_thread")]
async fn c111_the_jwks_is_what_openid_connect_verifiers_look_for() {
    let house = mixed().await;
    for issuer in ["main", "other"] {
        let jwks = published(&house.sandbox, issuer, "jwks.json");
        assert_eq!(names(&jwks), BTreeSet::from(["keys"]));
        for key in keys(&jwks) {
            assert_eq!(key["use"], "sig");
            for name in ["kid", "alg", "kty"] {
                assert!(!key[name].as_str().unwrap().is_empty());
            }
            let foreign = |name: &&&str| name.starts_with("x5") || name.starts_with("spiffe");
            assert_eq!(names(key).iter().find(foreign), None);
        }
    }
    drop(house);
    if !have(&[Need::Python, Need::Node, Need::Nginx]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let port = free_port();
    let url = format!("https://localhost:{port}");
    let blocks = turnover::issuer("main", &url, "RS256", 3600) + &own_entry();
    turnover::configure(&sandbox, 60, &blocks);
    let house = House::of(sandbox).await;
    let _nginx = Nginx::serve(&house.sandbox, &[(port, "data/webroot/main")]);
    let token = house.token("a").await;
    let forged = tampered(&token);
    for mut verifier in Verifier::all(&house.sandbox, "a", 1) {
        for (token, wanted) in [(&token, "ok"), (&forged, "bad signature")] {
            verifier.ask(&url, token);
            assert_eq!(verifier.verdict().0, wanted, "{}", verifier.name);
        }
    }
}

/// C112: the discovery document has the issuer byte for byte, an https `jwks_uri` below it, the one
/// response type there is, the type of subjects, and the algorithms of its keys.
#[tokio::test(flavor = "multi_thread")]
async fn c112_the_discovery_document_is_complete() {
    let house = mixed().await;
    for (issuer, url) in [("main", URL), ("other", "https://two.example.org")] {
        let found = published(&house.sandbox, issuer, ".well-known/openid-configuration");
        assert_eq!(found["issuer"], url);
        assert_eq!(found["jwks_uri"], format!("{url}/jwks.json"));
        assert_eq!(
            found["response_types_supported"],
            serde_json::json!(["id_token"])
        );
        assert_eq!(
            found["subject_types_supported"],
            serde_json::json!(["public"])
        );
        let listed = found["id_token_signing_alg_values_supported"].as_array();
        let listed: BTreeSet<_> = listed.unwrap().iter().map(Value::to_string).collect();
        let jwks = published(&house.sandbox, issuer, "jwks.json");
        let used = keys(&jwks).iter().map(|key| key["alg"].to_string());
        assert_eq!(listed, used.collect());
    }
    let checked = house.sandbox.run(&[
        "check-webroot",
        "--config",
        house.sandbox.config().to_str().unwrap(),
    ]);
    assert!(checked.status.success(), "{}", text(&checked.stdout));
}
