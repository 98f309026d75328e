//! The entries and what finds them, under one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use thiserror::Error;

use super::rules::{EntryRequest, Fault, Rules, names};
use super::store::{EntryStore, EntryStoreError, Record};
use crate::attest::names::WantedNames;
use crate::attest::unix;
use crate::entry::{Entry, EntrySet, Place};
use crate::selector::Selector;

/// A request to make or change an entry.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The id that is asked for; `None` lets the registry choose.
    pub id: Option<String>,
    /// The entry.
    pub request: EntryRequest,
    /// Fields of SPIRE to keep.
    pub kept: Map<String, Value>,
}

/// An entry that was made or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its id.
    pub id: Arc<str>,
    /// What will likely not do what was meant.
    pub warnings: Vec<String>,
}

/// Why an entry was not made, changed or removed.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// The request breaks rules.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// There is one already.
    #[error("{0}")]
    Exists(String),
    /// There is none.
    #[error("there is no entry {0:?}")]
    Missing(String),
    /// It is of the configuration.
    #[error("entry {0:?} is of the configuration: change it there and run agent reload")]
    Configured(String),
    /// It could not be kept with others.
    #[error("{0}")]
    NotKept(String),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] EntryStoreError),
}

/// An entry as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The record; entries of the configuration have none.
    pub record: Option<Record>,
    /// The entry; `None` where the configuration has changed so that it breaks rules.
    pub entry: Option<Arc<Entry>>,
    /// What it breaks.
    pub problem: String,
}

/// All entries with what finds them; who holds it keeps others out.
#[derive(Debug)]
pub struct Table {
    /// Where they are kept.
    pub store: EntryStore,
    /// What they must keep to.
    pub rules: Rules,
    /// Those of the configuration, in order.
    configured: Vec<Arc<Entry>>,
    /// Their ids.
    configured_ids: HashSet<Arc<str>>,
    /// Names that the configuration asks for beside its entries.
    other_names: WantedNames,
    /// Those that were made while the agent ran, by number.
    pub kept: BTreeMap<u64, Kept>,
    /// Their numbers by id.
    numbers: HashMap<String, u64>,
    /// Numbers of entries by identity and selectors, of which there is one each.
    pub similar: HashMap<String, u64>,
    /// Those that match, of both kinds.
    matching: EntrySet,
    /// When kept ones end, and their numbers.
    ends: BTreeSet<(SystemTime, u64)>,
    /// Selectors that hold the name of a user or group, and how many entries have them.
    by_name: HashMap<Selector, usize>,
}

/// An entry that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// As it is on the disk.
    pub record: Record,
    /// As it matches, or why it does not.
    pub entry: Result<Arc<Entry>, String>,
}

impl Table {
    /// What is kept in a store, by number; it matches once there is a configuration.
    pub fn new(store: EntryStore, rules: Rules, records: Vec<(u64, Record)>) -> Self {
        let records = records.into_iter();
        let unjudged = |record| Kept {
            record,
            entry: Err(String::new()),
        };
        Self {
            store,
            rules,
            configured: Vec::new(),
            configured_ids: HashSet::new(),
            other_names: WantedNames::default(),
            kept: records.map(|(n, record)| (n, unjudged(record))).collect(),
            numbers: HashMap::new(),
            similar: HashMap::new(),
            matching: EntrySet::default(),
            ends: BTreeSet::new(),
            by_name: HashMap::new(),
        }
    }

    /// Puts another configuration in force, by which all kept entries are judged anew.
    pub fn configure(&mut self, rules: Rules, configured: Vec<Entry>, other_names: WantedNames) {
        let kept = std::mem::take(&mut self.kept);
        self.rules = rules;
        self.other_names = other_names;
        self.configured = configured.into_iter().map(Arc::new).collect();
        self.configured_ids.clear();
        self.matching = EntrySet::default();
        self.by_name.clear();
        self.ends.clear();
        for (number, entry) in self.configured.iter().enumerate() {
            self.configured_ids.insert(Arc::clone(&entry.id));
            let place = Place::Configured(number);
            self.matching.insert(place, Arc::clone(entry));
            count(&mut self.by_name, entry, |number| number + 1);
        }
        for (number, Kept { record, .. }) in kept {
            self.insert(number, record);
        }
    }

    /// The entries that match now. Which there are is known: nothing is looked for.
    pub fn matching(&mut self, now: SystemTime) -> EntrySet {
        for (_, id) in self.ended(now) {
            self.matching.remove(&id);
        }
        self.matching.clone()
    }

    /// The names that entries and the configuration ask for.
    pub fn names(&self) -> WantedNames {
        let mut wanted = names(self.by_name.keys());
        wanted.users.extend(self.other_names.users.iter().cloned());
        wanted
            .groups
            .extend(self.other_names.groups.iter().cloned());
        wanted
    }

    /// Entries of the configuration, in order.
    pub fn configured(&self) -> &[Arc<Entry>] {
        &self.configured
    }

    /// Numbers and ids of kept entries whose time has come.
    pub fn ended(&self, now: SystemTime) -> Vec<(u64, String)> {
        let ended = self.ends.iter().take_while(|(end, _)| *end <= now);
        let kept = ended.filter_map(|(_, number)| Some((*number, self.kept.get(number)?)));
        kept.map(|(number, kept)| (number, kept.record.id.clone()))
            .collect()
    }

