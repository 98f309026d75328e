//! All registration entries, found by the selectors of a caller in a time that does not depend on how
//! many there are.
//!
//! Each entry lies in the drawer of one of its selectors: the one with the fewest entries in its
//! drawer at the time. Whoever has all selectors of an entry has that one too, so the drawers of a
//! caller's own selectors hold everything that can match him.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shared::Shared;
use super::{Entry, Granted, Grants};
use crate::selector::{Selector, SelectorSet};

/// Where an entry stands in the order that decides which identity is the default: those of the
/// configuration as they are written there, then the others as they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Of the configuration.
    Configured(usize),
    /// Made while the agent ran.
    Made(u64),
}

/// All registration entries. A copy is cheap, and so is a change.
#[derive(Debug, Clone, Default)]
pub struct EntrySet {
    by_id: Shared<Arc<str>, Option<Placed>>,
    /// Those of them to whose identities a caller's selectors belong.
    templates: Shared<Arc<str>, Option<Placed>>,
    drawers: Drawers<Placed>,
    /// What entries ask for that the connection does not tell.
    asking: Drawers<Asking>,
    /// The same of everybody, of whom nothing needs to be known before.
    asking_of_everybody: Asking,
    len: usize,
}

/// An entry at its place.
#[derive(Debug, Clone)]
struct Placed {
    place: Place,
    entry: Arc<Entry>,
}

/// What entries ask for of those who have the same already.
#[derive(Debug, Clone, Default)]
struct Asking {
    known: SelectorSet,
    /// Names of selectors, and how many entries ask for them.
    names: BTreeMap<Box<str>, usize>,
}

impl EntrySet {
    /// Adds an entry, whose id is none of those that are there.
    pub fn insert(&mut self, place: Place, entry: Arc<Entry>) {
        self.remove(&entry.id);
        let placed = Placed { place, entry };
        self.ask(&placed.entry, |count| count + 1);
        let put = |there: &mut Option<Placed>| {
            *there = Some(placed.clone());
            true
        };
        self.by_id.change(Arc::clone(&placed.entry.id), put);
        if placed.entry.grants.is_open() {
            self.templates.change(Arc::clone(&placed.entry.id), put);
        }
        self.drawers.put(placed);
        self.len += 1;
    }

    /// Takes an entry out, if there is one of this id.
    pub fn remove(&mut self, id: &str) {
        let Some(Placed { entry, .. }) = self.by_id.get(id).cloned().flatten() else {
            return;
        };
        self.by_id.change(Arc::clone(&entry.id), |_| false);
        self.templates.change(Arc::clone(&entry.id), |_| false);
        self.drawers
            .take(&entry.selectors, |placed| placed.entry.id == entry.id);
        self.ask(&entry, |count| count - 1);
        self.len -= 1;
    }

    /// The entries whose selectors are all among `found`, in order.
    pub fn within<'a>(&'a self, found: &'a SelectorSet) -> Vec<&'a Arc<Entry>> {
        let mut matching: Vec<_> = self.drawers.of(found).collect();
        matching.sort_unstable_by_key(|placed| placed.place);
        matching.into_iter().map(|placed| &placed.entry).collect()
    }

    /// What a caller with these selectors is granted, in order. An entry whose identity he cannot
    /// complete does not match him.
    pub fn matching(&self, found: &SelectorSet) -> Vec<Granted> {
        let granted = self.within(found).into_iter().filter_map(|entry| {
            let identity = entry.grants.identity(found).ok()?;
            let entry = Arc::clone(entry);
            Some(Granted { entry, identity })
        });
        granted.collect()
    }

