use serde_json::json;

use super::*;
use crate::bundle::{Bundle, oidc_jwks};
use crate::jose::encode_base64url;
use crate::key::signing::tests::key;

fn spec(url: &str) -> WebrootSpec {
    WebrootSpec {
        url: url.parse().unwrap(),
        directory: PathBuf::from("/webroot"),
        create: true,
        jwks_path: "/jwks.json".to_owned(),
        jwks_uri: format!("{url}/jwks.json"),
        owner: None,
        group: None,
        mode: 0o644,
    }
}

fn good() -> WebrootSpec {
    spec("https://id.example.org")
}

/// What the agent publishes for keys of these algorithms, the bundle with it.
fn published(spec: &WebrootSpec, algorithms: &[Algorithm]) -> Documents {
    let keys: Vec<_> = algorithms.iter().map(|a| key(*a).jwk().clone()).collect();
    let bundle = Bundle::new("example.org".parse().unwrap(), keys.clone());
    let mut bundle: Value = serde_json::from_str(&bundle.workload_jwks()).unwrap();
    for key in bundle["keys"].as_array_mut().unwrap() {
        key["use"] = json!("jwt-svid");
    }
    bundle["spiffe_sequence"] = json!(7);
    bundle["spiffe_refresh_hint"] = json!(300);
    Documents {
        discovery: Some(spec.discovery_document(&keys).into_bytes()),
        jwks: Some(oidc_jwks(&keys).into_bytes()),
        bundle: Some(bundle.to_string().into_bytes()),
    }
}

/// The findings as lines of severity, document and message.
fn lines(spec: &WebrootSpec, documents: &Documents) -> Vec<String> {
    let line = |finding: &Finding| {
        assert!(!finding.help.is_empty(), "{finding:?}");
        let document = finding.path.file_name().unwrap().display();
        format!("{:?} {document}: {}", finding.severity, finding.message)
    };
    let verdict = check(spec, documents);
    verdict.findings.iter().map(line).collect()
}

fn only(lines: &[String], severity: &str, document: &str, message: &str) {
    let [line] = lines else {
        panic!("one finding was to be about {message:?}: {lines:?}");
    };
    assert!(
        line.starts_with(&format!("{severity} {document}: ")) && line.contains(message),
        "{message:?}: {line}"
    );
}

/// The value, changed at a JSON pointer; `None` takes the member or the item away.
fn changed(bytes: &[u8], pointer: &str, new: Option<Value>) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(bytes).unwrap();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match (document.pointer_mut(parent).unwrap(), new) {
        (Value::Object(members), Some(new)) => drop(members.insert(name.to_owned(), new)),
        (Value::Object(members), None) => drop(members.remove(name).unwrap()),
        (Value::Array(items), Some(new)) => items[name.parse::<usize>().unwrap()] = new,
        (Value::Array(items), None) => drop(items.remove(name.parse().unwrap())),
        _ => panic!("{pointer}"),
    }
    document.to_string().into_bytes()
}

#[test]
fn what_the_agent_publishes_is_good() {
    let all = Algorithm::ALL.map(|algorithm| [Algorithm::Rs256, algorithm]);
    for algorithms in all.iter().filter(|a| a[1].is_for_jwt_svids()) {
        let documents = published(&good(), algorithms);
        assert_eq!(lines(&good(), &documents), [""; 0], "{algorithms:?}");
        let verdict = check(&good(), &documents);
        assert_eq!(verdict.keys.len(), 2);
        assert!(verdict.is_ok() && verdict.has_bundle);
    }
    assert_eq!(lines(&good(), &Documents::default()), [""; 0]);
}

#[test]
fn each_fault_of_a_discovery_document_is_found() {
    const ALGORITHMS: &str = "/id_token_signing_alg_values_supported";
    let documents = published(&good(), &[Algorithm::Rs256, Algorithm::Es256]);
    let bytes = documents.discovery.clone().unwrap();
    for (pointer, new, severity, message) in [
        (
            "/issuer",
            Some(json!("https://id.example.org/")),
            "Error",
            "issuer is \"https://id.example.org/\" where",
        ),
        (
            "/issuer",
            Some(json!(["https://id.example.org"])),
            "Error",
            "issuer is missing or no text",
        ),
        ("/issuer", None, "Error", "issuer is missing or no text"),
        (
            "/jwks_uri",
            Some(json!("https://id.example.org/other")),
            "Error",
            "jwks_uri is \"https://id.example.org/other\"",
        ),
        ("/jwks_uri", None, "Error", "jwks_uri is missing"),
        (
            "/response_types_supported",
            Some(json!(["code"])),
            "Error",
            "does not name id_token",
        ),
        (
            "/response_types_supported",
            Some(json!("id_token")),
            "Error",
            "does not name id_token",
        ),
        (
            "/subject_types_supported",
            Some(json!([])),
            "Error",
            "names no type",
        ),
        ("/subject_types_supported", None, "Error", "names no type"),
        (ALGORITHMS, None, "Error", "names no algorithm"),
        (ALGORITHMS, Some(json!([])), "Error", "names no algorithm"),
        (
            ALGORITHMS,
            Some(json!(["RS256", 7])),
            "Error",
            "names no algorithm",
        ),
        (ALGORITHMS, Some(json!(["RS256"])), "Error", "lacks ES256"),
        (
            ALGORITHMS,
            Some(json!(["ES256", "RS256"])),
            "Warning",
            "does not begin with RS256",
        ),
        (
            ALGORITHMS,
            Some(json!(["RS256", "ES256", "PS256"])),
            "Warning",
            "names \"PS256\", for which there is no key",
        ),
    ] {
        let documents = Documents {
            discovery: Some(changed(&bytes, pointer, new)),
            ..documents.clone()
        };
        let lines = lines(&good(), &documents);
        only(&lines, severity, "openid-configuration", message);
    }
}

