//! JWS compact serialization (RFC 7515, section 7.1), read strictly.

use aws_lc_rs::signature::{ECDSA_P521_SHA512_FIXED, UnparsedPublicKey};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use thiserror::Error;

use super::jwk::{Jwk, PublicKey, uncompressed};
use super::{Algorithm, decode_base64url, encode_base64url, json};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Why a text is no JWS that we would look at. No message holds a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JwsError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than 16 KiB")]
    TooLong,
    /// Not three parts of base64url between dots.
    #[error(
        "the token is not a JWS in compact serialization: three parts of base64url with dots between them"
    )]
    Form,
    /// Header or payload is no JSON object with unique members.
    #[error("the header or the payload of the token is not a JSON object with unique members")]
    Json,
    /// `alg` is missing, `none`, symmetric or otherwise not one of ours.
    #[error("the algorithm of the token is not supported")]
    Algorithm,
    /// `typ` is there and neither `JWT` nor `JOSE` (JWT-SVID, section 2.3).
    #[error("the typ of the token is neither JWT nor JOSE")]
    Type,
    /// `kid` is no string.
    #[error("the kid of the token is not a string")]
    KeyId,
    /// Another header parameter (JWT-SVID, section 2), `crit` and embedded keys among them.
    #[error("the header of the token has a parameter other than alg, kid and typ")]
    Parameter,
}

/// A token whose form is right and whose signature nobody has checked yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    signing_input: &'a str,
    signature: &'a str,
    algorithm: Algorithm,
    kid: Option<String>,
    payload: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn parse(token: &'a str) -> Result<Self, JwsError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwsError::TooLong);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::Form)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Form)?;
        let bytes = |part: &str| match decode_base64url(part) {
            Some(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(JwsError::Form),
        };
        let (header, payload) = (bytes(header)?, bytes(payload)?);
        let header = json::parse_object(&header).ok_or(JwsError::Json)?;
        let (algorithm, kid) = check_header(&header)?;
        bytes(signature)?;
        let payload = json::parse_object(&payload).ok_or(JwsError::Json)?;
        Ok(Self {
            signing_input,
            signature,
            algorithm,
            kid,
            payload,
        })
    }

    /// The claims, to choose a key by; nothing in them is to be believed.
    pub fn untrusted_payload(&self) -> &Map<String, Value> {
        &self.payload
    }

    /// The payload, if one of `keys` made the signature: the one that `kid` names, or without
    /// `kid` any (JWT-SVID, section 2.2), and only one made for exactly this algorithm.
    pub fn verified_by<'k>(
        self,
        keys: impl IntoIterator<Item = &'k Jwk>,
    ) -> Option<Map<String, Value>> {
        let fits = |key: &&Jwk| {
            key.algorithm() == self.algorithm
                && self.kid.as_deref().is_none_or(|kid| kid == key.kid())
        };
        keys.into_iter()
            .filter(fits)
            .any(|key| self.is_signed_by(key))
            .then_some(self.payload)
    }

    fn is_signed_by(&self, key: &Jwk) -> bool {
        use jsonwebtoken::Algorithm as Known;

        let algorithm = match self.algorithm {
            Algorithm::Rs256 => Known::RS256,
            Algorithm::Rs384 => Known::RS384,
            Algorithm::Rs512 => Known::RS512,
            Algorithm::Ps256 => Known::PS256,
            Algorithm::Ps384 => Known::PS384,
            Algorithm::Ps512 => Known::PS512,
            Algorithm::Es256 => Known::ES256,
            Algorithm::Es384 => Known::ES384,
            Algorithm::Es512 => return self.is_signed_with_es512_by(key),
            Algorithm::EdDsa => return false,
        };
        let decoding_key = match key.key() {
            PublicKey::Rsa { n, e } => Ok(DecodingKey::from_rsa_raw_components(n, e)),
            PublicKey::Ec { x, y, .. } => {
                DecodingKey::from_ec_components(&encode_base64url(x), &encode_base64url(y))
            }
            PublicKey::Ed25519 { .. } => return false,
        };
        let message = self.signing_input.as_bytes();
        decoding_key
            .and_then(|key| jsonwebtoken::crypto::verify(self.signature, message, &key, algorithm))
            .unwrap_or(false)
    }

    /// The one algorithm that jsonwebtoken does not know.
    fn is_signed_with_es512_by(&self, key: &Jwk) -> bool {
        let PublicKey::Ec { x, y, .. } = key.key() else {
            return false;
        };
        let point = uncompressed(x, y);
        let signature = decode_base64url(self.signature).unwrap_or_default();
        UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point)
            .verify(self.signing_input.as_bytes(), &signature)
            .is_ok()
    }
}

