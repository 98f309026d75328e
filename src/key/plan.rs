//! What is to be done next for a chain of keys, by their records, the policy and the time alone.
//!
//! Every step leaves records from which the next one follows, so a crash between two steps means
//! no more than to ask again. A key signs only after its documents have been out for as long as
//! verifiers keep them; it stays in them until the last token that it signed has ended.

use std::fmt;
use std::time::Duration;

use super::record::{KeyRecord, KeyState, Now};
use super::signing::KeySpec;

/// The longest sleep: clocks may have been set, and documents changed, in the meantime.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// So many retired keys of a chain are kept beyond their time, for tokens from before the wall
/// clock was set back.
const MAX_HELD_BACK: usize = 12;

/// How a chain turns over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationPolicy {
    /// How long a key signs.
    pub lifespan: Duration,
    /// How long a key is in the documents before it signs: as long as verifiers keep those.
    pub publish_margin: Duration,
    /// How long a key stays in the documents once it has ceased to sign: the longest life of a
    /// token, the leeway and the margin together.
    pub keep: Duration,
}

/// A chain as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainSpec {
    /// Its keys.
    pub key: KeySpec,
    /// When they change.
    pub policy: RotationPolicy,
}

/// Why a key begins to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The lifespan of its predecessor is over.
    Due,
    /// An operator asked for it.
    Asked,
    /// The configuration wants another kind of key.
    Changed,
    /// Nobody signs for the chain.
    Vacant,
    /// Nobody does, and it cannot wait until verifiers have the key.
    Early(Early),
}

/// Why a key signs before its documents were out for the margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// It is the first of its chain.
    Bootstrap,
    /// The key that signed is lost.
    Recovery,
    /// The key that signed is not to be believed any more.
    Taint,
}

impl Early {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Recovery => "recovery",
            Self::Taint => "taint",
        }
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Due => "the lifespan of its predecessor is over",
            Self::Asked => "an operator asked for it",
            Self::Changed => "the configuration wants such a key",
            Self::Vacant => "no other key signs",
            Self::Early(Early::Bootstrap) => "it is the first of its chain",
            Self::Early(Early::Recovery) => "the key that signed is lost",
            Self::Early(Early::Taint) => "the key that signed is tainted",
        })
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a key and record it.
    Prepare {
        /// Whether another one signs meanwhile.
        successor: bool,
    },
    /// Write the documents with every key that was made, and record that they are out.
    Publish,
    /// Let a key sign, and retire the one that did.
    Activate {
        /// The key.
        kid: String,
        /// Why.
        turn: Turn,
    },
    /// Record that a key that signs must stay longer than was thought.
    Extend {
        /// The key.
        kid: String,
    },
    /// Let a key that has no place any more sign no longer.
    Retire {
        /// The key.
        kid: String,
    },
    /// Take a key out of the documents, then out of the records, then off the disk.
    Remove {
        /// The key.
        kid: String,
    },
}

impl Step {
    /// Its place among the steps of several chains of one issuer: keys that are needed are made
    /// together and published together, and what can wait for a full disk comes last.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Prepare { successor: false } => 0,
            Self::Publish => 1,
            Self::Activate { .. } => 2,
            Self::Extend { .. } => 3,
            Self::Retire { .. } => 4,
            Self::Remove { .. } => 5,
            Self::Prepare { successor: true } => 6,
        }
    }
}

/// What to do: always one of the two, so that a chain never falls asleep for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This, and then ask again.
    Do(Step),
    /// Nothing for so long.
    Sleep(Duration),
}

/// What is to be done for the keys of one chain; without `spec` it is not configured any more.
pub fn next<'a>(
    chain: impl IntoIterator<Item = &'a KeyRecord>,
    spec: Option<&'a ChainSpec>,
    now: &'a Now,
) -> Next {
    let chain = Chain::new(chain, spec, now);
    match chain.step() {
        Some(step) => Next::Do(step),
        None => Next::Sleep(chain.sleep()),
    }
}

