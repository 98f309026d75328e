//! Keys on disk: `private/` of the data directory, closed to everybody else.
//!
//! ```text
//! private/            0700
//!   lock              held for the life of the agent; tells its process id
//!   keys/<kid>.pem    0600, PKCS#8, one file a key
//!   state.json        0600, the record of every key
//!   quarantine/       key files that no record names; nothing is deleted unread
//! ```
//!
//! A key file is durable before the record that names it, and the record before anything that
//! others can see of the key. A crash in between leaves a file that no record names.

mod error;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

pub use self::error::{KeyProblem, StoreError};

use super::record::{KeyRecord, Stamp, StoredRecord};
use super::signing::SigningKey;
use crate::clock::Clock;
use crate::durable::{Attributes, Dir, Persistence};
use crate::jose::encode_base64url;
use crate::jose::jwk::{Jwk, JwkError};

/// The format of `state.json` that is written.
const VERSION: u32 = 1;
const STATE: &str = "state.json";
const LOCK: &str = "lock";

/// The store, locked for this process.
#[derive(Debug)]
pub struct KeyStore {
    private: Dir,
    keys: Dir,
    boot_id: String,
    generation: u64,
    _lock: Flock<File>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    body: StateBody,
    /// SHA-256 of the body as it is written, base64url.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateBody {
    /// Grows by one with each write.
    generation: u64,
    written: Stamp,
    keys: Vec<StoredRecord>,
}

impl KeyStore {
    /// Opens the store below `data_dir`, making it where there is none, and reads the records.
    ///
    /// # Errors
    ///
    /// Whatever makes it doubtful that the keys are ours, whole and closed to others: then
    /// nothing was changed.
    pub fn open(data_dir: &Path, clock: &dyn Clock) -> Result<(Self, Vec<KeyRecord>), StoreError> {
        let data = Dir::create(data_dir, 0o755)?;
        let private = data.create_below("private", 0o700)?;
        let mode = private.mode().map_err(|source| StoreError::File {
            path: private.path().to_owned(),
            source,
        })?;
        if mode & 0o077 != 0 {
            return Err(StoreError::Open {
                path: private.path().to_owned(),
                mode,
            });
        }
        let lock = lock(&private)?;
        let keys = private.create_below("keys", 0o700)?;
        let mut store = Self {
            private,
            keys,
            boot_id: boot_id(),
            generation: 0,
            _lock: lock,
        };
        let records = store.read_state(clock)?;
        store.tidy(&records)?;
        Ok((store, records))
    }

    /// The directory that is locked and closed to others.
    pub fn private(&self) -> &Path {
        self.private.path()
    }

    /// The moment, as records keep it.
    pub fn stamp(&self, clock: &dyn Clock) -> Stamp {
        Stamp::now(clock, &self.boot_id)
    }

