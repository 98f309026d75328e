use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::clock::fake::FakeClock;
use crate::entry::KeyRef;
use crate::jose::Algorithm;
use crate::key::signing::tests::key;

struct Sandbox {
    directory: tempfile::TempDir,
    clock: FakeClock,
}

impl Sandbox {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: FakeClock::at(1_800_000_000),
        }
    }

    fn open(&self) -> Result<(KeyStore, State, Found), StoreError> {
        KeyStore::open(&self.directory.path().canonicalize().unwrap(), &self.clock)
    }

    /// A store with one key, closed again; tells the key's file.
    fn with_a_key(&self) -> (KeyRecord, PathBuf) {
        let (mut store, mut state, found) = self.open().unwrap();
        assert_eq!((&state, found), (&State::default(), Found::Whole));
        let key = key(Algorithm::Es256);
        let chain = KeyRef {
            issuer: "main".into(),
            key: "main".into(),
        };
        store.put(&key).unwrap();
        let now = store.watch().now(&self.clock).stamp;
        let record = KeyRecord::prepared(chain, key.jwk().clone(), now);
        state.keys.push(record.clone());
        store.save(&state, &self.clock).unwrap();
        let file = store.keys.path().join(file_name(key.jwk()));
        (record, file)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.private(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn private(&self, name: &str) -> PathBuf {
        self.directory.path().join("private").join(name)
    }
}

fn message<T>(result: Result<T, StoreError>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn records_and_keys_survive_a_restart() {
    let sandbox = Sandbox::new();
    let (record, file) = sandbox.with_a_key();
    assert_eq!(
        fs::metadata(file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let (store, state, _) = sandbox.open().unwrap();
    assert_eq!(state.keys, std::slice::from_ref(&record));
    assert_eq!(store.load(&record.jwk).unwrap().jwk(), &record.jwk);
}

#[test]
fn a_second_store_on_the_same_directory_is_refused_and_told_who_has_it() {
    let sandbox = Sandbox::new();
    let _first = sandbox.open().unwrap();
    let text = message(sandbox.open());
    assert!(
        text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
}

#[test]
fn a_damaged_state_is_set_aside_and_the_one_of_before_stands_for_it() {
    let sandbox = Sandbox::new();
    sandbox.with_a_key();
    let good = fs::read_to_string(sandbox.private(STATE)).unwrap();
    let broken = [
        good.replace("\"generation\": 2", "\"generation\": 3"),
        good[..good.len() / 2].to_owned(),
        String::new(),
    ];
    for (number, text) in broken.iter().enumerate() {
        sandbox.put(STATE, text);
        let (mut store, state, found) = sandbox.open().unwrap();
        assert_eq!((state.keys.len(), found), (0, Found::Previous));
        let name = match number {
            0 => STATE.to_owned(),
            number => format!("{STATE}.{number}"),
        };
        let aside = sandbox.private("quarantine").join(name);
        assert_eq!(fs::read_to_string(aside).unwrap(), *text, "nothing is lost");
        store.save(&state, &sandbox.clock).unwrap();
    }
}

#[test]
fn keys_without_any_state_are_never_taken_for_a_fresh_start() {
    let sandbox = Sandbox::new();
    let (_, key_file) = sandbox.with_a_key();
    sandbox.put(PREVIOUS, "{");
    fs::remove_file(sandbox.private(STATE)).unwrap();
    let (_, state, found) = sandbox.open().unwrap();
    assert_eq!((state, found), (State::default(), Found::Lost));
    assert!(key_file.exists());
}

#[test]
fn a_state_of_a_later_agent_is_refused_and_one_of_the_former_format_is_read() {
    let sandbox = Sandbox::new();
    let (record, _) = sandbox.with_a_key();
    let good = fs::read_to_string(sandbox.private(STATE)).unwrap();
    let version = |number: u32| good.replace("\"version\": 2", &format!("\"version\": {number}"));
    sandbox.put(STATE, &version(3));
    assert!(message(sandbox.open()).contains("newer agent"));
    sandbox.put(STATE, &version(1));
    assert_eq!(sandbox.open().unwrap().1.keys, [record]);
}

#[test]
fn a_clock_before_the_last_known_time_is_suspected() {
    let sandbox = Sandbox::new();
    sandbox.with_a_key();
    let suspects = |seconds: u64| {
        sandbox.clock.set_wall(seconds);
        let (store, ..) = sandbox.open().unwrap();
        store.suspects(&store.watch().now(&sandbox.clock))
    };
    assert!(!suspects(1_800_000_000 - 200));
    assert!(suspects(1_800_000_000 - 400));
    assert!(suspects(0));
    assert!(!suspects(1_900_000_000));
}

#[test]
fn a_wrong_clock_is_suspected_at_the_next_start_too() {
    let sandbox = Sandbox::new();
    sandbox.with_a_key();
    sandbox.clock.set_wall(0);
    for _ in 0..2 {
        let (mut store, state, _) = sandbox.open().unwrap();
        assert!(store.suspects(&store.watch().now(&sandbox.clock)));
        store.save(&state, &sandbox.clock).unwrap();
    }
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let sandbox = Sandbox::new();
    let (record, key_file) = sandbox.with_a_key();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let (store, ..) = sandbox.open().unwrap();
    assert!(message(store.load(&record.jwk)).contains("0644"));
    drop(store);
    let private = sandbox.directory.path().join("private");
    fs::set_permissions(private, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(message(sandbox.open()).contains("chmod 0700"));
}

#[test]
fn a_key_file_with_another_key_is_refused() {
    let sandbox = Sandbox::new();
    let (record, key_file) = sandbox.with_a_key();
    fs::write(
        &key_file,
        key(Algorithm::Es256).to_pem().unwrap().as_bytes(),
    )
    .unwrap();
    let (store, ..) = sandbox.open().unwrap();
    assert!(message(store.load(&record.jwk)).contains("another key"));
}

#[test]
fn a_key_that_a_crash_left_without_a_record_is_set_aside() {
    let sandbox = Sandbox::new();
    let (record, _) = sandbox.with_a_key();
    let orphan = key(Algorithm::Es256);
    sandbox.open().unwrap().0.put(&orphan).unwrap();
    let (store, state, _) = sandbox.open().unwrap();
    assert_eq!(state.keys, [record]);
    store.tidy(&state.keys).unwrap();
    let name = file_name(orphan.jwk());
    assert!(!sandbox.private("keys").join(&name).exists());
    assert!(sandbox.private("quarantine").join(&name).exists());
}