/// When the successor of a key that signs may take over, counted from now; `None` where there is
/// no successor that is published.
pub fn ready_in<'a>(
    chain: impl IntoIterator<Item = &'a KeyRecord>,
    spec: &'a ChainSpec,
    now: &'a Now,
) -> Option<Duration> {
    let chain = Chain::new(chain, Some(spec), now);
    let successor = chain.successor(KeyState::Published)?;
    Some(chain.margin_left(successor, spec))
}

/// When the key that signs is replaced at the soonest, counted from now; `None` where none signs.
pub fn replaced_in<'a>(
    chain: impl IntoIterator<Item = &'a KeyRecord>,
    spec: &'a ChainSpec,
    now: &'a Now,
) -> Option<Duration> {
    Chain::new(chain, Some(spec), now).replaced_in(spec)
}

struct Chain<'a> {
    keys: Vec<&'a KeyRecord>,
    spec: Option<&'a ChainSpec>,
    now: &'a Now,
}

impl<'a> Chain<'a> {
    fn new(
        keys: impl IntoIterator<Item = &'a KeyRecord>,
        spec: Option<&'a ChainSpec>,
        now: &'a Now,
    ) -> Self {
        let keys = keys.into_iter().collect();
        Self { keys, spec, now }
    }

    fn step(&self) -> Option<Step> {
        let Some(spec) = self.spec else {
            return self.wind_up();
        };
        let active = self.of(KeyState::Active).next();
        if let Some(active) = active
            && !spec.key.may_stand_in(&active.jwk)
        {
            return Some(Step::Retire { kid: kid(active) });
        }
        let published = self.successor(KeyState::Published);
        if let (None, Some(key)) = (active, published) {
            let turn = match self.margin_left(key, spec) {
                Duration::ZERO => Turn::Vacant,
                _ => Turn::Early(self.why_early()),
            };
            return Some(Step::Activate {
                kid: kid(key),
                turn,
            });
        }
        if self.successor(KeyState::Prepared).is_some() {
            return Some(Step::Publish);
        }
        if active.is_some()
            && let Some(tainted) = self.of(KeyState::Tainted).next()
        {
            return Some(Step::Remove { kid: kid(tainted) });
        }
        if let Some(active) = active
            && active.keep < spec.policy.keep
        {
            return Some(Step::Extend { kid: kid(active) });
        }
        let Some(successor) = published else {
            let successor = active.is_some();
            return Some(Step::Prepare { successor });
        };
        if let Some(active) = active
            && let Some(turn) = self.why_over(active, spec)
            && self.is_ready(successor, active, spec)
        {
            return Some(Step::Activate {
                kid: kid(successor),
                turn,
            });
        }
        self.superfluous(successor)
            .or_else(|| self.outlived())
            .map(|key| Step::Remove { kid: kid(key) })
    }

    /// For a chain that is gone: what has signed stays for its tokens, what has not goes.
    fn wind_up(&self) -> Option<Step> {
        if let Some(active) = self.of(KeyState::Active).next() {
            return Some(Step::Retire { kid: kid(active) });
        }
        let unused = |key: &&&KeyRecord| {
            let state = key.state();
            matches!(
                state,
                KeyState::Prepared | KeyState::Published | KeyState::Tainted
            )
        };
        let gone = self.keys.iter().find(unused).copied();
        gone.or_else(|| self.outlived())
            .map(|key| Step::Remove { kid: kid(key) })
    }

