//! Tokens that may be given out again. What a token says and which key signs it is all in the name
//! of its slot: a change of the entry, of the configuration or of the key leads to another slot, and
//! what is left behind is out of reach until it is evicted. Nothing is ever invalidated.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::Order;
use crate::svid::JwtSvid;

/// Slots of all users together.
const MAX_SLOTS: usize = 10_000;

/// Names a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlotName {
    /// The entry that grants it.
    pub entry: Arc<str>,
    /// The key that signs.
    pub kid: Arc<str>,
    /// All that the token says.
    pub order: Order,
}

/// The tokens that are kept.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    slots: HashMap<Arc<SlotName>, Slot>,
    /// The slots of each user in the order of their use.
    used: HashMap<u32, BTreeMap<u64, Arc<SlotName>>>,
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    svid: Option<Arc<JwtSvid>>,
    flight: Arc<tokio::sync::Mutex<()>>,
    /// The user who asked first.
    uid: u32,
    used: u64,
}

/// What a slot holds.
#[derive(Debug)]
pub enum Found {
    /// A token with enough of its life left.
    Fresh(Arc<JwtSvid>),
    /// None: whoever holds this lock makes one, and the others wait for it.
    Stale(Arc<tokio::sync::Mutex<()>>),
}

impl Cache {
    /// Looks into a slot on behalf of a user.
    pub fn find(&self, name: &SlotName, uid: u32, now: SystemTime) -> Found {
        let mut inner = self.inner();
        if let Some((svid, flight)) = inner.touch(name) {
            return match svid {
                Some(svid) if is_fresh(&svid, now) => Found::Fresh(svid),
                _ => Found::Stale(flight),
            };
        }
        if inner.slots.len() >= MAX_SLOTS {
            inner.evict();
        }
        Found::Stale(inner.add(Arc::new(name.clone()), uid))
    }

    /// Puts a token into a slot, if that is still there.
    pub fn keep(&self, name: &SlotName, svid: Arc<JwtSvid>) {
        if let Some(slot) = self.inner().slots.get_mut(name) {
            slot.svid = Some(svid);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Content = (Option<Arc<JwtSvid>>, Arc<tokio::sync::Mutex<()>>);

impl Slots {
    /// The content of a slot, which is now the one used last.
    fn touch(&mut self, name: &SlotName) -> Option<Content> {
        self.clock += 1;
        let slot = self.slots.get_mut(name)?;
        let order = self.used.entry(slot.uid).or_default();
        if let Some(name) = order.remove(&slot.used) {
            order.insert(self.clock, name);
        }
        slot.used = self.clock;
        Some((slot.svid.clone(), Arc::clone(&slot.flight)))
    }

    fn add(&mut self, name: Arc<SlotName>, uid: u32) -> Arc<tokio::sync::Mutex<()>> {
        let slot = Slot {
            svid: None,
            flight: Arc::default(),
            uid,
            used: self.clock,
        };
        let flight = Arc::clone(&slot.flight);
        let order = self.used.entry(uid).or_default();
        order.insert(self.clock, Arc::clone(&name));
        self.slots.insert(name, slot);
        flight
    }

    /// Drops the least recently used slot of the user who has the most of them.
    fn evict(&mut self) {
        let most = self.used.iter_mut().max_by_key(|(_, order)| order.len());
        let Some((&uid, order)) = most else {
            return;
        };
        if let Some((_, name)) = order.pop_first() {
            self.slots.remove(&name);
        }
        if order.is_empty() {
            self.used.remove(&uid);
        }
    }
}

/// Whether more than half of the life of a token is left. One from the future was made before the
/// clock was set back, and verifiers may not take it.
fn is_fresh(svid: &JwtSvid, now: SystemTime) -> bool {
    let left = svid.validity.expires_at.duration_since(now);
    svid.validity.issued_at <= now && left.is_ok_and(|left| left * 2 > svid.validity.life())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::from_unix_seconds;
    use crate::entry::KeyRef;
    use crate::svid::{AudienceClaim, Token, Validity};

    fn name(audience: &str) -> SlotName {
        SlotName {
            entry: "e".into(),
            kid: "k".into(),
            order: Order {
                key: KeyRef {
                    issuer: "i".into(),
                    key: "k".into(),
                },
                sub: "spiffe://td/a".parse().unwrap(),
                audience: AudienceClaim::List(vec![audience.parse().unwrap()]),
                claims: crate::entry::Claims::default(),
                ttl: Duration::from_secs(100),
                nbf_margin: Duration::ZERO,
                jti: false,
            },
        }
    }

    fn svid(at: u64) -> Arc<JwtSvid> {
        let ttl = Duration::from_secs(100);
        Arc::new(JwtSvid {
            token: Token::assemble(String::new(), b""),
            sub: "spiffe://td/a".parse().unwrap(),
            validity: Validity::starting(from_unix_seconds(at), ttl, Duration::ZERO),
            kid: "k".into(),
            jti: None,
        })
    }

    fn is_found(cache: &Cache, name: &SlotName, at: u64) -> bool {
        matches!(cache.find(name, 1, from_unix_seconds(at)), Found::Fresh(_))
    }

    #[test]
    fn a_token_is_served_while_more_than_half_of_its_life_is_left() {
        let cache = Cache::default();
        let name = name("a");
        assert!(!is_found(&cache, &name, 1000));
        cache.keep(&name, svid(1000));
        assert!(is_found(&cache, &name, 1000));
        assert!(is_found(&cache, &name, 1049));
        assert!(!is_found(&cache, &name, 1050));
        assert!(!is_found(&cache, &name, 999), "the clock was set back");
    }

    #[test]
    fn another_audience_entry_or_key_is_another_slot() {
        let cache = Cache::default();
        let first = name("a");
        cache.find(&first, 1, from_unix_seconds(1000));
        cache.keep(&first, svid(1000));
        let other_kid = SlotName {
            kid: "other".into(),
            ..first.clone()
        };
        let other_entry = SlotName {
            entry: "other".into(),
            ..first.clone()
        };
        for other in [name("b"), other_kid, other_entry] {
            assert!(!is_found(&cache, &other, 1000));
        }
        assert!(is_found(&cache, &first, 1000));
    }

    #[test]
    fn a_full_cache_evicts_what_the_greediest_user_has_not_used_for_longest() {
        let cache = Cache::default();
        let now = from_unix_seconds(1000);
        let modest = name("modest");
        cache.find(&modest, 7, now);
        cache.keep(&modest, svid(1000));
        let greedy = |number: usize| name(&format!("greedy{number}"));
        for number in 0..MAX_SLOTS + 10 {
            cache.find(&greedy(number), 8, now);
            cache.keep(&greedy(number), svid(1000));
            // Used again and again, so never the one that goes.
            assert!(is_found(&cache, &greedy(0), 1000));
        }
        assert_eq!(cache.inner().slots.len(), MAX_SLOTS);
        assert!(is_found(&cache, &modest, 1000));
        assert!(!cache.inner().slots.contains_key(&greedy(1)));
    }
}
