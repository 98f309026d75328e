//! Registration entries: which there are. Those of the configuration come first, in its order;
//! those that were made while the agent ran follow in the order of their making, and are kept.
//!
//! Others see a snapshot, replaced as a whole: a call meets the old set or the new one.

pub mod rules;
pub mod store;
mod table;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::rules::{EntryRequest, Fault, Rules, beside};
use self::store::{Change, EntryStore, EntryStoreError, Record};
pub use self::table::{Listed, Made, RegistryError, Wish, is_id};
use self::table::{Table, likeness, told};
use crate::attest::facts::AttestorSpecs;
use crate::attest::names::WantedNames;
use crate::clock::{Clock, unix_seconds};
use crate::entry::{Entry, EntrySet};

/// The longest time between two looks at entries that end.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The time between two looks at a store that does not work.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// What a call needs of the entries and the attestor, at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The entries in order.
    pub entries: EntrySet,
    /// What attestors may find.
    pub attestors: Arc<AttestorSpecs>,
}

/// All entries.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Table>,
    current: watch::Sender<Arc<Snapshot>>,
    names: watch::Sender<Arc<WantedNames>>,
    trouble: Mutex<String>,
    /// Wakes who looks after the store, when it has ceased to work.
    ceased: Notify,
    clock: Arc<dyn Clock>,
}

impl Registry {
    /// Opens the entries that are kept in `private`, for a configuration.
    ///
    /// # Errors
    ///
    /// They cannot be read.
    pub fn open(
        private: &Path,
        rules: Rules,
        configured: Vec<Entry>,
        other_names: WantedNames,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EntryStoreError> {
        let (store, records, trouble) = EntryStore::open(&private.join("entries.redb"))?;
        if let Some(error) = &trouble {
            tracing::error!(%error, "entries cannot be kept; those that were go on, and it is tried again");
        }
        let snapshot = Snapshot {
            entries: EntrySet::default(),
            attestors: Arc::clone(&rules.attestors),
        };
        let mut inner = Table::new(store, rules.clone(), records);
        inner.configure(rules, configured, other_names);
        let registry = Self {
            inner: Mutex::new(inner),
            current: watch::Sender::new(Arc::new(snapshot)),
            names: watch::Sender::default(),
            trouble: Mutex::new(trouble.map(|error| error.to_string()).unwrap_or_default()),
            ceased: Notify::new(),
            clock,
        };
        registry.publish(&mut registry.inner());
        Ok(registry)
    }

    /// What holds now, and wakes when it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// The names that entries ask for, and wakes when there are others.
    pub fn names(&self) -> watch::Receiver<Arc<WantedNames>> {
        self.names.subscribe()
    }

    /// Puts another configuration in force. Kept entries that break its rules cease to match and
    /// stay kept.
    pub fn configure(&self, rules: Rules, configured: Vec<Entry>, other_names: WantedNames) {
        let mut inner = self.inner();
        inner.configure(rules, configured, other_names);
        self.publish(&mut inner);
    }

    /// Makes entries, all in one step on the disk; each wish succeeds or fails for itself.
    pub fn create(&self, wishes: Vec<Wish>) -> Vec<Result<Made, RegistryError>> {
        let mut inner = self.inner();
        let mut results = Vec::with_capacity(wishes.len());
        let mut fresh: Vec<u64> = Vec::new();
        let mut written = Vec::with_capacity(wishes.len());
        let now = unix_seconds(self.clock.now());
        for wish in wishes {
            written.push(wish.request.selectors.clone());
            let made = inner.check_new(wish, now);
            results.push(made.map(|(record, warnings)| {
                let id: Arc<str> = record.id.as_str().into();
                let number = inner.kept.last_key_value().map_or(0, |(last, _)| last + 1);
                inner.insert(number, record);
                fresh.push(number);
                Made { id, warnings }
            }));
        }
        let records: Vec<_> = fresh
            .iter()
            .filter_map(|number| Some((*number, inner.kept.get(number)?.record.clone())))
            .collect();
        let changes: Vec<_> = records
            .iter()
            .map(|(n, record)| Change::Put(*n, record))
            .collect();
        if let Err(error) = self.kept_well(inner.store.apply(&changes)) {
            for number in fresh {
                inner.remove(number);
            }
            let reason = error.to_string();
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(RegistryError::NotKept(reason.clone()));
            }
            return results;
        }
        self.publish(&mut inner);
        // It may take its time: others need not wait for it.
        drop(inner);
        for (made, selectors) in results.iter_mut().zip(&written) {
            if let Ok(made) = made {
                self.warn_beside_others(made, selectors);
            }
        }
        results
    }

    /// Adds what there is to warn of an entry with these selectors beside those that match now.
    fn warn_beside_others(&self, made: &mut Made, selectors: &[String]) {
        let now = Arc::clone(&self.current.borrow());
        if let Some(entry) = now.entries.by_id(&made.id) {
            let faults = beside(entry, selectors, &now.entries);
            made.warnings.extend(faults.iter().map(Fault::to_string));
        }
    }

