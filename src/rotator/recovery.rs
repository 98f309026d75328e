//! The keys as they are found at a start: what is damaged is set aside, never written over, and
//! what was lost is told anew as far as it can be.

use std::sync::Arc;

use super::hand::Hand;
use super::{IssuerSpec, RotationError};
use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::key::plan::ChainSpec;
use crate::key::record::{KeyRecord, KeyState};
use crate::key::store::{Found, KeyStore, State, StoreError};

/// Takes the keys up. Whatever had to be changed is recorded before it counts.
///
/// # Errors
///
/// A key file cannot be read although it is there, or the records cannot be written.
pub fn take_up(
    issuers: &[IssuerSpec],
    clock: &dyn Clock,
    mut store: KeyStore,
    state: State,
    found: Found,
) -> Result<Hand, RotationError> {
    let mut taken = state.clone();
    if found == Found::Lost {
        taken.keys = salvaged(issuers, clock, &store);
        tracing::error!(
            keys = taken.keys.len(),
            "the records of the keys are lost: the published ones go on as retired, new ones are made"
        );
    }
    if found != Found::Whole {
        // The number of the bundle never falls, and never names two of them.
        let shown = issuers
            .iter()
            .map(|issuer| issuer.webroot.sequence_on_disk());
        taken.bundle.sequence = shown.fold(taken.bundle.sequence, u64::max);
        taken.bundle.content.clear();
    }
    let mut secrets = Vec::new();
    let now = store.watch().now(clock).stamp;
    let mut keep = Vec::new();
    for mut record in taken.keys {
        let signs = matches!(
            record.state(),
            KeyState::Prepared | KeyState::Published | KeyState::Active
        );
        if signs {
            match store.load(&record.jwk) {
                Ok(key) => secrets.push(Arc::new(key)),
                Err(error) if is_lost(&error) => {
                    tracing::error!(key = %record.chain, %error, "a signing key is lost");
                    store.quarantine(&record.jwk)?;
                    if record.published.is_none() {
                        continue;
                    }
                    // One that has never signed has no token to stay for.
                    record.activated.get_or_insert_with(|| now.clone());
                    record.retired = Some(now.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        keep.push(record);
    }
    taken.keys = keep;
    if taken != state || found != Found::Whole {
        store.save(&taken, clock)?;
    }
    store.tidy(&taken.keys)?;
    Ok(Hand::new(store, taken, secrets))
}

/// Whether the file of a key is gone, or is none.
fn is_lost(error: &StoreError) -> bool {
    match error {
        StoreError::KeyDamaged { .. } => true,
        StoreError::File { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The keys that verifiers find in the documents and that we have the private part of: nobody who
/// can write the documents alone gets a key believed.
fn salvaged(issuers: &[IssuerSpec], clock: &dyn Clock, store: &KeyStore) -> Vec<KeyRecord> {
    let now = store.watch().now(clock).stamp;
    let mut records: Vec<KeyRecord> = Vec::new();
    for issuer in issuers {
        for jwk in issuer.webroot.jwks_on_disk() {
            let known = records.iter().any(|record| record.jwk.kid() == jwk.kid());
            let Some((key, spec)) = chain_of(issuer, &jwk).filter(|_| !known) else {
                continue;
            };
            if store.load(&jwk).is_ok() {
                let chain = KeyRef {
                    issuer: Arc::clone(&issuer.name),
                    key: Arc::clone(key),
                };
                records.push(KeyRecord {
                    published: Some(now.clone()),
                    activated: Some(now.clone()),
                    retired: Some(now.clone()),
                    keep: spec.policy.keep,
                    ..KeyRecord::prepared(chain, jwk, now.clone())
                });
            }
        }
    }
    records
}

/// The chain that a key of an issuer most likely belongs to.
fn chain_of<'a>(
    issuer: &'a IssuerSpec,
    jwk: &crate::jose::jwk::Jwk,
) -> Option<(&'a Arc<str>, &'a ChainSpec)> {
    let fitting = issuer.chains.iter().find(|(_, spec)| spec.key.fits(jwk));
    fitting.or_else(|| issuer.chains.iter().next())
}
