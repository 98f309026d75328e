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

    /// Whether the documents of an issuer are out.
    pub fn publishes(&self, issuer: &str) -> bool {
        self.published.borrow().issuers.contains_key(issuer)
    }

    /// What the trust domain is verified with: the keys of all issuers. `None` before any is
    /// published.
    pub fn trusted(&self) -> Option<Trusted> {
        self.published.borrow().trusted.clone()
    }

    /// Wakes when what is published has changed.
    pub fn changes(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// Shows others the keys of issuers, which their documents must hold by now, beside those that
    /// are shown; chains of the same name give way.
    pub fn add(&self, keys: &BTreeMap<Arc<str>, IssuerKeys>) {
        let mut all = self.published.borrow().issuers.clone();
        for (name, new) in keys {
            let mut new = new.clone();
            if let Some(old) = all.get(name) {
                for (chain, key) in &old.active {
                    new.active
                        .entry(Arc::clone(chain))
                        .or_insert_with(|| Arc::clone(key));
                }
            }
            all.insert(Arc::clone(name), new);
        }
        self.replace(all);
    }

    /// Shows others these keys and no other.
    pub fn replace(&self, issuers: BTreeMap<Arc<str>, IssuerKeys>) {
        let keys = issuers.values().flat_map(|issuer| &issuer.public).cloned();
        let bundle = Bundle::new(self.trust_domain.clone(), keys);
        let document = bundle.workload_jwks().into();
        let trusted = (!issuers.is_empty()).then(|| Trusted {
            bundle: Arc::new(bundle),
            document,
        });
        self.published
            .send_replace(Arc::new(Published { issuers, trusted }));
    }
}
