//! The rotator's hand: the keys on disk, what is recorded of them, and how each step is taken so
//! that a crash at any moment leaves what the next step can start from.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{IssuerSpec, RotationError};
use crate::attest::names::Names;
use crate::authority::Authority;
use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::jose::jwk::Jwk;
use crate::key::plan::{ChainSpec, Early, Next, Step, Turn, next, ready_in};
use crate::key::record::{KeyRecord, KeyState, Now, Stamp};
use crate::key::signing::SigningKey;
use crate::key::store::{KeyStore, State};
use crate::metrics::Metrics;
use crate::publish::webroot::Document;

/// A disk that takes longer than this is waited for, and the wait counted.
const SLOW: Duration = Duration::from_millis(200);

/// What a step is taken with.
pub struct Tools<'a> {
    /// The issuers that have documents, those of before and those to come among them.
    pub issuers: &'a [IssuerSpec],
    /// Shows others the outcome.
    pub authority: &'a Authority,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Numbers of owners.
    pub names: &'a Names,
    /// Counts.
    pub metrics: &'a Metrics,
}

impl Tools<'_> {
    /// The issuer of this name.
    pub fn issuer(&self, name: &str) -> Option<&IssuerSpec> {
        self.issuers.iter().find(|issuer| *issuer.name == *name)
    }

    fn chain(&self, chain: &KeyRef) -> Option<&ChainSpec> {
        self.issuer(&chain.issuer)?.chains.get(&chain.key)
    }
}

/// The keys, held by one thread at a time.
#[derive(Debug)]
pub struct Hand {
    /// The files.
    pub store: KeyStore,
    /// What is on the disk.
    pub state: State,
    /// The private keys that sign or will.
    pub secrets: HashMap<String, Arc<SigningKey>>,
    /// The documents of each issuer as they were written last.
    pub written: HashMap<Arc<str>, Vec<Document>>,
    /// The issuers whose documents are known to be out.
    pub up: BTreeSet<Arc<str>>,
    /// The issuers whose documents could not be given to their owner.
    pub kept: BTreeSet<Arc<str>>,
    /// Keys whose files are still to go.
    doomed: Vec<Jwk>,
}

impl Hand {
    /// A hand on these keys.
    pub fn new(
        store: KeyStore,
        state: State,
        secrets: impl IntoIterator<Item = Arc<SigningKey>>,
    ) -> Self {
        let named = |key: Arc<SigningKey>| (key.jwk().kid().to_owned(), key);
        Self {
            store,
            state,
            secrets: secrets.into_iter().map(named).collect(),
            written: HashMap::new(),
            up: BTreeSet::new(),
            kept: BTreeSet::new(),
            doomed: Vec::new(),
        }
    }

    /// What is recorded of the keys.
    pub fn keys(&self) -> &[KeyRecord] {
        &self.state.keys
    }

    /// The key of a chain that signs.
    pub fn active(&self, chain: &KeyRef) -> Option<&KeyRecord> {
        let mut keys = self.of_chain(chain);
        keys.find(|key| key.state() == KeyState::Active)
    }

    /// When the successor in a chain may take over.
    pub fn ready_in(&self, chain: &KeyRef, tools: &Tools<'_>) -> Option<Duration> {
        ready_in(self.of_chain(chain), tools.chain(chain)?, &self.now(tools))
    }

    fn of_chain(&self, chain: &KeyRef) -> impl Iterator<Item = &KeyRecord> {
        let chain = chain.clone();
        self.state.keys.iter().filter(move |key| key.chain == chain)
    }

    pub fn now(&self, tools: &Tools<'_>) -> Now {
        self.store.watch().now(tools.clock)
    }

    /// What is to be done next for chains, the most urgent first; how long nothing is.
    pub fn next(&self, chains: &[KeyRef], tools: &Tools<'_>) -> Result<(KeyRef, Step), Duration> {
        let now = self.now(tools);
        let mut first: Option<(KeyRef, Step)> = None;
        let mut sleep = crate::key::plan::LONGEST_SLEEP;
        for chain in chains {
            match next(self.of_chain(chain), tools.chain(chain), &now) {
                Next::Sleep(length) => sleep = sleep.min(length),
                Next::Do(step) => {
                    if first
                        .as_ref()
                        .is_none_or(|(_, other)| step.rank() < other.rank())
                    {
                        first = Some((chain.clone(), step));
                    }
                }
            }
        }
        first.ok_or(sleep)
    }

