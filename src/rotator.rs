//! Brings the keys of every issuer into use, in the order durable, published, used: the key file,
//! the record that names it, the documents that verifiers read, and only then the snapshot that
//! signatures are made from.

mod disk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use self::disk::{Disk, Former};
use crate::authority::{Authority, IssuerKeys};
use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::issuer::IssuerUrl;
use crate::jose::Algorithm;
use crate::key::record::{KeyRecord, KeyState};
use crate::key::signing::{KeyError, KeySpec, SigningKey};
use crate::key::store::{KeyStore, StoreError};
use crate::publish::webroot::{WebrootError, WebrootSpec};

/// How often the ages of keys are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often a key past its lifespan is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(3600);

/// An issuer and the keys that it is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct IssuerSpec {
    /// Its label.
    pub name: Arc<str>,
    /// Its documents.
    pub webroot: WebrootSpec,
    /// Its key chains, by label.
    pub chains: BTreeMap<Arc<str>, KeySpec>,
}

impl IssuerSpec {
    /// Each of its key chains, by its full name.
    fn keys(&self) -> impl Iterator<Item = (KeyRef, &KeySpec)> {
        self.chains.iter().map(|(name, spec)| {
            let chain = KeyRef {
                issuer: Arc::clone(&self.name),
                key: Arc::clone(name),
            };
            (chain, spec)
        })
    }
}

