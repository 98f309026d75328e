//! Keys on disk: `private/` of the data directory, closed to everybody else.
//!
//! ```text
//! private/            0700
//!   lock              held for the life of the agent; tells its process id
//!   keys/<kid>.pem    0600, PKCS#8, one file a key
//!   state.json        0600, the record of every key
//!   state.prev.json   0600, the same as it was before the last step
//!   quarantine/       files that are damaged or that no record names; nothing is deleted unread
//! ```
//!
//! A key file is durable before the record that names it, and the record before anything that
//! others can see of the key. A crash in between leaves a file that no record names.

mod error;
mod file;
mod lock;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};

pub use self::error::{KeyProblem, StoreError};

use super::record::{KeyRecord, Now, Stamp, Watch};
use super::signing::SigningKey;
use crate::clock::Clock;
use crate::durable::{Attributes, Dir, Persistence};
use crate::jose::jwk::Jwk;

const STATE: &str = "state.json";
const PREVIOUS: &str = "state.prev.json";

/// How far the wall clock may lie before the last known time without being suspected.
const SUSPICIOUS: Duration = Duration::from_secs(300);

/// What is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The keys, in the order of their making.
    pub keys: Vec<KeyRecord>,
    /// The trust bundle as it was published last.
    pub bundle: BundleMark,
}

/// Which bundle it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleMark {
    /// Its sequence number: it grows whenever the content changes, and never falls.
    pub sequence: u64,
    /// What its content was, as a hash.
    pub content: String,
}

/// How the records were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Whole, or there was nothing yet.
    Whole,
    /// Lost; the records before the last step stand for them, which is never wrong.
    Previous,
    /// Lost altogether, while there are keys: what can be told of them is to be told anew.
    Lost,
}

/// The store, locked for this process.
#[derive(Debug)]
pub struct KeyStore {
    private: Dir,
    keys: Dir,
    watch: Watch,
    generation: u64,
    /// The state file as it is on the disk.
    bytes: Vec<u8>,
    /// The latest time that a clock has shown.
    latest: Stamp,
    _lock: Flock<File>,
}

impl KeyStore {
    /// Opens the store below `data_dir`, making it where there is none, and reads the records.
    ///
    /// # Errors
    ///
    /// Whatever makes it doubtful that the keys are ours, readable and closed to others: then
    /// nothing was changed.
    pub fn open(data_dir: &Path, clock: &dyn Clock) -> Result<(Self, State, Found), StoreError> {
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
        let lock = lock::take(&private)?;
        let keys = private.create_below("keys", 0o700)?;
        let watch = Watch::begin(clock, boot_id());
        let mut store = Self {
            private,
            keys,
            latest: watch.now(clock).stamp,
            watch,
            generation: 0,
            bytes: Vec::new(),
            _lock: lock,
        };
        let (state, found) = store.read_state()?;
        store.sweep()?;
        if found == Found::Whole && store.bytes.is_empty() {
            // Before the first key, so that a crash after that is not taken for a loss.
            store.save(&state, clock)?;
        }
        Ok((store, state, found))
    }

    /// The directory that is locked and closed to others.
    pub fn private(&self) -> &Path {
        self.private.path()
    }

    /// Tells moments, as the records keep them.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether the wall clock lies well before a time that is known to have been: it is wrong, or
    /// it was.
    pub fn suspects(&self, now: &Now) -> bool {
        self.latest.is_well_after(&now.stamp, SUSPICIOUS)
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

    /// Makes the records durable. Those of before are kept beside them.
    ///
    /// # Errors
    ///
    /// What the kernel says; the file then holds the former state or this one.
    pub fn save(&mut self, state: &State, clock: &dyn Clock) -> Result<(), StoreError> {
        let generation = self.generation + 1;
        let written = self.watch.now(clock).stamp;
        let bytes = file::render(state, generation, written.clone());
        let bytes = bytes.map_err(|error| self.problem(STATE)(error.into()))?;
        let put = |name: &str, bytes: &[u8]| {
            let attributes = Attributes::own(0o600);
            let done = self
                .private
                .replace(name, bytes, attributes, Persistence::Synced);
            done.map_err(self.problem(name))
        };
        if !self.bytes.is_empty() {
            put(PREVIOUS, &self.bytes)?;
        }
        put(STATE, &bytes)?;
        self.bytes = bytes;
        self.generation = generation;
        if !self.latest.is_well_after(&written, Duration::ZERO) {
            self.latest = written;
        }
        Ok(())
    }

    fn problem(&self, name: &str) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.private.path().join(name);
        move |source| StoreError::File {
            path: path.clone(),
            source,
        }
    }

