//! Private keys. Made, parsed and used by aws-lc-rs alone, whose private-key operations take
//! the same time for every key; parsed once and kept.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPublicKeyUncompressedBin, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use pem_rfc7468::LineEnding;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::jose::jwk::{Jwk, PublicKey};
use crate::jose::{Algorithm, Curve, Family};

const PEM_LABEL: &str = "PRIVATE KEY";

/// How the keys of a chain are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// What they sign with.
    pub algorithm: Algorithm,
    /// Size of RSA keys; without meaning for others.
    pub rsa_size: RsaSize,
}

/// Sizes of RSA keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaSize {
    /// 2048 bits.
    Bits2048,
    /// 3072 bits.
    Bits3072,
    /// 4096 bits.
    Bits4096,
}

impl RsaSize {
    /// The size with this many bits.
    pub fn from_bits(bits: i64) -> Option<Self> {
        match bits {
            2048 => Some(Self::Bits2048),
            3072 => Some(Self::Bits3072),
            4096 => Some(Self::Bits4096),
            _ => None,
        }
    }

    fn bits(self) -> usize {
        match self {
            Self::Bits2048 => 2048,
            Self::Bits3072 => 3072,
            Self::Bits4096 => 4096,
        }
    }
}

impl KeySpec {
    /// Whether a key is such a key.
    pub fn fits(&self, jwk: &Jwk) -> bool {
        jwk.algorithm() == self.algorithm
            && match jwk.key() {
                PublicKey::Rsa { n, .. } => n.len() * 8 == self.rsa_size.bits(),
                PublicKey::Ec { .. } | PublicKey::Ed25519 { .. } => true,
            }
    }

    /// Whether a key of another kind may go on in its place until a fitting one is ready: it can
    /// sign the same tokens.
    pub fn may_stand_in(&self, jwk: &Jwk) -> bool {
        self.algorithm.is_for_jwt_svids() == jwk.algorithm().is_for_jwt_svids()
    }
}

/// Why there is no key or no signature. Says nothing of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The library could not make a key.
    #[error("no key could be generated")]
    Generate,
    /// The file is no PKCS#8 PEM.
    #[error("it is no PEM file with a PKCS#8 private key")]
    Pem,
    /// The key is of another kind than its algorithm needs, or inconsistent.
    #[error("it holds no sound {0} key")]
    Kind(Algorithm),
    /// The library could not sign.
    #[error("the key could not sign")]
    Sign,
}

/// A private key and the public key that belongs to it.
pub struct SigningKey {
    jwk: Jwk,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, Curve),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// Makes a new key. An RSA key takes some ten milliseconds to seconds: not for a thread that
    /// serves callers.
    ///
    /// # Errors
    ///
    /// [`KeyError::Generate`].
    pub fn generate(spec: &KeySpec) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate;
        let pair = match spec.algorithm.family() {
            Family::Rsa => {
                let size = match spec.rsa_size {
                    RsaSize::Bits2048 => KeySize::Rsa2048,
                    RsaSize::Bits3072 => KeySize::Rsa3072,
                    RsaSize::Bits4096 => KeySize::Rsa4096,
                };
                let pair = RsaKeyPair::generate(size).map_err(failed)?;
                Pair::Rsa(pair, rsa_encoding(spec.algorithm))
            }
            Family::Ec(curve) => {
                let pair = EcdsaKeyPair::generate(on_curve(curve)).map_err(failed)?;
                Pair::Ec(pair, curve)
            }
            Family::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?),
        };
        Self::new(spec.algorithm, pair)
    }

    /// Reads a key that [`SigningKey::to_pem`] wrote.
    ///
    /// # Errors
    ///
    /// [`KeyError::Pem`] or [`KeyError::Kind`].
    pub fn from_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let (label, der) = pem_rfc7468::decode_vec(pem).map_err(|_| KeyError::Pem)?;
        let der = Zeroizing::new(der);
        if label != PEM_LABEL {
            return Err(KeyError::Pem);
        }
        let pair =
            match algorithm.family() {
                Family::Rsa => RsaKeyPair::from_pkcs8(&der)
                    .map(|pair| Pair::Rsa(pair, rsa_encoding(algorithm))),
                Family::Ec(curve) => EcdsaKeyPair::from_pkcs8(on_curve(curve), &der)
                    .map(|pair| Pair::Ec(pair, curve)),
                Family::Ed25519 => Ed25519KeyPair::from_pkcs8(&der).map(Pair::Ed25519),
            };
        Self::new(algorithm, pair.map_err(|_| KeyError::Kind(algorithm))?)
    }

    fn new(algorithm: Algorithm, pair: Pair) -> Result<Self, KeyError> {
        let public = match &pair {
            Pair::Rsa(pair, _) => PublicKey::Rsa {
                n: pair
                    .public_key()
                    .modulus()
                    .big_endian_without_leading_zero()
                    .to_vec(),
                e: pair
                    .public_key()
                    .exponent()
                    .big_endian_without_leading_zero()
                    .to_vec(),
            },
            Pair::Ec(pair, curve) => {
                let point: EcPublicKeyUncompressedBin<'_> = pair
                    .public_key()
                    .as_be_bytes()
                    .map_err(|_| KeyError::Kind(algorithm))?;
                let length = curve.coordinate_bytes();
                match point.as_ref().split_first() {
                    Some((4, coordinates)) if coordinates.len() == 2 * length => {
                        let (x, y) = coordinates.split_at(length);
                        PublicKey::Ec {
                            curve: *curve,
                            x: x.to_vec(),
                            y: y.to_vec(),
                        }
                    }
                    _ => return Err(KeyError::Kind(algorithm)),
                }
            }
            Pair::Ed25519(pair) => PublicKey::Ed25519 {
                x: pair.public_key().as_ref().to_vec(),
            },
        };
        Ok(Self {
            jwk: Jwk::new(algorithm, public),
            pair,
        })
    }

    /// The private key as unencrypted PKCS#8 in PEM (RFC 5958, RFC 7468).
    ///
    /// # Errors
    ///
    /// [`KeyError::Pem`] where the library cannot encode it.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let encode = |der: &[u8]| pem_rfc7468::encode_string(PEM_LABEL, LineEnding::LF, der);
        let pem = match &self.pair {
            Pair::Rsa(pair, _) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::Pem)?;
                encode(der.as_ref())
            }
            Pair::Ec(pair, _) => {
                let der = pair.to_pkcs8v1().map_err(|_| KeyError::Pem)?;
                encode(der.as_ref())
            }
            Pair::Ed25519(pair) => {
                let der = pair.to_pkcs8v1().map_err(|_| KeyError::Pem)?;
                encode(der.as_ref())
            }
        };
        pem.map(Zeroizing::new).map_err(|_| KeyError::Pem)
    }

    /// The public key.
    pub fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Whether a signature costs so much that it must not be made on a thread that serves
    /// callers. P-256 and Ed25519 take less than the way to another thread; RSA with 2048 bits
    /// takes twenty times as long.
    pub fn is_slow(&self) -> bool {
        !matches!(self.pair, Pair::Ec(_, Curve::P256) | Pair::Ed25519(_))
    }

    /// The signature over `message`, in the form that JWS wants (RFC 7518, sections 3.3 to 3.5;
    /// RFC 8037, section 3.1).
    ///
    /// # Errors
    ///
    /// [`KeyError::Sign`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| KeyError::Sign)?;
                Ok(signature)
            }
            Pair::Ec(pair, _) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::Sign),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn on_curve(curve: Curve) -> &'static EcdsaSigningAlgorithm {
    match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
    }
}