    /// The names of selectors, such as `unix:path`, by which an entry could match a caller of whom
    /// this much is known; some of them more than once. First what the connection tells is enough;
    /// entries may ask for more when it is known where the caller is.
    pub fn asked<'a>(&'a self, known: &'a SelectorSet) -> impl Iterator<Item = &'a str> {
        let asking = self.asking.of(known).chain([&self.asking_of_everybody]);
        asking.flat_map(|asking| asking.names.keys().map(|name| &**name))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The entry with this id.
    pub fn by_id(&self, id: &str) -> Option<&Arc<Entry>> {
        let placed = self.by_id.get(id)?.as_ref();
        placed.map(|placed| &placed.entry)
    }

    /// The first entry before this one, or of all where this is none of them, that shares an identity
    /// with it which only one of the two writes out: a caller can come to it by the other.
    pub fn coming_to(&self, entry: &Entry) -> Option<&Arc<Entry>> {
        let is_open = entry.grants.is_open();
        let among = if is_open {
            &self.by_id
        } else {
            &self.templates
        };
        let own = self.by_id.get(&entry.id).and_then(Option::as_ref);
        let others = among.values().flatten().filter(|other| {
            let other_grants = &other.entry.grants;
            let may_be = |one: &Grants, fixed: &Grants| {
                let id = fixed.fixed().map(|identity| &identity.spiffe_id);
                id.is_some_and(|id| one.may_be(id))
            };
            own.is_none_or(|own| other.place < own.place)
                && other_grants.is_open() != is_open
                && (may_be(other_grants, &entry.grants) || may_be(&entry.grants, other_grants))
        });
        let first = others.min_by_key(|placed| placed.place);
        first.map(|placed| &placed.entry)
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Place, &Arc<Entry>)> {
        let all = self.by_id.values().flatten();
        all.map(|placed| (placed.place, &placed.entry))
    }

    /// Counts what an entry asks for.
    fn ask(&mut self, entry: &Entry, count: impl Fn(usize) -> usize) {
        for (known, names) in entry.steps() {
            let mut asking = if known.is_empty() {
                std::mem::take(&mut self.asking_of_everybody)
            } else {
                let former = self.asking.take(&known, |asking| asking.known == known);
                former.unwrap_or(Asking {
                    known,
                    names: BTreeMap::new(),
                })
            };
            for name in names {
                let number = asking.names.entry(name.into()).or_default();
                *number = count(*number);
            }
            asking.names.retain(|_, number| *number > 0);
            if asking.known.is_empty() {
                self.asking_of_everybody = asking;
            } else if !asking.names.is_empty() {
                self.asking.put(asking);
            }
        }
    }
}

impl FromIterator<Arc<Entry>> for EntrySet {
    fn from_iter<I: IntoIterator<Item = Arc<Entry>>>(entries: I) -> Self {
        let mut set = Self::default();
        for (number, entry) in entries.into_iter().enumerate() {
            set.insert(Place::Configured(number), entry);
        }
        set
    }
}

impl FromIterator<Entry> for EntrySet {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        entries.into_iter().map(Arc::new).collect()
    }
}

/// What has selectors, all of which somebody must have to be meant.
trait Filed: Clone {
    fn selectors(&self) -> &SelectorSet;
}

impl Filed for Placed {
    fn selectors(&self) -> &SelectorSet {
        &self.entry.selectors
    }
}

impl Filed for Asking {
    fn selectors(&self) -> &SelectorSet {
        &self.known
    }
}

/// Things in the drawer of one of their selectors each.
#[derive(Debug, Clone)]
struct Drawers<T>(Shared<Selector, Vec<T>>);

impl<T> Default for Drawers<T> {
    fn default() -> Self {
        Self(Shared::default())
    }
}

impl<T: Filed> Drawers<T> {
    /// Puts a thing into the emptiest of its drawers, so that none gets full that need not be.
    fn put(&mut self, thing: T) {
        let selectors = thing.selectors().iter();
        let emptiest = selectors.min_by_key(|selector| self.0.get(*selector).map_or(0, Vec::len));
        if let Some(selector) = emptiest.cloned() {
            self.0.change(selector, |drawer| {
                drawer.push(thing);
                true
            });
        }
    }

    /// Takes the thing out that has these selectors and `is` it.
    fn take(&mut self, selectors: &SelectorSet, is: impl Fn(&T) -> bool) -> Option<T> {
        let in_drawer = |selector: &&Selector| {
            let drawer = self.0.get(*selector);
            drawer.is_some_and(|drawer| drawer.iter().any(&is))
        };
        let selector = selectors.iter().find(in_drawer)?.clone();
        let mut taken = None;
        self.0.change(selector, |drawer| {
            let at = drawer.iter().position(&is);
            taken = at.map(|at| drawer.swap_remove(at));
            !drawer.is_empty()
        });
        taken
    }