fn check_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), JwsError> {
    if header
        .keys()
        .any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"))
    {
        return Err(JwsError::Parameter);
    }
    match header.get("typ").map(Value::as_str) {
        None | Some(Some("JWT" | "JOSE")) => {}
        Some(_) => return Err(JwsError::Type),
    }
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(|name| name.parse().ok())
        .filter(|algorithm: &Algorithm| algorithm.is_for_jwt_svids())
        .ok_or(JwsError::Algorithm)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(JwsError::KeyId),
    };
    Ok((algorithm, kid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let part = encode_base64url;
        format!("{}.{}.{}", part(header), part(payload), part("signature"))
    }

    #[test]
    fn headers_that_the_standard_forbids_are_refused() {
        use JwsError::*;
        for (header, why) in [
            (r#"{"alg":"none"}"#, Algorithm),
            (r#"{"alg":"nOnE"}"#, Algorithm),
            (r#"{"alg":"HS256"}"#, Algorithm),
            (r#"{"alg":"EdDSA"}"#, Algorithm),
            (r#"{"alg":"rs256"}"#, Algorithm),
            (r#"{"alg":1}"#, Algorithm),
            (r#"{}"#, Algorithm),
            (r#"{"alg":"RS256","typ":"jwt"}"#, Type),
            (r#"{"alg":"RS256","typ":"at+jwt"}"#, Type),
            (r#"{"alg":"RS256","typ":null}"#, Type),
            (r#"{"alg":"RS256","kid":1}"#, KeyId),
            (r#"{"alg":"RS256","crit":["x"]}"#, Parameter),
            (r#"{"alg":"RS256","jwk":{}}"#, Parameter),
            (r#"{"alg":"RS256","jku":"https://x"}"#, Parameter),
            (r#"{"alg":"RS256","alg":"RS256"}"#, Json),
            (r#"[]"#, Json),
        ] {
            let refused = Unverified::parse(&token(header, "{}")).unwrap_err();
            assert_eq!(refused, why, "{header}");
        }
        for header in [
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"ES256","typ":"JOSE","kid":"k"}"#,
            r#"{"alg":"ES256","typ":"JWT"}"#,
        ] {
            assert!(Unverified::parse(&token(header, "{}")).is_ok(), "{header}");
        }
    }

    #[test]
    fn texts_that_are_not_three_strict_parts_are_refused() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        let (unsigned, signature) = good.rsplit_once('.').unwrap();
        for text in [
            String::new(),
            "a".to_owned(),
            "..".to_owned(),
            unsigned.to_owned(),
            format!("{unsigned}."),
            format!("{good}.{signature}"),
            format!("{good}="),
            format!("{good} "),
            format!("{good}\n"),
            format!("{unsigned}.{signature}A"),
            r#"{"payload":"","signatures":[]}"#.to_owned(),
        ] {
            assert_eq!(
                Unverified::parse(&text).unwrap_err(),
                JwsError::Form,
                "{text}"
            );
        }
        let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
        assert_eq!(Unverified::parse(&long).unwrap_err(), JwsError::TooLong);
    }
}
