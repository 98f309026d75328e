//! So many of something in a second for each user, and as many at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Users that are remembered before those with nothing taken are forgotten.
const MAX_USERS: usize = 4096;

/// What users have taken.
#[derive(Debug, Default)]
pub struct Quota(Mutex<HashMap<u32, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Quota {
    /// Takes one for a user, if `per_second` allows it; `usize::MAX` allows any.
    pub fn take(&self, uid: u32, per_second: usize) -> bool {
        self.take_at(uid, per_second, Instant::now())
    }

    fn take_at(&self, uid: u32, per_second: usize, now: Instant) -> bool {
        let Ok(rate) = u32::try_from(per_second) else {
            return true;
        };
        let rate = f64::from(rate);
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_USERS && !buckets.contains_key(&uid) {
            // After a second without a call a bucket is full, as a new one is.
            buckets.retain(|_, bucket| now.duration_since(bucket.at).as_secs() < 1);
        }
        let bucket = buckets.entry(uid).or_insert(Bucket {
            left: rate,
            at: now,
        });
        let earned = now.duration_since(bucket.at).as_secs_f64() * rate;
        bucket.left = (bucket.left + earned).min(rate);
        bucket.at = now;
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_gets_a_second_worth_at_once_and_then_as_it_comes_and_others_are_not_touched() {
        let quota = Quota::default();
        let start = Instant::now();
        let taken = |uid, at| (0..100).filter(|_| quota.take_at(uid, 10, at)).count();
        assert_eq!(taken(1, start), 10);
        assert_eq!(taken(1, start + Duration::from_millis(500)), 5);
        assert_eq!(taken(2, start), 10);
        assert_eq!(taken(1, start + Duration::from_secs(60)), 10);
        assert!((0..1000).all(|_| quota.take_at(1, usize::MAX, start)));
    }

    #[test]
    fn users_come_and_go_without_being_kept() {
        let quota = Quota::default();
        let start = Instant::now();
        for uid in 0..20_000 {
            quota.take_at(uid, 10, start + Duration::from_millis(uid.into()));
        }
        assert!(quota.0.lock().unwrap().len() <= MAX_USERS);
    }
}