    /// How long until the next of them ends.
    pub fn next_end(&self, now: SystemTime) -> Option<Duration> {
        let (next, _) = self.ends.iter().find(|(end, _)| *end > now)?;
        next.duration_since(now).ok()
    }

    /// Takes a record under its number, in place of what was there.
    pub fn insert(&mut self, number: u64, record: Record) {
        self.remove(number);
        let (entry, faults) = self.rules.check(record.id.as_str().into(), &record.request);
        let entry = told(entry.as_ref(), &faults)
            .map_err(|error| error.to_string())
            .and_then(|_| entry.map(Arc::new).ok_or_else(String::new));
        let configured = self.configured_ids.contains(record.id.as_str());
        let entry = entry.and_then(|entry| {
            let taken = || "the configuration has an entry of this id".to_owned();
            if configured { Err(taken()) } else { Ok(entry) }
        });
        if let Ok(entry) = &entry {
            self.matching.insert(Place::Made(number), Arc::clone(entry));
            self.ends.extend(entry.expires_at.map(|end| (end, number)));
            count(&mut self.by_name, entry, |number| number + 1);
        }
        self.numbers.insert(record.id.clone(), number);
        self.similar.insert(likeness(&record.request), number);
        self.kept.insert(number, Kept { record, entry });
    }

    /// Forgets what is under a number.
    pub fn remove(&mut self, number: u64) {
        if let Some(kept) = self.kept.remove(&number) {
            self.numbers.remove(&kept.record.id);
            self.similar.remove(&likeness(&kept.record.request));
            if let Ok(entry) = kept.entry {
                self.matching.remove(&entry.id);
                if let Some(end) = entry.expires_at {
                    self.ends.remove(&(end, number));
                }
                count(&mut self.by_name, &entry, |number| number - 1);
            }
        }
    }

    /// The number of an entry that may be changed.
    pub fn number(&self, id: &str) -> Result<u64, RegistryError> {
        if let Some(number) = self.numbers.get(id) {
            return Ok(*number);
        }
        Err(if self.configured_ids.contains(id) {
            RegistryError::Configured(id.to_owned())
        } else {
            RegistryError::Missing(id.to_owned())
        })
    }

    /// Why there cannot be another one like this.
    pub fn similar_to(&self, number: u64) -> RegistryError {
        let id = self.kept.get(&number).map_or("", |kept| &kept.record.id);
        RegistryError::Exists(format!(
            "similar entry already exists: {id} has this identity and these selectors"
        ))
    }

    /// The record of a new entry, and what to warn about.
    pub fn check_new(&self, wish: Wish, now: u64) -> Result<(Record, Vec<String>), RegistryError> {
        let id: String = match wish.id {
            Some(id) if is_id(&id) => id,
            Some(id) => {
                let rule = "use letters, digits, '.', '-' and '_', and no '.' at the start";
                return Err(RegistryError::Invalid(vec![format!(
                    "{id:?} is no entry id: {rule}"
                )]));
            }
            None => random_id(),
        };
        if self.numbers.contains_key(&id) || self.configured_ids.contains(id.as_str()) {
            return Err(RegistryError::Exists(format!(
                "there is an entry {id:?} already"
            )));
        }
        if wish.request.expires_at.is_some_and(|end| end <= now) {
            return Err(RegistryError::Invalid(vec![
                "expires_at has passed".to_owned(),
            ]));
        }
        let (entry, faults) = self.rules.check(id.as_str().into(), &wish.request);
        let warnings = told(entry.as_ref(), &faults)?;
        if let Some(number) = self.similar.get(&likeness(&wish.request)) {
            return Err(self.similar_to(*number));
        }
        let record = Record {
            id,
            created_at: now,
            revision: 0,
            request: wish.request,
            kept: wish.kept,
        };
        Ok((record, warnings))
    }
}

/// Counts the selectors of an entry that hold a name.
fn count(by_name: &mut HashMap<Selector, usize>, entry: &Entry, count: impl Fn(usize) -> usize) {
    for selector in entry.selectors.iter().filter(|s| unix::is_by_name(s)) {
        let number = by_name.entry(selector.clone()).or_default();
        *number = count(*number);
        if *number == 0 {
            by_name.remove(selector);
        }
    }
}

/// The warnings among faults, if there is an entry.
pub fn told(entry: Option<&Entry>, faults: &[Fault]) -> Result<Vec<String>, RegistryError> {
    if entry.is_some() {
        return Ok(faults.iter().map(Fault::to_string).collect());
    }
    let mut fatal: Vec<_> = faults
        .iter()
        .filter(|fault| fault.fatal)
        .map(Fault::to_string)
        .collect();
    if fatal.is_empty() {
        fatal.push("the configuration has no issuer to sign for it".to_owned());
    }
    Err(RegistryError::Invalid(fatal))
}

/// What two entries may not share: identity and selectors.
pub fn likeness(request: &EntryRequest) -> String {
    let mut selectors = request.selectors.clone();
    selectors.sort_unstable();
    selectors.dedup();
    format!("{}\n{}", request.spiffe_id, selectors.join("\n"))
}

/// Whether a text can name an entry.
pub fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=255).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.')
}

/// A random UUID (RFC 9562, version 4).
fn random_id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness there is nothing to be secret about; the id is then taken or free.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let digits = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let text = format!("{digits:032x}");
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}
