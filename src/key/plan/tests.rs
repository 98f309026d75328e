use proptest::prelude::*;

use super::*;
use crate::clock::fake::FakeClock;
use crate::entry::KeyRef;
use crate::jose::jwk::{Jwk, PublicKey};
use crate::jose::{Algorithm, Curve};
use crate::key::record::Watch;
use crate::key::signing::RsaSize;

const LIFESPAN: u64 = 100;
const MARGIN: u64 = 20;
const TTL: u64 = 50;

fn spec() -> ChainSpec {
    ChainSpec {
        key: KeySpec {
            algorithm: Algorithm::Es256,
            rsa_size: RsaSize::Bits2048,
        },
        policy: RotationPolicy {
            lifespan: secs(LIFESPAN),
            publish_margin: secs(MARGIN),
            keep: secs(TTL + MARGIN),
        },
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn jwk(number: u8) -> Jwk {
    let key = PublicKey::Ec {
        curve: Curve::P256,
        x: vec![number; 32],
        y: vec![2; 32],
    };
    Jwk::new(Algorithm::Es256, key)
}

/// A chain on a machine whose clock can be set, that can be killed and booted again.
struct World {
    clock: FakeClock,
    boot: u32,
    watch: Watch,
    keys: Vec<KeyRecord>,
    made: u8,
    /// Real time, which nobody on the machine knows.
    time: u64,
    /// Which keys the documents held, since when.
    documents: Vec<(u64, Vec<String>)>,
    /// Which key signed at which time, and whether it could not wait.
    signed: Vec<(u64, String, bool)>,
    /// Keys that began to sign early, or were tainted: what the rules leave open.
    excepted: Vec<String>,
}

impl World {
    fn new() -> Self {
        let clock = FakeClock::at(1_800_000_000);
        Self {
            watch: Watch::begin(&clock, "0".to_owned()),
            clock,
            boot: 0,
            keys: Vec::new(),
            made: 0,
            time: 0,
            documents: Vec::new(),
            signed: Vec::new(),
            excepted: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        self.watch.now(&self.clock)
    }

    fn next(&self) -> Next {
        next(&self.keys, Some(&spec()), &self.now())
    }

    fn key(&mut self, kid: &str) -> &mut KeyRecord {
        let mut keys = self.keys.iter_mut();
        keys.find(|key| key.jwk.kid() == kid).unwrap()
    }

    /// Takes steps until there is nothing to do, or until the agent is killed after so many.
    fn run(&mut self, kill_after: Option<u8>) -> Option<Duration> {
        for taken in 0u8..50 {
            match self.next() {
                Next::Sleep(length) => {
                    assert!(length <= LONGEST_SLEEP && !length.is_zero());
                    self.sign();
                    return Some(length);
                }
                Next::Do(step) => self.take(step),
            }
            if kill_after == Some(taken) {
                return None;
            }
        }
        panic!("the chain does not come to rest: {:?}", self.keys);
    }

    fn take(&mut self, step: Step) {
        let now = self.now().stamp;
        match step {
            Step::Prepare { .. } => {
                self.made += 1;
                let chain = KeyRef {
                    issuer: "i".into(),
                    key: "k".into(),
                };
                let key = KeyRecord::prepared(chain, jwk(self.made), now);
                self.keys.push(key);
            }
            Step::Publish => {
                for key in &mut self.keys {
                    key.published.get_or_insert(now.clone());
                }
                self.write();
            }
            Step::Activate { kid, turn } => {
                if let Turn::Early(_) = turn {
                    self.excepted.push(kid.clone());
                }
                let keep = spec().policy.keep;
                for key in &mut self.keys {
                    if key.jwk.kid() == kid {
                        assert_eq!(key.state(), KeyState::Published);
                        key.activated = Some(now.clone());
                        key.keep = keep;
                    } else if key.state() == KeyState::Active {
                        key.retired = Some(now.clone());
                    }
                }
            }
            Step::Extend { kid } => self.key(&kid).keep = spec().policy.keep,
            Step::Retire { kid } => self.key(&kid).retired = Some(now),
            Step::Remove { kid } => {
                assert_ne!(self.key(&kid).state(), KeyState::Active);
                self.keys.retain(|key| key.jwk.kid() != kid);
                self.write();
            }
        }
    }

    /// The documents as verifiers find them from now on.
    fn write(&mut self) {
        let out = |key: &&KeyRecord| key.published.is_some() && key.tainted.is_none();
        let kids = self.keys.iter().filter(out);
        let kids = kids.map(|key| key.jwk.kid().to_owned()).collect();
        self.documents.push((self.time, kids));
    }

    fn sign(&mut self) {
        let mut active = self
            .keys
            .iter()
            .filter(|key| key.state() == KeyState::Active);
        let kid = active.next().expect("somebody signs").jwk.kid().to_owned();
        assert!(active.next().is_none(), "one at a time");
        let tainted = self.keys.iter().any(|key| key.tainted.is_some());
        assert!(!tainted, "a tainted key is gone when the chain is at rest");
        let excepted = self.excepted.contains(&kid);
        self.signed.push((self.time, kid, excepted));
    }

    fn pass(&mut self, seconds: u64) {
        self.time += seconds;
        self.clock.advance(secs(seconds));
    }

    fn boot(&mut self) {
        self.boot += 1;
        self.watch = Watch::begin(&self.clock, self.boot.to_string());
    }

    fn restart(&mut self) {
        self.watch = Watch::begin(&self.clock, self.boot.to_string());
    }

    fn taint(&mut self) {
        let now = self.now().stamp;
        let active = self
            .keys
            .iter_mut()
            .find(|key| key.state() == KeyState::Active);
        if let Some(key) = active {
            key.tainted = Some(now);
            let kid = key.jwk.kid().to_owned();
            self.excepted.push(kid.clone());
            for (_, signed, excepted) in &mut self.signed {
                *excepted |= *signed == kid;
            }
            self.write();
        }
    }

    /// Every verifier that read the documents not longer than the margin ago could check every
    /// token for as long as it held.
    fn check(&self) {
        for (at, kid, excepted) in self.signed.iter().filter(|(_, _, excepted)| !excepted) {
            let from = at.saturating_sub(MARGIN);
            let starts = self.documents.iter().map(|(start, _)| *start);
            let ends = starts.skip(1).chain([u64::MAX]);
            for ((start, kids), end) in self.documents.iter().zip(ends) {
                if *start <= at + TTL && end > from && end > *start {
                    assert!(
                        kids.contains(kid),
                        "{kid} signed at {at} and was not out from {start} to {end} ({excepted})"
                    );
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// Time passes, and the agent works.
    Pass(u64),
    /// The agent is killed after so many steps, and started again.
    Kill(u8),
    /// The machine sleeps or is off, then boots.
    Boot(u64),
    /// An operator sets the wall clock.
    Wall(i64),
    Taint,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1u64..40).prop_map(Event::Pass),
        2 => (0u8..6).prop_map(Event::Kill),
        1 => (0u64..200).prop_map(Event::Boot),
        1 => (-500_000i64..500_000).prop_map(Event::Wall),
        1 => Just(Event::Taint),
    ]
}

fn live(events: Vec<Event>, with_boots: bool) -> World {
    let mut world = World::new();
    world.run(None);
    let mut wall = 0i64;
    for event in events {
        match event {
            Event::Pass(seconds) => world.pass(seconds),
            Event::Kill(steps) => {
                if world.run(Some(steps)).is_none() {
                    world.restart();
                }
            }
            Event::Boot(seconds) if with_boots => {
                world.pass(seconds);
                world.boot();
            }
            Event::Boot(_) => world.restart(),
            Event::Wall(seconds) => {
                wall += seconds;
                let base = 1_800_000_000 + i64::try_from(world.time).unwrap();
                world.clock.set_wall(u64::try_from(base + wall).unwrap());
            }
            Event::Taint => world.taint(),
        }
        world.run(None);
    }
    world
}

proptest! {
    #[test]
    fn whatever_happens_within_a_boot_no_verifier_meets_a_key_it_cannot_have(
        events in prop::collection::vec(event(), 0..60)
    ) {
        live(events, false).check();
    }

    #[test]
    fn no_boot_and_no_setting_of_the_clock_keeps_a_chain_from_signing_and_turning_over(
        events in prop::collection::vec(event(), 0..60)
    ) {
        let mut world = live(events, true);
        let made = world.made;
        for _ in 0..2 {
            for _ in 0..3 * LIFESPAN {
                world.pass(1);
                world.run(None);
            }
        }
        prop_assert!(world.made > made, "keys still turn over");
        prop_assert!(world.keys.len() <= 4 + MAX_HELD_BACK, "and do not pile up");
    }

    #[test]
    fn any_records_lead_to_one_key_that_signs(
        states in prop::collection::vec((0u8..5, 0u64..400), 0..8)
    ) {
        let mut world = World::new();
        for (state, age) in states {
            world.take(Step::Prepare { successor: false });
            let stamp = world.now().stamp;
            let key = world.keys.last_mut().unwrap();
            if state >= 1 { key.published = Some(stamp.clone()); }
            if state >= 2 { key.activated = Some(stamp.clone()); }
            if state >= 3 { key.retired = Some(stamp.clone()); }
            if state >= 4 { key.tainted = Some(stamp); }
            // The records are those of a working agent: one signs at most.
            let kid = key.jwk.kid().to_owned();
            let now = world.now().stamp;
            for key in &mut world.keys {
                if key.state() == KeyState::Active && key.jwk.kid() != kid && state == 2 {
                    key.retired = Some(now.clone());
                }
            }
            world.pass(age);
        }
        world.run(None);
    }
}

#[test]
fn a_key_signs_after_its_margin_and_leaves_after_its_tokens() {
    let mut world = World::new();
    world.run(None);
    let first = jwk(1).kid().to_owned();
    let second = jwk(2).kid().to_owned();
    let signer = |world: &World| world.signed.last().unwrap().1.clone();
    assert_eq!(signer(&world), first);
    world.pass(LIFESPAN - 1);
    world.run(None);
    assert_eq!(signer(&world), first);
    world.pass(1);
    world.run(None);
    assert_eq!(signer(&world), second);
    world.pass(TTL + MARGIN - 1);
    world.run(None);
    assert!(world.keys.iter().any(|key| key.jwk.kid() == first));
    world.pass(1);
    world.run(None);
    assert!(world.keys.iter().all(|key| key.jwk.kid() != first));
}

#[test]
fn after_a_boot_the_margin_must_be_proven_anew_but_not_for_ever() {
    let mut world = World::new();
    world.run(None);
    world.boot();
    world.clock.set_wall(1_800_000_000 + LIFESPAN);
    world.run(None);
    assert_eq!(
        world.signed.last().unwrap().1,
        jwk(1).kid(),
        "the clock may be wrong"
    );
    world.pass(MARGIN);
    world.run(None);
    assert_eq!(world.signed.last().unwrap().1, jwk(2).kid());

    let mut world = World::new();
    world.run(None);
    for _ in 0..3 * LIFESPAN {
        world.pass(1);
        world.boot();
        world.run(None);
    }
    assert_ne!(
        world.signed.last().unwrap().1,
        jwk(1).kid(),
        "however often it boots"
    );
}

#[test]
fn a_wall_clock_set_back_keeps_the_keys_of_tokens_that_look_young_again() {
    let mut world = World::new();
    world.run(None);
    world.pass(LIFESPAN);
    world.run(None);
    world.clock.set_wall(1_800_000_000 - 5 * 86_400);
    world.pass(TTL + MARGIN + 10);
    world.run(None);
    assert!(world.keys.iter().any(|key| key.jwk.kid() == jwk(1).kid()));
}

#[test]
fn what_is_told_of_the_next_replacement_heeds_who_asked_and_what_verifiers_have() {
    let mut world = World::new();
    world.run(None);
    let told = |world: &World| replaced_in(&world.keys, &spec(), &world.now());
    assert_eq!(told(&world), Some(secs(LIFESPAN)));
    world.clock.advance(secs(5));
    assert_eq!(told(&world), Some(secs(LIFESPAN - 5)));
    let active = |key: &&mut KeyRecord| key.state() == KeyState::Active;
    world.keys.iter_mut().find(active).unwrap().replace = true;
    assert_eq!(told(&world), Some(secs(MARGIN - 5)));
    world.keys.retain(|key| key.state() == KeyState::Active);
    assert_eq!(told(&world), Some(secs(MARGIN)), "it must be made first");
    world.keys.clear();
    assert_eq!(told(&world), None);
}