    fn of(&self, state: KeyState) -> impl Iterator<Item = &'a KeyRecord> {
        self.keys
            .iter()
            .copied()
            .filter(move |key| key.state() == state)
    }

    /// The next key to sign, of the kind that is configured.
    fn successor(&self, state: KeyState) -> Option<&'a KeyRecord> {
        let spec = self.spec?;
        self.of(state).find(|key| spec.key.fits(&key.jwk))
    }

    /// A key that waits to sign beside the one that will, or of a kind that nobody wants any more.
    fn superfluous(&self, successor: &KeyRecord) -> Option<&'a KeyRecord> {
        let waiting = self
            .of(KeyState::Prepared)
            .chain(self.of(KeyState::Published));
        waiting.into_iter().find(|key| key.jwk != successor.jwk)
    }

    fn why_early(&self) -> Early {
        // The last thing that happened to the chain is why nobody signs for it.
        if self.of(KeyState::Tainted).next().is_some() {
            Early::Taint
        } else if self.of(KeyState::Retired).next().is_some() {
            Early::Recovery
        } else {
            Early::Bootstrap
        }
    }

    fn why_over(&self, active: &KeyRecord, spec: &ChainSpec) -> Option<Turn> {
        if !spec.key.fits(&active.jwk) {
            Some(Turn::Changed)
        } else if active.replace {
            Some(Turn::Asked)
        } else if signed_for(active, self.now) >= spec.policy.lifespan {
            Some(Turn::Due)
        } else {
            None
        }
    }

    /// Whether every verifier can have the successor by now. After a reboot its age must be proven
    /// anew, since the wall clock may be wrong; but not for ever, on a machine that reboots often.
    fn is_ready(&self, successor: &KeyRecord, active: &KeyRecord, spec: &ChainSpec) -> bool {
        let believed = successor
            .published
            .as_ref()
            .is_some_and(|at| at.age(self.now) >= spec.policy.publish_margin);
        let long_over = signed_for(active, self.now) >= spec.policy.lifespan * 2;
        self.margin_left(successor, spec).is_zero() || (long_over && believed)
    }

    fn margin_left(&self, successor: &KeyRecord, spec: &ChainSpec) -> Duration {
        let proven = successor
            .published
            .as_ref()
            .map_or(Duration::ZERO, |at| at.proven_age(self.now));
        spec.policy.publish_margin.saturating_sub(proven)
    }

    /// Until the key that signs is over and verifiers can have its successor, which may have to be
    /// made first.
    fn replaced_in(&self, spec: &ChainSpec) -> Option<Duration> {
        let active = self.of(KeyState::Active).next()?;
        let until_over = match self.why_over(active, spec) {
            Some(_) => Duration::ZERO,
            None => (spec.policy.lifespan).saturating_sub(signed_for(active, self.now)),
        };
        let successor = self.successor(KeyState::Published);
        let until_ready = successor.map_or(spec.policy.publish_margin, |successor| {
            self.margin_left(successor, spec)
        });
        Some(until_over.max(until_ready))
    }

    /// A retired key whose tokens have all ended.
    fn outlived(&self) -> Option<&'a KeyRecord> {
        let held_back = self.of(KeyState::Retired).count() > MAX_HELD_BACK;
        let mut retired: Vec<_> = self.of(KeyState::Retired).collect();
        retired.sort_by_key(|key| std::cmp::Reverse(self.retired_for(key)));
        retired.into_iter().find(|key| {
            let Some(at) = &key.retired else {
                return false;
            };
            // Where the wall clock was set back, tokens from before look young again.
            let by_wall = held_back || at.wall_age(self.now) >= key.keep;
            // Where a reboot set it forward, they look old. No verifier minds another margin.
            let margin = self
                .spec
                .map_or(Duration::ZERO, |s| s.policy.publish_margin);
            let proven = at.proven_age(self.now) >= margin.min(key.keep);
            at.age(self.now) >= key.keep && by_wall && proven
        })
    }

    fn retired_for(&self, key: &KeyRecord) -> Duration {
        let at = key.retired.as_ref();
        at.map_or(Duration::ZERO, |at| at.age(self.now))
    }

    /// Until something may be due.
    fn sleep(&self) -> Duration {
        let ends = self.spec.and_then(|spec| self.replaced_in(spec));
        let left = |key: &KeyRecord| key.keep.saturating_sub(self.retired_for(key));
        let outlived = self.of(KeyState::Retired).map(left);
        let soonest = ends
            .into_iter()
            .chain(outlived)
            .filter(|left| !left.is_zero())
            .min();
        soonest.map_or(LONGEST_SLEEP, |left| left.min(LONGEST_SLEEP))
    }
}

/// How long a key has been signing.
fn signed_for(key: &KeyRecord, now: &Now) -> Duration {
    let since = key.activated.as_ref();
    since.map_or(Duration::ZERO, |at| at.age(now))
}

fn kid(key: &KeyRecord) -> String {
    key.jwk.kid().to_owned()
}

#[cfg(test)]
mod tests;
