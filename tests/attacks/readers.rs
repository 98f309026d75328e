//! Readers that read all the time: each read finds one whole token that verifies.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};

use crate::common::{claims, eventually, long};
use crate::house::{against_each_agent, is_token, now};

const FILES: usize = 100;
const READERS: usize = 4;

/// What was found in the files.
#[derive(Default)]
struct Found {
    reads: AtomicUsize,
    tokens: Mutex<BTreeSet<String>>,
    /// Reads of a token that had expired.
    expired: AtomicUsize,
}

/// A17: until so many tokens and so many reads were seen.
#[test]
fn a_hundred_files_are_whole_there_and_valid_at_every_read() {
    let (tokens, reads) = if long() {
        (10_000, 1_000_000)
    } else {
        (400, 50_000)
    };
    against_each_agent(&[], |house| {
        let path = |i: usize| house.sandbox.path(&format!("run/tokens/{}/{i}", i % 7));
        let paths: Vec<PathBuf> = (0..FILES).map(path).collect();
        let blocks: Vec<_> = paths
            .iter()
            .map(|path| (path.clone(), "ttl = \"2s\""))
            .collect();
        house.configure(&blocks);
        let _agent = house.start();
        for path in &paths {
            eventually("the file is there", || path.exists().then_some(()));
        }
        let jwks = fs::read(house.sandbox.path("data/webroot/main/jwks.json")).unwrap();
        let jwks: JwkSet = serde_json::from_slice(&jwks).unwrap();
        let keys: HashMap<_, _> = jwks
            .keys
            .iter()
            .map(|jwk| {
                (
                    jwk.common.key_id.clone(),
                    DecodingKey::from_jwk(jwk).unwrap(),
                )
            })
            .collect();
        let found = Found::default();
        let verify = |token: &str| {
            assert!(is_token(token), "{token:?}");
            let key = &keys[&decode_header(token).unwrap().kid];
            let mut rules = Validation::new(Algorithm::ES256);
            rules.set_audience(&["a"]);
            // Whether it is in time is told by the reads.
            rules.validate_exp = false;
            decode::<serde_json::Value>(token, key, &rules).unwrap();
        };
        let done = || {
            found.reads.load(Ordering::Relaxed) >= reads
                && found.tokens.lock().unwrap().len() >= tokens
        };
        std::thread::scope(|scope| {
            for reader in 0..READERS {
                let (paths, found, verify, done) = (&paths, &found, &verify, &done);
                scope.spawn(move || {
                    let mut last: HashMap<usize, (String, f64)> = HashMap::new();
                    while !done() {
                        // Each begins elsewhere.
                        for i in (0..FILES).map(|i| (i + reader * FILES / READERS) % FILES) {
                            let read = fs::read_to_string(&paths[i]).expect("it is there");
                            let time = now();
                            found.reads.fetch_add(1, Ordering::Relaxed);
                            if last.get(&i).is_none_or(|(token, _)| *token != read) {
                                verify(&read);
                                let exp = claims(&read)["exp"].as_f64().unwrap();
                                found.tokens.lock().unwrap().insert(read.clone());
                                last.insert(i, (read, exp));
                            }
                            if last[&i].1 <= time {
                                found.expired.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let expired = found.expired.into_inner();
        println!(
            "{:?}: {} reads of {} tokens in {FILES} files, {expired} of one that had expired",
            house.runner,
            found.reads.into_inner(),
            found.tokens.into_inner().unwrap().len()
        );
        assert!(!long() || expired == 0, "{expired} reads of expired tokens");
    });
}
