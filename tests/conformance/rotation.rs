//! 7.4 and 7.5 while keys turn over.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::common::{DEADLINE, Sandbox, eventually, own_entry, text};
use crate::house::{House, URL, document, now, opened};
use crate::turnover::{self, in_state, kid, kids, published};

/// Seconds that a token lives; its key stays for a second more.
const TTL: u32 = 2;

/// With a key that signs for so many seconds, and tokens that are all new ones.
pub async fn house(lifespan: u32) -> House {
    let sandbox = Sandbox::new("");
    let blocks = turnover::issuer("main", URL, "ES256", lifespan) + &own_entry();
    let blocks = blocks.replace("  selectors", "  jti = true\n  selectors");
    let blocks = blocks + "limits {\n  signatures_per_second_per_uid = 0\n}\n";
    turnover::configure(&sandbox, TTL, &blocks);
    let house = House::of(sandbox).await;
    eventually("a successor is published", || {
        let keys = turnover::keys(&house.sandbox);
        (!in_state(&keys, "published").is_empty()).then_some(())
    });
    house
}

/// Has the key replaced by its successor, as soon as that is ready; the former and the new one.
pub fn rotate(house: &House) -> (String, String) {
    let active = || in_state(&turnover::keys(&house.sandbox), "active").remove(0);
    let former = active();
    let output = house.sandbox.run(&["key", "rotate"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    eventually("the successor takes over", || {
        let active = active();
        (active != former).then(|| (former.clone(), active))
    })
}

/// Of a loop that ends only when another key signs.
struct Patience(Instant);

impl Patience {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn check(&self) {
        assert!(self.0.elapsed() < DEADLINE, "no other key signs");
    }
}

type Sets = Arc<Mutex<Vec<BTreeSet<String>>>>;

/// An open stream; the kids of each message that it got.
struct Follower {
    sets: Sets,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    async fn new(house: &House) -> Self {
        let mut stream = house.bundles().await.unwrap();
        let first = stream.message().await.unwrap().unwrap();
        let sets: Sets = Arc::new(Mutex::new(vec![kids(&document(&first))]));
        let kept = Arc::clone(&sets);
        let task = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                kept.lock().unwrap().push(kids(&document(&message)));
            }
        });
        Self { sets, task }
    }

    fn latest(&self) -> BTreeSet<String> {
        self.sets.lock().unwrap().last().unwrap().clone()
    }

    /// Waits for a message that is as wanted, after so many others; its number.
    fn wait(&self, what: &str, after: usize, wanted: impl Fn(&BTreeSet<String>) -> bool) -> usize {
        eventually(what, || {
            let sets = self.sets.lock().unwrap();
            let found = sets[after..].iter().position(&wanted);
            found.map(|found| after + found)
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// C36: calls succeed while the signing key is replaced, and a client that follows the bundles has
/// had the new key before it gets a token of it.
#[tokio::test(flavor = "multi_thread")]
async fn c36_calls_and_streams_go_on_while_the_key_is_replaced() {
    let house = Arc::new(house(3600).await);
    let (former, successor) = {
        let keys = turnover::keys(&house.sandbox);
        (in_state(&keys, "active"), in_state(&keys, "published"))
    };
    let callers = (0..4).map(|_| {
        let (house, successor) = (Arc::clone(&house), successor[0].clone());
        tokio::spawn(async move {
            let follower = Follower::new(&house).await;
            let (patience, mut signers) = (Patience::new(), Vec::new());
            while signers.last() != Some(&successor) {
                patience.check();
                let known = follower.latest();
                let signer = kid(&house.token("a").await);
                assert!(known.contains(&signer), "{signer} is not in {known:?}");
                signers.push(signer);
            }
            signers
        })
    });
    let callers: Vec<_> = callers.collect();
    let rotating = Arc::clone(&house);
    let replaced = tokio::task::spawn_blocking(move || rotate(&rotating)).await;
    assert_eq!(replaced.unwrap(), (former[0].clone(), successor[0].clone()));
    for caller in callers {
        let mut signers = caller.await.unwrap();
        assert!(signers.len() > 1, "the call was not under way");
        signers.dedup();
        assert_eq!(signers, [former[0].clone(), successor[0].clone()]);
    }
}

/// C42: each token has a `kid`, and it is found in the bundle that the API gives, in the bundle file
/// and in the OIDC JWKS of that moment, whatever key signs.
#[tokio::test(flavor = "multi_thread")]
async fn c42_the_kid_of_a_token_is_in_every_document_of_its_moment() {
    let house = house(3).await;
    let (patience, mut signers) = (Patience::new(), BTreeSet::new());
    while signers.len() < 3 {
        patience.check();
        let signer = kid(&house.token("a").await);
        let documents = [
            house.keys().await,
            published(&house.sandbox, "main", "bundle.json"),
            published(&house.sandbox, "main", "jwks.json"),
        ];
        for document in documents {
            let found = kids(&document);
            assert!(found.contains(&signer), "{signer} is not in {found:?}");
        }
        signers.insert(signer);
    }
}

/// C55: when a key is added, every open stream gets a new message with all keys; when one is
/// removed, a message without it.
#[tokio::test(flavor = "multi_thread")]
async fn c55_added_and_removed_keys_are_sent_on_every_open_stream() {
    let house = house(3600).await;
    let followers = [Follower::new(&house).await, Follower::new(&house).await];
    let before = followers.each_ref().map(Follower::latest);
    assert_eq!(before[0], before[1]);
    assert_eq!(before[0].len(), 2);
    let (former, _) = rotate(&house);
    for follower in &followers {
        let added = follower.wait("a message with one more", 1, |set| {
            set.len() == 3 && set.is_superset(&before[0])
        });
        let full = follower.sets.lock().unwrap()[added].clone();
        let left: BTreeSet<_> = full.iter().filter(|kid| **kid != former).cloned().collect();
        follower.wait("a message without it", added, |set| *set == left);
    }
}

/// C61: a new signing key is on the streams and in the files before the first token of it.
#[tokio::test(flavor = "multi_thread")]
async fn c61_a_key_is_known_everywhere_before_its_first_token() {
    let house = house(3).await;
    let follower = Follower::new(&house).await;
    let (patience, mut signers) = (Patience::new(), BTreeSet::new());
    while signers.len() < 3 {
        patience.check();
        let known = [
            follower.latest(),
            kids(&published(&house.sandbox, "main", "bundle.json")),
            kids(&published(&house.sandbox, "main", "jwks.json")),
        ];
        let signer = kid(&house.token("a").await);
        for known in known {
            assert!(known.contains(&signer), "{signer} was not in {known:?}");
        }
        signers.insert(signer);
    }
}

/// C113: a key that signs no longer stays published until its last token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn c113_a_key_stays_until_its_last_token_has_expired() {
    let house = house(3600).await;
    let first = house.token("a").await;
    let former = kid(&first);
    assert!(house.sandbox.run(&["key", "rotate"]).status.success());
    let (patience, mut last) = (Patience::new(), opened(&first).1["exp"].as_u64().unwrap());
    loop {
        patience.check();
        let token = house.token("a").await;
        if kid(&token) != former {
            break;
        }
        last = opened(&token).1["exp"].as_u64().unwrap();
    }
    for name in ["jwks.json", "bundle.json"] {
        eventually("the key leaves", || {
            let left = !kids(&published(&house.sandbox, "main", name)).contains(&former);
            assert!(
                !left || now() >= last,
                "{name} lacks {former} before {last}"
            );
            left.then_some(())
        });
    }
}
