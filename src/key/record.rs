//! What is recorded of each key: whose it is, its public part, and when it took each step of its
//! life. The state of a key is derived from these times and nowhere stored beside them.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::entry::KeyRef;
use crate::jose::jwk::{Jwk, JwkError};

/// A moment on both clocks: ages within one boot come from the clock that nobody can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Wall time, milliseconds since 1970.
    wall_ms: u64,
    /// Time since boot, milliseconds, time asleep included.
    boot_ms: u64,
    /// Which boot.
    boot_id: String,
}

impl Stamp {
    fn now(clock: &dyn Clock, boot_id: &str) -> Self {
        let since_1970 = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            wall_ms: millis(since_1970),
            boot_ms: millis(clock.since_boot()),
            boot_id: boot_id.to_owned(),
        }
    }
}

/// Tells moments of this boot, and how long it has done so.
#[derive(Debug, Clone)]
pub struct Watch {
    boot_id: String,
    /// When it began, since boot.
    began: Duration,
}

impl Watch {
    /// Begins to watch. An empty `boot_id` makes all boots one.
    pub fn begin(clock: &dyn Clock, boot_id: String) -> Self {
        Self {
            boot_id,
            began: clock.since_boot(),
        }
    }

    /// This moment.
    pub fn now(&self, clock: &dyn Clock) -> Now {
        let stamp = Stamp::now(clock, &self.boot_id);
        let watched = clock.since_boot().saturating_sub(self.began);
        Now { stamp, watched }
    }
}

/// This moment, as ages are counted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Now {
    /// The moment itself.
    pub stamp: Stamp,
    /// How long this agent has been running, time asleep included.
    pub watched: Duration,
}

impl Stamp {
    /// How long ago this was, as well as can be told: by the clock of the boot where both fall into
    /// one. Across boots only wall time is left, which may be wrong; but what was there before the
    /// agent started is at least as old as the agent.
    pub fn age(&self, now: &Now) -> Duration {
        self.age_in_boot(now)
            .unwrap_or_else(|| self.wall_age(now).max(now.watched))
    }

    /// How long ago this was at the least, whatever the wall clock says.
    pub fn proven_age(&self, now: &Now) -> Duration {
        self.age_in_boot(now).unwrap_or(now.watched)
    }

    /// How long ago this was by wall time, which somebody may have set meanwhile; never negative.
    pub fn wall_age(&self, now: &Now) -> Duration {
        Duration::from_millis(now.stamp.wall_ms.saturating_sub(self.wall_ms))
    }

    /// Whether this is later than another moment by wall time, by more than `by`.
    pub fn is_well_after(&self, other: &Self, by: Duration) -> bool {
        Duration::from_millis(self.wall_ms.saturating_sub(other.wall_ms)) > by
    }

    fn age_in_boot(&self, now: &Now) -> Option<Duration> {
        let same = self.boot_id == now.stamp.boot_id;
        same.then(|| Duration::from_millis(now.stamp.boot_ms.saturating_sub(self.boot_ms)))
    }
}

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// On disk, not yet in the documents.
    Prepared,
    /// In the documents, not yet signing.
    Published,
    /// Signing.
    Active,
    /// In the documents for the tokens that it signed.
    Retired,
    /// Not to be believed any more, and in no document.
    Tainted,
}

impl KeyState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Tainted => "tainted",
        }
    }
}

/// The record of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The chain that it belongs to.
    pub chain: KeyRef,
    /// Its public part.
    pub jwk: Jwk,
    /// When it was made.
    pub created: Stamp,
    /// When the documents held it for the first time, read back from the disk.
    pub published: Option<Stamp>,
    /// When it began to sign.
    pub activated: Option<Stamp>,
    /// When it ceased to sign.
    pub retired: Option<Stamp>,
    /// Since when it is not to be believed: it was compromised.
    pub tainted: Option<Stamp>,
    /// How long it stays in the documents once it has ceased to sign: the longest that was asked
    /// for while it signed, so that no token of it loses its key.
    pub keep: Duration,
    /// Whether an operator wants its successor to take over as soon as it may.
    pub replace: bool,
}