#[test]
fn each_fault_of_a_jwks_is_found() {
    let documents = published(&good(), &[Algorithm::Rs256, Algorithm::Es256]);
    let bytes = documents.jwks.clone().unwrap();
    let parsed: Value = serde_json::from_slice(&bytes).unwrap();
    let keys = parsed["keys"].as_array().unwrap();
    let place = |kty: &str| keys.iter().position(|key| key["kty"] == kty).unwrap();
    let rsa = |name: &str| format!("/keys/{}/{name}", place("RSA"));
    let ec = |name: &str| format!("/keys/{}/{name}", place("EC"));
    let short = Some(json!(encode_base64url([0xc5; 128])));
    for (pointer, new, message) in [
        ("/keys".to_owned(), None, "keys is missing or no array"),
        (
            "/keys".to_owned(),
            Some(json!({})),
            "keys is missing or no array",
        ),
        ("/keys".to_owned(), Some(json!([])), "holds no key"),
        (
            format!("/keys/{}", place("EC")),
            Some(json!("x")),
            "is no JSON object",
        ),
        (
            "/keys/1".to_owned(),
            Some(keys[0].clone()),
            "keys[1] has the kid of another key",
        ),
        (rsa("kid"), None, "has no kid"),
        (rsa("kid"), Some(json!("")), "has no kid"),
        (
            rsa("kid"),
            Some(json!("main-2024")),
            "is not its thumbprint",
        ),
        (rsa("alg"), None, "has no alg"),
        (rsa("alg"), Some(json!("HS256")), "has alg \"HS256\", which"),
        (
            rsa("alg"),
            Some(json!("ES256")),
            "not of the kind that its algorithm needs",
        ),
        (rsa("use"), None, "has no use, and OpenID"),
        (
            rsa("use"),
            Some(json!("jwt-svid")),
            "has use \"jwt-svid\", and OpenID",
        ),
        (rsa("n"), short, "is an RSA key of 1024 bits"),
        (
            rsa("e"),
            Some(json!("AQ")),
            "the RSA key is weak or malformed",
        ),
        (rsa("n"), None, "lacks a member"),
        (
            ec("x"),
            Some(json!(encode_base64url([1; 32]))),
            "not on the curve",
        ),
        (
            rsa("d"),
            Some(json!("AQAB")),
            "holds \"d\", a part of a private key",
        ),
        (rsa("oth"), Some(json!([])), "holds \"oth\""),
        (ec("k"), Some(json!("AQAB")), "holds \"k\""),
    ] {
        let documents = Documents {
            jwks: Some(changed(&bytes, &pointer, new)),
            ..documents.clone()
        };
        only(&lines(&good(), &documents), "Error", "jwks.json", message);
    }
}

#[test]
fn a_key_that_is_of_no_use_is_not_counted() {
    let documents = published(&good(), &[Algorithm::Rs256, Algorithm::Es256]);
    let jwks = changed(&documents.jwks.clone().unwrap(), "/keys/0/alg", None);
    let documents = Documents {
        jwks: Some(jwks),
        ..documents
    };
    let verdict = check(&good(), &documents);
    assert_eq!((verdict.keys.len(), verdict.is_ok()), (1, false));
}

