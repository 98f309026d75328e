//! Says often repeated things once a second, with a count of the rest.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One thing is said this often.
const PAUSE: Duration = Duration::from_secs(1);
/// Things that are told apart; beyond that all start anew.
const MAX_THINGS: usize = 4096;

/// Remembers what was said when.
#[derive(Debug)]
pub struct Quiet<K>(Mutex<HashMap<K, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

impl<K> Default for Quiet<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Quiet<K> {
    /// Whether to say it now, and how many times it was not said before.
    pub fn may_say(&self, thing: K) -> Option<u64> {
        self.may_say_at(thing, Instant::now())
    }

    fn may_say_at(&self, thing: K, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_THINGS {
            all.clear();
        }
        let Some(last) = all.get_mut(&thing) else {
            let said = Said {
                at: now,
                suppressed: 0,
            };
            all.insert(thing, said);
            return Some(0);
        };
        if now.duration_since(last.at) < PAUSE {
            last.suppressed += 1;
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_said_once_a_second_with_a_count_of_the_rest() {
        let quiet = Quiet::default();
        let now = Instant::now();
        assert_eq!(quiet.may_say_at((1, "a"), now), Some(0));
        assert_eq!(quiet.may_say_at((1, "a"), now), None);
        assert_eq!(quiet.may_say_at((1, "a"), now), None);
        assert_eq!(quiet.may_say_at((2, "a"), now), Some(0));
        assert_eq!(quiet.may_say_at((1, "b"), now), Some(0));
        assert_eq!(quiet.may_say_at((1, "a"), now + PAUSE), Some(2));
    }
}