/// Why an issuer has no usable keys.
#[derive(Debug, Error)]
pub enum RotationError {
    /// The keys on disk cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The documents cannot be written.
    #[error(transparent)]
    Webroot(#[from] WebrootError),
    /// A key cannot be made.
    #[error("issuer {issuer}: {source}")]
    Key {
        /// The issuer.
        issuer: Arc<str>,
        /// What went wrong.
        source: KeyError,
    },
}

/// How an issuer stands.
#[derive(Debug, Clone)]
pub struct IssuerStatus {
    /// Its label.
    pub name: Arc<str>,
    /// Its URL.
    pub url: IssuerUrl,
    /// Where its documents lie.
    pub webroot: PathBuf,
    /// Whether its documents are out, so that it can sign.
    pub published: bool,
    /// Its keys, in the order of their making.
    pub keys: Vec<KeyStatus>,
}

/// How a key stands.
#[derive(Debug, Clone)]
pub struct KeyStatus {
    /// Its chain.
    pub name: Arc<str>,
    /// Its id.
    pub kid: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// Where it is in its life.
    pub state: KeyState,
    /// How long ago it began to sign.
    pub age: Duration,
    /// How long it is to sign.
    pub lifespan: Duration,
}

impl KeyStatus {
    /// Whether it signs for longer than it should.
    pub fn is_overdue(&self) -> bool {
        self.state == KeyState::Active && self.age > self.lifespan
    }
}

/// The one writer of keys.
#[derive(Debug)]
pub struct Rotator {
    issuers: Mutex<Vec<IssuerSpec>>,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    disk: Mutex<Disk>,
}

/// Issuers that are ready to be put in force.
#[derive(Debug)]
pub struct Prepared {
    issuers: Vec<IssuerSpec>,
    keys: BTreeMap<Arc<str>, IssuerKeys>,
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Rotator {
    /// With the keys that are on disk.
    pub fn new(
        issuers: Vec<IssuerSpec>,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
        store: KeyStore,
        records: Vec<KeyRecord>,
    ) -> Self {
        Self {
            issuers: Mutex::new(issuers),
            authority,
            clock,
            disk: Mutex::new(Disk { store, records }),
        }
    }

    /// Publishes every issuer whose keys exist, and tells which lack some. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The first issuer whose keys or documents cannot be used.
    pub fn start_existing(&self) -> Result<Vec<IssuerSpec>, RotationError> {
        let mut lacking = Vec::new();
        for issuer in self.issuers() {
            if self.disk().has_all_keys(&issuer) {
                self.bring_up(&issuer)?;
            } else {
                lacking.push(issuer);
            }
        }
        Ok(lacking)
    }

    /// Makes the keys that an issuer lacks and publishes it. Blocks on the disk and on the making
    /// of the keys, for which nothing is locked.
    ///
    /// # Errors
    ///
    /// What went wrong; nothing of it is in use then.
    pub fn start_new(&self, issuer: &IssuerSpec) -> Result<(), RotationError> {
        self.make_lacking(issuer)?;
        self.bring_up(issuer)
    }

    fn make_lacking(&self, issuer: &IssuerSpec) -> Result<(), RotationError> {
        for (chain, spec) in issuer.keys() {
            if self.disk().usable(&chain, spec).is_some() {
                continue;
            }
            tracing::info!(key = %chain, algorithm = %spec.algorithm, "making a signing key");
            let key = SigningKey::generate(spec).map_err(|source| RotationError::Key {
                issuer: Arc::clone(&issuer.name),
                source,
            })?;
            self.disk().prepare(chain, &key, &*self.clock)?;
        }
        Ok(())
    }

    /// Makes ready what other issuers need: keys, then documents that hold old and new keys, then
    /// both sets of keys for those who sign. What signs now goes on. Blocks as
    /// [`Rotator::start_new`] does.
    ///
    /// # Errors
    ///
    /// The first issuer that cannot be published. The documents are then again those of before;
    /// a key that was made is used by nobody.
    pub fn prepare(&self, issuers: Vec<IssuerSpec>) -> Result<Prepared, RotationError> {
        for issuer in &issuers {
            self.make_lacking(issuer)?;
        }
        let published = issuers.iter().try_for_each(|issuer| {
            let public = self.disk().public_keys(&issuer.name);
            issuer.webroot.publish(&public)
        });
        if let Err(error) = published {
            for issuer in self.issuers() {
                let public = self.disk().public_keys(&issuer.name);
                if let Err(error) = issuer.webroot.publish(&public) {
                    tracing::error!(issuer = %issuer.name, %error, "its documents cannot be restored");
                }
            }
            return Err(error.into());
        }
        let mut keys = BTreeMap::new();
        for issuer in &issuers {
            let mut disk = self.disk();
            disk.activate(issuer, Former::GoesOn, &*self.clock)?;
            keys.insert(Arc::clone(&issuer.name), disk.signing_keys(issuer)?);
        }
        self.authority.add(&keys);
        Ok(Prepared { issuers, keys })
    }

    /// Puts prepared issuers in force: what only others needed ceases to sign and to be trusted.
    /// Blocks on the disk.
    pub fn settle(&self, prepared: Prepared) {
        for issuer in &prepared.issuers {
            let recorded = self.disk().activate(issuer, Former::Retires, &*self.clock);
            if let Err(error) = recorded {
                // The next start finds the same keys fit, and records it then.
                tracing::error!(issuer = %issuer.name, %error, "retired keys cannot be recorded");
            }
        }
        self.authority.replace(prepared.keys);
        *self.issuers.lock().unwrap_or_else(PoisonError::into_inner) = prepared.issuers;
    }

    fn issuers(&self) -> Vec<IssuerSpec> {
        self.issuers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The keys of the issuer exist: documents first, then records, then signatures.
    fn bring_up(&self, issuer: &IssuerSpec) -> Result<(), RotationError> {
        let mut disk = self.disk();
        let public = disk.public_keys(&issuer.name);
        issuer.webroot.publish(&public)?;
        disk.activate(issuer, Former::Retires, &*self.clock)?;
        let keys = disk.signing_keys(issuer)?;
        self.authority
            .add(&BTreeMap::from([(Arc::clone(&issuer.name), keys)]));
        tracing::info!(issuer = %issuer.name, url = %issuer.webroot.url, "issuer published");
        Ok(())
    }

    /// How issuers and keys stand.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let issuers = self.issuers();
        let disk = self.disk();
        let now = disk.store.stamp(&*self.clock);
        let status = |issuer: &IssuerSpec| {
            let of_issuer = disk
                .records
                .iter()
                .filter(|r| r.chain.issuer == issuer.name);
            let key = |record: &KeyRecord| KeyStatus {
                name: Arc::clone(&record.chain.key),
                kid: record.jwk.kid().to_owned(),
                algorithm: record.jwk.algorithm(),
                state: record.state(),
                age: record
                    .activated
                    .as_ref()
                    .map_or(Duration::ZERO, |at| at.age(&now)),
                lifespan: issuer
                    .chains
                    .get(&record.chain.key)
                    .map_or(Duration::ZERO, |s| s.lifespan),
            };
            IssuerStatus {
                name: Arc::clone(&issuer.name),
                url: issuer.webroot.url.clone(),
                webroot: issuer.webroot.directory.clone(),
                published: self.authority.publishes(&issuer.name),
                keys: of_issuer.map(key).collect(),
            }
        };
        issuers.iter().map(status).collect()
    }

    /// Looks after the keys until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut complained: Option<tokio::time::Instant> = None;
        loop {
            if complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
                for key in self.overdue() {
                    tracing::warn!(
                        kid = key.kid,
                        age_seconds = key.age.as_secs(),
                        lifespan_seconds = key.lifespan.as_secs(),
                        "the signing key is past its lifespan and goes on signing"
                    );
                    complained = Some(tokio::time::Instant::now());
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The keys that sign for longer than they should.
    fn overdue(&self) -> Vec<KeyStatus> {
        let keys = self.status().into_iter().flat_map(|issuer| issuer.keys);
        keys.filter(KeyStatus::is_overdue).collect()
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        // Records are changed only after they are durable, so a panic leaves none half-changed.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
