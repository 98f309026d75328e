//! Turns keys over, in the order durable, published, used: the key file, the record that names it,
//! the documents that verifiers read, and only then the snapshot that signatures are made from.
//!
//! What is to be done is decided by [`crate::key::plan`] alone; here it is done. Where a step
//! fails, what signs goes on, and the step is taken again.

mod documents;
mod hand;
mod recovery;
mod status;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};

use self::hand::{Hand, Tools};
pub use self::status::KeyStatus;
use self::status::Shown;
use self::work::Until;
use crate::attest::names::Names;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::key::plan::{ChainSpec, Step};
use crate::key::record::{KeyState, Watch};
use crate::key::signing::KeyError;
use crate::key::store::{Found, KeyStore, State, StoreError};
use crate::metrics::Metrics;
use crate::publish::webroot::{WebrootError, WebrootSpec};

/// An issuer and the keys that it is to have.
#[derive(Debug, Clone, PartialEq)]
pub struct IssuerSpec {
    /// Its label.
    pub name: Arc<str>,
    /// Its documents.
    pub webroot: WebrootSpec,
    /// Whether the SPIFFE bundle of the trust domain lies beside them.
    pub bundle: bool,
    /// Its key chains, by label.
    pub chains: BTreeMap<Arc<str>, ChainSpec>,
}

impl IssuerSpec {
    /// The full names of its key chains.
    fn chain_names(&self) -> Vec<KeyRef> {
        let named = |key: &Arc<str>| KeyRef {
            issuer: Arc::clone(&self.name),
            key: Arc::clone(key),
        };
        self.chains.keys().map(named).collect()
    }
}

/// Why a step was not taken.
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
    /// An operator named a key that is not there.
    #[error("{0}")]
    NoKey(String),
    /// Steps lead to steps for ever: a fault of the agent.
    #[error("issuer {0} does not come to rest")]
    Restless(Arc<str>),
}

/// What became of the wish to replace a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// This key signs now.
    By(String),
    /// The successor takes over after this time, when verifiers have it.
    In(Duration),
}

/// The one writer of keys.
#[derive(Debug)]
pub struct Rotator {
    issuers: Mutex<Vec<IssuerSpec>>,
    parts: Parts,
    watch: Watch,
    hand: Mutex<Hand>,
    shown: Mutex<Arc<Shown>>,
    wake: Notify,
}

/// What the rotator works with.
#[derive(Debug)]
pub struct Parts {
    /// Shows keys to those who sign and believe.
    pub authority: Arc<Authority>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Numbers of the owners of documents.
    pub names: watch::Receiver<Arc<Names>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Changes when the wall clock is set.
    pub steps: watch::Receiver<()>,
    /// The longest pause between two tries of what fails.
    pub probe_interval: Duration,
}