/// How an RSA key signs; asked only about algorithms of its family.
fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::Rs384 => &RSA_PKCS1_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_SHA512,
        Algorithm::Ps256 => &RSA_PSS_SHA256,
        Algorithm::Ps384 => &RSA_PSS_SHA384,
        Algorithm::Ps512 => &RSA_PSS_SHA512,
        _ => &RSA_PKCS1_SHA256,
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.jwk.algorithm(), self.jwk.kid())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A key for tests.
    pub fn key(algorithm: Algorithm) -> SigningKey {
        let spec = KeySpec {
            algorithm,
            rsa_size: RsaSize::Bits2048,
        };
        SigningKey::generate(&spec).unwrap()
    }

    #[test]
    fn a_key_written_and_read_is_the_same_key() {
        for algorithm in Algorithm::ALL {
            let made = key(algorithm);
            let pem = made.to_pem().unwrap();
            let read = SigningKey::from_pem(algorithm, pem.as_bytes()).unwrap();
            assert_eq!(read.jwk(), made.jwk());
        }
    }

    #[test]
    fn public_keys_pass_the_checks_for_keys_from_outside() {
        for algorithm in Algorithm::ALL {
            let jwk = key(algorithm).jwk().clone();
            let mut members = jwk.members();
            members.insert("alg".into(), algorithm.name().into());
            assert_eq!(Jwk::from_json(&members), Ok(jwk));
        }
    }

    #[test]
    fn a_key_of_the_wrong_kind_or_a_torn_file_is_refused_without_a_word_of_its_content() {
        let pem = key(Algorithm::Es256).to_pem().unwrap();
        let wrong = SigningKey::from_pem(Algorithm::Rs256, pem.as_bytes()).unwrap_err();
        assert_eq!(wrong, KeyError::Kind(Algorithm::Rs256));
        let torn = &pem.as_bytes()[..pem.len() / 2];
        assert_eq!(
            SigningKey::from_pem(Algorithm::Es256, torn).unwrap_err(),
            KeyError::Pem
        );
        assert_eq!(
            SigningKey::from_pem(Algorithm::Es256, b"").unwrap_err(),
            KeyError::Pem
        );
    }

    #[test]
    fn printing_a_key_shows_its_kid_and_nothing_private() {
        let key = key(Algorithm::Es256);
        assert_eq!(
            format!("{key:?}"),
            format!("SigningKey(ES256 {})", key.jwk().kid())
        );
    }
}