    /// Makes a new key durable, first itself, then its record.
    ///
    /// # Errors
    ///
    /// What the disk says; a file that no record names is left to [`Hand::clear`].
    pub fn prepare(
        &mut self,
        chain: KeyRef,
        key: SigningKey,
        tools: &Tools<'_>,
    ) -> Result<(), RotationError> {
        if !self.doomed.is_empty() {
            // Where no record can be made, one file that none names is enough.
            self.save(self.state.clone(), tools)?;
        }
        let jwk = key.jwk().clone();
        let put = self.store.put(&key);
        put.inspect_err(|_| self.doomed.push(jwk.clone()))?;
        let mut state = self.state.clone();
        let now = self.now(tools).stamp;
        state
            .keys
            .push(KeyRecord::prepared(chain, jwk.clone(), now));
        self.save(state, tools)
            .inspect_err(|_| self.doomed.push(jwk.clone()))?;
        self.secrets.insert(jwk.kid().to_owned(), Arc::new(key));
        Ok(())
    }

    /// Takes a step.
    ///
    /// # Errors
    ///
    /// What went wrong. What signs goes on, and the step can be taken again.
    pub fn take(
        &mut self,
        chain: &KeyRef,
        step: &Step,
        tools: &Tools<'_>,
    ) -> Result<(), RotationError> {
        match step {
            // Made by the caller, who holds nothing meanwhile.
            Step::Prepare { .. } => Ok(()),
            Step::Publish => self.publish_new(chain, tools),
            Step::Activate { kid, turn } => self.activate(chain, kid, *turn, tools),
            Step::Extend { kid } => {
                let keep = tools.chain(chain).map(|spec| spec.policy.keep);
                self.change(kid, tools, |key, _| {
                    key.keep = key.keep.max(keep.unwrap_or_default());
                })
            }
            Step::Retire { kid } => {
                tracing::info!(key = %chain, kid, "the key signs no longer: the configuration has no place for it");
                self.change(kid, tools, |key, now| key.retired = Some(now.stamp.clone()))?;
                self.show(tools);
                Ok(())
            }
            Step::Remove { kid } => self.remove(chain, kid, tools),
        }
    }

    /// The documents come out with the keys that were made, others see them, and it is recorded.
    fn publish_new(&mut self, chain: &KeyRef, tools: &Tools<'_>) -> Result<(), RotationError> {
        let mut state = self.state.clone();
        let is_new =
            |key: &KeyRecord| key.chain.issuer == chain.issuer && key.state() == KeyState::Prepared;
        let new: Vec<_> = state.keys.iter().map(is_new).collect();
        let stamp = |state: &mut State, now: Stamp| {
            let keys = state.keys.iter_mut().zip(&new);
            for (key, _) in keys.filter(|(_, new)| **new) {
                key.published = Some(now.clone());
            }
        };
        stamp(&mut state, self.now(tools).stamp);
        self.write_documents(&chain.issuer, &mut state, tools)?;
        // The margin begins when verifiers can read them, however long that took.
        stamp(&mut state, self.now(tools).stamp);
        for (key, _) in state.keys.iter().zip(&new).filter(|(_, new)| **new) {
            tracing::info!(key = %key.chain, kid = key.jwk.kid(), "key published");
        }
        self.save(state, tools)?;
        self.show(tools);
        Ok(())
    }

