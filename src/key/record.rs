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
    /// This moment of this boot.
    pub fn now(clock: &dyn Clock, boot_id: &str) -> Self {
        let since_1970 = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            wall_ms: millis(since_1970),
            boot_ms: millis(clock.since_boot()),
            boot_id: boot_id.to_owned(),
        }
    }

    /// How long ago this was: by the clock of the boot where both fall into one, else by wall
    /// time, and never negative.
    pub fn age(&self, now: &Self) -> Duration {
        let millis = if self.boot_id == now.boot_id {
            now.boot_ms.saturating_sub(self.boot_ms)
        } else {
            now.wall_ms.saturating_sub(self.wall_ms)
        };
        Duration::from_millis(millis)
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
}

impl KeyState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retired => "retired",
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
        }
    }

    /// Where it stands.
    pub fn state(&self) -> KeyState {
        match (&self.published, &self.activated, &self.retired) {
            (_, _, Some(_)) => KeyState::Retired,
            (_, Some(_), None) => KeyState::Active,
            (Some(_), None, None) => KeyState::Published,
            (None, None, None) => KeyState::Prepared,
        }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fake::FakeClock;

    #[test]
    fn within_a_boot_ages_ignore_the_wall_clock_and_across_boots_they_are_never_negative() {
        let clock = FakeClock::at(1_000_000);
        let early = Stamp::now(&clock, "one");
        clock.advance(Duration::from_secs(10));
        let late = Stamp::now(&clock, "one");
        assert_eq!(early.age(&late), Duration::from_secs(10));
        assert_eq!(late.age(&early), Duration::ZERO);

        let next_boot = Stamp::now(&FakeClock::at(1_000_100), "two");
        assert_eq!(early.age(&next_boot), Duration::from_secs(100));
        let dead_battery = Stamp::now(&FakeClock::at(0), "two");
        assert_eq!(early.age(&dead_battery), Duration::ZERO);
    }
}
