//! Public keys (RFC 7517, RFC 7518 section 6) and their thumbprints (RFC 7638).

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey};
use rsa::BigUint;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{Algorithm, Curve, Family, decode_base64url, encode_base64url};

/// The numbers of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// Modulus and exponent, big-endian without leading zeros.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
    /// A point of a curve.
    Ec {
        /// The curve.
        curve: Curve,
        /// First coordinate, as long as the curve's coordinates are.
        x: Vec<u8>,
        /// Second coordinate, as long.
        y: Vec<u8>,
    },
    /// A public key of Ed25519.
    Ed25519 {
        /// The encoded point, 32 bytes.
        x: Vec<u8>,
    },
}

/// A public signing key with the algorithm that it is for; its `kid` is its thumbprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwk {
    kid: Arc<str>,
    algorithm: Algorithm,
    key: PublicKey,
}

/// Why a JWK is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JwkError {
    /// A member is missing, of the wrong type or no base64url.
    #[error("the JWK lacks a member or has one of the wrong form")]
    Form,
    /// The key type does not fit the algorithm.
    #[error("the key is not of the kind that its algorithm needs")]
    Kind,
    /// The RSA key is not from 2048 to 8192 bits, or its numbers are no RSA key.
    #[error("the RSA key is weak or malformed")]
    Rsa,
    /// The point is not on the curve.
    #[error("the point is not on the curve")]
    Point,
    /// The `kid` is not the thumbprint.
    #[error("the kid is not the thumbprint of the key")]
    Kid,
}

impl Jwk {
    /// A key of our own, whose numbers come from the library that made it.
    pub fn new(algorithm: Algorithm, key: PublicKey) -> Self {
        Self {
            kid: thumbprint(&key).into(),
            algorithm,
            key,
        }
    }

    /// A key from outside, every number of it checked.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn from_json(members: &Map<String, Value>) -> Result<Self, JwkError> {
        let text = |name: &str| members.get(name)?.as_str();
        let bytes = |name: &str| text(name).and_then(decode_base64url).ok_or(JwkError::Form);
        let algorithm: Algorithm = text("alg")
            .and_then(|name| name.parse().ok())
            .ok_or(JwkError::Form)?;
        let key = match (algorithm.family(), text("kty"), text("crv")) {
            (Family::Rsa, Some("RSA"), None) => PublicKey::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            (Family::Ec(curve), Some("EC"), Some(name)) if name == curve.name() => PublicKey::Ec {
                curve,
                x: bytes("x")?,
                y: bytes("y")?,
            },
            (Family::Ed25519, Some("OKP"), Some("Ed25519")) => {
                PublicKey::Ed25519 { x: bytes("x")? }
            }
            _ => return Err(JwkError::Kind),
        };
        check(&key)?;
        let jwk = Self::new(algorithm, key);
        if text("kid") == Some(jwk.kid()) {
            Ok(jwk)
        } else {
            Err(JwkError::Kid)
        }
    }

    /// The key id: the SHA-256 thumbprint, 43 characters of base64url.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The same, for others to keep.
    pub fn shared_kid(&self) -> Arc<str> {
        Arc::clone(&self.kid)
    }

    /// The one algorithm that this key verifies.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The numbers.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// `kid`, `kty` and the numbers: the members that every document shares.
    pub fn members(&self) -> Map<String, Value> {
        let mut members = required_members(&self.key);
        members.insert("kid".to_owned(), json!(&*self.kid));
        members
    }
}

/// Checks numbers that somebody else gave us.
fn check(key: &PublicKey) -> Result<(), JwkError> {
    match key {
        PublicKey::Rsa { n, e } => {
            let leading_zero = n.first() == Some(&0) || e.first() == Some(&0);
            let bits = n.len() * 8;
            if leading_zero || !(2048..=8192).contains(&bits) {
                return Err(JwkError::Rsa);
            }
            let (n, e) = (BigUint::from_bytes_be(n), BigUint::from_bytes_be(e));
            rsa::RsaPublicKey::new_with_max_size(n, e, 8192)
                .map(drop)
                .map_err(|_| JwkError::Rsa)
        }
        PublicKey::Ec { curve, x, y } => check_point(*curve, x, y),
        // Every 32 bytes are an encoding; one that is no point verifies nothing.
        PublicKey::Ed25519 { x } if x.len() == 32 => Ok(()),
        PublicKey::Ed25519 { .. } => Err(JwkError::Point),
    }
}

