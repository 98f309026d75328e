//! The documents that hold keys: the JWKS of OpenID Connect verifiers, and the SPIFFE bundle.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{NO_OBJECT, Notes, REWRITE};
use crate::jose::json::parse_object;
use crate::jose::jwk::{Jwk, JwkError};
use crate::jose::{Algorithm, decode_base64url};

/// Verifiers read a JWKS whole into memory, and many set themselves a limit.
const LARGE_JWKS: usize = 64 << 10;
/// AWS takes as many keys of each type.
const MAX_AWS_KEYS: usize = 100;
const MIN_RSA_BITS: usize = 2048;
/// The members that only a private or a shared key has (RFC 7518, section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Checks a JWKS for OpenID Connect verifiers and gives the keys that they can use.
pub fn check_jwks(bytes: &[u8], notes: &mut Notes<'_>) -> Vec<Jwk> {
    if bytes.len() > LARGE_JWKS {
        notes.warning(
            format!(
                "it has {} bytes, more than some verifiers read",
                bytes.len()
            ),
            "use fewer key blocks or a longer lifespan",
        );
    }
    let Some((_, keys)) = key_set(bytes, notes) else {
        return Vec::new();
    };
    if keys.is_empty() {
        notes.error("it holds no key, so every token is refused", REWRITE);
    }
    for kty in ["RSA", "EC"] {
        let count = keys
            .iter()
            .filter(|key| key.get("kty").is_some_and(|is| is == kty))
            .count();
        if count > MAX_AWS_KEYS {
            notes.error(
                format!("it holds {count} {kty} keys and AWS takes {MAX_AWS_KEYS} at most"),
                "use fewer key blocks or a longer lifespan",
            );
        }
    }
    check_keys(&keys, "sig", notes, signing_key)
}

/// Checks a SPIFFE bundle.
pub fn check_bundle(bytes: &[u8], notes: &mut Notes<'_>) {
    let Some((members, keys)) = key_set(bytes, notes) else {
        return;
    };
    for name in ["spiffe_sequence", "spiffe_refresh_hint"] {
        if !members.get(name).is_some_and(Value::is_u64) {
            notes.error(format!("{name} is missing or no whole number"), REWRITE);
        }
    }
    check_keys(&keys, "jwt-svid", notes, bundle_key);
}

/// The members of a JWK Set, and its keys.
fn key_set(bytes: &[u8], notes: &mut Notes<'_>) -> Option<(Map<String, Value>, Vec<Value>)> {
    let Some(mut members) = parse_object(bytes) else {
        notes.error(NO_OBJECT, REWRITE);
        return None;
    };
    let Some(Value::Array(keys)) = members.remove("keys") else {
        notes.error("keys is missing or no array", REWRITE);
        return None;
    };
    Some((members, keys))
}

/// Checks what is asked of keys everywhere, and gives those that `parse` can read.
fn check_keys(
    keys: &[Value],
    wanted_use: &str,
    notes: &mut Notes<'_>,
    parse: fn(&Map<String, Value>) -> Result<Jwk, String>,
) -> Vec<Jwk> {
    let mut kids = BTreeSet::new();
    let mut usable = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let at = format!("keys[{index}]");
        let Value::Object(key) = key else {
            notes.error(format!("{at} is no JSON object"), REWRITE);
            continue;
        };
        if let Some(name) = PRIVATE.iter().find(|name| key.contains_key(**name)) {
            notes.error(
                format!("{at} holds {name:?}, a part of a private key that all can read now"),
                "take the document away, and trust no token that this key signed",
            );
        }
        match key.get("kid").and_then(Value::as_str) {
            None | Some("") => notes.error(
                format!("{at} has no kid, so verifiers do not find it"),
                REWRITE,
            ),
            Some(kid) if !kids.insert(kid) => {
                notes.error(format!("{at} has the kid of another key"), REWRITE);
            }
            Some(_) => match parse(key) {
                Ok(jwk) => usable.push(jwk),
                Err(fault) => notes.error(format!("{at} {fault}"), REWRITE),
            },
        }
        check_use(&at, key.get("use"), wanted_use, notes);
    }
    usable
}

/// A key of a JWKS, or what is wrong with it.
fn signing_key(key: &Map<String, Value>) -> Result<Jwk, String> {
    let alg = key.get("alg").ok_or("has no alg")?;
    let name = alg.as_str().unwrap_or_default();
    if name.parse::<Algorithm>().is_err() {
        return Err(format!("has alg {alg}, which verifiers do not know"));
    }
    Jwk::from_json(key).map_err(|error| fault(key, error))
}

/// A key of a bundle, or what is wrong with it. It has no `alg`: any that its numbers fit will do.
fn bundle_key(key: &Map<String, Value>) -> Result<Jwk, String> {
    let read = |algorithm: &Algorithm| {
        let mut key = key.clone();
        key.insert("alg".to_owned(), json!(algorithm.name()));
        Jwk::from_json(&key)
    };
    let fits = |read: &Result<Jwk, JwkError>| *read != Err(JwkError::Kind);
    let read = Algorithm::ALL.iter().map(read).find(fits);
    read.unwrap_or(Err(JwkError::Kind))
        .map_err(|error| fault(key, error))
}

fn fault(key: &Map<String, Value>, error: JwkError) -> String {
    match (error, rsa_bits(key)) {
        (JwkError::Rsa, Some(bits)) if bits < MIN_RSA_BITS => {
            format!("is an RSA key of {bits} bits, and verifiers want {MIN_RSA_BITS} at least")
        }
        (JwkError::Kid, _) => "has a kid that is not its thumbprint, which tokens name".to_owned(),
        (error, _) => format!("is of no use to verifiers: {error}"),
    }
}

fn check_use(at: &str, found: Option<&Value>, wanted: &str, notes: &mut Notes<'_>) {
    let found = match found {
        Some(found) if found == wanted => return,
        Some(found) => format!("use {found}"),
        None => "no use".to_owned(),
    };
    let why = match wanted {
        "sig" => "and OpenID Connect verifiers look for",
        _ => "and SPIRE rejects the whole bundle unless it is",
    };
    notes.error(format!("{at} has {found}, {why} {wanted:?}"), REWRITE);
}

/// The length of the modulus of an RSA key.
fn rsa_bits(key: &Map<String, Value>) -> Option<usize> {
    let n = key.get("n").and_then(Value::as_str)?;
    let n = decode_base64url(n)?;
    let leading = n.iter().take_while(|byte| **byte == 0).count();
    let first = n.get(leading)?;
    Some((n.len() - leading) * 8 - first.leading_zeros() as usize)
}