    /// The things whose selectors are all among `found`, in no order.
    fn of<'a>(&'a self, found: &'a SelectorSet) -> impl Iterator<Item = &'a T> {
        let drawers = found.iter().filter_map(|selector| self.0.get(selector));
        let things = drawers.flatten();
        things.filter(|thing| found.is_superset_of(thing.selectors()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::entry::tests::entry;
    use crate::selector::Cost;

    const SELECTORS: [&str; 10] = [
        "unix:uid:1",
        "unix:uid:2",
        "unix:gid:1",
        "unix:user:a",
        "ns:host",
        "systemd:id:a.service",
        "unix:path:/a",
        "unix:path:/b",
        "unix:sha256:c",
        "docker:label:a:b",
    ];

    /// Some of the selectors, as a number has bits.
    fn some(bits: u16) -> Vec<&'static str> {
        let all = SELECTORS.iter().enumerate();
        let some = all.filter(|(at, _)| bits & (1 << at) != 0);
        some.map(|(_, text)| *text).collect()
    }

    fn set_of(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn ids(granted: &[Granted]) -> Vec<String> {
        let ids = granted.iter().map(|granted| granted.entry.id.to_string());
        ids.collect()
    }

    /// What a look at each entry finds asked of a caller of whom all is known that costs no more.
    fn asked_of(entries: &[Entry], found: &SelectorSet, cost: Cost) -> BTreeSet<String> {
        let mut asked = BTreeSet::new();
        for entry in entries {
            let lacks = |upto| {
                let mut wanted = entry.selectors.iter().filter(|one| one.cost() <= upto);
                wanted.any(|one| !found.contains(one))
            };
            let placed = entry.selectors.iter().any(|one| one.cost() == Cost::Cheap);
            for one in entry.selectors.iter().filter(|one| !one.is_told()) {
                let late = placed && one.cost() == Cost::Dear;
                let knows = !late || cost >= Cost::Cheap;
                if knows && !lacks(if late { Cost::Cheap } else { Cost::Told }) {
                    asked.insert(one.name().to_owned());
                }
            }
        }
        asked
    }

    proptest! {
        #[test]
        fn the_drawers_hold_what_a_look_at_each_entry_finds(
            wanted in vec(1u16..1024, 0..24),
            gone in vec(any::<prop::sample::Index>(), 0..12),
            had in vec(0u16..1024, 1..8),
        ) {
            let mut all: Vec<Entry> = Vec::new();
            for (number, bits) in wanted.iter().enumerate() {
                all.push(entry(&number.to_string(), "spiffe://td/a", &some(*bits)));
            }
            let mut set: EntrySet = all.iter().cloned().collect();
            let before = set.clone();
            for index in gone {
                if !all.is_empty() {
                    set.remove(&all.remove(index.index(all.len())).id);
                }
            }
            prop_assert_eq!(set.len(), all.len());
            for bits in had {
                let found = set_of(&some(bits));
                let linear = all.iter().filter(|entry| found.is_superset_of(&entry.selectors));
                let linear: Vec<_> = linear.map(|entry| entry.id.to_string()).collect();
                prop_assert_eq!(ids(&set.matching(&found)), linear);
                for cost in [Cost::Told, Cost::Cheap] {
                    let known = found.iter().filter(|one| one.cost() <= cost);
                    let known: SelectorSet = known.cloned().collect();
                    let asked: BTreeSet<_> = set.asked(&known).map(str::to_owned).collect();
                    prop_assert_eq!(asked, asked_of(&all, &known, cost));
                }
            }
            prop_assert_eq!(before.len(), wanted.len());
            let everything = set_of(&SELECTORS);
            prop_assert_eq!(before.matching(&everything).len(), wanted.len());
        }
    }

    #[test]
    fn no_drawer_gets_full_that_need_not_be() {
        let mut set = EntrySet::default();
        for number in 0..5_000 {
            let own = format!("unix:gid:{number}");
            let digest = format!("unix:sha256:{number}");
            let wanted = entry(&own, "spiffe://td/a", &["unix:uid:1", &own, &digest]);
            set.insert(Place::Made(number), Arc::new(wanted));
        }
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max();
        assert_eq!(longest(&mut set.drawers.0.values().map(Vec::len)), Some(1));
        assert_eq!(longest(&mut set.asking.0.values().map(Vec::len)), Some(1));
        // However many entries ask for the same, it is one question.
        let mut set = EntrySet::default();
        for number in 0..5_000 {
            let digest = format!("unix:sha256:{number}");
            let wanted = entry(&digest, "spiffe://td/a", &["unix:uid:1", &digest]);
            set.insert(Place::Made(number), Arc::new(wanted));
        }
        assert_eq!(set.asking.0.values().map(Vec::len).sum::<usize>(), 1);
    }
}
