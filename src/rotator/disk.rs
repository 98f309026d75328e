//! The rotator's hand on the disk: which keys there are, and the order in which they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::IssuerSpec;
use crate::authority::IssuerKeys;
use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::jose::jwk::Jwk;
use crate::key::record::{KeyRecord, KeyState};
use crate::key::signing::{KeySpec, SigningKey};
use crate::key::store::{KeyStore, StoreError};

/// What becomes of keys that sign and that the configuration has no place for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// They go on.
    GoesOn,
    /// They cease to sign, and stay in the documents for the tokens they have signed.
    Retires,
}

/// The keys on disk and what is recorded of them.
#[derive(Debug)]
pub struct Disk {
    /// The files.
    pub store: KeyStore,
    /// The records, as they are on the disk.
    pub records: Vec<KeyRecord>,
}

impl Disk {
    /// The key of a chain that signs, or may begin to: of the kind that is configured now.
    pub fn usable(&self, chain: &KeyRef, spec: &KeySpec) -> Option<&KeyRecord> {
        let mut candidates: Vec<_> = self
            .records
            .iter()
            .filter(|record| record.chain == *chain && spec.fits(&record.jwk))
            .filter(|record| record.state() != KeyState::Retired)
            .collect();
        candidates.sort_by_key(|record| record.state() != KeyState::Active);
        candidates.first().copied()
    }

    /// Whether every chain of an issuer has a key.
    pub fn has_all_keys(&self, issuer: &IssuerSpec) -> bool {
        issuer
            .keys()
            .all(|(chain, spec)| self.usable(&chain, spec).is_some())
    }

    /// Every key of an issuer, for its documents.
    pub fn public_keys(&self, issuer: &str) -> Vec<Jwk> {
        let of_issuer = self
            .records
            .iter()
            .filter(|record| &*record.chain.issuer == issuer);
        of_issuer.map(|record| record.jwk.clone()).collect()
    }

    /// What others need to sign for an issuer, and to trust it.
    pub fn signing_keys(&self, issuer: &IssuerSpec) -> Result<IssuerKeys, StoreError> {
        let mut active = BTreeMap::new();
        for (chain, spec) in issuer.keys() {
            if let Some(record) = self.usable(&chain, spec) {
                active.insert(chain.key, Arc::new(self.store.load(&record.jwk)?));
            }
        }
        Ok(IssuerKeys {
            url: issuer.webroot.url.clone(),
            active,
            public: self.public_keys(&issuer.name),
        })
    }

    /// Makes a new key durable, first itself, then its record.
    pub fn prepare(
        &mut self,
        chain: KeyRef,
        key: &SigningKey,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        self.store.put(key)?;
        let now = self.store.stamp(clock);
        let mut records = self.records.clone();
        records.push(KeyRecord::prepared(chain, key.jwk().clone(), now));
        self.save(records, clock)
    }

    /// Records that the keys of an issuer are published and which of them sign. A key of a kind
    /// that is not configured any more, or of a chain that is gone, ceases to sign and stays in
    /// the documents for the tokens it has signed.
    pub fn activate(
        &mut self,
        issuer: &IssuerSpec,
        former: Former,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let now = self.store.stamp(clock);
        let signing: Vec<String> = issuer
            .keys()
            .filter_map(|(chain, spec)| {
                self.usable(&chain, spec)
                    .map(|record| record.jwk.kid().to_owned())
            })
            .collect();
        let mut records = self.records.clone();
        for record in records.iter_mut().filter(|r| r.chain.issuer == issuer.name) {
            record.published.get_or_insert_with(|| now.clone());
            if signing.iter().any(|kid| kid == record.jwk.kid()) {
                record.activated.get_or_insert_with(|| now.clone());
            } else if former == Former::Retires && record.state() == KeyState::Active {
                record.retired = Some(now.clone());
            }
        }
        if records == self.records {
            Ok(())
        } else {
            self.save(records, clock)
        }
    }

    fn save(&mut self, records: Vec<KeyRecord>, clock: &dyn Clock) -> Result<(), StoreError> {
        self.store.save(&records, clock)?;
        self.records = records;
        Ok(())
    }
}