/// Issuers that are ready to be put in force.
#[derive(Debug)]
pub struct Prepared(Vec<IssuerSpec>);

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Rotator {
    /// With the keys that are on disk; what is damaged of them is set aside, and what can be told
    /// of lost ones is told anew. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The keys cannot be read, or what was found out of them not be recorded.
    pub fn new(
        issuers: Vec<IssuerSpec>,
        parts: Parts,
        store: KeyStore,
        state: State,
        found: Found,
    ) -> Result<Self, RotationError> {
        let watch = store.watch().clone();
        let hand = recovery::take_up(&issuers, &*parts.clock, store, state, found)?;
        let rotator = Self {
            issuers: Mutex::new(issuers),
            parts,
            watch,
            hand: Mutex::new(hand),
            shown: Mutex::default(),
            wake: Notify::new(),
        };
        rotator.note(&rotator.hand());
        Ok(rotator)
    }

    /// Brings up every issuer whose keys exist, and tells which lack some. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// The first issuer whose documents cannot be written, unless verifiers find its keys in them
    /// all the same.
    pub fn start_existing(&self) -> Result<Vec<IssuerSpec>, RotationError> {
        let issuers = self.issuers();
        let mut lacking = Vec::new();
        for issuer in &issuers {
            let mut hand = self.hand();
            let chains = issuer.chain_names();
            let active: Vec<_> = chains
                .iter()
                .filter_map(|chain| hand.active(chain))
                .collect();
            if active.len() < chains.len() {
                lacking.push(issuer.clone());
                continue;
            }
            let out = issuer.webroot.kids_on_disk();
            let found = active
                .iter()
                .all(|key| out.iter().any(|kid| kid == key.jwk.kid()));
            let inspected = self.with_tools(|tools| {
                let inspected = hand.inspect(issuer, tools);
                if inspected.is_err() && found {
                    hand.bring_up(issuer, tools);
                }
                inspected
            });
            self.note(&hand);
            match inspected {
                Err(error) if found => drop(self.failed(&issuer.name, &error)),
                result => result?,
            }
        }
        Ok(lacking)
    }

    /// Makes the keys that an issuer lacks and brings it up. Blocks on the disk and on the making
    /// of the keys, for which nothing is locked.
    ///
    /// # Errors
    ///
    /// What went wrong; nothing of it is in use then.
    pub fn start_new(&self, issuer: &IssuerSpec) -> Result<(), RotationError> {
        let chains = issuer.chain_names();
        self.work_on(&issuer.name, &chains, Until::Signing)
            .map(drop)
    }

    /// Makes ready what other issuers need, beside what is in force: their keys, and documents that
    /// hold old and new ones. What signs now goes on. Blocks as [`Rotator::start_new`] does.
    ///
    /// # Errors
    ///
    /// The first issuer that cannot be brought up. The documents are then again those of before.
    pub fn prepare(&self, new: Vec<IssuerSpec>) -> Result<Prepared, RotationError> {
        let former = self.issuers();
        let known = self.kids();
        // A round that comes in between must take neither for gone.
        self.have(union(&new, &former));
        let brought_up = new.iter().try_for_each(|issuer| {
            self.work_on(&issuer.name, &issuer.chain_names(), Until::Signing)
                .map(drop)
        });
        if let Err(error) = brought_up {
            self.have(former.clone());
            self.forget(&known);
            for issuer in &former {
                let restored = self.with_tools(|tools| self.hand().inspect(issuer, tools));
                if let Err(error) = restored {
                    tracing::error!(issuer = %issuer.name, %error, "its documents cannot be restored");
                }
            }
            return Err(error);
        }
        Ok(Prepared(new))
    }

    /// Removes the keys of chains that are not configured and that are not known: they were made in
    /// vain, and nobody has had a token of them.
    fn forget(&self, known: &BTreeSet<String>) {
        let issuers = self.issuers();
        let mut hand = self.hand();
        let mut keys = hand.keys().to_vec();
        let configured = |chain: &KeyRef| {
            let mut issuers = issuers.iter();
            let issuer = issuers.find(|issuer| issuer.name == chain.issuer);
            issuer.is_some_and(|issuer| issuer.chains.contains_key(&chain.key))
        };
        keys.retain(|key| !known.contains(key.jwk.kid()) && !configured(&key.chain));
        for key in keys {
            let kid = key.jwk.kid().to_owned();
            let step = Step::Remove { kid };
            let removed = self.with_tools(|tools| hand.take(&key.chain, &step, tools));
            if let Err(error) = removed {
                tracing::error!(key = %key.chain, %error, "a key that was made in vain cannot be removed yet");
            }
        }
        self.note(&hand);
    }

    fn kids(&self) -> BTreeSet<String> {
        let hand = self.hand();
        hand.keys()
            .iter()
            .map(|key| key.jwk.kid().to_owned())
            .collect()
    }

    /// Puts prepared issuers in force. Chains that are gone sign no longer; their keys are believed
    /// until their tokens have ended. Blocks on the disk.
    pub fn settle(&self, prepared: Prepared) {
        self.have(prepared.0);
        self.round();
        self.wake.notify_one();
    }

    /// Has the key of a chain replaced, as soon as verifiers can have its successor. Blocks on the
    /// disk.
    ///
    /// # Errors
    ///
    /// There is no such key, or the disk failed.
    pub fn replace(&self, chain: &KeyRef) -> Result<Replaced, RotationError> {
        let none = || RotationError::NoKey(format!("no key signs for {chain}"));
        let former = {
            let mut hand = self.hand();
            let kid = hand.active(chain).map(|key| key.jwk.kid().to_owned());
            let kid = kid.ok_or_else(none)?;
            self.with_tools(|tools| hand.replace(&kid, tools))?;
            kid
        };
        let chains = std::slice::from_ref(chain);
        self.work_on(&chain.issuer, chains, Until::Rest)?;
        self.wake.notify_one();
        let hand = self.hand();
        let active = hand.active(chain).ok_or_else(none)?;
        if active.jwk.kid() != former {
            return Ok(Replaced::By(active.jwk.kid().to_owned()));
        }
        let ready = self.with_tools(|tools| hand.ready_in(chain, tools));
        Ok(Replaced::In(ready.unwrap_or_default()))
    }

    /// Takes a compromised key out of use and out of every document, at once. Tells which key
    /// signs for its chain now. Blocks on the disk, and where there is no successor on the making
    /// of one.
    ///
    /// # Errors
    ///
    /// There is no such key, or the disk failed: where the record of it was still made, the rest is
    /// tried again until it works.
    pub fn taint(&self, kid: &str) -> Result<Option<String>, RotationError> {
        let chain = {
            let mut hand = self.hand();
            let key = hand.keys().iter().find(|key| key.jwk.kid() == kid);
            let chain = match key {
                Some(key) if key.state() != KeyState::Tainted => key.chain.clone(),
                _ => {
                    let reason = format!("there is no key {kid}; agent key list shows all");
                    return Err(RotationError::NoKey(reason));
                }
            };
            let done = self.with_tools(|tools| hand.taint(&chain, kid, tools));
            self.note(&hand);
            done?;
            chain
        };
        // Whoever waits for this is not to wait for the making of the key after the next.
        let chains = std::slice::from_ref(&chain);
        let done = self.work_on(&chain.issuer, chains, Until::Signing);
        self.wake.notify_one();
        done?;
        let active = self
            .hand()
            .active(&chain)
            .map(|key| key.jwk.kid().to_owned());
        Ok(active)
    }

    fn with_tools<T>(&self, work: impl FnOnce(&Tools<'_>) -> T) -> T {
        let issuers = self.issuers();
        let names = Arc::clone(&self.parts.names.borrow());
        work(&Tools {
            issuers: &issuers,
            authority: &self.parts.authority,
            clock: &*self.parts.clock,
            names: &names,
            metrics: &self.parts.metrics,
        })
    }

    /// Lets others see how the keys stand, who must not wait for the disk.
    fn note(&self, hand: &Hand) {
        let now = self.watch.now(&*self.parts.clock);
        self.change_shown(|shown| {
            shown.keys = hand.keys().to_vec();
            shown.up = hand.up.clone();
            shown.suspects_clock = hand.store.suspects(&now);
        });
    }

    fn change_shown(&self, change: impl FnOnce(&mut Shown)) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut shown));
    }

    fn have(&self, issuers: Vec<IssuerSpec>) {
        *self.issuers.lock().unwrap_or_else(PoisonError::into_inner) = issuers;
    }

    fn issuers(&self) -> Vec<IssuerSpec> {
        self.issuers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        // The state changes only after it is durable, so a panic leaves none half-changed.
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// New issuers with all that is in force beside them.
fn union(new: &[IssuerSpec], former: &[IssuerSpec]) -> Vec<IssuerSpec> {
    let mut all = new.to_vec();
    for old in former {
        match all.iter_mut().find(|issuer| issuer.name == old.name) {
            Some(issuer) => {
                for (name, chain) in &old.chains {
                    issuer.chains.entry(Arc::clone(name)).or_insert(*chain);
                }
            }
            None => all.push(old.clone()),
        }
    }
    all
}

#[cfg(test)]
mod tests;
