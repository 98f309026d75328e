//! Places for connections: so many for all, so many for one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::sys;

/// Descriptors that the agent needs for itself: sockets, the store, files that it writes, and the
/// looks at processes.
const OWN_DESCRIPTORS: u64 = 40;
/// Descriptors of one connection: its socket, its process and that one's directory under `/proc`.
const PER_CONNECTION: u64 = 3;

/// How often memory is looked after.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Connections whose memory is worth giving back.
const WORTH_TIDYING: usize = 64;

/// Counts the connections there are.
#[derive(Debug, Clone, Default)]
pub struct Slots(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_uid: HashMap<u32, usize>,
    /// The most there were since memory was given back.
    most: usize,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    uid: u32,
}

/// Which limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// That of all.
    All,
    /// That of one user.
    User,
}

impl Slots {
    /// Takes a place for a user.
    pub fn take(&self, uid: u32, limits: &Limits) -> Result<Slot, Full> {
        let (all, per_uid) = within_descriptors(limits);
        let mut taken = self.taken();
        let own = taken.by_uid.get(&uid).copied().unwrap_or(0);
        if own >= per_uid {
            return Err(Full::User);
        }
        if taken.all >= all {
            return Err(Full::All);
        }
        taken.all += 1;
        taken.most = taken.most.max(taken.all);
        taken.by_uid.insert(uid, own + 1);
        drop(taken);
        Ok(Slot {
            slots: self.clone(),
            uid,
        })
    }

    /// Gives the memory of connections that are gone back to the system, until `stop`: a flood of
    /// them leaves more behind than the agent ever needs otherwise.
    pub async fn tidy(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
            let mut taken = self.taken();
            let gone = taken.most.saturating_sub(taken.all);
            if gone >= WORTH_TIDYING {
                taken.most = taken.all;
                drop(taken);
                sys::trim_memory();
            }
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.all = taken.all.saturating_sub(1);
        let own = taken.by_uid.get(&self.uid).copied().unwrap_or(0);
        if own > 1 {
            taken.by_uid.insert(self.uid, own - 1);
        } else {
            taken.by_uid.remove(&self.uid);
        }
    }
}

/// The limits of all and of one user, lowered to what the descriptors of the agent allow at the moment;
/// one user never has all of those.
fn within_descriptors(limits: &Limits) -> (usize, usize) {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let room = descriptors.saturating_sub(OWN_DESCRIPTORS) / PER_CONNECTION;
    let room = usize::try_from(room).unwrap_or(usize::MAX).max(2);
    if limits.connections <= room {
        return (limits.connections, limits.connections_per_uid);
    }
    (
        room,
        limits.connections_per_uid.min(room - room / 4 - 1).max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NONE;

    #[test]
    fn places_are_limited_for_each_user_and_for_all_and_given_back() {
        let limits = Limits {
            connections: 3,
            connections_per_uid: 2,
            ..NONE
        };
        let slots = Slots::default();
        let first = slots.take(1, &limits).unwrap();
        let _second = slots.take(1, &limits).unwrap();
        assert_eq!(slots.take(1, &limits).unwrap_err(), Full::User);
        let _third = slots.take(2, &limits).unwrap();
        assert_eq!(slots.take(3, &limits).unwrap_err(), Full::All);
        drop(first);
        assert_eq!(slots.len(), 2);
        assert!(slots.take(3, &limits).is_ok());
        assert!(slots.take(1, &limits).is_ok());
    }

    #[test]
    fn no_user_gets_all_the_places_that_descriptors_leave() {
        let limits = Limits {
            connections: usize::MAX,
            connections_per_uid: usize::MAX,
            ..NONE
        };
        let (all, one) = within_descriptors(&limits);
        assert!(one < all && one > 0);
    }
}