fn check_point(curve: Curve, x: &[u8], y: &[u8]) -> Result<(), JwkError> {
    let length = curve.coordinate_bytes();
    if x.len() != length || y.len() != length {
        return Err(JwkError::Point);
    }
    let point = uncompressed(x, y);
    let on_curve = match curve {
        Curve::P256 => p256::PublicKey::from_sec1_bytes(&point).is_ok(),
        Curve::P384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).is_ok(),
        Curve::P521 => ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, &point).is_ok(),
    };
    on_curve.then_some(()).ok_or(JwkError::Point)
}

/// A point as its coordinates (SEC 1, section 2.3.3).
pub fn uncompressed(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

/// The members that a thumbprint is made of (RFC 7638, section 3.2). The map sorts its names,
/// which is the order that the thumbprint wants.
fn required_members(key: &PublicKey) -> Map<String, Value> {
    let members = match key {
        PublicKey::Rsa { n, e } => vec![
            ("kty", "RSA".to_owned()),
            ("n", encode_base64url(n)),
            ("e", encode_base64url(e)),
        ],
        PublicKey::Ec { curve, x, y } => vec![
            ("kty", "EC".to_owned()),
            ("crv", curve.name().to_owned()),
            ("x", encode_base64url(x)),
            ("y", encode_base64url(y)),
        ],
        PublicKey::Ed25519 { x } => vec![
            ("kty", "OKP".to_owned()),
            ("crv", "Ed25519".to_owned()),
            ("x", encode_base64url(x)),
        ],
    };
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect()
}

fn thumbprint(key: &PublicKey) -> String {
    let canonical = Value::Object(required_members(key)).to_string();
    encode_base64url(digest(&SHA256, canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7638, section 3.1.
    fn rfc7638() -> Map<String, Value> {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        json!({
            "kty": "RSA", "e": "AQAB", "n": n, "alg": "RS256",
            "kid": "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
        })
        .as_object()
        .unwrap()
        .clone()
    }

    fn changed(name: &str, value: Value) -> Result<Jwk, JwkError> {
        let mut members = rfc7638();
        members.insert(name.to_owned(), value);
        Jwk::from_json(&members)
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        let jwk = Jwk::from_json(&rfc7638()).unwrap();
        assert_eq!(jwk.kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn weak_and_malformed_keys_from_outside_are_refused() {
        assert_eq!(changed("kid", json!("x")), Err(JwkError::Kid));
        assert_eq!(changed("e", json!("AQ")), Err(JwkError::Rsa));
        assert_eq!(changed("e", json!("AA")), Err(JwkError::Rsa));
        assert_eq!(changed("n", json!("AQAB")), Err(JwkError::Rsa));
        assert_eq!(changed("n", json!(7)), Err(JwkError::Form));
        assert_eq!(changed("n", json!("a=")), Err(JwkError::Form));
        assert_eq!(changed("alg", json!("ES256")), Err(JwkError::Kind));
        assert_eq!(changed("alg", json!("none")), Err(JwkError::Form));
        assert_eq!(changed("kty", json!("oct")), Err(JwkError::Kind));
    }

    #[test]
    fn a_point_off_its_curve_or_of_the_wrong_length_is_refused() {
        for (crv, alg, length) in [
            ("P-256", "ES256", 32),
            ("P-256", "ES256", 31),
            ("P-384", "ES384", 48),
            ("P-521", "ES512", 66),
            ("P-521", "ES512", 65),
        ] {
            let coordinate = encode_base64url(vec![1u8; length]);
            let members = json!({
                "kty": "EC", "crv": crv, "alg": alg, "x": coordinate, "y": coordinate, "kid": "k",
            });
            let refused = Jwk::from_json(members.as_object().unwrap());
            assert_eq!(refused, Err(JwkError::Point), "{crv} {length}");
        }
        let short = json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": encode_base64url([1u8; 31]), "kid": "k",
        });
        let refused = Jwk::from_json(short.as_object().unwrap());
        assert_eq!(refused, Err(JwkError::Point));
    }
}
