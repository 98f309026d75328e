//! How issuers and keys stand, for whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{IssuerSpec, Rotator};
use crate::issuer::IssuerUrl;
use crate::jose::Algorithm;
use crate::key::plan::replaced_in;
use crate::key::record::{KeyRecord, KeyState, Now};

/// A key that signs for longer than it should is told of after this time.
const GRACE: Duration = Duration::from_secs(2);

/// How an issuer stands.
#[derive(Debug, Clone)]
pub struct IssuerStatus {
    /// Its label.
    pub name: Arc<str>,
    /// Its URL.
    pub url: IssuerUrl,
    /// Where its documents lie.
    pub webroot: PathBuf,
    /// Whether its documents are out and each of its chains has a key that signs.
    pub published: bool,
    /// Why its keys cannot be turned over at the moment, and for how long that has been so.
    pub trouble: Option<(String, Duration)>,
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
    /// How long it has been in this state.
    pub age: Duration,
    /// How long it is to sign.
    pub lifespan: Duration,
    /// Until its next step at the soonest; none where that is not known.
    pub next_in: Option<Duration>,
}

impl KeyStatus {
    /// How much longer it has signed than it should, if it does.
    pub fn overdue(&self) -> Option<Duration> {
        let over = self.age.checked_sub(self.lifespan)?;
        (self.state == KeyState::Active && over > GRACE).then_some(over)
    }
}

/// What is shown of the keys, without a look at the disk.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    pub keys: Vec<KeyRecord>,
    pub up: BTreeSet<Arc<str>>,
    pub troubles: BTreeMap<Arc<str>, Trouble>,
    pub suspects_clock: bool,
}

/// What keeps an issuer from turning its keys over.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// Since when, on the clock that counts from boot.
    pub since: Duration,
    pub tries: u32,
    pub reason: String,
}

impl Rotator {
    /// How issuers and keys stand.
    pub fn status(&self) -> Vec<IssuerStatus> {
        let shown = self.shown();
        let now = self.watch.now(&*self.parts.clock);
        let boot = self.parts.clock.since_boot();
        let status = |issuer: &IssuerSpec| {
            let keys = shown
                .keys
                .iter()
                .filter(|key| key.chain.issuer == issuer.name);
            let keys: Vec<_> = keys
                .map(|key| show(key, issuer, &shown.keys, &now))
                .collect();
            let signs = |chain: &Arc<str>| {
                let mut keys = keys.iter();
                keys.any(|key| key.name == *chain && key.state == KeyState::Active)
            };
            let trouble = shown.troubles.get(&issuer.name);
            IssuerStatus {
                published: shown.up.contains(&issuer.name) && issuer.chains.keys().all(signs),
                name: Arc::clone(&issuer.name),
                url: issuer.webroot.url.clone(),
                webroot: issuer.webroot.directory.clone(),
                trouble: trouble
                    .map(|trouble| (trouble.reason.clone(), boot.saturating_sub(trouble.since))),
                keys,
            }
        };
        self.issuers().iter().map(status).collect()
    }

    /// Whether the wall clock lies before a time that is known to have been.
    pub fn suspects_clock(&self) -> bool {
        self.shown().suspects_clock
    }

    fn shown(&self) -> Arc<Shown> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&shown)
    }
}

fn show(key: &KeyRecord, issuer: &IssuerSpec, all: &[KeyRecord], now: &Now) -> KeyStatus {
    let state = key.state();
    let since = match state {
        KeyState::Prepared => Some(&key.created),
        KeyState::Published => key.published.as_ref(),
        KeyState::Active => key.activated.as_ref(),
        KeyState::Retired => key.retired.as_ref(),
        KeyState::Tainted => key.tainted.as_ref(),
    };
    let age = since.map_or(Duration::ZERO, |at| at.age(now));
    let spec = issuer.chains.get(&key.chain.key);
    let lifespan = spec.map_or(Duration::ZERO, |spec| spec.policy.lifespan);
    let next_in = match state {
        KeyState::Active | KeyState::Published => spec.and_then(|spec| {
            let chain = all.iter().filter(|other| other.chain == key.chain);
            replaced_in(chain, spec, now)
        }),
        KeyState::Retired => Some(key.keep.saturating_sub(age)),
        KeyState::Prepared | KeyState::Tainted => None,
    };
    KeyStatus {
        name: Arc::clone(&key.chain.key),
        kid: key.jwk.kid().to_owned(),
        algorithm: key.jwk.algorithm(),
        state,
        age,
        lifespan,
        next_in,
    }
}
