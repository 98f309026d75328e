//! The signing authority: which key signs for whom, and which public keys may be trusted.
//!
//! Others see a snapshot, replaced as a whole. A key is in it only after the documents that
//! verifiers read hold it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::entry::KeyRef;
use crate::issuer::IssuerUrl;
use crate::jose::jwk::Jwk;
use crate::key::signing::SigningKey;
use crate::spiffe_id::TrustDomain;

/// The keys of one issuer, all of them published.
#[derive(Debug, Clone)]
pub struct IssuerKeys {
    /// Its URL: the `iss` of its tokens.
    pub url: IssuerUrl,
    /// The key that signs, by name of its chain.
    pub active: BTreeMap<Arc<str>, Arc<SigningKey>>,
    /// Every key in its documents.
    pub public: Vec<Jwk>,
}

/// All that is published at one moment.
#[derive(Debug, Default)]
pub struct Published {
    /// The keys by name of the issuer.
    issuers: BTreeMap<Arc<str>, IssuerKeys>,
    /// What they make together; `None` where there is none yet.
    trusted: Option<Trusted>,
}

/// What the trust domain is verified with.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// The keys of all issuers.
    pub bundle: Arc<Bundle>,
    /// The same as callers of the Workload API get it.
    pub document: Bytes,
}

/// Hands out keys; the one writer is the rotator.
#[derive(Debug)]
pub struct Authority {
    trust_domain: TrustDomain,
    published: watch::Sender<Arc<Published>>,
}

/// What it takes to sign for an issuer.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The `iss`.
    pub issuer: IssuerUrl,
    /// The key.
    pub key: Arc<SigningKey>,
}

impl Authority {
    /// An authority without any key.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            published: watch::Sender::default(),
        }
    }

    /// The key that signs for a chain at this moment; `None` as long as none is published.
    pub fn signer(&self, chain: &KeyRef) -> Option<Signer> {
        let published = self.published.borrow();
        let issuer = published.issuers.get(&chain.issuer)?;
        Some(Signer {
            issuer: issuer.url.clone(),
            key: Arc::clone(issuer.active.get(&chain.key)?),
        })
    }

    /// What the trust domain is verified with: the keys of all issuers. `None` before any is
    /// published.
    pub fn trusted(&self) -> Option<Trusted> {
        self.published.borrow().trusted.clone()
    }

    /// Whether tokens that a key has signed are still to be believed.
    pub fn believes(&self, kid: &str) -> bool {
        let published = self.published.borrow();
        let mut keys = published.issuers.values().flat_map(|issuer| &issuer.public);
        keys.any(|key| key.kid() == kid)
    }

    /// Wakes when what is published has changed.
    pub fn changes(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Whose keys they are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Shows others these issuers, whose documents must hold their keys by now, and no other. Keys
    /// of `former` issuers sign no more, but their tokens are still to be believed.
    pub fn show(&self, issuers: BTreeMap<Arc<str>, IssuerKeys>, former: Vec<Jwk>) {
        let keys = issuers.values().flat_map(|issuer| &issuer.public).cloned();
        let bundle = Bundle::new(self.trust_domain.clone(), keys.chain(former));
        let trusted = (!issuers.is_empty()).then(|| Trusted {
            document: bundle.workload_jwks().into(),
            bundle: Arc::new(bundle),
        });
        self.published.send_if_modified(|shown| {
            let new = Published { issuers, trusted };
            let changed = !shown.is_as(&new);
            if changed {
                *shown = Arc::new(new);
            }
            changed
        });
    }
}

impl Published {
    fn is_as(&self, other: &Self) -> bool {
        let document = |all: &Self| all.trusted.as_ref().map(|trusted| trusted.document.clone());
        self.issuers == other.issuers && document(self) == document(other)
    }
}

impl PartialEq for IssuerKeys {
    fn eq(&self, other: &Self) -> bool {
        let signing = |keys: &Self| -> Vec<_> {
            let active = keys.active.iter();
            active
                .map(|(chain, key)| (Arc::clone(chain), key.jwk().shared_kid()))
                .collect()
        };
        self.url == other.url && self.public == other.public && signing(self) == signing(other)
    }
}
