//! What the fuzz targets run, and the corpora that they have gathered, replayed as a test. Each
//! takes any bytes, and fails by a panic.

use serde_json::Value;

use crate::attest::fuzz as attest;
use crate::conn::fuzz as conn;
use crate::entry::{ClaimTemplate, IdTemplate};
use crate::jose::json::parse_object;
use crate::jose::jwk::Jwk;
use crate::jose::jws::Unverified;
use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;

/// The `:authority` rewriter: it panics nowhere, neither adds nor takes away a byte, and the sizes
/// of the pieces do not matter.
pub fn authority(bytes: &[u8]) {
    let whole = conn::pass(bytes, bytes.len().max(1));
    assert_eq!(whole.len(), bytes.len());
    assert_eq!(conn::pass(bytes, 1), whole);
    assert_eq!(conn::pass(bytes, 7), whole);
}

/// The parser of tokens: what it takes has three parts, and parses to the same again.
pub fn jwt(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(token) = Unverified::parse(text) {
        assert_eq!(text.matches('.').count(), 2);
        let payload = token.untrusted_payload().clone();
        let written = Value::Object(payload.clone()).to_string();
        assert_eq!(parse_object(written.as_bytes()), Some(payload));
    }
}

/// The parser of keys: what it takes it writes, and reads again.
pub fn jwks(bytes: &[u8]) {
    let Some(members) = parse_object(bytes) else {
        return;
    };
    let keys = match members.get("keys") {
        Some(Value::Array(keys)) => keys.clone(),
        _ => vec![Value::Object(members)],
    };
    for key in keys.iter().filter_map(Value::as_object) {
        if let Ok(jwk) = Jwk::from_json(key) {
            let mut again = jwk.members();
            again.insert("alg".to_owned(), jwk.algorithm().name().into());
            assert_eq!(Jwk::from_json(&again), Ok(jwk));
        }
    }
}

/// The parser of SPIFFE IDs: what it takes it gives back, byte by byte.
pub fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= 2048 && text.starts_with("spiffe://"));
        let again = format!("spiffe://{}{}", id.trust_domain().as_str(), id.path());
        assert_eq!(again, text);
    }
}

/// Templates of identities, a line, and selectors of a caller, the other lines: what is rendered is an
/// ID to which the template can come.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let found: SelectorSet = lines.filter_map(|line| line.parse().ok()).collect();
    if let Ok((template, _)) = IdTemplate::parse(first)
        && let Ok(id) = template.render(&found)
    {
        assert!(template.may_be(&id), "{template} {id}");
        assert!(!id.as_str().contains(['{', '}']));
    }
    if let Ok(claim) = ClaimTemplate::parse(&first.into()) {
        let _ = claim.render(&found);
    }
}

/// Requests as they come off the wire, and the checks of their fields.
pub fn request(bytes: &[u8]) {
    crate::workload_api::fuzz::request(bytes);
}

/// `/proc/PID/cgroup`: a name that is told is in the text.
pub fn cgroup(bytes: &[u8]) {
    attest::cgroup(bytes);
}

/// `/proc/self/mountinfo`.
pub fn mountinfo(bytes: &[u8]) {
    attest::mountinfo(bytes);
}

/// `/proc/PID/status` and `/proc/PID/stat`: whatever name a process bears.
pub fn process(bytes: &[u8]) {
    crate::proc::fuzz::process(bytes);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn what_fuzzing_has_found_interesting_is_still_harmless() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 9] = [
            ("authority", super::authority),
            ("jwt", super::jwt),
            ("jwks", super::jwks),
            ("spiffe_id", super::spiffe_id),
            ("request", super::request),
            ("template", super::template),
            ("cgroup", super::cgroup),
            ("mountinfo", super::mountinfo),
            ("process", super::process),
        ];
        for (name, target) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/corpus")
                .join(name);
            let mut count = 0;
            for file in std::fs::read_dir(folder).unwrap() {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name}");
        }
    }
}