impl KeyRecord {
    /// The record of a key that was just made.
    pub fn prepared(chain: KeyRef, jwk: Jwk, now: Stamp) -> Self {
        Self {
            chain,
            jwk,
            created: now,
            published: None,
            activated: None,
            retired: None,
            tainted: None,
            keep: Duration::ZERO,
            replace: false,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> KeyState {
        if self.tainted.is_some() {
            return KeyState::Tainted;
        }
        match (&self.published, &self.activated, &self.retired) {
            (_, _, Some(_)) => KeyState::Retired,
            (_, Some(_), None) => KeyState::Active,
            (Some(_), None, None) => KeyState::Published,
            (None, None, None) => KeyState::Prepared,
        }
    }

    /// Every moment that is recorded of it.
    pub fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        let later = [
            &self.published,
            &self.activated,
            &self.retired,
            &self.tainted,
        ];
        std::iter::once(&self.created).chain(later.into_iter().flatten())
    }

    /// Its form in the state file.
    pub fn to_stored(&self) -> StoredRecord {
        let mut jwk = self.jwk.members();
        jwk.insert("alg".to_owned(), self.jwk.algorithm().name().into());
        StoredRecord {
            issuer: self.chain.issuer.to_string(),
            key: self.chain.key.to_string(),
            jwk,
            created: self.created.clone(),
            published: self.published.clone(),
            activated: self.activated.clone(),
            retired: self.retired.clone(),
            tainted: self.tainted.clone(),
            keep_ms: u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX),
            replace: self.replace,
        }
    }

    /// The record in a state file; its public key is checked like any from outside.
    ///
    /// # Errors
    ///
    /// What is wrong with the public key.
    pub fn from_stored(stored: StoredRecord) -> Result<Self, JwkError> {
        Ok(Self {
            jwk: Jwk::from_json(&stored.jwk)?,
            chain: KeyRef {
                issuer: stored.issuer.into(),
                key: stored.key.into(),
            },
            created: stored.created,
            published: stored.published,
            activated: stored.activated,
            retired: stored.retired,
            tainted: stored.tainted,
            keep: Duration::from_millis(stored.keep_ms),
            replace: stored.replace,
        })
    }
}

/// A record as the state file holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRecord {
    issuer: String,
    key: String,
    jwk: Map<String, Value>,
    created: Stamp,
    published: Option<Stamp>,
    activated: Option<Stamp>,
    retired: Option<Stamp>,
    // Not written where they say nothing, so that the checksum of a file of version 1 holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tainted: Option<Stamp>,
    #[serde(default, skip_serializing_if = "is_zero")]
    keep_ms: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replace: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fake::FakeClock;

    fn now(clock: &FakeClock, boot: &str, watched: u64) -> Now {
        Now {
            stamp: Stamp::now(clock, boot),
            watched: Duration::from_secs(watched),
        }
    }

    #[test]
    fn within_a_boot_ages_ignore_the_wall_clock() {
        let clock = FakeClock::at(1_000_000);
        let early = Stamp::now(&clock, "one");
        clock.advance(Duration::from_secs(10));
        clock.set_wall(5_000_000);
        let late = now(&clock, "one", 3);
        assert_eq!(early.age(&late), Duration::from_secs(10));
        assert_eq!(early.proven_age(&late), Duration::from_secs(10));
    }

    #[test]
    fn across_boots_an_age_is_wall_time_and_never_less_than_what_the_agent_saw() {
        let early = Stamp::now(&FakeClock::at(1_000_000), "one");
        let later = now(&FakeClock::at(1_000_100), "two", 3);
        assert_eq!(early.age(&later), Duration::from_secs(100));
        assert_eq!(early.proven_age(&later), Duration::from_secs(3));
        let dead_battery = now(&FakeClock::at(0), "two", 3);
        assert_eq!(early.age(&dead_battery), Duration::from_secs(3));
    }
}
