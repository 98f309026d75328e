use std::fs;
use std::os::unix::fs::PermissionsExt;

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

    fn open(&self) -> Result<(KeyStore, Vec<KeyRecord>), StoreError> {
        KeyStore::open(&self.directory.path().canonicalize().unwrap(), &self.clock)
    }

    /// A store with one key, closed again; tells the key's file.
    fn with_a_key(&self) -> (KeyRecord, PathBuf) {
        let (mut store, records) = self.open().unwrap();
        assert!(records.is_empty());
        let key = key(Algorithm::Es256);
        let chain = KeyRef {
            issuer: "main".into(),
            key: "main".into(),
        };
        store.put(&key).unwrap();
        let record = KeyRecord::prepared(chain, key.jwk().clone(), store.stamp(&self.clock));
        store
            .save(std::slice::from_ref(&record), &self.clock)
            .unwrap();
        let file = store.keys.path().join(file_name(key.jwk()));
        (record, file)
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
    let (store, records) = sandbox.open().unwrap();
    assert_eq!(records, std::slice::from_ref(&record));
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
fn lost_or_damaged_state_never_becomes_a_fresh_start() {
    let sandbox = Sandbox::new();
    let (_, key_file) = sandbox.with_a_key();
    let state = sandbox.private(STATE);
    let good = fs::read_to_string(&state).unwrap();
    let put = |text: &str| {
        fs::write(&state, text).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o600)).unwrap();
    };

    put(&good.replace("\"generation\": 2", "\"generation\": 3"));
    assert!(message(sandbox.open()).contains("checksum"));
    put(&good[..good.len() / 2]);
    assert!(message(sandbox.open()).contains("damaged"));
    put("");
    assert!(message(sandbox.open()).contains("damaged"));
    put(&good.replace("\"version\": 1", "\"version\": 2"));
    assert!(message(sandbox.open()).contains("newer agent"));
    fs::remove_file(&state).unwrap();
    assert!(message(sandbox.open()).contains("is missing although"));
    assert!(key_file.exists());
    put(&good);
    assert_eq!(sandbox.open().unwrap().1.len(), 1);
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let sandbox = Sandbox::new();
    let (record, key_file) = sandbox.with_a_key();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let (store, _) = sandbox.open().unwrap();
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
    let (store, _) = sandbox.open().unwrap();
    assert!(message(store.load(&record.jwk)).contains("another key"));
}

#[test]
fn a_key_that_a_crash_left_without_a_record_is_set_aside() {
    let sandbox = Sandbox::new();
    let (record, _) = sandbox.with_a_key();
    let orphan = key(Algorithm::Es256);
    sandbox.open().unwrap().0.put(&orphan).unwrap();
    let (_, records) = sandbox.open().unwrap();
    assert_eq!(records, [record]);
    let name = file_name(orphan.jwk());
    assert!(!sandbox.private("keys").join(&name).exists());
    assert!(sandbox.private("quarantine").join(&name).exists());
}