    fn read_state(&mut self) -> Result<(State, Found), StoreError> {
        let damage = match self.read_file(STATE)? {
            Ok(Some(state)) => return Ok((state, Found::Whole)),
            Ok(None) => None,
            Err(damage) => Some(damage),
        };
        if let Some(reason) = &damage {
            let path = self.private.path().join(STATE);
            tracing::error!(path = %path.display(), reason, "the record of the keys is damaged: moved to quarantine");
            self.set_aside(&self.private, STATE)?;
        }
        match self.read_file(PREVIOUS)? {
            Ok(Some(state)) => {
                tracing::error!("going on with the records of before the last step");
                return Ok((state, Found::Previous));
            }
            Ok(None) => {}
            Err(_) => self.set_aside(&self.private, PREVIOUS)?,
        }
        self.generation = 0;
        self.bytes.clear();
        let is_new = damage.is_none() && self.key_files()?.is_empty();
        let found = if is_new { Found::Whole } else { Found::Lost };
        Ok((State::default(), found))
    }

    /// The state that a file holds; none where there is no such file, and the reason where it
    /// cannot be believed.
    fn read_file(&mut self, name: &str) -> Result<Result<Option<State>, String>, StoreError> {
        let bytes = match self.private.read_secret(name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
            Err(source) => return Err(self.problem(name)(source)),
        };
        Ok(match file::parse(&bytes) {
            Ok((state, generation, written)) => {
                self.generation = generation;
                self.bytes = bytes;
                // The file itself may have been written by a clock that was wrong already.
                let stamps = state.keys.iter().flat_map(KeyRecord::stamps);
                for stamp in stamps.chain([&written]) {
                    if stamp.is_well_after(&self.latest, Duration::ZERO) {
                        self.latest = stamp.clone();
                    }
                }
                Ok(Some(state))
            }
            Err(file::Problem::Newer(found)) => {
                return Err(StoreError::StateNewer {
                    path: self.private.path().join(name),
                    found,
                });
            }
            Err(file::Problem::Damaged(reason)) => Err(reason),
        })
    }

    /// The file names of the keys that there are.
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

    /// Removes what a killed agent left half-written.
    fn sweep(&self) -> Result<(), StoreError> {
        for dir in [&self.private, &self.keys] {
            dir.sweep().map_err(|source| StoreError::File {
                path: dir.path().to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// Sets aside the key files that no record names.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn tidy(&self, records: &[KeyRecord]) -> Result<(), StoreError> {
        for name in self.key_files()? {
            if records.iter().all(|record| file_name(&record.jwk) != name) {
                let path = self.keys.path().join(&name);
                tracing::warn!(file = %path.display(), "no record names this key: moved to quarantine");
                self.set_aside(&self.keys, &name)?;
            }
        }
        Ok(())
    }

    /// Sets aside the file of a key that cannot be used.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn quarantine(&self, jwk: &Jwk) -> Result<(), StoreError> {
        self.set_aside(&self.keys, &file_name(jwk))
    }

    /// Removes the file of a key, whose record is gone.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove(&self, jwk: &Jwk) -> Result<(), StoreError> {
        let name = file_name(jwk);
        match unlinkat(self.keys.as_fd(), name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(StoreError::File {
                path: self.keys.path().join(name),
                source: errno.into(),
            }),
        }
    }

    /// Moves a file to quarantine, over nothing that lies there already.
    fn set_aside(&self, from: &Dir, name: &str) -> Result<(), StoreError> {
        let quarantine = self.private.create_below("quarantine", 0o700)?;
        for number in 0..u32::MAX {
            let to = if number == 0 {
                name.to_owned()
            } else {
                format!("{name}.{number}")
            };
            let flags = RenameFlags::RENAME_NOREPLACE;
            let moved = renameat2(from.as_fd(), name, quarantine.as_fd(), to.as_str(), flags);
            match moved {
                Err(Errno::EEXIST) => {}
                Ok(()) | Err(Errno::ENOENT) => break,
                Err(errno) => {
                    return Err(StoreError::File {
                        path: from.path().join(name),
                        source: errno.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn file_name(jwk: &Jwk) -> String {
    format!("{}.pem", jwk.kid())
}

/// Tells boots apart; empty where the kernel does not say, which makes all boots one.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
