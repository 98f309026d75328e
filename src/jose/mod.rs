//! JSON Web Signatures and keys (RFC 7515, 7517, 7518, 7638), as far as JWT-SVIDs use them.

pub mod json;
pub mod jwk;
pub mod jws;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use thiserror::Error;

/// A signature algorithm (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256: what every relying party takes.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// Every algorithm, in the order in which documents list them: RS256 first.
    pub const ALL: [Self; 2] = [Self::Rs256, Self::Es256];

    /// The registered name, as in `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// The text is not the name of a supported algorithm; names are case sensitive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the algorithm is not supported")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or(UnknownAlgorithm)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Base64url without padding (RFC 7515, appendix C).
pub fn encode_base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a base64url text; `None` for padding, foreign characters and spare bits that
/// are not zero, so that one byte string has one spelling.
pub fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(text).ok()
}
