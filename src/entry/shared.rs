//! A map whose copies are cheap, however large it is: they share what has not changed since.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// How many parts there are. A change copies one of them, a copy counts up all of them.
const PARTS: usize = 256;

/// The map.
#[derive(Debug, Clone)]
pub struct Shared<K, V> {
    /// None, or [`PARTS`] of them.
    parts: Vec<Arc<HashMap<K, V>>>,
    choice: RandomState,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            choice: RandomState::new(),
        }
    }
}

impl<K: Eq + Hash + Clone, V: Clone + Default> Shared<K, V> {
    /// What is under a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part_of(key))?.get(key)
    }

    /// Changes what is under a key, a default where there is nothing; `change` tells whether it is to
    /// stay.
    pub fn change(&mut self, key: K, change: impl FnOnce(&mut V) -> bool) {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, Arc::default);
        }
        let part = self.part_of(&key);
        let Some(part) = self.parts.get_mut(part).map(Arc::make_mut) else {
            return;
        };
        match part.entry(key) {
            Entry::Occupied(mut there) => {
                if !change(there.get_mut()) {
                    there.remove();
                }
            }
            Entry::Vacant(free) => {
                let mut value = V::default();
                if change(&mut value) {
                    free.insert(value);
                }
            }
        }
    }

    /// Everything there is, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }

    fn part_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let [first, ..] = self.choice.hash_one(key).to_le_bytes();
        usize::from(first) % PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_shares_what_did_not_change() {
        let mut map: Shared<u32, u32> = Shared::default();
        for key in 0..10_000 {
            map.change(key, |value| {
                *value = key;
                true
            });
        }
        let copy = map.clone();
        map.change(7, |value| {
            *value = 70;
            true
        });
        map.change(8, |_| false);
        map.change(20_000, |_| false);
        assert_eq!((map.get(&7), copy.get(&7)), (Some(&70), Some(&7)));
        assert_eq!((map.get(&8), copy.get(&8)), (None, Some(&8)));
        assert_eq!(
            (map.values().count(), copy.values().count()),
            (9_999, 10_000)
        );
        let both = map.parts.iter().zip(&copy.parts);
        let copied = both.filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert!((1..=3).contains(&copied), "{copied}");
    }
}