    /// Replaces an entry as a whole.
    ///
    /// # Errors
    ///
    /// Why it is as it was.
    pub fn update(&self, id: &str, request: EntryRequest) -> Result<Made, RegistryError> {
        let selectors = request.selectors.clone();
        let mut inner = self.inner();
        let number = inner.number(id)?;
        let former = inner.kept.get(&number).cloned();
        let former = former.ok_or_else(|| RegistryError::Missing(id.to_owned()))?;
        let (entry, faults) = inner
            .rules
            .check(former.record.id.as_str().into(), &request);
        let warnings = told(entry.as_ref(), &faults)?;
        let record = Record {
            revision: former.record.revision + 1,
            request,
            ..former.record.clone()
        };
        if let Some(other) = inner
            .similar
            .get(&likeness(&record.request))
            .filter(|n| **n != number)
        {
            return Err(inner.similar_to(*other));
        }
        self.kept_well(inner.store.apply(&[Change::Put(number, &record)]))?;
        inner.insert(number, record);
        self.publish(&mut inner);
        drop(inner);
        let mut made = Made {
            id: former.record.id.into(),
            warnings,
        };
        self.warn_beside_others(&mut made, &selectors);
        Ok(made)
    }

    /// Removes an entry.
    ///
    /// # Errors
    ///
    /// Why it is still there.
    pub fn delete(&self, id: &str) -> Result<(), RegistryError> {
        let mut inner = self.inner();
        let number = inner.number(id)?;
        self.kept_well(inner.store.apply(&[Change::Remove(number)]))?;
        inner.remove(number);
        self.publish(&mut inner);
        Ok(())
    }

    /// How many entries the configuration has, and how many were made while the agent ran.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        (count(inner.configured().len()), count(inner.kept.len()))
    }

    /// Every entry in order.
    pub fn list(&self) -> Vec<Listed> {
        let inner = self.inner();
        let configured = inner.configured().iter().map(|entry| Listed {
            record: None,
            entry: Some(Arc::clone(entry)),
            problem: String::new(),
        });
        let kept = inner.kept.values().map(|kept| Listed {
            record: Some(kept.record.clone()),
            entry: kept.entry.as_ref().ok().cloned(),
            problem: kept.entry.as_ref().err().cloned().unwrap_or_default(),
        });
        configured.chain(kept).collect()
    }

    /// Lets entries end when their time has come, until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.subscribe();
        loop {
            let next = self.inner().next_end(self.clock.now());
            let longest = if self.trouble().is_empty() {
                LOOK_EVERY
            } else {
                TRY_EVERY
            };
            let pause = next.map_or(longest, |wait| wait.min(longest));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // A new entry may end sooner than all others.
                _ = changes.changed() => {}
                () = self.ceased.notified() => continue,
            }
            let registry = Arc::clone(&self);
            // The end is durable too, which waits for the disk.
            let look = move || {
                registry.try_again();
                registry.remove_ended();
            };
            let _ = tokio::task::spawn_blocking(look).await;
        }
    }

    /// Looks whether a store that did not work does again.
    fn try_again(&self) {
        let mut inner = self.inner();
        if !self.trouble().is_empty() && self.kept_well(inner.store.try_again()).is_ok() {
            tracing::info!("entries can be kept again");
        }
    }

    /// Removes entries whose time has come, and shows the others.
    fn remove_ended(&self) {
        let mut inner = self.inner();
        let now = self.clock.now();
        let ended = inner.ended(now);
        let changes: Vec<_> = ended
            .iter()
            .map(|(number, _)| Change::Remove(*number))
            .collect();
        if !changes.is_empty() && self.kept_well(inner.store.apply(&changes)).is_ok() {
            for (number, id) in &ended {
                inner.remove(*number);
                tracing::info!(entry = id, "the entry has ended and is removed");
            }
        }
        if inner.matching(now).len() != self.current.borrow().entries.len() {
            self.publish(&mut inner);
        }
    }

    /// What is wrong with the keeping of entries; empty where nothing is.
    pub fn trouble(&self) -> String {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Remembers whether the store works.
    fn kept_well(&self, result: Result<(), EntryStoreError>) -> Result<(), EntryStoreError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_empty() && result.is_err() {
            self.ceased.notify_one();
        }
        *trouble = result
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        result
    }

    fn publish(&self, inner: &mut Table) {
        let entries = inner.matching(self.clock.now());
        let wanted = inner.names();
        self.names.send_if_modified(|old| {
            let changed = **old != wanted;
            if changed {
                *old = Arc::new(wanted);
            }
            changed
        });
        let attestors = Arc::clone(&inner.rules.attestors);
        self.current
            .send_replace(Arc::new(Snapshot { entries, attestors }));
    }

    fn inner(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
