//! Reads the documents all the time, as verifiers do, and holds them to what they promise.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// What a verifier looks at in a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kid: String,
    /// Seconds since 1970.
    expires_at: f64,
}

impl Token {
    pub fn parse(token: &str) -> Self {
        let parts: Vec<Value> = token
            .split('.')
            .take(2)
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        Self {
            kid: parts[0]["kid"].as_str().unwrap().to_owned(),
            expires_at: parts[1]["exp"].as_f64().unwrap(),
        }
    }

    fn has_expired(&self) -> bool {
        self.expires_at <= UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
    }
}

/// The document; none where there is no such file. Anything but whole JSON fails the test.
pub fn document(path: &Path) -> Option<Value> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        bytes => bytes.unwrap(),
    };
    let parsed = serde_json::from_slice(&bytes);
    Some(parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// The kids in a JWKS, none where there is none.
pub fn kids(jwks: &Path) -> Vec<String> {
    let Some(jwks) = document(jwks) else {
        return Vec::new();
    };
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

/// The thread that reads, and what it was told of the tokens that are out.
pub struct Watcher {
    stop: Arc<AtomicBool>,
    issued: Arc<Mutex<Vec<Token>>>,
    reads: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins; the JWKS is the first of the documents.
    pub fn start(documents: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let issued: Arc<Mutex<Vec<Token>>> = Arc::default();
        let reads = Arc::new(AtomicUsize::new(0));
        let (until, tokens, count) = (Arc::clone(&stop), Arc::clone(&issued), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            let mut seen = vec![false; documents.len()];
            while !until.load(Ordering::Relaxed) {
                for (path, seen) in documents.iter().zip(&mut seen) {
                    let there = document(path).is_some();
                    assert!(there || !*seen, "{} has gone", path.display());
                    *seen = there;
                }
                tokens.lock().unwrap().retain(|token| !token.has_expired());
                check(&tokens.lock().unwrap().clone(), &documents[0]);
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Self {
            stop,
            issued,
            reads,
            thread: Some(thread),
        }
    }

    /// From now on the key of this token must be in the JWKS, until it has expired.
    pub fn expect(&self, token: Token) {
        let mut issued = self.issued.lock().unwrap();
        if !issued.contains(&token) {
            issued.push(token);
        }
    }

    /// How often all documents were read.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    /// Fails as soon as the thread has.
    pub fn check(&self) {
        let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        assert!(!ended, "the watcher saw something: its panic is above");
    }
}

/// The key of every token that is still good must be found.
fn check(tokens: &[Token], jwks: &Path) {
    let kids = kids(jwks);
    for token in tokens {
        assert!(
            kids.contains(&token.kid) || token.has_expired(),
            "the JWKS lacks the key of a good token: {token:?} {kids:?}"
        );
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the watcher saw something");
        }
    }
}
