//! What is published of the keys: one list, and a renderer for each reader.

use serde_json::{Value, json};

use crate::jose::jwk::Jwk;
use crate::spiffe_id::TrustDomain;

/// The member of a SPIFFE bundle that holds its number.
pub const SEQUENCE: &str = "spiffe_sequence";

/// The keys that may have signed for a trust domain, sorted by `kid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose keys they are.
    pub trust_domain: TrustDomain,
    /// The keys; none means that nothing is to be believed.
    pub keys: Vec<Jwk>,
}

impl Bundle {
    /// A bundle of these keys, in an order that depends on nothing but the keys. Those that no
    /// JWT-SVID may be signed with are left out.
    pub fn new(trust_domain: TrustDomain, keys: impl IntoIterator<Item = Jwk>) -> Self {
        let may_sign = |key: &Jwk| key.algorithm().is_for_jwt_svids();
        Self {
            trust_domain,
            keys: sorted(keys.into_iter().filter(may_sign)),
        }
    }

    /// The value that `FetchJWTBundles` gives (SPIFFE Workload API, section 6.2.2): a plain JWK
    /// Set without `use`, which some clients would not know.
    pub fn workload_jwks(&self) -> String {
        let keys: Value = self.keys.iter().map(Jwk::members).collect();
        json!({ "keys": keys }).to_string()
    }

    /// The SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4): each key with its use, and at
    /// the top the `sequence` by which readers tell what is newer and the seconds after which they
    /// should look again. Ends with a newline.
    pub fn document(&self, sequence: u64, refresh_hint: u64) -> String {
        let keys: Value = self
            .keys
            .iter()
            .map(|key| {
                let mut members = key.members();
                members.insert("use".to_owned(), json!("jwt-svid"));
                Value::Object(members)
            })
            .collect();
        let document = json!({
            "keys": keys,
            SEQUENCE: sequence,
            "spiffe_refresh_hint": refresh_hint,
        });
        format!("{document:#}\n")
    }
}

/// The document at `jwks_uri` of an OpenID Connect issuer, with `use` and `alg` since stock
/// verifiers look for them. Ends with a newline.
pub fn oidc_jwks(keys: &[Jwk]) -> String {
    let keys: Value = sorted(keys.iter().cloned())
        .iter()
        .map(|key| {
            let mut members = key.members();
            members.insert("use".to_owned(), json!("sig"));
            members.insert("alg".to_owned(), json!(key.algorithm().name()));
            Value::Object(members)
        })
        .collect();
    format!("{:#}\n", json!({ "keys": keys }))
}

fn sorted(keys: impl IntoIterator<Item = Jwk>) -> Vec<Jwk> {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_by(|a, b| a.kid().cmp(b.kid()));
    keys.dedup_by(|a, b| a.kid() == b.kid());
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::Algorithm;
    use crate::jose::jwk::PublicKey;

    fn keys() -> [Jwk; 2] {
        let rsa = PublicKey::Rsa {
            n: vec![0x80; 256],
            e: vec![1, 0, 1],
        };
        let p256 = PublicKey::Ec {
            curve: crate::jose::Curve::P256,
            x: vec![1; 32],
            y: vec![2; 32],
        };
        [
            Jwk::new(Algorithm::Rs256, rsa),
            Jwk::new(Algorithm::Es256, p256),
        ]
    }

    fn names(document: &str) -> Vec<Vec<String>> {
        let document: Value = serde_json::from_str(document).unwrap();
        let keys = document["keys"].as_array().unwrap();
        let members = |key: &Value| key.as_object().unwrap().keys().cloned().collect();
        keys.iter().map(members).collect()
    }

    #[test]
    fn documents_hold_exactly_the_members_that_their_readers_know() {
        let bundle = Bundle::new("td".parse().unwrap(), keys());
        for members in names(&bundle.workload_jwks()) {
            let rsa = ["e", "kid", "kty", "n"].map(str::to_owned).to_vec();
            let ec = ["crv", "kid", "kty", "x", "y"].map(str::to_owned).to_vec();
            assert!(members == rsa || members == ec, "{members:?}");
        }
        for members in names(&bundle.document(7, 300)) {
            let rsa = ["e", "kid", "kty", "n", "use"].map(str::to_owned).to_vec();
            let ec = ["crv", "kid", "kty", "use", "x", "y"].map(str::to_owned);
            assert!(members == rsa || members == ec.to_vec(), "{members:?}");
        }
        for members in names(&oidc_jwks(&keys())) {
            let rsa = ["alg", "e", "kid", "kty", "n", "use"].map(str::to_owned);
            let ec = ["alg", "crv", "kid", "kty", "use", "x", "y"].map(str::to_owned);
            assert!(
                members == rsa.to_vec() || members == ec.to_vec(),
                "{members:?}"
            );
        }
    }

    #[test]
    fn the_order_of_the_keys_does_not_change_the_bytes() {
        let [a, b] = keys();
        let both = [a.clone(), b.clone()];
        let turned = [b.clone(), a.clone()];
        assert_eq!(oidc_jwks(&both), oidc_jwks(&turned));
        let domain = || "td".parse().unwrap();
        assert_eq!(
            Bundle::new(domain(), both).workload_jwks(),
            Bundle::new(domain(), turned).workload_jwks()
        );
        assert_eq!(Bundle::new(domain(), []).workload_jwks(), r#"{"keys":[]}"#);
    }
}