#[test]
fn each_fault_of_a_bundle_is_found() {
    let documents = published(&good(), &[Algorithm::Rs256, Algorithm::Es256]);
    let bytes = documents.bundle.clone().unwrap();
    for (pointer, new, message) in [
        ("/keys", None, "keys is missing or no array"),
        ("/keys/0", Some(json!(1)), "keys[0] is no JSON object"),
        (
            "/keys/0/use",
            None,
            "has no use, and SPIRE rejects the whole bundle",
        ),
        (
            "/keys/0/use",
            Some(json!("sig")),
            "has use \"sig\", and SPIRE",
        ),
        ("/keys/1/kid", None, "keys[1] has no kid"),
        ("/keys/1/kid", Some(json!("x")), "is not its thumbprint"),
        ("/keys/1/kty", Some(json!("oct")), "not of the kind"),
        ("/keys/0/p", Some(json!("AQAB")), "holds \"p\""),
        (
            "/spiffe_sequence",
            None,
            "spiffe_sequence is missing or no whole number",
        ),
        (
            "/spiffe_sequence",
            Some(json!(1.5)),
            "spiffe_sequence is missing",
        ),
        (
            "/spiffe_sequence",
            Some(json!("7")),
            "spiffe_sequence is missing",
        ),
        (
            "/spiffe_refresh_hint",
            Some(json!(-1)),
            "spiffe_refresh_hint is missing",
        ),
        (
            "/spiffe_refresh_hint",
            None,
            "spiffe_refresh_hint is missing",
        ),
    ] {
        let documents = Documents {
            bundle: Some(changed(&bytes, pointer, new)),
            ..documents.clone()
        };
        only(&lines(&good(), &documents), "Error", "bundle.json", message);
    }
    let empty = Documents {
        bundle: Some(changed(&bytes, "/keys", Some(json!([])))),
        ..documents
    };
    assert_eq!(lines(&good(), &empty), [""; 0], "nothing is to be believed");
}

#[test]
fn what_is_no_object_or_repeats_a_member_is_an_error_in_each_document() {
    let documents = published(&good(), &[Algorithm::Rs256]);
    for bytes in ["", "[]", "{} {}", "\u{feff}{}", r#"{"keys":[],"keys":[]}"#] {
        let bytes = || Some(bytes.as_bytes().to_vec());
        let (discovery, jwks, bundle) = (bytes(), bytes(), bytes());
        for (documents, name) in [
            (
                Documents {
                    discovery,
                    ..documents.clone()
                },
                "openid-configuration",
            ),
            (
                Documents {
                    jwks,
                    ..documents.clone()
                },
                "jwks.json",
            ),
            (
                Documents {
                    bundle,
                    ..documents.clone()
                },
                "bundle.json",
            ),
        ] {
            only(&lines(&good(), &documents), "Error", name, NO_OBJECT);
        }
    }
}

#[test]
fn what_some_relying_parties_do_not_take_is_a_warning() {
    use Algorithm::{EdDsa, Es256, Rs256};

    let long = format!("https://id.example.org/{}", "x".repeat(233));
    let longest = &long[..MAX_AWS_ISSUER];
    for (url, algorithms, message) in [
        ("http://localhost:8080", &[Rs256][..], "is not https"),
        ("https://localhost:8443", &[Rs256], "is this machine"),
        ("https://id.example.org:8443", &[Rs256], "has a port"),
        (&long, &[Rs256], "has 256 bytes and AWS takes 255"),
        (
            "https://id.example.org",
            &[Es256],
            "no RS256 key, and Entra ID",
        ),
        ("https://id.example.org", &[Rs256, EdDsa], "an EdDSA key"),
    ] {
        let spec = spec(url);
        let lines = lines(&spec, &published(&spec, algorithms));
        let [line] = &lines[..] else {
            panic!("{message}: {lines:?}");
        };
        assert!(
            line.starts_with("Warning") && line.contains(message),
            "{line}"
        );
    }
    let spec = spec(longest);
    assert_eq!(lines(&spec, &published(&spec, &[Rs256])), [""; 0]);
}

#[test]
fn a_jwks_that_others_cannot_fetch_is_a_warning() {
    let mut spec = good();
    spec.jwks_uri = "http://localhost/jwks.json".to_owned();
    let lines = lines(&spec, &published(&spec, &[Algorithm::Rs256]));
    only(
        &lines,
        "Warning",
        "openid-configuration",
        "jwks_uri is not https",
    );
}

#[test]
fn too_many_keys_and_too_many_bytes_are_said() {
    let keys: Vec<_> = (0..101)
        .map(|_| key(Algorithm::Es256).jwk().clone())
        .collect();
    let jwks = |keys: &[Jwk]| Documents {
        jwks: Some(oidc_jwks(keys).into_bytes()),
        ..Documents::default()
    };
    let rs256 = || key(Algorithm::Rs256).jwk().clone();
    let most = [&keys[..100], &[rs256()]].concat();
    assert_eq!(lines(&good(), &jwks(&most)), [""; 0]);
    let lines_of = lines(&good(), &jwks(&keys));
    only(
        &lines_of,
        "Error",
        "jwks.json",
        "101 EC keys and AWS takes 100",
    );

    let mut padded = oidc_jwks(&[rs256()]).into_bytes();
    padded.resize(64 << 10, b' ');
    let document = |bytes: &[u8]| Documents {
        jwks: Some(bytes.to_vec()),
        ..Documents::default()
    };
    assert_eq!(lines(&good(), &document(&padded)), [""; 0]);
    padded.push(b' ');
    let lines = lines(&good(), &document(&padded));
    only(&lines, "Warning", "jwks.json", "it has 65537 bytes");
}