    fn activate(
        &mut self,
        chain: &KeyRef,
        kid: &str,
        turn: Turn,
        tools: &Tools<'_>,
    ) -> Result<(), RotationError> {
        let keep = tools.chain(chain).map(|spec| spec.policy.keep);
        let mut state = self.state.clone();
        let now = self.now(tools).stamp;
        for key in state.keys.iter_mut().filter(|key| key.chain == *chain) {
            if key.jwk.kid() == kid {
                key.activated = Some(now.clone());
                key.keep = keep.unwrap_or_default();
            } else if key.state() == KeyState::Active {
                key.retired = Some(now.clone());
            }
        }
        self.save(state, tools)?;
        self.show(tools);
        let late = self.now(tools);
        if now.age(&late) > SLOW {
            // The former key has signed until now, and must stay for those tokens too.
            let former = |key: &&mut KeyRecord| key.retired.as_ref() == Some(&now);
            let mut state = self.state.clone();
            let keys = state.keys.iter_mut().filter(former);
            keys.for_each(|key| key.retired = Some(late.stamp.clone()));
            self.save(state, tools)?;
        }
        let why = match turn {
            Turn::Early(early) => early.name(),
            Turn::Due => "due",
            Turn::Asked => "asked",
            Turn::Changed => "changed",
            Turn::Vacant => "vacant",
        };
        tools.metrics.activated(why);
        match turn {
            Turn::Early(Early::Recovery | Early::Taint) => {
                tracing::warn!(key = %chain, kid, reason = %turn, "key signs before verifiers can know it");
            }
            _ => tracing::info!(key = %chain, kid, reason = %turn, "key signs"),
        }
        Ok(())
    }

    /// In the reverse order of coming into use: no document and no record names the key any more
    /// when its file goes.
    fn remove(
        &mut self,
        chain: &KeyRef,
        kid: &str,
        tools: &Tools<'_>,
    ) -> Result<(), RotationError> {
        let mut state = self.state.clone();
        let Some(at) = state.keys.iter().position(|key| key.jwk.kid() == kid) else {
            return Ok(());
        };
        let removed = state.keys.remove(at);
        self.write_documents(&chain.issuer, &mut state, tools)?;
        self.save(state, tools)?;
        self.show(tools);
        self.secrets.remove(kid);
        let gone = self.store.remove(&removed.jwk);
        gone.inspect_err(|_| self.doomed.push(removed.jwk.clone()))?;
        tracing::info!(key = %chain, kid, state = removed.state().name(), "key removed");
        Ok(())
    }

    /// Removes key files that an error has left behind.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn clear(&mut self, tools: &Tools<'_>) -> Result<(), RotationError> {
        if !self.doomed.is_empty() {
            // What is on the disk may name them, where the error came late.
            self.save(self.state.clone(), tools)?;
        }
        while let Some(jwk) = self.doomed.last() {
            self.store.remove(jwk)?;
            self.doomed.pop();
        }
        Ok(())
    }

    /// Records that a key is compromised: no token of it is to be believed from now on. Its
    /// successor signs at once, if there is one that is published.
    ///
    /// # Errors
    ///
    /// What the disk says; nothing has changed then.
    pub fn taint(
        &mut self,
        chain: &KeyRef,
        kid: &str,
        tools: &Tools<'_>,
    ) -> Result<(), RotationError> {
        let signed = self.active(chain).is_some_and(|key| key.jwk.kid() == kid);
        let tainted = |key: &mut KeyRecord, now: &Now| key.tainted = Some(now.stamp.clone());
        self.change(kid, tools, tainted)?;
        if signed
            && let Ok((_, step @ Step::Activate { .. })) =
                self.next(std::slice::from_ref(chain), tools)
        {
            self.take(chain, &step, tools)?;
        } else {
            // Written twice, so that the records of before have it too.
            self.save(self.state.clone(), tools)?;
        }
        self.show(tools);
        self.secrets.remove(kid);
        tracing::warn!(key = %chain, kid, "key tainted: it signs no longer, and leaves all documents");
        Ok(())
    }

    /// Records that the key of a chain is to be replaced as soon as it can be.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn replace(&mut self, kid: &str, tools: &Tools<'_>) -> Result<(), RotationError> {
        self.change(kid, tools, |key, _| key.replace = true)
    }

    fn change(
        &mut self,
        kid: &str,
        tools: &Tools<'_>,
        change: impl FnOnce(&mut KeyRecord, &Now),
    ) -> Result<(), RotationError> {
        let now = self.now(tools);
        let mut state = self.state.clone();
        if let Some(key) = state.keys.iter_mut().find(|key| key.jwk.kid() == kid) {
            change(key, &now);
        }
        self.save(state, tools)
    }

    /// Makes a state durable, and only then its own.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn save(&mut self, state: State, tools: &Tools<'_>) -> Result<(), RotationError> {
        self.store.save(&state, tools.clock)?;
        self.state = state;
        Ok(())
    }
}