    /// Makes a key file durable.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn put(&self, key: &SigningKey) -> Result<(), StoreError> {
        let name = file_name(key.jwk());
        let problem = |source| StoreError::File {
            path: self.keys.path().join(&name),
            source,
        };
        let pem = key
            .to_pem()
            .map_err(|error| problem(io::Error::other(error)))?;
        self.keys
            .replace(
                &name,
                pem.as_bytes(),
                Attributes::own(0o600),
                Persistence::Synced,
            )
            .map_err(problem)?;
        Ok(())
    }

    /// Reads the private key that belongs to a public one.
    ///
    /// # Errors
    ///
    /// What the kernel says, or what is wrong with the file.
    pub fn load(&self, jwk: &Jwk) -> Result<SigningKey, StoreError> {
        let name = file_name(jwk);
        let path = self.keys.path().join(&name);
        let pem = match self.keys.read_secret(&name) {
            Ok(pem) => zeroize::Zeroizing::new(pem),
            Err(source) => return Err(StoreError::File { path, source }),
        };
        let key = SigningKey::from_pem(jwk.algorithm(), &pem).map_err(KeyProblem::Key);
        match key {
            Ok(key) if key.jwk() == jwk => Ok(key),
            Ok(_) => Err(KeyProblem::Other),
            Err(problem) => Err(problem),
        }
        .map_err(|reason| StoreError::KeyDamaged { path, reason })
    }

    /// Makes the records durable.
    ///
    /// # Errors
    ///
    /// What the kernel says; the file then holds the former state or this one.
    pub fn save(&mut self, records: &[KeyRecord], clock: &dyn Clock) -> Result<(), StoreError> {
        let body = StateBody {
            generation: self.generation + 1,
            written: self.stamp(clock),
            keys: records.iter().map(KeyRecord::to_stored).collect(),
        };
        let problem = |source| StoreError::File {
            path: self.private.path().join(STATE),
            source,
        };
        let generation = body.generation;
        let bytes = render(body).map_err(|error| problem(error.into()))?;
        self.private
            .replace(STATE, &bytes, Attributes::own(0o600), Persistence::Synced)
            .map_err(problem)?;
        self.generation = generation;
        Ok(())
    }

    fn read_state(&mut self, clock: &dyn Clock) -> Result<Vec<KeyRecord>, StoreError> {
        let path = self.private.path().join(STATE);
        let bytes = match self.private.read_secret(STATE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.first_state(path, clock);
            }
            Err(source) => return Err(StoreError::File { path, source }),
        };
        let damaged = |reason: String| StoreError::StateDamaged {
            path: path.clone(),
            reason,
        };
        let body = parse(&bytes).map_err(|problem| match problem {
            StateProblem::Newer(found) => StoreError::StateNewer {
                path: path.clone(),
                found,
            },
            StateProblem::Damaged(reason) => damaged(reason),
        })?;
        self.generation = body.generation;
        let records: Result<_, JwkError> =
            body.keys.into_iter().map(KeyRecord::from_stored).collect();
        records.map_err(|error| damaged(error.to_string()))
    }

    /// A store without state is new only if it has no keys either. The empty state is written
    /// before the first key, so that a crash after that is not taken for a loss.
    fn first_state(
        &mut self,
        state: PathBuf,
        clock: &dyn Clock,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        if !self.key_files()?.is_empty() {
            return Err(StoreError::StateMissing {
                state,
                keys: self.keys.path().to_owned(),
            });
        }
        self.save(&[], clock)?;
        Ok(Vec::new())
    }

    fn key_files(&self) -> Result<Vec<String>, StoreError> {
        let names = self.keys.names().map_err(|source| StoreError::File {
            path: self.keys.path().to_owned(),
            source,
        })?;
        Ok(names
            .into_iter()
            .filter(|name| name.ends_with(".pem"))
            .collect())
    }

    /// Removes what a killed agent left half-written and sets aside what no record names.
    fn tidy(&self, records: &[KeyRecord]) -> Result<(), StoreError> {
        for dir in [&self.private, &self.keys] {
            dir.sweep().map_err(|source| StoreError::File {
                path: dir.path().to_owned(),
                source,
            })?;
        }
        for name in self.key_files()? {
            if records.iter().any(|record| file_name(&record.jwk) == name) {
                continue;
            }
            let quarantine = self.private.create_below("quarantine", 0o700)?;
            let path = self.keys.path().join(&name);
            tracing::warn!(file = %path.display(), "no record names this key: moved to quarantine");
            renameat(
                self.keys.as_fd(),
                name.as_str(),
                quarantine.as_fd(),
                name.as_str(),
            )
            .map_err(|errno| StoreError::File {
                path,
                source: errno.into(),
            })?;
        }
        Ok(())
    }
}

fn file_name(jwk: &Jwk) -> String {
    format!("{}.pem", jwk.kid())
}

enum StateProblem {
    Newer(u32),
    Damaged(String),
}

fn parse(bytes: &[u8]) -> Result<StateBody, StateProblem> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |error: serde_json::Error| StateProblem::Damaged(error.to_string());
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(StateProblem::Newer(version));
    }
    let file: StateFile = serde_json::from_slice(bytes).map_err(damaged)?;
    if checksum(&file.body).map_err(damaged)? == file.sha256 {
        Ok(file.body)
    } else {
        Err(StateProblem::Damaged("its checksum is wrong".to_owned()))
    }
}

fn render(body: StateBody) -> serde_json::Result<Vec<u8>> {
    let file = StateFile {
        version: VERSION,
        sha256: checksum(&body)?,
        body,
    };
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn checksum(body: &StateBody) -> serde_json::Result<String> {
    Ok(encode_base64url(digest(
        &SHA256,
        &serde_json::to_vec(body)?,
    )))
}

/// Takes the lock that keeps a second agent off the directory.
fn lock(private: &Dir) -> Result<Flock<File>, StoreError> {
    let path = private.path().join(LOCK);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd =
        openat(private.as_fd(), LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| {
            StoreError::File {
                path: path.clone(),
                source: errno.into(),
            }
        })?;
    let mut lock = match Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err(_) => {
            let holder = private
                .read(LOCK)
                .ok()
                .and_then(|b| String::from_utf8(b).ok());
            let holder =
                holder.map_or_else(String::new, |pid| format!(" (process {})", pid.trim()));
            return Err(StoreError::Locked {
                path: private.path().to_owned(),
                holder,
            });
        }
    };
    // Only a courtesy for the message above: the lock holds without it.
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{}", std::process::id());
    Ok(lock)
}

/// Tells boots apart; empty where the kernel does not say, which makes all boots one.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
